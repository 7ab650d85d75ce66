"""Check seeded random mutations of command lines and YAML files, and print the results as JSON.

    python tests/fuzz.py 1000 6     # number of cases, seed

Run it in a separate process: it reports which heavy packages the checks have imported.
"""

import contextlib
import gc
import io
import json
import os
import pickle
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobRuntime
from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.grammar_parser import parse

from simplecnn.command_line import check_command_line
from simplecnn.config import composition
from simplecnn.config.search_path import conf_dir
from simplecnn.errors import InputError

KEYS = """
seed name train test ckpt_path monitor mode data.batch_size data.val_size data.seed data.data_dir
data.dataset data.test_each_epoch data.eval_batch_size data.mirrors data.timeout data.channels
model.network.crop model.network.image_size dry_run resume lr epochs
model model.network model.network.channels model.network.kernel_size model.network.hidden
model.network.pool model.network.dropout model.network.in_channels model.network.num_classes
model.network._target_ model.network._partial_ model.network._args_ model.network._convert_
model.label_smoothing model.compile model.scheduler_interval model.scheduler_monitor
model.optimizer model.optimizer._target_ model.optimizer.lr model.optimizer.betas
model.optimizer.weight_decay model.optimizer.fused model.optimizer.foreach model.optimizer.params
model.optimizer.amsgrad model.scheduler.T_max model.scheduler.patience model.scheduler._target_
trainer trainer.accelerator trainer.devices trainer.strategy trainer.max_epochs trainer.max_steps
trainer.precision trainer.limit_train_batches trainer.limit_val_batches trainer.max_time
trainer.val_check_interval trainer.check_val_every_n_epoch trainer.accumulate_grad_batches
trainer.gradient_clip_val trainer.gradient_clip_algorithm trainer.deterministic trainer.profiler
trainer.fast_dev_run trainer.overfit_batches trainer.num_sanity_val_steps trainer.log_every_n_steps
trainer.plugins trainer.logger trainer.callbacks trainer.barebones trainer.default_root_dir
trainer.enable_checkpointing trainer.enable_progress_bar trainer.detect_anomaly trainer.min_epochs
callbacks callbacks.filters callbacks.filters.layers callbacks.filters.every_n_epochs
callbacks.filters.dirpath callbacks.best.monitor callbacks.best.mode callbacks.best.dirpath
callbacks.early_stopping.patience callbacks.mine callbacks.lr_monitor.logging_interval
logger logger.tensorboard logger.csv.save_dir logger.mine paths paths.data_dir paths.output_dir
hydra hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.job.name hydra.job.env_set.A
hydra.job.chdir hydra.output_subdir hydra.verbose hydra.mode hydra.sweeper._target_
hydra.sweeper.params hydra.launcher._target_ hydra.launcher.n_jobs hydra.sweeper.n_trials
hydra.job_logging.root.level hydra.job_logging.handlers.file.filename hydra.callbacks
hydra.callbacks.prepare_sweep._target_ hydra.searchpath hydra.help.template hydra.runtime.cwd
digit rounds steps repeats num_images run checkpoint sweep image data_dir
""".split()

VALUES = [
    *("0", "1", "2", "-1", "3", "7", "64", "1000", "59999", "60000", "4294967296", "1" + "0" * 30),
    *("9" * 5000, "0.1", "0.5", "1.0", "1.5", "-0.5", "1e-3", "1e400", "-1e400", "nan", "inf"),
    *("-inf", "true", "false", "null", "yes", "True", "''", '""', "' '", "abc", "val/acc", "cpu"),
    *("gpu", "auto", "train/loss", "val/accc", "max", "min", "best", "first", "all", "conv1"),
    *("[]", "{}", "[1]", "[16,32,64]", "[1,2,3,4,5]", "[a,b]", "[[1]]", "{a:1}", "{1:2}", "[null]"),
    *("{_target_:os.system}", "{_target_:torch.nn.ReLU}", "{_target_:3}"),
    *("{_target_:torch.nn.Conv2d,in_channels:1}", "torch.nn.Sequential", "os.system", "torch.load"),
    *("torch.optim.SGD", "torch.optim.Muon", "torch.optim.lr_scheduler.StepLR"),
    *("torchvision.models.resnet18", "../../x", "/etc/passwd", "/dev/null", "/nowhere/at/all", "~"),
    *("x" * 300, "a/b", ".", "..", "äöü", "日本", "\u202e", "a\tb", "a=b", "a,b", "1,2", "1,x"),
    *("range(1,3)", "choice(1,2)", "interval(0,1)", "glob(*)", "tag(log,interval(1,2))"),
    *("${seed}", "${nothing}", "${trainer}", "${oc.env:NOT_THERE}", "${oc.env:HOME}", "${now:%Y}"),
    *("${oc.decode:'1+'}", "${oc.nothing:1}", "${", "}", "[", "(", "'", '"', "\\", "\\'", "$"),
    *("${hydra:runtime.cwd}", "${hydra:nothing}", "${model.network.hidden}", "?" * 3, "!!python/x"),
]  # fmt: skip

