"""One run, from configuration to folder: build, fit, test, record."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ProgressBar,
)
from pytorch_lightning.utilities import rank_zero_only
from torch.multiprocessing import ProcessExitedException

from simplecnn.callbacks.checkpoint import STATE, BestCheckpoint, BetweenEpochs, CheckpointFiles
from simplecnn.callbacks.interruption import StopOnSignal
from simplecnn.callbacks.non_finite import FiniteLoss
from simplecnn.callbacks.phases import Phases
from simplecnn.callbacks.progress import STAGES, metric_text
from simplecnn.config.build import build
from simplecnn.console import configure_lightning_logging
from simplecnn.models.classifier import Classifier
from simplecnn.run_directory import (
    RECORD,
    RunDirectory,
    check_checkpoint,
    short,
    tensorboard,
    with_uv,
)
from simplecnn.training.checkpoint_files import read_checkpoint, write_checkpoint
from simplecnn.training.loggers import TensorBoard, restore_history
from simplecnn.training.signals import Interrupted, Stop, requeue

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
NEED_A_LOGGER = (DeviceStatsMonitor, LearningRateMonitor)


def train(
    config: Config,
    path: Path,
    *,
    seconds: Mapping[str, float] | None = None,
    again: bool = False,
    by_hand: bool = False,
) -> Any:
    """Do the run that `config` describes in the new folder `path`.

    Returns the best value of the monitored metric, or None without one. Whatever happens,
    `run.json` says how far the run came. `seconds` are those of phases before this call.
    With `again`, an unfinished run of this configuration in `path` goes on where it was last
    saved, as if it had never stopped; one that failed starts over, unless it is continued
    `by_hand`. Raises Interrupted where a signal ended it, once its state is saved.
    """
    configure_lightning_logging()
    stop = Stop()
    with state_restored(), stop.listening():
        if rank_zero_only.rank != 0:  # a further process of a DDP run; rank zero has the folder
            return Run(config, stop=stop).fit_and_test()
        if again:
            folder = RunDirectory.again(path, config, by_hand=by_hand)
        else:
            folder = RunDirectory.create(path, config)
        try:
            folder.record["seconds"] |= {k: round(v, 3) for k, v in (seconds or {}).items()}
            return _recorded(Run(config, folder, stop=stop))
        finally:
            folder.release()


def _recorded(run: "Run") -> Any:
    """Do the run, and write to its record how it ended."""
    try:
        best = run.fit_and_test()
    except (KeyboardInterrupt, SystemExit) as error:
        run.stop.end()
        run.record("interrupted")
        log.error("Interrupted. %s", run.to_go_on())
        if not isinstance(error, Interrupted):  # a Ctrl-C that nobody listened to
            raise SystemExit(130) from None
        if error.requeue:
            requeue()
        raise SystemExit(error.code) from None
    except BaseException as error:
        run.stop.end()
        try:
            run.record("failed", error=f"{type(error).__name__}: {error}")
        except OSError as problem:  # the disk is full: that is why it failed
            log.error("%s cannot be written: %s", RECORD, problem.strerror)
        raise
    run.record("finished")
    log.info("\n%s", run.summary())
    return best


class Run:
    """The parts of one run and what came out of it."""

    def __init__(
        self, config: Config, folder: RunDirectory | None = None, *, stop: Stop | None = None
    ) -> None:
        self.config = config
        self.folder = folder
        self.stop = Stop() if stop is None else stop
        # An interrupted run that goes on has some of these already.
        record = folder.record if folder else {}
        self.metrics: dict[str, float] = dict(record.get("metrics") or {})
        self.best: dict[str, Any] | None = record.get("best")  # value, epoch (from 1): best.ckpt
        self._fit_before = float((record.get("seconds") or {}).get("fit", 0.0))
        self.trainer: Any = None

    def fit_and_test(self) -> float | None:
        config = self.config
        if config["seed"] is not None:
            pl.seed_everything(config["seed"], workers=True)
        datamodule: pl.LightningDataModule = build(config["data"])
        # The module builds its network itself: the checkpoint then holds the configuration.
        module: Classifier = build(config["model"], _recursive_=False, _convert_="all")
        self.trainer = trainer = build_trainer(config)
        watch(trainer, self.stop, self.folder.note_checkpoint if self.folder else None)
        self._announce(module)
        checkpoint = self._begin_from()
        if config["train"]:
            with self._phase("fit"), self._ended_by_a_signal():
                trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
            self.stop.deferred = False
            self.metrics |= _numbers(trainer)
            checkpoint = self._best_checkpoint()
            if self.folder:
                self.folder.update(metrics=self.metrics, best=self.best)
            self.stop.obey()
        if config["test"]:
            with self._phase("test"), self._ended_by_a_signal():
                trainer.test(
                    module,
                    datamodule=datamodule,
                    ckpt_path=checkpoint,
                    verbose=False,
                    weights_only=True,
                )
            self.metrics |= _numbers(trainer)
        if self.best:
            return self.best["value"]
        return self.metrics.get(config["monitor"]) if config["monitor"] else None

    def record(self, status: str, **entries: Any) -> None:
        """Write how the run ended to run.json, and to TensorBoard's HPARAMS tab."""
        assert self.folder is not None
        trainer = self.trainer
        if trainer is not None:
            self._add_phases(trainer)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoard):
                    logger.log_hyperparams(hyper_parameters(self.config), self.metrics)
                    logger.experiment.close()
        self.folder.update(
            status=status,
            num_epochs=self._num_epochs(),
            best=self.best,
            metrics=self.metrics,
            **entries,
        )

    def summary(self) -> str:
        """A short table of the results, the folder, and what to type next."""
        assert self.folder is not None
        rows = [f"{'':12}{'loss':>10}{'accuracy':>12}"]
        titles = {"train": "training", "val": "validation", "test": "test"}
        for stage in STAGES:
            loss, accuracy = (self.metrics.get(f"{stage}/{name}") for name in ("loss", "acc"))
            if loss is not None and accuracy is not None:
                rows.append(f"{titles[stage]:12}{loss:10.4f}{100 * accuracy:10.2f} %")
        if self.best:
            best = metric_text(self.config["monitor"], self.best["value"])
            rows.append(f"\nbest {best} after epoch {self.best['epoch']}: its weights were tested")
        seconds = self.folder.record["seconds"]
        rows.append("   ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
        parts = self.folder.record.get("seconds_of_fit") or {}
        if parts:
            shown = "   ".join(f"{name} {value:.1f} s" for name, value in parts.items())
            rows.append(f"of the fit:  {shown}")
        rows.append(f"\nfolder       {short(self.folder.path)}")
        if any(isinstance(logger, TensorBoard) for logger in self.trainer.loggers):
            # All runs of this name: of a single run TensorBoard's HPARAMS tab shows no metrics.
            parent = self.folder.path.parent
            named = parent.name == self.config["name"]
            rows.append(f"to see it    {tensorboard(parent if named else self.folder.path)}")
        return "\n".join(rows)

    def _announce(self, module: Classifier) -> None:
        if self.folder is None:
            return
        device, why = device_and_reason(self.trainer, self.config["trainer"])
        self.folder.update(
            num_parameters=module.num_parameters,
            device={"name": device, "why": why, "num_threads": torch.get_num_threads()},
        )
        log.info("%s parameters on %s: %s", f"{module.num_parameters:,}", device, why)

    def to_go_on(self) -> str:
        """What to type so that an interrupted run goes on."""
        assert self.folder is not None
        path = short(self.folder.path)
        if (self.folder.path.parent / "sweep.json").is_file():
            return f"The command of the sweep goes on with {path}"
        command = with_uv(f"{short(sys.argv[0])} resume={shlex.quote(path)}")
        saved = self.folder.last_checkpoint() is not None
        what = "It goes on with" if saved else "Nothing was saved yet, so that it starts anew with"
        return f"{what}\n{command}"

    def _begin_from(self) -> str | None:
        """The checkpoint to start with, once the logs are as they were when it was written."""
        folder = self.folder
        if folder is not None and folder.record.get("continued"):
            chosen = folder.path / "checkpoints" / "last.ckpt"
        elif self.config["ckpt_path"]:
            chosen = Path(self.config["ckpt_path"])
        else:
            return None
        check_checkpoint(chosen)
        if folder is not None and self.config["train"]:
            content = read_checkpoint(chosen)
            self._take_up_history(content, folder, source=chosen.absolute().parent.parent)
        return str(chosen)

    def _take_up_history(
        self, content: Mapping[str, Any], folder: RunDirectory, source: Path
    ) -> None:
        """Logs, pictures and the best checkpoint of the run that a checkpoint comes from."""
        past = content.get(STATE, {}).get("history", {})
        mine = folder.path.absolute()
        restore_history(past, content["global_step"], source=source, folder=mine)
        if source == mine or not self.config["monitor"]:
            return
        best = content["callbacks"].get(BestCheckpoint.__name__, {})
        path = source / "checkpoints" / "best.ckpt"
        if best.get("value") is not None and path.is_file():
            its = read_checkpoint(path)
            if its["callbacks"].get(BestCheckpoint.__name__) == best:
                write_checkpoint(
                    its, folder.path / "checkpoints" / path.name, folder.note_checkpoint
                )

    def _best_checkpoint(self) -> str | None:
        """The checkpoint to test after a fit: the best one, or None for the weights at the end."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint) and callback.path.is_file():
                # From the file: a process that DDP spawned keeps the callback's own state.
                content = torch.load(callback.path, map_location="cpu", weights_only=True)
                best = content["callbacks"][callback.state_key]
                self.best = {"value": round(best["value"], 6), "epoch": best["epoch"]}
                return str(callback.path)
        return None

    def _add_phases(self, trainer: pl.Trainer) -> None:
        """Note where the time of the fit went, that before an interruption included."""
        assert self.folder is not None
        record = self.folder.record
        for callback in trainer.callbacks:
            if isinstance(callback, Phases) and "fit" in record["seconds"]:
                parts = callback.seconds(trainer, record["seconds"]["fit"] - self._fit_before)
                past = record.get("seconds_of_fit") or {}
                record["seconds_of_fit"] = past | {
                    name: round(past.get(name, 0.0) + value, 3) for name, value in parts.items()
                }

    def _num_epochs(self) -> int:
        """Finished epochs; those of a spawned process are known from its last checkpoint."""
        assert self.folder is not None
        last = self.folder.last_checkpoint()
        if last:
            return torch.load(last, map_location="cpu", weights_only=True)["epoch"]
        return 0 if self.trainer is None else self.trainer.current_epoch

    @contextmanager
    def _ended_by_a_signal(self) -> Iterator[None]:
        """Processes that the Trainer started and that a signal ended have not failed."""
        self.stop.launcher = self.trainer.strategy.launcher
        try:
            yield
        except ProcessExitedException:
            self.stop.obey()
            raise

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.folder is None else self.folder.phase(name)


@contextmanager
def state_restored() -> Iterator[None]:
    """Leave the environment and torch's switches as they were: the next run is not this one's."""
    environment = dict(os.environ)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("deterministic", "benchmark", "allow_tf32")}
    precision = torch.get_float32_matmul_precision()
    num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for name, value in flags.items():
            setattr(cudnn, name, value)
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(num_threads)
        torch.set_default_dtype(dtype)


def build_trainer(config: Config) -> pl.Trainer:
    """The Trainer of a configuration, with the callbacks and loggers it names and no others."""
    callbacks = [build(node) for node in (config.get("callbacks") or {}).values() if node]
    loggers = [build(node) for node in (config.get("logger") or {}).values() if node]
    if not loggers:  # nobody to tell
        callbacks = [c for c in callbacks if not isinstance(c, NEED_A_LOGGER)]
    given = {
        "default_root_dir": config["paths"]["output_dir"],
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_model_summary": False,
    }
    return build({**given, **config["trainer"]}, callbacks=callbacks, logger=loggers or False)


def watch(trainer: pl.Trainer, stop: Stop, note: Callable[[str, str], None] | None = None) -> None:
    """What every run has: exact places to save at, whole files, an eye on loss and signals."""
    trainer.strategy.checkpoint_io = CheckpointFiles(note)
    trainer.callbacks[:0] = [Phases(), BetweenEpochs(), FiniteLoss()]
    trainer.callbacks.append(StopOnSignal(stop))


def device_and_reason(trainer: pl.Trainer, asked: Config) -> tuple[str, str]:
    """Where the run happens, and why there."""
    device = trainer.strategy.root_device
    name = device.type.upper()
    if device.type == "cuda":
        name = f"CUDA ({torch.cuda.get_device_name(device)})"
    if trainer.world_size > 1:
        name = f"{trainer.world_size} x {name}"
    accelerator = asked.get("accelerator", "auto")
    if accelerator != "auto":
        return name, f"trainer.accelerator is {accelerator}"
    if device.type == "cpu":
        return name, "neither a CUDA device nor MPS is seen here"
    return name, "the fastest that is seen here"


def hyper_parameters(config: Config) -> dict[str, Any]:
    """What a run was made of, flat, for TensorBoard's HPARAMS tab."""
    chosen = {key: config[key] for key in ("model", "data", "trainer", "seed")}
    return {k: v for k, v in _flatten(chosen) if not k.endswith(("_target_", "data_dir"))}


def _flatten(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _flatten(value, f"{key}/{name}" if key else str(name))
    else:
        value = "null" if config is None else config
        yield key, value if isinstance(value, bool | int | float | str) else str(value)


def _numbers(trainer: pl.Trainer) -> dict[str, float]:
    return {key: round(float(value), 6) for key, value in trainer.callback_metrics.items()}
