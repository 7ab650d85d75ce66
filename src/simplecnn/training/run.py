"""One run, from its configuration to its run directory: build, fit, test, record."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from simplecnn.callbacks.report import Report
from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.config.build import build
from simplecnn.config.process_state import restore_process_state
from simplecnn.console import configure_lightning_logging
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.directories import RECORD, read_record
from simplecnn.errors import RunError, first_line
from simplecnn.run_directory import RunDirectory
from simplecnn.signals import Interrupted, SignalHandler
from simplecnn.slurm import requeue, slurm_job
from simplecnn.training.build import build_module, build_trainer
from simplecnn.training.interruption import kill_processes_on_interrupt
from simplecnn.training.loggers import TensorBoard, next_logged_step, rewind
from simplecnn.training.monitor import raise_if_missing
from simplecnn.training.phases import Phases
from simplecnn.training.processor import keep_freed_memory
from simplecnn.training.record import RunRecord
from simplecnn.training.summary import hyper_parameters, page_line, resume_instructions, summary

log = logging.getLogger(__name__)
Config = Mapping[str, Any]


def train(
    config: Config,
    path: Path,
    *,
    seconds: Mapping[str, float] | None = None,
    resume: bool = False,
    requested: bool = False,
    command: str | None = None,
) -> float | None:
    """Train and test as `config` describes, in the new run directory `path`.

    Returns the best value of the monitored metric (the last value if no checkpoint monitors it), or
    None without a monitor. However the run ends, `run.json` records its status. `seconds` is the
    time spent before this call, by phase.

    With `resume`, an unfinished run of the same configuration in `path` is resumed from its last
    finished epoch; a failed one starts over, unless the user `requested` the resume. `command` is
    recorded as what started a new run; None for the command line.

    Raises SystemExit if a signal ended the run.
    """
    configure_lightning_logging()
    signal_handler = SignalHandler()
    with restore_process_state(), signal_handler.handle_signals():
        if rank_zero_only.rank != 0:  # another DDP process: rank zero writes the record
            directory = RunDirectory(path)
            directory.record = {"continued": requested, "seconds": {}, **read_record(path)}
            directory.writes = False
            return Run(config, directory, signal_handler).fit_and_test()
        if resume:
            directory = RunDirectory.resume_or_create(
                path, config, requested=requested, command=command
            )
        else:
            directory = RunDirectory.create(path, config, command=command)
        try:
            directory.update(slurm_job=slurm_job())
            directory.record["seconds"] |= {k: round(v, 3) for k, v in (seconds or {}).items()}
            return _fit_test_and_record(Run(config, directory, signal_handler))
        finally:
            directory.release()


def _fit_test_and_record(run: "Run") -> float | None:
    """Train and test, and record how the run ended."""
    try:
        best = run.fit_and_test()
    except BaseException as error:
        received = run.signal_handler.received
        run.signal_handler.ending = True
        if received is not None and not isinstance(error, Interrupted):
            error = Interrupted(received)  # a process of the run has failed because of the signal
        if isinstance(error, KeyboardInterrupt | SystemExit):
            _end_interrupted(run, error)
        try:
            page = run.finish("failed", error=f"{type(error).__name__}: {error}")
            if page is not None:
                log.info("%s", page_line(page).lstrip())
        except OSError as problem:  # probably why the run failed: a full disk
            log.error("%s cannot be written: %s", RECORD, problem.strerror)
        raise
    page = run.finish("finished")
    log.info("\n%s", summary(run.directory, run.trainer, page))
    return best


def _end_interrupted(run: "Run", error: KeyboardInterrupt | SystemExit) -> NoReturn:
    """Record that the run was interrupted, say how to resume it, and exit."""
    page = run.finish("interrupted")
    log.error("Interrupted. %s%s", resume_instructions(run.directory), page_line(page))
    if not isinstance(error, Interrupted):  # not raised by simplecnn's signal handlers
        raise SystemExit(130) from None
    if error.requeue:
        requeue()
    raise SystemExit(error.code) from None


class Run:
    """One run: builds its parts, trains and tests, and collects the results in its record."""

    def __init__(
        self, config: Config, directory: RunDirectory, signal_handler: SignalHandler
    ) -> None:
        self.config = config
        self.directory = directory
        self.signal_handler = signal_handler
        self.record = RunRecord(config, directory)
        self.trainer: Any = None

    def fit_and_test(self) -> float | None:
        """Train, then test the best checkpoint. Returns the best value of the monitored metric."""
        config = self.config
        if config["seed"] is not None:
            pl.seed_everything(config["seed"], workers=True)
        last = self.directory.last_checkpoint()
        resumed = last is not None and bool(self.directory.record.get("continued"))
        ckpt_path = last if resumed else config["ckpt_path"]
        checkpoint: Config = {}
        if ckpt_path:
            check_checkpoint(Path(ckpt_path))
            checkpoint = read_checkpoint(Path(ckpt_path))
        weights_only = bool(config.get("ckpt_weights_only") and not resumed)
        module, datamodule = self._build(checkpoint, resumed=resumed, weights_only=weights_only)
        tested = checkpoint  # if empty, the module is tested as it is
        if config["train"]:
            if checkpoint and weights_only:
                load_weights(module, checkpoint)
                ckpt_path = None
            elif checkpoint:
                self.record.add_start(checkpoint, resumed=resumed)
            if self.record.ended is None:
                self._fit(module, datamodule, ckpt_path)
                tested = {}
            else:  # test metrics are logged at the step at which the training ended
                self.trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
            # Each process that SLURM started may have its own run directory: use rank zero's path.
            best = self.trainer.strategy.broadcast(self.record.add_best(self.trainer))
            tested = read_checkpoint(Path(best)) if best else tested
            self.directory.update()
        if config["test"]:
            self._test(module, datamodule, tested)
        self.record.add_model(module, datamodule, self.trainer)
        return self.record.result

    def finish(self, status: str, **entries: Any) -> Path | None:
        """Record how the run ended, close the loggers, and return the path of its report."""
        if status != "finished":
            self.record.add_interruption(self.trainer)
        if self.trainer is not None:
            self._close_loggers(finished=status == "finished")
            for callback in self.trainer.callbacks:
                if isinstance(callback, Phases):
                    callback.update_record(self.directory.record, self.trainer)
        self.directory.update(status=status, **entries)
        reports = [c for c in getattr(self.trainer, "callbacks", ()) if isinstance(c, Report)]
        return reports[0].write(self.trainer, self.directory) if reports else None

    def _build(
        self, checkpoint: Config, *, resumed: bool, weights_only: bool
    ) -> tuple[pl.LightningModule, pl.LightningDataModule]:
        purge_step = None
        if resumed:
            purge_step = next_logged_step(checkpoint)
            if self.directory.writes:
                rewind(self.directory.path, purge_step, checkpoint["global_step"])
        datamodule = build(self.config["data"])
        if isinstance(datamodule, ImageFolderDataModule) and not weights_only:
            # Before the network is built, which may normalize by the images of the training split.
            datamodule.load_state_dict(checkpoint.get(type(datamodule).__qualname__))
        module = build_module(self.config, datamodule)
        self.trainer = build_trainer(self.config, self.signal_handler, purge_step=purge_step)
        self.record.add_setup(module, datamodule, self.trainer)
        for logger in self.trainer.loggers:
            if not isinstance(logger, TensorBoard):  # receives them when the run ends
                logger.log_hyperparams(hyper_parameters(self.config))
        return module, datamodule

    def _fit(
        self,
        module: pl.LightningModule,
        datamodule: pl.LightningDataModule,
        ckpt_path: str | Path | None,
    ) -> None:
        trainer = self.trainer
        keep_freed_memory()
        with self.directory.phase("fit"), kill_processes_on_interrupt(trainer, self.signal_handler):
            try:
                trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
            except (MisconfigurationException, RuntimeError) as error:
                raise_if_missing(self.config["monitor"], trainer, error)
                if ckpt_path and str(error).startswith("Error(s) in loading state_dict"):
                    raise _other_weights(error) from error
                raise
        checkpoint = self.record.add_fit(trainer)
        if checkpoint and trainer.global_step != checkpoint["global_step"]:
            # Spawned processes ran the fit.
            trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])

    def _test(
        self,
        module: pl.LightningModule,
        datamodule: pl.LightningDataModule,
        checkpoint: Config,
    ) -> None:
        """Test the weights of `checkpoint`, or the module as it is if `checkpoint` is empty."""
        missing = []
        if type(module).test_step is pl.LightningModule.test_step:
            missing.append(f"{type(module).__name__} has no test_step")
        if type(datamodule).test_dataloader is pl.LightningDataModule.test_dataloader:
            missing.append(f"{type(datamodule).__name__} has no test_dataloader")
        if missing:
            log.info("%s: skipping the test", ", ".join(missing))
            return
        if checkpoint:
            # With `ckpt_path`, a WeightAveraging would restore the weights before averaging, and
            # `evaluate` would report another accuracy.
            load_weights(module, checkpoint)
        with (
            self.directory.phase("test"),
            kill_processes_on_interrupt(self.trainer, self.signal_handler),
        ):
            self.trainer.test(module, datamodule=datamodule, verbose=False)
        self.record.add_metrics(self.trainer.callback_metrics)

    def _close_loggers(self, *, finished: bool) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoard):
                best = self.directory.record["best"]
                if finished and best:  # the first column of HPARAMS
                    name = str(self.config["monitor"]).rpartition("/")[2]
                    logger.experiment.add_scalar(name, best["value"], self.trainer.global_step)
                logger.log_hyperparams(hyper_parameters(self.config))
                logger.close()
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run:  # the next job of a sweep starts another W&B run
            wandb.finish()


def load_weights(module: pl.LightningModule, checkpoint: Config) -> None:
    """Load the weights of a checkpoint into a module. Raises RunError if they do not fit.

    The class weights of a CrossEntropyLoss are those of the module: the data may be others.
    """
    module.configure_model()
    module.on_load_checkpoint(dict(checkpoint))
    weights = dict(checkpoint["state_dict"])
    if isinstance(loss := getattr(module, "loss", None), nn.CrossEntropyLoss):
        weights.pop("loss.weight", None)
        weights |= loss.state_dict(prefix="loss.")
    try:
        module.load_state_dict(weights, strict=module.strict_loading)
    except RuntimeError as error:
        raise _other_weights(error) from error


def _other_weights(error: RuntimeError) -> RunError:
    reason = first_line(error).rstrip(". ")
    return RunError(f"The checkpoint has the weights of another model: {reason}.")