GROUPS = [
    *("model=lenet", "model=simplecnn", "model/optimizer=sgd", "model/optimizer=adamw"),
    *("model/scheduler=cosine", "model/scheduler=one_cycle", "model/scheduler=plateau"),
    *("data=mnist_5k", "data=fashion_mnist", "trainer=cpu", "trainer=ddp_sim", "trainer=gpu"),
    *("callbacks=none", "callbacks=[default,early_stopping]", "logger=none", "logger=csv"),
    *("experiment=quickstart", "experiment=tutorial", "debug=fdr", "debug=limit", "debug=overfit"),
    *("hydra/launcher=joblib", "hydra/sweeper=optuna", "hparams_search=grid", "data=null"),
    *("hparams_search=optuna", "+experiment=quickstart", "~experiment", "model=null", "~data"),
    *("hydra/job_logging=disabled", "hydra/job_logging=colorlog", "model@x=lenet"),
]  # fmt: skip

GOOD = """
seed=7 name=mine train=true test=false monitor=val/loss mode=min monitor=null data.batch_size=128
data.val_size=1000 +data.split_seed=3 +data.test_each_epoch=true data.eval_batch_size=500
model.network.channels=[8,16] model.network.channels=[4] model.network.kernel_size=5
model.network.hidden=32 model.network.pool=average model.network.pool=stride
model.network.dropout=0.25 model.label_smoothing=0.1 model.optimizer.lr=3e-3
+model.optimizer.weight_decay=0.01 +model.optimizer.betas=[0.8,0.99] +model.optimizer.eps=1e-7
model.optimizer.fused=false +model.optimizer.amsgrad=true model/scheduler=cosine
model/scheduler=one_cycle model/scheduler=plateau model/optimizer=sgd model/optimizer=adamw
+model.scheduler.eta_min=1e-5 +model.scheduler.anneal_strategy=linear model.scheduler.patience=1
trainer=cpu trainer.max_epochs=3 trainer.max_epochs=-1 trainer.max_steps=100
trainer.limit_train_batches=0.1 +trainer.limit_train_batches=8 +trainer.limit_val_batches=1
+trainer.precision=bf16-mixed +trainer.precision=64-true +trainer.accumulate_grad_batches=2
+trainer.gradient_clip_val=1.0 +trainer.gradient_clip_algorithm=value +trainer.deterministic=warn
+trainer.max_time=00:00:01:00 +trainer.val_check_interval=0.5 +trainer.min_epochs=1
+trainer.profiler=simple +trainer.check_val_every_n_epoch=2 ++trainer.fast_dev_run=true
+trainer.overfit_batches=2 +trainer.detect_anomaly=true +trainer.log_every_n_steps=10
trainer.num_sanity_val_steps=2 callbacks=none callbacks=[default,early_stopping] logger=none
~callbacks.filters callbacks.filters=null callbacks.filters.layers=all logger=csv ~logger
callbacks.feature_maps.every_n_epochs=2 data=mnist_5k data=kmnist experiment=quickstart
experiment=tutorial debug=fdr debug=limit debug=overfit debug=profiler hparams_search=grid
hydra.run.dir=here hydra.job.chdir=false hydra.verbose=true hydra.output_subdir=null
model=lenet data.data_dir=${oc.env:HOME}/digits name=run-${seed} seed=${data.batch_size}
+logger.mine={_target_:pytorch_lightning.loggers.CSVLogger,save_dir:"${paths.output_dir}"}
+callbacks.stop={_target_:pytorch_lightning.callbacks.Timer,duration:"00:00:10:00"}
model.optimizer._target_=torch.optim.NAdam
model.network._target_=simplecnn.models.simple_cnn.SimpleCNN
""".split()

