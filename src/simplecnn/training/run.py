"""One run, from configuration to run directory: build, fit, test, record."""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_only

from simplecnn.callbacks.checkpoint import STATE, LastCheckpoint, why_ended
from simplecnn.callbacks.report import Report
from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.console import configure_lightning_logging
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.errors import InputError
from simplecnn.run_directory import RECORD, RunDirectory, read_record, short
from simplecnn.signals import Interrupted, Stop
from simplecnn.slurm import requeue, slurm_job
from simplecnn.training.build import build_datamodule, build_module, build_trainer
from simplecnn.training.interruption import processes_end_with_this_one
from simplecnn.training.loggers import TensorBoard, rewind
from simplecnn.training.phases import Phases
from simplecnn.training.processor import keep_freed_memory, state_restored
from simplecnn.training.summary import (
    device_and_reason,
    how_to_resume,
    hyper_parameters,
    summary,
    where_to_look,
)

log = logging.getLogger(__name__)
Config = Mapping[str, Any]


def train(
    config: Config,
    path: Path,
    *,
    seconds: Mapping[str, float] | None = None,
    resume: bool = False,
    requested: bool = False,
) -> float | None:
    """Do the run that `config` describes in the new directory `path`.

    Returns the best value of the monitored metric, or None without one. Whatever happens,
    `run.json` says how far the run came. `seconds` are those of phases before this call.
    With `resume`, an unfinished run of this configuration in `path` is resumed from its last
    finished epoch; one that failed starts over, unless the resume was `requested` by the user.
    Raises SystemExit where a signal ended the run.
    """
    configure_lightning_logging()
    stop = Stop()
    with state_restored(), stop.listening():
        if rank_zero_only.rank != 0:  # a further process of a DDP run: rank zero keeps the record
            directory = RunDirectory(path)
            directory.record = {"continued": requested, "seconds": {}, **read_record(path)}
            directory.writes = False
            return Run(config, directory, stop).fit_and_test()
        if resume:
            directory = RunDirectory.resume_or_create(path, config, requested=requested)
        else:
            directory = RunDirectory.create(path, config)
        try:
            directory.update(slurm_job=slurm_job())
            directory.record["seconds"] |= {k: round(v, 3) for k, v in (seconds or {}).items()}
            return _recorded(Run(config, directory, stop))
        finally:
            directory.release()


def _recorded(run: "Run") -> float | None:
    """Do the run, and write to its record how it ended."""
    try:
        best = run.fit_and_test()
    except (KeyboardInterrupt, SystemExit) as error:
        run.stop.ending = True
        page = run.record("interrupted")
        log.error("Interrupted. %s%s", how_to_resume(run.directory), where_to_look(page))
        if not isinstance(error, Interrupted):  # a Ctrl-C that nobody listened to
            raise SystemExit(130) from None
        if error.requeue:
            requeue()
        raise SystemExit(error.code) from None
    except BaseException as error:
        run.stop.ending = True
        try:
            page = run.record("failed", error=f"{type(error).__name__}: {error}")
            if page is not None:
                log.info("%s", where_to_look(page).lstrip())
        except OSError as problem:  # the disk is full: that is why it failed
            log.error("%s cannot be written: %s", RECORD, problem.strerror)
        raise
    page = run.record("finished")
    log.info("\n%s", summary(run.directory, run.trainer, page))
    return best


