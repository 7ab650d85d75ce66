"""What a valid configuration is: ranges, choices, arguments, combinations. No torch, no Hydra.

What a class accepts is read from its signature (`signatures`); what no signature says is a table
here. Every mistake is found, and is a sentence: the key, what was given, what is allowed.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

from simplecnn.config import devices
from simplecnn.config.allow_list import TargetNode, allowed, not_allowed, target_nodes
from simplecnn.config.signatures import accepts, signature

Config = Mapping[str, Any]

# Given by the code that builds the node, not by the configuration.
GIVEN_IN_CODE = {
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
    "trainer": {"callbacks", "logger"},
}
# These hold any number of named entries.
OPEN_GROUPS = ("callbacks", "logger")
LOGGED = tuple(f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc"))
NUM_CLASSES = 10  # of every data set here
IMAGE_SIZE = 28
MOST_NAMES = 20  # in a sentence
MOST_WEIGHTS = 500_000_000
DATA_SIZES = {  # images to train and validate on, those to validate by default, to test
    "simplecnn.data.mnist.MNISTDataModule": (60_000, 5_000, 10_000),
}
Test = Callable[[Any], bool]
Rule = tuple[str, str, Test]  # the key, what it must be, and whether a value is that


def _whole(low: int, high: float = math.inf) -> Test:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _number(test: Callable[[float], bool]) -> Test:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and test(v)


def _one_of(*choices: Any) -> Test:
    return lambda v: any(type(v) is type(choice) and v == choice for choice in choices)


def _or_null(test: Test) -> Test:
    return lambda v: v is None or test(v)


def _any_of(*tests: Test) -> Test:
    return lambda v: any(test(v) for test in tests)


def _list_of(test: Test, num: int | None = None) -> Test:
    def is_list(value: Any) -> bool:
        return isinstance(value, list) and len(value) == (num or len(value)) and bool(value)

    return lambda v: is_list(v) and all(map(test, v))


def _matches(pattern: str) -> Test:
    return lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None


def _has_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _named_entries(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


FLAG = ("true or false", _one_of(True, False))
NAME = (
    "letters, digits, '.', '_' and '-', at most 100, not starting with a '.'",
    _matches(r"[\w-][\w.-]{0,99}"),
)
A_CLASS = ("a class to build, with a _target_ and its arguments", _has_target)
ENTRIES = ("entries with names", _named_entries)
ABOVE_0 = ("a number above 0", _number(lambda v: 0 < v < math.inf))
FROM_0 = ("a number of 0 or more", _number(lambda v: 0 <= v < math.inf))
BELOW_1 = ("a number from 0 up to, not including, 1", _number(lambda v: 0 <= v < 1))
TO_1 = ("a number from 0 to 1", _number(lambda v: 0 <= v <= 1))
ABOVE_0_TO_1 = ("a number above 0, up to 1", _number(lambda v: 0 < v <= 1))
POSITIVE = ("a whole number of 1 or more", _whole(1))
POSITIVE_OR_NULL = ("a whole number of 1 or more, or null", _or_null(_whole(1)))
FROM_10 = ("a whole number of 10 or more", _whole(10))
NATURAL = ("a whole number of 0 or more", _whole(0))
NATURAL_OR_NULL = ("a whole number of 0 or more, or null", _or_null(_whole(0)))
SEED = ("a whole number from 0 to 4294967295", _whole(0, 2**32 - 1))
WIDTH = ("a whole number from 1 to 65536", _whole(1, 65536))
METRIC = ("a metric, or null", _or_null(_matches(r".+")))
MODE = ("max or min", _one_of("max", "min"))
SHARE = (
    "a whole number of batches, a share from 0.0 to 1.0, or null",
    _or_null(_any_of(_whole(0), lambda v: isinstance(v, float) and 0 <= v <= 1)),
)
SPAN = (
    "days, hours, minutes and seconds, as in 00:00:30:00, or null",
    _or_null(_any_of(_matches(r"\d+:\d\d:\d\d:\d\d"), lambda v: isinstance(v, Mapping))),
)
STRATEGIES = (
    "auto, ddp, ddp_spawn, ddp_fork, ddp_find_unused_parameters_true, "
    "ddp_spawn_find_unused_parameters_true or fsdp"
)
PRECISIONS = "32-true, 16-mixed, bf16-mixed, 16-true, bf16-true, 64-true"

RULES: tuple[Rule, ...] = (
    ("model", *A_CLASS),
    ("model.network", *A_CLASS),
    ("model.optimizer", *A_CLASS),
    ("model.scheduler", "null, or a class to build, with a _target_", _or_null(_has_target)),
    ("data", *A_CLASS),
    ("trainer", *A_CLASS),
    ("callbacks", *ENTRIES),
    ("logger", *ENTRIES),
    ("name", *NAME),
    ("seed", *SEED),
    ("train", *FLAG),
    ("test", *FLAG),
    ("ckpt_path", "a path, or null", _or_null(_matches(r".+"))),
    ("resume", "a run folder, or null", _or_null(_matches(r".+"))),
    ("run", "a folder, or a list of folders",
     _or_null(_any_of(_matches(r".+"), _list_of(_matches(r".+"))))),
    ("image", "a file, or a list of files",
     _any_of(_matches(r".+"), _list_of(_matches(r".+")))),
    ("invert", "true, false or null", _or_null(_one_of(True, False))),
    ("to", "a file, or null", _or_null(_matches(r".+"))),
    ("sweep", "a folder, true, false or null",
     _or_null(_any_of(_matches(r".+"), _one_of(True, False)))),
    ("checkpoint", "best, last, a file or null", _or_null(_matches(r".+"))),
    ("digit", "a whole number from 0 to 4999", _whole(0, 4999)),
    ("num_images", "a whole number from 1 to 5000", _whole(1, 5000)),
    ("quick", *FLAG),
    ("rounds", *POSITIVE),
    ("steps", "8, 16 or another multiple of 8", lambda v: _whole(8)(v) and v % 8 == 0),
    ("repeats", *POSITIVE),
    ("attribution.num_right", *NATURAL),
    ("attribution.num_wrong", *NATURAL),
    ("units.num_cards", *POSITIVE),
    ("translation.num_maps", *FROM_10),
    ("translation.reach", "a whole number from 1 to 64", _whole(1, 64)),
    *((f"{part}.num_images", *FROM_10)
      for part in ("units", "translation", "robustness", "embedding", "verdicts")),
    ("num_calls", *POSITIVE),
    ("monitor", *METRIC),
    ("mode", *MODE),
    ("data.batch_size", *POSITIVE),
    ("data.eval_batch_size", *POSITIVE),
    ("data.val_size", *NATURAL),
    ("data.test_size", *NATURAL),
    *((f"data.augmentation.{name}", *FROM_0) for name in ("degrees", "shear", "shift", "bend")),
    ("data.augmentation.scale", *BELOW_1),
    ("data.clean_epochs", *NATURAL),
    ("model.network.crop", f"two whole numbers from 0 to {IMAGE_SIZE} in order, as in [4,28], or null",
     _or_null(lambda v: _list_of(_whole(0, IMAGE_SIZE), num=2)(v) and v[0] < v[1])),
    ("data.seed", *SEED),
    ("data.split_seed", *SEED),
    ("data.dataset", "MNIST, FashionMNIST, KMNIST or MNIST5k",
     _one_of("MNIST", "FashionMNIST", "KMNIST", "MNIST5k")),
    ("data.timeout", *ABOVE_0),
    ("model.network.channels", "a list of whole numbers from 1 to 65536, as in [16,32,64]",
     _list_of(_whole(1, 65536))),
    ("model.network.hidden", *WIDTH),
    ("model.network.pool", "max, average, blur, stride or none",
     _one_of("max", "average", "blur", "stride", "none")),
    ("model.network.dropout", *BELOW_1),
    ("model.network.num_classes", "a whole number of 2 or more, or null",
     _or_null(_whole(2, 65536))),
    ("model.network.in_channels", "a whole number from 1 to 65536, or null", _or_null(WIDTH[1])),
    ("model.network.image_size", "a whole number from 1 to 65536, or null", _or_null(WIDTH[1])),
    ("model.label_smoothing", *BELOW_1),
    ("model.scheduler_interval", "epoch or step", _one_of("epoch", "step")),
    ("model.scheduler_monitor", *METRIC),
    ("model.optimizer.lr", *ABOVE_0),
    ("model.optimizer.weight_decay", *FROM_0),
    ("model.optimizer.momentum", *BELOW_1),
    ("model.optimizer.alpha", *FROM_0),
    ("model.optimizer.rho", *TO_1),
    ("model.optimizer.eps", *FROM_0),
    ("model.optimizer.lr_decay", *FROM_0),
    ("model.optimizer.momentum_decay", *FROM_0),
    ("model.optimizer.initial_accumulator_value", *FROM_0),
    ("model.optimizer.betas", "two numbers from 0 up to, not including, 1",
     _list_of(BELOW_1[1], num=2)),
    ("model.optimizer.etas", "a number between 0 and 1, and one above 1",
     lambda v: _list_of(ABOVE_0[1], num=2)(v) and v[0] < 1 < v[1]),
    ("model.optimizer.step_sizes", "two numbers above 0", _list_of(ABOVE_0[1], num=2)),
    ("model.scheduler.max_lr", *ABOVE_0),
    ("model.scheduler.base_lr", *ABOVE_0),
    ("model.scheduler.min_lr", *FROM_0),
    ("model.scheduler.eta_min", *FROM_0),
    ("model.scheduler.pct_start", *TO_1),
    ("model.scheduler.div_factor", *ABOVE_0),
    ("model.scheduler.final_div_factor", *ABOVE_0),
    ("model.scheduler.start_factor", *ABOVE_0_TO_1),
    ("model.scheduler.end_factor", *TO_1),
    ("model.scheduler.gamma", *ABOVE_0),
    ("model.scheduler.power", *ABOVE_0),
    ("model.scheduler.T_max", *POSITIVE),
    ("model.scheduler.T_0", *POSITIVE),
    ("model.scheduler.T_mult", *POSITIVE),
    ("model.scheduler.step_size", *POSITIVE),
    ("model.scheduler.step_size_up", *POSITIVE),
    ("model.scheduler.step_size_down", *POSITIVE_OR_NULL),
    ("model.scheduler.total_iters", *POSITIVE),
    ("model.scheduler.total_steps", *POSITIVE_OR_NULL),
    ("model.scheduler.epochs", *POSITIVE_OR_NULL),
    ("model.scheduler.steps_per_epoch", *POSITIVE_OR_NULL),
    ("model.scheduler.milestones", "a list of whole numbers of 1 or more", _list_of(_whole(1))),
    ("model.scheduler.patience", *NATURAL),
    ("model.scheduler.cooldown", *NATURAL),
    ("model.scheduler.threshold", *FROM_0),
    ("model.scheduler.last_epoch", "-1: a checkpoint says where a schedule goes on", _one_of(-1)),
    ("trainer.accelerator", "auto, cpu, gpu, cuda or mps",
     _one_of("auto", "cpu", "gpu", "cuda", "mps")),
    ("trainer.strategy", f"{STRATEGIES}, or a class to build",
     _any_of(_one_of(*re.split(", | or ", STRATEGIES)), _has_target)),
    ("trainer.devices", "a whole number of 1 or more, auto, or a list of devices",
     _any_of(_one_of("auto"), _whole(1), _list_of(_whole(0)))),
    ("trainer.num_nodes", *POSITIVE),
    ("trainer.precision", f"{PRECISIONS}, or null",
     _or_null(_one_of(*PRECISIONS.split(", "), 16, 32, 64, "16", "32", "64", "bf16"))),
    ("trainer.max_epochs", "a whole number of 1 or more, -1 (no end), or null",
     _or_null(_any_of(_one_of(-1), _whole(1)))),
    ("trainer.max_steps", "a whole number of 1 or more, or -1 (no end)",
     _any_of(_one_of(-1), _whole(1))),
    ("trainer.min_epochs", *NATURAL_OR_NULL),
    ("trainer.min_steps", *NATURAL_OR_NULL),
    ("trainer.max_time", *SPAN),
    ("trainer.fast_dev_run", "true, false, or a whole number of batches",
     _any_of(_one_of(True, False), _whole(0))),
    ("trainer.limit_train_batches", *SHARE),
    ("trainer.limit_val_batches", *SHARE),
    ("trainer.limit_test_batches", *SHARE),
    ("trainer.limit_predict_batches", *SHARE),
    ("trainer.overfit_batches", SHARE[0].replace(", or null", ""),
     lambda v: v is not None and SHARE[1](v)),
    ("trainer.val_check_interval", "a whole number of batches, a share above 0, or null",
     _or_null(_any_of(_whole(1), lambda v: isinstance(v, float) and 0 < v <= 1))),
    ("trainer.check_val_every_n_epoch", *POSITIVE_OR_NULL),
    ("trainer.num_sanity_val_steps", "a whole number of 0 or more, -1 (all), or null",
     _or_null(_whole(-1))),
    ("trainer.log_every_n_steps", *NATURAL_OR_NULL),
    ("trainer.accumulate_grad_batches", *POSITIVE),
    ("trainer.gradient_clip_val", "a number of 0 or more, or null", _or_null(FROM_0[1])),
    ("trainer.gradient_clip_algorithm", "norm, value, or null", _or_null(_one_of("norm", "value"))),
    ("trainer.deterministic", "true, false, warn, or null",
     _or_null(_one_of(True, False, "warn"))),
    ("trainer.profiler", "simple, advanced, pytorch, a class to build, or null",
     _or_null(_any_of(_one_of("simple", "advanced", "pytorch"), _has_target))),
    ("trainer.reload_dataloaders_every_n_epochs", *NATURAL),
    ("trainer.plugins", "null: there are none to choose from", lambda v: v is None),
    ("trainer.barebones", "false: a run leaves a folder", _one_of(False)),
    ("trainer.model_registry", "null", lambda v: v is None),
    ("callbacks.*.monitor", *METRIC),
    ("callbacks.*.mode", *MODE),
    ("callbacks.*.early_steps", *NATURAL),
    ("callbacks.*.number", *POSITIVE),
    ("callbacks.*.every_n_epochs", *POSITIVE_OR_NULL),
    ("callbacks.*.every_n_train_steps", *POSITIVE_OR_NULL),
    ("callbacks.*.patience", *NATURAL),
    ("callbacks.*.min_delta", *FROM_0),
    ("callbacks.*.save_top_k", "a whole number of 0 or more, or -1 (all)", _whole(-1)),
    ("callbacks.*.swa_lrs", *ABOVE_0),
    ("callbacks.*.annealing_epochs", *NATURAL),
    ("callbacks.*.duration", *SPAN),
    ("callbacks.*.layers", "first, all, or a list of names",
     _any_of(_matches(r"[\w.]+"), _list_of(_matches(r".+")))),
)  # fmt: skip

# Of the classes of torch.nn, wherever they stand.
_sizes = _any_of(_whole(1), _list_of(_whole(1)))
SIZES = ("a whole number of 1 or more, or one for each direction", _sizes)
LAYER_RULES: dict[str, tuple[str, Test]] = {
    **dict.fromkeys(("out_channels", "in_features", "out_features"), WIDTH),
    **dict.fromkeys(("num_features", "num_channels", "num_groups", "groups"), WIDTH),
    **dict.fromkeys(("kernel_size", "dilation"), SIZES),
    "stride": ("a whole number of 1 or more, or one for each direction", _or_null(_sizes)),
    "padding": (
        "a whole number of 0 or more, one for each direction, same or valid",
        _any_of(_whole(0), _list_of(_any_of(_whole(0))), _one_of("same", "valid")),
    ),
    "p": TO_1,
    "eps": FROM_0,
}
STRIDE_NULL = ("MaxPool2d", "AvgPool2d")  # null: as the kernel


def check(config: Config, *, known: Config) -> dict[str, str]:
    """Every mistake in a resolved configuration: the key, and a sentence.

    `known` is the configuration before single keys were added: what it lacks, where no class
    gives the answer, is unknown.
    """
    mistakes = {
        key: f"{key} is {show(value)}: it must be {wanted}."
        for pattern, wanted, test in RULES
        for key, value in _select(config, pattern.split("."))
        if not test(value)
    }
    found = [_missing_keys(config, known), _unknown_keys(config, known)]
    for node in target_nodes(config):
        found += [_target_mistakes(node), _layer_mistakes(node)]
    for key, mistake in (pair for pairs in found for pair in pairs):
        mistakes.setdefault(key, mistake)
    if "trainer" in known:
        # What is wrong by itself has been said: the rest is judged as if it were not there.
        rest = _without(config, set(mistakes))
        mistakes |= {sentence: sentence for sentence in _combinations(rest)}
    return mistakes


def _without(config: Any, keys: set[str], prefix: str = "") -> Any:
    """A configuration without the keys that are named by their whole path."""
    if not isinstance(config, Mapping):
        return config
    return {
        key: _without(value, keys, f"{prefix}{key}.")
        for key, value in config.items()
        if f"{prefix}{key}" not in keys
    }


def _missing_keys(config: Config, known: Config) -> Iterator[tuple[str, str]]:
    """What was deleted by ~, and is needed."""
    for key in known:
        if key not in config and key not in OPEN_GROUPS:
            yield key, f"{key} is missing: it cannot be deleted."


def _unknown_keys(config: Config, known: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys that stand where no class says what is allowed, and that the composition lacks."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if prefix[:-1] in OPEN_GROUPS:
            if value is not None and not _has_target(value):
                yield path, f"{path} is {show(value)}: it must have a _target_, a class to build."
        elif key not in known and path not in OPEN_GROUPS:
            place = prefix[:-1] or "the configuration"
            yield path, unknown(path, key, list(known), f"of {place}")
        elif isinstance(value, Mapping) and not _has_target(value):
            before = known.get(key)
            if isinstance(before, Mapping) or path in OPEN_GROUPS:
                yield from _unknown_keys(value, before or {}, f"{path}.")


def _target_mistakes(node: TargetNode) -> Iterator[tuple[str, str]]:
    """What is wrong with a `_target_` and its arguments."""
    place = f"{node.key}." if node.key else ""
    if not isinstance(node.target, str) or node.target not in allowed():
        hint = did_you_mean(str(node.target), allowed(), 0.7)
        yield f"{place}_target_", f"{place}_target_: {not_allowed(node.target)}.{hint}"
        return
    yield from argument_mistakes(node)


def argument_mistakes(node: TargetNode) -> Iterator[tuple[str, str]]:
    """What is wrong with the arguments of a node, by the signature of its class."""
    place = f"{node.key}." if node.key else ""
    yield from _setting_mistakes(node, place)
    accepted = signature(node.target)
    if accepted is None:
        return
    parameters = accepted.parameters
    kinds = [p.kind for p in parameters.values()]
    names = [
        p.name
        for p in parameters.values()
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    ]
    given = GIVEN_IN_CODE.get(node.key, set())
    in_order = [n for n in names if parameters[n].kind is Parameter.POSITIONAL_OR_KEYWORD]
    positional = in_order[: len(node.positional)]
    if len(node.positional) > len(in_order) and Parameter.VAR_POSITIONAL not in kinds:
        key = f"{place}_args_"
        yield key, f"{key} has {len(node.positional)} entries: {node.target} takes {len(in_order)}."
    for name, value in node.arguments.items():
        key = f"{place}{name}"
        if name in given:
            yield key, f"{key} cannot be given: it is made by the code, from the rest."
        elif name in positional:
            yield key, f"{key} is given twice: in _args_ too."
        elif name not in names:
            if Parameter.VAR_KEYWORD not in kinds or not isinstance(name, str):
                yield key, unknown(key, name, sorted(set(names) - given), f"of {node.target}")
        elif not accepts(parameters[name].annotation, value):
            wanted = parameters[name].annotation
            yield key, f"{key} is {show(value)}: {node.target} takes {wanted}."
    for name in names:
        missing = parameters[name].default is Parameter.empty and name not in node.arguments
        if missing and name not in given and name not in positional and not node.partial:
            yield f"{place}{name}", f"{place}{name} is missing: {node.target} needs it."


def _setting_mistakes(node: TargetNode, place: str) -> Iterator[tuple[str, str]]:
    """What is wrong with the words that tell Hydra how to build a node."""
    wanted = {"_args_": list, "_partial_": bool, "_recursive_": bool}
    for name, kind in wanted.items():
        value = node.settings.get(name)
        if value is not None and not isinstance(value, kind):
            what = "a list" if kind is list else "true or false"
            yield f"{place}{name}", f"{place}{name} is {show(value)}: it must be {what}."
    if node.settings.get("_convert_") not in (None, "none", "partial", "object", "all"):
        key, value = f"{place}_convert_", show(node.settings["_convert_"])
        yield key, f"{key} is {value}: it must be none, partial, object or all."
    first = node.key.partition(".")[0]
    if node.partial and first in TOP_LEVEL and node.key not in GIVEN_IN_CODE:
        key = f"{place}_partial_"
        yield key, f"{key} is true: the object itself is needed here, not a function that makes it."


TOP_LEVEL = ("model", "data", "trainer", "callbacks", "logger")


def _layer_mistakes(node: TargetNode) -> Iterator[tuple[str, str]]:
    """Arguments of torch.nn's classes that are out of range."""
    package, _, layer = str(node.target).rpartition(".")
    if package != "torch.nn":
        return
    for name, (wanted, test) in LAYER_RULES.items():
        value = node.arguments.get(name)
        if name not in node.arguments or test(value):
            continue
        key = f"{node.key}.{name}"
        yield key, f"{key} is {show(value)}: it must be {wanted}."