OPTIONS = [
    *(["-m"], ["--multirun"], ["--cfg", "job"], ["--cfg", "x"], ["--cfg"], ["-c", "all"]),
    *(["--resolve"], ["--package", "x"], ["--info"], ["--info", "x"], ["--hydra-help"], ["--run"]),
    *(["--config-name", "x"], ["--config-name", "evaluate"], ["--config-dir", "x"], ["-q"]),
    *(["--config-path", "."], ["--experimental-rerun", "x"], ["--config-dir", "/"], ["--verbose"]),
    *(["-m", "seed=1,2"], ["-m", "model.optimizer.lr=1e-3,x"], ["--"], ["-"], ["--multi"]),
]  # fmt: skip
COMMANDS = [
    *["train"] * 12,
    *("evaluate", "convolution", "receptive_field", "sweep", "predict", "export"),
]


def mutate(rng: random.Random, text: str) -> str:
    """Delete, duplicate, replace or cut characters, or convert to upper case."""
    if not text:
        return text
    i = rng.randrange(len(text))
    j = rng.randrange(len(text))
    return rng.choice([
        text[:i] + text[i + 1 :],
        text[:i] + text[i] + text[i:],
        text[:i] + rng.choice("abcxyz_.=,[]{}'\" $@/~+-\\:") + text[i:],
        text[: min(i, j)] + text[max(i, j) :],
        text.upper(),
    ])  # fmt: skip


def random_override(rng: random.Random) -> str:
    """A valid override, a group choice or a random key=value, mutated or not."""
    chance = rng.random()
    if chance < 0.5:
        text = rng.choice(GOOD)
        if rng.random() < 0.8:
            return text
    elif chance < 0.65:
        text = rng.choice(GROUPS)
    else:
        prefix = rng.choice(["", "", "", "", "+", "+", "++", "~"])
        value = f"={rng.choice(VALUES)}" if rng.random() < 0.97 else ""
        text = f"{prefix}{rng.choice(KEYS)}{value}"
    for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2])):
        text = mutate(rng, text)
    return text


def command_line(rng: random.Random) -> list[str]:
    """A few random overrides, sometimes with one of Hydra's options before or after them."""
    argv = [random_override(rng) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4]))]
    if rng.random() < 0.2:
        option = rng.choice(OPTIONS)
        at = rng.choice([0, 0, len(argv)])
        argv[at:at] = option
    return argv


def yaml_file(rng: random.Random, group: str) -> bytes:
    """A random file of a config group with a few lines changed, or with a corrupted byte."""
    source = rng.choice(sorted((conf_dir() / group).glob("*.yaml")))
    lines = source.read_text(encoding="utf-8").splitlines()
    for _ in range(rng.choice([1, 1, 2, 3])):
        i = rng.randrange(len(lines))
        head, colon, _ = lines[i].partition(":")
        dotted = "\n".join(
            f"{'  ' * depth}{part}:" for depth, part in enumerate(rng.choice(KEYS).split("."))
        )
        change = rng.choice([
            [],
            [lines[i], lines[i]],
            ["  " + lines[i]],
            [lines[i].lstrip()],
            [mutate(rng, lines[i])],
            [f"{head}{colon} {rng.choice(VALUES)}"],
            [f"{head}{colon} {rng.choice(VALUES)}"],
            [lines[i], f"{dotted} {rng.choice(VALUES)}"],
            [lines[i], f"{dotted} {rng.choice(VALUES)}"],
            [lines[i], f"{dotted} {rng.choice(VALUES)}"],
        ])  # fmt: skip
        lines[i : i + 1] = change
        lines = lines or ["# nothing"]
    text = "\n".join(lines).encode()
    if rng.random() < 0.1:
        i = rng.randrange(len(text))
        text = text[:i] + bytes([rng.randrange(256)]) + text[i + 1 :]
    return text