class Run:
    """The parts of one run. What came out of it is in the record: metrics, best, ended, …"""

    def __init__(self, config: Config, directory: RunDirectory, stop: Stop) -> None:
        self.config = config
        self.directory = directory
        self.stop = stop
        self.trainer: Any = None
        # A run that is resumed has metrics, and a best checkpoint: its value, its epoch from 1.
        self.results = directory.record
        self.results |= {"metrics": {}, "best": None, "num_epochs": 0} | self.results
        self.results["ended"] = None

    def fit_and_test(self) -> float | None:
        config = self.config
        if config["seed"] is not None:
            pl.seed_everything(config["seed"], workers=True)
        last = self.directory.last_checkpoint()
        resumed = last is not None and bool(self.directory.record.get("continued"))
        start = last if resumed else config["ckpt_path"]
        content: Config = {}
        if start:
            check_checkpoint(Path(start))
            content = read_checkpoint(Path(start))
        purge_step = content.get("global_step") if resumed else None
        if purge_step is not None and self.directory.writes:
            rewind(self.directory.path, purge_step)
        weights_only = config.get("ckpt_weights_only") and config["train"] and not resumed
        datamodule = build_datamodule(config)
        if isinstance(datamodule, ImageFolderDataModule) and not weights_only:
            # Now, for the network is normalized by the images that were trained on.
            datamodule.load_state_dict(content.get(type(datamodule).__qualname__))
        module = build_module(config, datamodule)
        self.trainer = trainer = build_trainer(config, self.stop, purge_step=purge_step)
        self._announce(module, datamodule)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoard):  # ours gets them at the end
                logger.log_hyperparams(hyper_parameters(config))
        tested: Config = content  # the checkpoint whose weights are tested; empty: as they are then
        if content and weights_only:
            load_weights(module, content)
            start, content = None, {}
        if config["train"]:
            if content:
                self._take_over(content, resumed)
            if self.results["ended"] is None:
                keep_freed_memory()
                with self.directory.phase("fit"), processes_end_with_this_one(trainer, self.stop):
                    trainer.fit(module, datamodule=datamodule, ckpt_path=start, weights_only=True)
                self._note_fit()
                tested = {}
            # Processes that SLURM started may have a path of their own each.
            best = trainer.strategy.broadcast(self._best_checkpoint())
            tested = read_checkpoint(Path(best)) if best else tested
            self.directory.update()
        without = []
        if type(module).test_step is pl.LightningModule.test_step:
            without.append(f"{type(module).__name__} has no test_step")
        if type(datamodule).test_dataloader is pl.LightningDataModule.test_dataloader:
            without.append(f"{type(datamodule).__name__} has no test_dataloader")
        if config["test"] and without:
            log.info("%s: nothing is tested", ", ".join(without))
        elif config["test"]:
            if tested:
                # Not by `ckpt_path`: a WeightAveraging that has trained would restore the weights
                # before the average, and `evaluate` would find another accuracy.
                load_weights(module, tested)
            with self.directory.phase("test"), processes_end_with_this_one(trainer, self.stop):
                trainer.test(module, datamodule=datamodule, verbose=False)
            self.results["metrics"] |= _metrics(trainer.callback_metrics)
        if self.results["best"]:
            return float(self.results["best"]["value"])
        return self.results["metrics"].get(config["monitor"]) if config["monitor"] else None

    def record(self, status: str, **entries: Any) -> Path | None:
        """Write how the run ended to run.json and to TensorBoard's HPARAMS tab; gives its page."""
        last = self.directory.last_checkpoint()
        if last and status != "finished":
            with suppress(InputError):  # a damaged one says nothing
                content = read_checkpoint(last)
                metrics = (content.get(STATE) or {}).get("metrics", {})
                self.results["metrics"] = _metrics(metrics) | self.results["metrics"]
                self.results["num_epochs"] = content["epoch"]
        if self.trainer is not None:
            self._close_loggers(finished=status == "finished")
            for callback in self.trainer.callbacks:
                if isinstance(callback, Phases):
                    callback.add_to(self.results, self.trainer)
        self.directory.update(status=status, **entries)
        reports = [c for c in getattr(self.trainer, "callbacks", ()) if isinstance(c, Report)]
        return reports[0].write(self.trainer, self.directory) if reports else None

    def _close_loggers(self, *, finished: bool) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoard):
                if finished and (best := self.results["best"]):  # the first column of HPARAMS
                    name = str(self.config["monitor"]).rpartition("/")[2]
                    logger.experiment.add_scalar(name, best["value"], self.trainer.global_step)
                logger.log_hyperparams(hyper_parameters(self.config))
                logger.close()
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run:  # the next job of a sweep is a run of its own
            wandb.finish()

    def _take_over(self, content: Config, resumed: bool) -> None:
        """Note what a checkpoint says of the run before, and whether there is anything to train."""
        progress = content["loops"]["fit_loop"]["epoch_progress"]["current"]
        # best.ckpt is written when an epoch has been processed, and not yet counted.
        done, max_epochs = progress["processed"], self.config["trainer"].get("max_epochs")
        ended = None
        if resumed:
            state = content.get(STATE) or {}
            self.results["metrics"] = _metrics(state.get("metrics", {}))
            ended = state.get("ended")
        elif max_epochs not in (None, -1) and done >= max_epochs:
            ended = f"already {done} of {max_epochs} epochs: nothing to train"
        self.results |= {"num_epochs": done, "ended": ended}
        if ended:
            log.info("%s", ended)
            # What the test logs is logged at the step where the training ended.
            self.trainer.fit_loop.load_state_dict(content["loops"]["fit_loop"])

    def _note_fit(self) -> None:
        """What came out of the fit; in processes that the Trainer spawned, by their checkpoint."""
        self.results["metrics"] |= _metrics(self.trainer.callback_metrics)
        self.results["num_epochs"] = self.trainer.current_epoch
        last = self.directory.last_checkpoint()
        if last:
            content = read_checkpoint(last)
            ended = (content.get(STATE) or {}).get("ended")
            if ended is None and self.trainer.should_stop:  # before it trained: a Timer
                ended = why_ended(self.trainer)
            self.results |= {"num_epochs": content["epoch"], "ended": ended}
            if self.trainer.global_step != content["global_step"]:  # spawned processes went there
                self.trainer.fit_loop.load_state_dict(content["loops"]["fit_loop"])

    def _best_checkpoint(self) -> Path | None:
        """The best checkpoint, which is tested, or None: the weights at the end are."""
        wanted = self.config["monitor"], self.config["mode"]
        callbacks = [c for c in self.trainer.checkpoint_callbacks if getattr(c, "monitor", None)]
        # Not one that keeps the best by another metric, if there is one that does by this.
        callbacks.sort(key=lambda c: (c.monitor, c.mode) != wanted)
        if not callbacks:
            return None
        callback = callbacks[0]
        there = Path(callback.best_model_path or "best.ckpt")
        paths = self.directory.path / "checkpoints" / there.name, there  # a run may have moved
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        content = read_checkpoint(path)
        state = content.get("callbacks", {}).get(callback.state_key, {})
        value = state.get("best_model_score", callback.best_model_score)
        if value is not None and (callback.monitor, callback.mode) == wanted:
            best = {"value": round(float(value), 6), "epoch": content["epoch"] + 1}
            self.results["best"] = best
        return path

    def _announce(self, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> None:
        """Note what the run consists of, and say where it happens."""
        if isinstance(datamodule, ImageFolderDataModule):
            datamodule.setup("fit")
            self.directory.record |= datamodule.record()
        accelerator = self.config["trainer"].get("accelerator", "auto")
        device, why = device_and_reason(self.trainer, accelerator)
        number = sum(p.numel() for p in module.parameters())
        names = getattr(datamodule, "class_names", None)
        self.directory.update(
            num_parameters=number,
            class_names=list(names) if names else None,
            device={"name": device, "why": why, "num_threads": torch.get_num_threads()},
        )
        if self.directory.writes:
            log.info("directory    %s", short(self.directory.path))
            log.info("%s parameters on %s: %s", f"{number:,}", device, why)
            if not any(isinstance(c, LastCheckpoint | Checkpoint) for c in self.trainer.callbacks):
                log.info("no checkpoint is kept: callbacks=[default,…] adds to the default ones")


def load_weights(module: pl.LightningModule, content: Config) -> None:
    """Give a module the weights of a checkpoint."""
    module.on_load_checkpoint(dict(content))
    module.load_state_dict(content["state_dict"], strict=module.strict_loading)


def _metrics(logged: Mapping[str, Any]) -> dict[str, float]:
    """The metrics by name; a learning rate, which a monitor logs, is none."""
    return {
        key: round(float(value), 6) for key, value in logged.items() if not key.startswith("lr-")
    }