def _combinations(config: Config) -> Iterator[str]:
    """What is right by itself and wrong together. Of keys that are absent nothing is said."""
    model, data = config.get("model") or {}, config.get("data") or {}
    trainer = config.get("trainer") or {}
    yield from _of_network(model.get("network") or {}, data)
    yield from _of_optimizer(model.get("optimizer") or {}, trainer)
    yield from _of_schedule(model, trainer)
    yield from _of_batches(data, trainer)
    yield from _of_metrics(config, model, data, trainer)
    yield from _of_callbacks(config, trainer)
    yield from _of_places(config)
    yield from _of_start(config)
    if trainer.get("strategy") == "fsdp" and trainer.get("accelerator") not in ("gpu", "cuda"):
        yield "trainer.strategy is 'fsdp': that is for GPUs. Type trainer=gpu, or leave it out."
    problem = devices.problem(trainer.get("accelerator", "auto"), trainer.get("devices", "auto"))
    if problem:
        yield problem


def _of_network(network: Config, data: Config) -> Iterator[str]:
    if network.get("_target_") != "simplecnn.models.simple_cnn.SimpleCNN":
        return
    blocks = len(network.get("channels", [1, 1, 1]))
    size = network.get("image_size") or 28
    halvings = 0 if network.get("pool") == "none" else blocks
    if size // 2**halvings < 1:
        yield (
            f"model.network.channels has {blocks} entries: each halves the image of {size} "
            f"pixels, and at most {size.bit_length() - 1} leave something of it."
        )
    kernel = network.get("kernel_size", 3)
    key = f"model.network.kernel_size is {show(kernel)}"
    if not _whole(1)(kernel) or kernel % 2 == 0:
        yield f"{key}: it must be an odd whole number."
    elif kernel > size:
        yield f"{key}: the image has {size} pixels only."
    else:
        widths = [network.get("in_channels") or 1, *network.get("channels", [16, 32, 64])]
        num_weights = sum(a * b * kernel**2 for a, b in zip(widths, widths[1:], strict=False))
        num_weights += widths[-1] * max(1, size // 2**halvings) ** 2 * network.get("hidden", 128)
        if num_weights > MOST_WEIGHTS:
            yield f"model.network has {num_weights:,} weights: at most {MOST_WEIGHTS:,} are built."
    if data.get("_target_") not in DATA_SIZES:
        return
    if size != IMAGE_SIZE:
        yield f"model.network.image_size is {size}: these images have {IMAGE_SIZE} pixels a side."
    if (network.get("in_channels") or 1) != 1:
        channels = network["in_channels"]
        yield f"model.network.in_channels is {channels}: these images have 1 channel."
    if (network.get("num_classes") or NUM_CLASSES) < NUM_CLASSES:
        classes = network["num_classes"]
        yield f"model.network.num_classes is {classes}: these data have {NUM_CLASSES} classes."


def _of_optimizer(optimizer: Config, trainer: Config) -> Iterator[str]:
    on = [name for name in ("fused", "foreach", "differentiable") if optimizer.get(name)]
    if len(on) > 1:
        yield f"model.optimizer.{on[0]} and {on[1]} are both true: only one of them can be."
    target = str(optimizer.get("_target_"))
    if target.endswith(".SGD") and optimizer.get("nesterov"):
        if not optimizer.get("momentum", 0) > 0 or optimizer.get("dampening", 0) != 0:
            yield "model.optimizer.nesterov is true: it needs a momentum above 0, and no dampening."
    has_cuda = trainer.get("accelerator", "auto") != "cpu" and devices.num_cuda_devices()
    if optimizer.get("capturable") and not has_cuda:
        yield "model.optimizer.capturable is true: that is for CUDA devices."


def _of_schedule(model: Config, trainer: Config) -> Iterator[str]:
    scheduler = model.get("scheduler") or {}
    name = str(scheduler.get("_target_")).rpartition(".")[2]
    if name == "OneCycleLR" and not scheduler.get("total_steps"):
        endless = trainer.get("max_epochs") in (None, -1) and trainer.get("max_steps", -1) == -1
        if endless and "max_epochs" in trainer:
            yield "model.scheduler needs to know how long the run is: set trainer.max_epochs."
    if name in ("OneCycleLR", "CyclicLR") and scheduler.get("cycle_momentum", True):
        target = (model.get("optimizer") or {}).get("_target_")
        accepted = signature(target) if target else None
        if accepted and not {"betas", "momentum"} & set(accepted.parameters):
            yield (
                f"model.scheduler.cycle_momentum: {target} has no momentum. "
                f"Type +model.scheduler.cycle_momentum=false."
            )
    if name == "ReduceLROnPlateau":
        if "scheduler_monitor" in model and not model["scheduler_monitor"]:
            yield "model.scheduler_monitor is null: this schedule follows a metric."
        if model.get("scheduler_interval", "epoch") != "epoch":
            yield "model.scheduler_interval is 'step': this schedule looks once an epoch."


def num_images(data: Config) -> tuple[int, int, int] | None:
    """Images to train, validate and test on of a data node; None where it is not one of ours."""
    if data.get("_target_") not in DATA_SIZES:
        return None
    both, val, test = DATA_SIZES[data["_target_"]]
    if data.get("dataset") == "MNIST5k":
        both, val, test = 4_500, 500, 500
    val = data.get("val_size", val)
    return both - val, val, test


def _of_batches(data: Config, trainer: Config) -> Iterator[str]:
    numbers = num_images(data)
    if numbers is None:
        return
    num_train, num_val, num_test = numbers
    if num_train < 1:
        most = num_train + num_val - 1
        yield f"data.val_size is {num_val}: at most {most} leave something to train on."
        return
    in_train = math.ceil(num_train / data.get("batch_size", 64))
    evaluated = data.get("eval_batch_size", 1000)
    batches = {
        "limit_train_batches": in_train,
        "limit_val_batches": math.ceil(num_val / evaluated),
        "limit_test_batches": math.ceil(num_test / evaluated),
    }
    for name, num_batches in batches.items():
        share = trainer.get(name)
        if isinstance(share, float) and 0 < share and num_batches and num_batches * share < 1:
            yield (
                f"trainer.{name} is {share}: of {num_batches} batches not one is left. "
                f"Type a whole number of batches."
            )
    interval = trainer.get("val_check_interval")
    limited = trainer.get("limit_train_batches", 1.0)
    if isinstance(limited, int) and not isinstance(limited, bool):
        in_train = min(in_train, limited)
    elif isinstance(limited, float):
        in_train = int(in_train * limited)
    is_number = isinstance(interval, int) and not isinstance(interval, bool)
    if is_number and interval > in_train and trainer.get("check_val_every_n_epoch", 1):
        yield f"trainer.val_check_interval is {interval}: an epoch has {in_train} batches."


def _of_metrics(config: Config, model: Config, data: Config, trainer: Config) -> Iterator[str]:
    """Metrics that something waits for, and that nobody logs."""
    monitor = config.get("monitor")
    monitors = {"monitor": monitor} if monitor else {}
    monitors |= {
        f"callbacks.{name}.monitor": node["monitor"]
        for name, node in (config.get("callbacks") or {}).items()
        if isinstance(node, Mapping) and node.get("monitor") not in (None, monitor)
    }
    waits = str((model.get("scheduler") or {}).get("_target_")).endswith(".ReduceLROnPlateau")
    if waits and model.get("scheduler_monitor") not in (None, monitor):
        monitors["model.scheduler_monitor"] = model["scheduler_monitor"]
    no_validation = trainer.get("limit_val_batches") == 0
    logged = [
        m
        for m in LOGGED
        if is_logged(m, data) and not (no_validation and not m.startswith("train/"))
    ]
    for key, metric in monitors.items():
        if metric not in logged:
            hint = did_you_mean(metric, logged)
            yield f"{key} is {metric!r}: this run logs {', '.join(logged)}.{hint}"


BARS = ("ProgressBar", "TQDMProgressBar")
CHECKPOINTS = ("ModelCheckpoint",)


def _of_callbacks(config: Config, trainer: Config) -> Iterator[str]:
    kinds = {
        name: str(node.get("_target_")).rpartition(".")[2]
        for name, node in (config.get("callbacks") or {}).items()
        if isinstance(node, Mapping)
    }
    for switch, those in (("enable_checkpointing", CHECKPOINTS), ("enable_progress_bar", BARS)):
        there = [name for name, kind in kinds.items() if kind in those]
        if there and trainer.get(switch) is False:
            yield f"trainer.{switch} is false: take callbacks.{' and callbacks.'.join(there)} out."
    bars = [name for name, kind in kinds.items() if kind in BARS]
    if len(bars) > 1:
        yield f"callbacks.{' and callbacks.'.join(bars)} are progress bars: there can be only one."


FOLDERS = ("dirpath", "save_dir", "default_root_dir")  # arguments that name a whole folder
PARTS = ("filename", "name", "version", "sub_dir", "prefix")  # and those that go on from there


def _of_places(config: Config) -> Iterator[str]:
    """Files that would lie outside the folder of the run."""
    top = (config.get("paths") or {}).get("output_dir")
    if not isinstance(top, str):
        return
    nodes = [n for part in (*OPEN_GROUPS, "trainer") for n in target_nodes(config.get(part), part)]
    for node in nodes:
        for name, value in node.arguments.items():
            if not isinstance(value, str):
                continue
            outside = (
                (name in FOLDERS and not is_inside(value, top))
                or (name in PARTS and not is_inside(os.path.join(top, value), top))
                # of all runs of a search
                or (name == "study" and not is_inside(value, os.path.dirname(top)))
            )
            if outside:
                key = f"{node.key}.{name}"
                yield f"{key} is {show(value)}: it must stay in the folder of the run."


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _of_start(config: Config) -> Iterator[str]:
    train, ckpt_path = config.get("train", True), config.get("ckpt_path", "")
    if train is False and config.get("test", True) is False:
        yield "train and test are both false: there is nothing to do."
    if train is False and ckpt_path is None:
        yield "train is false: say with ckpt_path=<file> which checkpoint to test."
    if ckpt_path and not Path(ckpt_path).is_file():
        yield f"ckpt_path is {ckpt_path!r}: there is no such file."


def is_logged(metric: str, data: Config) -> bool:
    """Whether a run with the data of this configuration logs `metric` after each epoch."""
    if metric.startswith("val/"):
        return data.get("val_size", 1) != 0
    return not metric.startswith("test/") or bool(data.get("test_each_epoch"))


def unknown(key: str, name: Any, names: Sequence[Any], where: str) -> str:
    """The sentence for a key that does not exist: the nearest spelling, or all there are."""
    spelled = [str(n) for n in names]
    if hint := did_you_mean(str(name), spelled):
        return f"{key} is not a key {where}.{hint}"
    more = f" and {len(spelled) - MOST_NAMES} more" if len(spelled) > MOST_NAMES else ""
    return f"{key} is not a key {where}. There are: {', '.join(spelled[:MOST_NAMES])}{more}."


def did_you_mean(given: str, names: Collection[str], likeness: float = 0.6) -> str:
    """The question whether the nearest of `names` was meant, or nothing where none is near."""
    near = difflib.get_close_matches(given, names, 3, likeness)
    if not near:
        return ""
    swapped = (name for name in near if sorted(name) == sorted(given))  # modle: model, not mode
    return f" Did you mean {next(swapped, near[0])}?"


def _select(config: Any, parts: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not parts:
        yield prefix[:-1], config
    elif isinstance(config, Mapping):
        first, *rest = parts
        for key in config if first == "*" else [first] if first in config else []:
            yield from _select(config[key], rest, f"{prefix}{key}.")


def show(value: Any) -> str:
    """A value as one would type it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…"