def cases(num: int, seed: int, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield commands with their arguments; every fifth one uses a mutated YAML file in `folder`."""
    rng = random.Random(seed)
    for group in ("experiment", "debug"):
        (folder / group).mkdir(parents=True)
    for i in range(num):
        if i % 5 < 4:
            yield rng.choice(COMMANDS), command_line(rng)
            continue
        group = rng.choice(["experiment", "debug"])
        path = folder / group / f"mutant{i}.yaml"
        path.write_bytes(yaml_file(rng, group))
        yield "train", ["--config-dir", str(folder), f"{group}={path.stem}"]


def check(name: str, argv: list[str]) -> dict[str, object]:
    """Check a command line; return whether it is valid, or its mistakes or traceback."""
    start = time.process_time()
    result: dict[str, object] = {"command": name, "argv": argv}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check_command_line(name, argv)
        result["valid"] = True
    except InputError as error:
        result["mistakes"] = list(error.mistakes)
    except SystemExit as end:
        result["exit"] = end.code
    except BaseException:
        result["crash"] = traceback.format_exc()
    result["seconds"] = time.process_time() - start
    return result


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Parse each YAML file and interpolation once: half of the time of a composition."""
    load = OmegaConf.load

    @cache
    def parsed(text: str) -> bytes:
        return pickle.dumps(load(io.StringIO(text)))

    def cached_load(file: Any) -> Any:
        try:
            return pickle.loads(parsed(file.read()))
        except Exception:  # a path, or a file whose name belongs in the error message
            with contextlib.suppress(AttributeError):
                file.seek(0)
            return load(file)

    with (
        mock.patch.object(OmegaConf, "load", cached_load),
        mock.patch("omegaconf.base.parse", cache(parse)),
        mock.patch("omegaconf._utils.parse", cache(parse)),
    ):
        yield


@contextlib.contextmanager
def load_once() -> Iterator[None]:
    """Let Hydra compose the same overrides of conf/ once: a sweep does so several times a job."""
    load, loaded = ConfigLoaderImpl._load_configuration_impl, {}

    def cached_load(self: Any, config_name: str, overrides: list[str], *args: Any, **options: Any):
        sources = [(source.scheme(), source.path) for source in self.repository.get_sources()]
        files = {path for scheme, path in sources if scheme == "file"}
        if files != {str(conf_dir())} or any("searchpath" in text for text in overrides):
            return load(self, config_name, overrides, *args, **options)
        runtime = JobRuntime().conf
        key = str((config_name, overrides, args, options, sources, runtime, version.getbase()))
        if key not in loaded:
            loaded[key] = pickle.dumps(load(self, config_name, overrides, *args, **options))
        config = pickle.loads(loaded[key])
        with read_write(config), open_dict(config):
            config.hydra.runtime.cwd = os.getcwd()
        return config

    with mock.patch.object(ConfigLoaderImpl, "_load_configuration_impl", cached_load):
        yield


@contextlib.contextmanager
def compose_once() -> Iterator[None]:
    """Cache file reads and compositions, failed ones included.

    Most of the time of a check is spent composing, and most checks use the same files and groups.
    """
    compose = composition.compose

    @cache
    def composed_once(name: str, overrides: tuple[str, ...]) -> bytes | Exception:
        try:
            return pickle.dumps(compose(name, list(overrides), return_hydra_config=True))
        except Exception as error:
            return error

    def cached_compose(name: str, overrides: Sequence[str] = (), return_hydra_config: bool = False):
        if any("searchpath" in text for text in overrides) or not return_hydra_config:
            return compose(name, list(overrides), return_hydra_config)
        result = composed_once(name, tuple(overrides))
        if isinstance(result, Exception):
            raise result
        composed = pickle.loads(result)
        with read_write(composed), open_dict(composed):
            composed.hydra.runtime.cwd = os.getcwd()
        return composed

    with read_once(), mock.patch.object(composition, "compose", cached_compose):
        yield


def main(num: int, seed: int) -> None:
    gc.disable()  # it would take a sixth of the time
    with compose_once(), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        results = [check(*case) for case in cases(num, seed, Path(folder) / "conf")]
        files = sorted(p.name for p in Path(folder).iterdir())
    heavy = sorted({"torch", "torchvision", "pytorch_lightning", "matplotlib"} & set(sys.modules))
    print(json.dumps({"results": results, "files": files, "heavy": heavy}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
