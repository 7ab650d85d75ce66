"""The LightningDataModule for a person's own images: a folder a class."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.image_cache import Decoding, ImageCache, Stamp, cached_images
from simplecnn.data.images import Fit
from simplecnn.data.resident import ResidentDataModule, Split
from simplecnn.errors import InputError, short

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # and all that begins with a dot
MAX_NAMED = 5  # files that a sentence names
MAX_LISTED = 20  # classes that a line counts one by one


class ImageFolderDataModule(ResidentDataModule):
    """Images in `root/<class>/` or in `root/{train,val,test}/<class>/`, as uint8 on the device.

    The names of the folders are the classes, in the order of their names. Splits that are no
    folders are cut from the training images, by class: at least one image of each class.

    A checkpoint holds which files were in which split (`state_dict`): whatever is added later, what
    was not trained on is tested.

    root: the folder, which is only read. data_dir: where the decoded images are kept.
    image_size, channels, fit: of the decoded images, as in `images.fit_pixels`.
    val_fraction: of the images of a class, to validate; 0: nothing validates, root/val neither.
    test_fraction: to test. split_seed: drives which ones, and nothing else.
    skip_broken: leave out files that cannot be read.
    max_resident: GB. More than that stays in the file of decoded images, mapped into memory.
    The rest: ResidentDataModule.

    Raises InputError, in sentences that name files, for a folder that cannot be used.
    """

    ink = False  # pictures show gray images as they are

    def __init__(
        self,
        *,
        root: str,
        data_dir: str,
        image_size: int = 64,
        channels: int = 3,
        fit: Fit = "pad",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        skip_broken: bool = False,
        max_resident: float = 2.0,
        normalize: bool = False,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        seed: int = 42,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
    ) -> None:
        if channels not in (1, 3) or image_size < 1:
            raise ValueError("channels must be 1 or 3, image_size at least 1.")
        if not (0 <= val_fraction < 1 and 0 < test_fraction < 1 - val_fraction):
            raise ValueError(
                f"val_fraction is {val_fraction} and test_fraction {test_fraction}: from 0 and "
                f"above 0, they must leave something to train on."
            )
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            validation=val_fraction > 0,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            normalize=normalize,
        )
        self.root = Path(root).expanduser()
        self.data_dir = Path(data_dir).expanduser()
        self.decoding = Decoding(image_size, channels, fit)
        self.image_shape = self.decoding.shape
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.split_seed = split_seed
        self.skip_broken = skip_broken
        self.max_resident = max_resident
        self.name = self.root.resolve().name
        self.folders = _split_folders(self.root)
        if self.data_dir.resolve().is_relative_to(self.root.resolve()):
            raise InputError(
                f"data.root={root}: the decoded images, in {short(self.data_dir)}, would lie among "
                f"the classes. Go to the folder above, or type paths.data_dir=<another folder>."
            )
        self.class_names = tuple(path.name for path in _folders(self.folders["train"]))
        self._check_classes()
        self.images: Tensor | None = None
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}  # rows of `images`, labels
        self._cache: ImageCache | None = None
        self._recorded: dict[str, list[str]] | None = None

    def prepare_data(self) -> None:
        """Decode what is new; on each machine, Lightning calls this in one process."""
        stamps = self._stamps()
        self._cache = cached_images(self.root, stamps, self.decoding, self.data_dir)
        broken = self._cache.broken
        if broken and not self.skip_broken:
            raise InputError(
                f"{len(broken):,} of {len(stamps):,} files in {self.root} cannot be read. Delete "
                f"them, or type data.skip_broken=true to leave them out:",
                *_some([reason for _, reason in broken.values()]),
            )

    def setup(self, stage: str | None = None) -> None:
        """Read the images, and say which are in which split; all splits, whatever the stage."""
        if self._cache is None:
            self.prepare_data()
        cache = self._cache
        assert cache is not None
        self._skip_validation()
        if self.images is None:
            mapped = cache.num_bytes > self.max_resident * 1e9
            self.images = torch.from_numpy(cache.pixels(mapped=mapped))
            self._assign(stage)
            self._tell(mapped)
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            if cache.num_bytes <= self.max_resident * 1e9:
                self.images = self.images.to(device)
            self.splits = {
                name: (rows.to(device), labels.to(device))
                for name, (rows, labels) in self.splits.items()
            }

    def split(self, name: str) -> Split:
        """The images of all splits, and which of them are in this one."""
        if self.images is None:
            raise RuntimeError(f'The {name} images have not been read: call setup("fit").')
        rows, labels = self.splits[name]
        return Split(self.images, labels, rows)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the classes, and the files of each split."""
        assert self._cache is not None
        files = list(self._cache.files)
        splits = {
            name: [files[i] for i in rows.tolist()] for name, (rows, _) in self.splits.items()
        }
        return {"classes": list(self.class_names), "splits": splits}

    def load_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Split as the run of a checkpoint did, where one says it. Raises InputError where that
        cannot be."""
        if state_dict is None:
            return
        if state_dict["classes"] != list(self.class_names):
            raise InputError(
                f"{self.root} has the classes {', '.join(self.class_names)}, and the run "
                f"{', '.join(state_dict['classes'])}."
            )
        self._recorded = dict(state_dict["splits"])
        if self.images is not None:
            device = self.splits["train"][0].device
            self._assign("fit")
            self.splits = {k: (r.to(device), y.to(device)) for k, (r, y) in self.splits.items()}

    def holds(self, state_dict: Mapping[str, Any]) -> bool:
        """Whether all images that the run of a checkpoint tested are here."""
        names = state_dict["splits"]["test"]
        return all((self.root / name).is_file() for name in names)

    # ------------------------------------------------------------------------ files and splits

    def _check_classes(self) -> None:
        where = self.folders["train"]
        if len(self.class_names) < 2:
            has = f"only {self.class_names[0]}" if self.class_names else "no folder"
            raise InputError(
                f"data.root={self.root}: there is {has} in {where}, and at least two classes are "
                f"needed. Make a folder a class, named for it, with its images."
            )
        for folder in self.folders.values():
            others = [path.name for path in _folders(folder) if path.name not in self.class_names]
            if others:
                raise InputError(
                    f"{folder} has the classes {_listed(others)}, which {where} has not: a network "
                    f"knows only what it was trained on."
                )

    def _stamps(self) -> dict[str, Stamp]:
        """Size and time of change of each file, by its name below `root`, in order."""
        stamps: dict[str, Stamp] = {}
        mistakes = []
        for split, folder in sorted(self.folders.items()):
            for name in self.class_names:
                of_class = dict(_files(folder / name)) if (folder / name).is_dir() else {}
                if split == "train" and not of_class:
                    mistakes.append(
                        f"{folder / name} has no images: put some directly into it, or delete it."
                    )
                prefix = (folder / name).relative_to(self.root).as_posix()
                stamps |= {f"{prefix}/{file}": stamp for file, stamp in sorted(of_class.items())}
        if mistakes:
            raise InputError(*_some(mistakes))
        return stamps

    def _assign(self, stage: str | None) -> None:
        """Fill `splits`, as the run of a checkpoint did or by folders, classes and seed."""
        assert self._cache is not None
        places = {file: i for i, file in enumerate(self._cache.files)}
        splits = self._recorded or self._drawn(list(places))
        wanted = ("test",) if stage == "test" else tuple(splits)
        lost = [file for name in wanted for file in splits[name] if file not in places]
        if lost:
            to_train = " To train on other images, take the weights alone: ckpt_weights_only=true."
            raise InputError(
                f"{self.root} lacks images that the run had, or they cannot be read any more: "
                f"{_listed(lost)}. Put them back.{to_train if stage == 'fit' else ''}"
            )
        numbers = {name: i for i, name in enumerate(self.class_names)}
        for name, files in splits.items():
            there = [file for file in files if file in places]
            rows = torch.tensor([places[file] for file in there], dtype=torch.int64)
            labels = torch.tensor([numbers[_class_of(f)] for f in there], dtype=torch.int64)
            self.splits[name] = rows, labels

    def _drawn(self, files: Sequence[str]) -> dict[str, list[str]]:
        """The files of each split."""
        splits: dict[str, list[str]] = {name: [] for name in SPLITS}
        of_class: dict[str, list[str]] = {name: [] for name in self.class_names}
        for file in files:
            split = file.split("/")[0] if file.count("/") == 2 else "train"
            (of_class[_class_of(file)] if split == "train" else splits[split]).append(file)
        cut = [
            name for name in ("val", "test") if name not in self.folders and self.fractions[name]
        ]
        few = []
        for number, (name, there) in enumerate(of_class.items()):
            order = np.random.default_rng((self.split_seed, number)).permutation(len(there))
            sizes = [max(1, round(self.fractions[split] * len(there))) for split in cut]
            if len(there) <= sum(sizes):
                files_named = f" ({_listed(there)})" if there else ""
                few.append(f"{name} has {_number(len(there))}{files_named}")
                continue
            starts = np.cumsum([0, *sizes])
            for split, start, size in zip(cut, starts, sizes, strict=False):
                splits[split] += [there[i] for i in sorted(order[start : start + size])]
            splits["train"] += [there[i] for i in sorted(order[starts[-1] :])]
        if few:
            raise InputError(
                f"{self.root}: each class needs {len(cut) + 1} images, one for each split. "
                f"{'; '.join(_some(few))}. Add images, delete the folder of the class, or type "
                f"data.val_fraction=0 monitor=null to do without validation."
            )
        if not splits["test"]:
            raise InputError(f"{self.folders['test']} has no images: delete it to have some cut.")
        if self.validation_stages[:1] == ("val",) and not splits["val"]:
            raise InputError(f"{self.folders['val']} has no images: delete it to have some cut.")
        return splits

    def _tell(self, mapped: bool) -> None:
        cache, recorded = self._cache, self._recorded
        assert cache is not None
        if rank_zero_only.rank != 0:
            return
        log.info("%s", self.describe())
        if cache.broken:
            number = "1 file is" if len(cache.broken) == 1 else f"{len(cache.broken):,} files are"
            log.warning("%s left out; run.json lists all. %s", number, " ".join(
                _some([reason for _, reason in cache.broken.values()])
            ))  # fmt: skip
        if recorded:
            new = set(cache.files) - {file for files in recorded.values() for file in files}
            if new:
                log.info("%s files are new since the run, and left out", f"{len(new):,}")
        if mapped:
            log.info(
                "%.1f GB of images stay on disk: data.max_resident is %g GB",
                cache.num_bytes / 1e9, self.max_resident,
            )  # fmt: skip

    def describe(self) -> str:
        """A line: how many images, of which class, in which split."""
        counts = {name: len(labels) for name, (_, labels) in self.splits.items()}
        total = np.sum([self.class_counts(name) for name in self.splits], axis=0)
        parts = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        head = f"{sum(counts.values()):,} images of {len(total)} classes ({parts})"
        if len(total) <= MAX_LISTED:
            named = zip(self.class_names, total, strict=True)
            return f"{head}: {', '.join(f'{name} {n:,}' for name, n in named)}"
        low, high = int(total.argmin()), int(total.argmax())
        if total[low] == total[high]:
            return f"{head}: {total[low]:,} of each"
        return (
            f"{head}: from {total[low]:,} ({self.class_names[low]}) to {total[high]:,} "
            f"({self.class_names[high]}), median {int(np.median(total)):,}"
        )

    def record(self) -> dict[str, Any]:
        """For run.json: how many images of each class are in each split, and what was left out."""
        assert self._cache is not None
        counts = {
            name: dict(zip(self.class_names, self.class_counts(name), strict=True))
            for name in self.splits
        }
        return {"images": counts, "left_out": [why for _, why in self._cache.broken.values()]}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits: `root` itself trains where there are none."""
    if not root.is_dir():
        there = "that is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(
            f"data.root={root}: {there}. Looked in {Path.cwd()}. The images of a run that have "
            f"moved are found by data=image_folder data.root=<where they are now>."
        )
    names = [path.name for path in _folders(root)]
    if "train" in names and set(names) <= set(SPLITS):
        return {name: root / name for name in names}
    if "train" in names and _folders(root / "train"):
        others = [name for name in names if name not in SPLITS]
        raise InputError(
            f"data.root={root}: beside train there is {_listed(others)}, and splits are called "
            f"{', '.join(SPLITS)}. Rename it, or move it elsewhere."
        )
    return {"train": root}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name. Raises InputError for a link to what is around it."""
    folders = sorted(p for p in folder.iterdir() if not _is_ignored(p.name) and p.is_dir())
    for path in folders:
        if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path} is a link to a folder that it lies in: delete it.")
    return folders


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_ignored(entry.name):
                continue
            try:
                if not entry.is_dir():
                    status = entry.stat()
                    yield entry.name, [status.st_size, status.st_mtime_ns]
            except OSError:  # a link to nothing, or to itself: whoever reads it says so
                yield entry.name, [0, 0]


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _class_of(file: str) -> str:
    return file.split("/")[-2]


def _number(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _some(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - MAX_NAMED
    return [*sentences[:MAX_NAMED], *([f"and {more:,} more"] if more > 0 else [])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_some(names))
