"""One run, from configuration to run directory: build, fit, test, record."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.multiprocessing import ProcessExitedException

from simplecnn.callbacks.checkpoint import STATE, why_ended
from simplecnn.callbacks.progress import metric_text, split_metric
from simplecnn.callbacks.report import Report
from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.config.spelling import in_quotes, word
from simplecnn.console import configure_lightning_logging
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.run_directory import (
    RECORD,
    RunDirectory,
    as_typed,
    read_record,
    short,
    tensorboard,
)
from simplecnn.signals import Interrupted, Stop
from simplecnn.slurm import requeue, slurm_job
from simplecnn.table import table
from simplecnn.training.build import build_datamodule, build_module, build_trainer
from simplecnn.training.loggers import TensorBoard, rewind
from simplecnn.training.phases import Phases
from simplecnn.training.processor import keep_freed_memory

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
COPIES = {"data/seed": "seed", "model/scheduler/max_lr": "model/optimizer/lr"}  # in conf/


def train(
    config: Config,
    path: Path,
    *,
    seconds: Mapping[str, float] | None = None,
    resume: bool = False,
    requested: bool = False,
) -> Any:
    """Do the run that `config` describes in the new directory `path`.

    Returns the best value of the monitored metric, or None without one. Whatever happens,
    `run.json` says how far the run came. `seconds` are those of phases before this call.
    With `resume`, an unfinished run of this configuration in `path` is resumed from its last
    finished epoch; one that failed starts over, unless the resume was `requested` by the user.
    Raises Interrupted where a signal ended the run.
    """
    configure_lightning_logging()
    stop = Stop()
    with state_restored(), stop.listening():
        if rank_zero_only.rank != 0:  # a further process of a DDP run; rank zero has the directory
            continues = requested or bool(read_record(path).get("continued"))
            return Run(config, stop, path=path, resumed=continues).fit_and_test()
        if resume:
            directory = RunDirectory.resume_or_create(path, config, requested=requested)
        else:
            directory = RunDirectory.create(path, config)
        try:
            directory.update(slurm_job=slurm_job())
            directory.record["seconds"] |= {k: round(v, 3) for k, v in (seconds or {}).items()}
            continues = bool(directory.record.get("continued"))
            return _recorded(Run(config, stop, directory, path=path, resumed=continues))
        finally:
            directory.release()


def _recorded(run: "Run") -> Any:
    """Do the run, and write to its record how it ended."""
    try:
        best = run.fit_and_test()
    except (KeyboardInterrupt, SystemExit) as error:
        run.stop.ending = True
        run.record("interrupted")
        log.error("Interrupted. %s%s", run.how_to_resume(), run.where_to_look())
        if not isinstance(error, Interrupted):  # a Ctrl-C that nobody listened to
            raise SystemExit(130) from None
        if error.requeue:
            requeue()
        raise SystemExit(error.code) from None
    except BaseException as error:
        run.stop.ending = True
        try:
            run.record("failed", error=f"{type(error).__name__}: {error}")
        except OSError as problem:  # the disk is full: that is why it failed
            log.error("%s cannot be written: %s", RECORD, problem.strerror)
        if run.page is not None:
            log.info("%s", run.where_to_look().lstrip())
        raise
    run.record("finished")
    log.info("\n%s", run.summary())
    return best


class Run:
    """The parts of one run and what came out of it.

    Of several processes, that of rank zero has the `directory`, to write to; all have its `path`.
    """

    def __init__(
        self,
        config: Config,
        stop: Stop | None = None,
        directory: RunDirectory | None = None,
        *,
        path: Path | None = None,
        resumed: bool = False,
    ) -> None:
        self.config = config
        self.stop = stop or Stop()
        self.directory = directory
        self.path = path
        self.resumed = resumed
        # A run that is resumed has some of these already.
        record = directory.record if directory else {}
        self.metrics: dict[str, float] = dict(record.get("metrics") or {})
        self.best: dict[str, Any] | None = record.get("best")  # value, epoch (from 1): best.ckpt
        self.num_epochs = 0
        self.ended: str | None = None
        self._fit_before = float((record.get("seconds") or {}).get("fit", 0.0))
        self.trainer: Any = None
        self.page: Path | None = None

    def fit_and_test(self) -> float | None:
        config = self.config
        if config["seed"] is not None:
            pl.seed_everything(config["seed"], workers=True)
        start = self._checkpoint_to_start_from()
        content = read_checkpoint(start) if start else {}
        resumed = self.resumed
        if resumed and self.directory and content:
            rewind(self.directory.path, content["global_step"])
        weights_only = config.get("ckpt_weights_only") and config["train"] and not resumed
        datamodule = build_datamodule(config)
        if isinstance(datamodule, ImageFolderDataModule) and not weights_only:
            # Now, for the network is normalized by the images that were trained on.
            datamodule.load_state_dict(content.get(type(datamodule).__qualname__))
        module = build_module(config, datamodule)
        self.trainer = trainer = build_trainer(
            config, self.stop, purge_step=content.get("global_step") if resumed else None
        )
        self._announce(module, datamodule)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoard):  # ours gets them at the end
                logger.log_hyperparams(hyper_parameters(config))
        tested = str(start) if start else None
        if content and weights_only:
            module.load_state_dict(content["state_dict"])
            content, tested = {}, None
        fitted = False
        if config["train"]:
            self._take_over(content, config, resumed)
            if self.ended is None:
                fitted = True
                keep_freed_memory()
                with self._phase("fit"), self._processes_end_with_this_one():
                    trainer.fit(module, datamodule=datamodule, ckpt_path=tested, weights_only=True)
                tested = None
                self._note_fit()
            # Processes that SLURM started may have a path of their own each.
            best = trainer.strategy.broadcast(self._best_checkpoint())
            tested = best or tested
            if self.directory:
                self.directory.update(metrics=self.metrics, best=self.best, ended=self.ended)
        if config["test"] and type(module).test_step is pl.LightningModule.test_step:
            log.info("%s has no test_step: nothing is tested", type(module).__name__)
        elif config["test"]:
            if tested and fitted:
                # Not by `ckpt_path`: a WeightAveraging that has trained would restore the weights
                # before the average, and `evaluate` would find another accuracy.
                content = read_checkpoint(Path(tested))
                module.on_load_checkpoint(content)
                module.load_state_dict(content["state_dict"], strict=module.strict_loading)
                tested = None
            with self._phase("test"), self._processes_end_with_this_one():
                trainer.test(
                    module,
                    datamodule=datamodule,
                    ckpt_path=tested,
                    verbose=False,
                    weights_only=True,
                )
            self.metrics |= _metrics(trainer.callback_metrics)
        if self.best:
            return self.best["value"]
        return self.metrics.get(config["monitor"]) if config["monitor"] else None

    def record(self, status: str, **entries: Any) -> None:
        """Write how the run ended to run.json, and to TensorBoard's HPARAMS tab."""
        assert self.directory is not None
        if self.trainer is not None:
            self._add_phases()
            for logger in self.trainer.loggers:
                if isinstance(logger, TensorBoard):
                    if status == "finished" and self.best:  # the first column of HPARAMS
                        name = str(self.config["monitor"]).rpartition("/")[2]
                        step = self.trainer.global_step
                        logger.experiment.add_scalar(name, self.best["value"], step)
                    logger.log_hyperparams(hyper_parameters(self.config))
                    logger.close()
            wandb = sys.modules.get("wandb")
            if wandb is not None and wandb.run:  # the next job of a sweep is a run of its own
                wandb.finish()
        last = self.directory.last_checkpoint()
        if last and status != "finished":
            content = read_checkpoint(last)
            self.num_epochs = content["epoch"]
            self.metrics = _metrics((content.get(STATE) or {}).get("metrics", {})) | self.metrics
        self.directory.update(
            status=status,
            num_epochs=self.num_epochs,
            ended=self.ended,
            best=self.best,
            metrics=self.metrics,
            **entries,
        )
        for callback in self.trainer.callbacks if self.trainer is not None else ():
            if isinstance(callback, Report):
                self.page = callback.write(self.trainer, self.directory)

    def summary(self) -> str:
        """A short table of the results, the directory, and what to type next."""
        assert self.directory is not None
        lines = [metrics_table(self.metrics)]
        if self.ended:
            lines += ["", f"training     {self.ended}"]
        if self.best:
            best = metric_text(self.config["monitor"], self.best["value"])
            lines.append(f"best         {best} after epoch {self.best['epoch']}: tested")
        seconds = self.directory.record["seconds"]
        lines.append("   ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
        parts = self.directory.record.get("seconds_of_fit") or {}
        if parts:
            shown = "   ".join(f"{name} {value:.1f} s" for name, value in parts.items())
            lines.append(f"of the fit:  {shown}")
        lines.append(f"\ndirectory    {short(self.directory.path)}")
        if any(isinstance(logger, TensorBoard) for logger in self.trainer.loggers):
            # All runs of this name: of a single run TensorBoard's HPARAMS tab shows no metrics.
            parent = self.directory.path.parent
            named = parent.name == self.config["name"]
            word = "view" if self.page is None else "tensorboard"
            lines.append(f"{word:12} {tensorboard(parent if named else self.directory.path)}")
        return "\n".join(lines) + self.where_to_look()

    def where_to_look(self) -> str:
        """A line with the page of the run, if it was written."""
        return "" if self.page is None else f"\nview         {short(self.page)}"

    def how_to_resume(self) -> str:
        """What to type so that an interrupted run is resumed."""
        assert self.directory is not None
        path = short(self.directory.path)
        if (self.directory.path.parent / "sweep.json").is_file():
            return f"The command of the sweep resumes {path}"
        command = as_typed(f"{short(sys.argv[0])} {in_quotes(word('resume', path))}")
        saved = self.directory.last_checkpoint() is not None
        what = "Resume it" if saved else "No epoch was finished: start it again"
        return f"{what} with\n{command}"

    def _checkpoint_to_start_from(self) -> Path | None:
        if self.resumed and self.path is not None:
            chosen = RunDirectory(self.path).last_checkpoint()
        else:
            chosen = Path(self.config["ckpt_path"]) if self.config["ckpt_path"] else None
        if chosen is not None:
            check_checkpoint(chosen)
        return chosen

    def _take_over(self, content: Mapping[str, Any], config: Config, resumed: bool) -> None:
        """Note what a checkpoint says of the run before; whether there is anything to train."""
        if not content:
            return
        state = content.get(STATE) or {}
        epochs, max_epochs = content["epoch"], config["trainer"].get("max_epochs")
        self.num_epochs = epochs
        if resumed:
            self.metrics = _metrics(state.get("metrics", {}))
            self.ended = state.get("ended")
        elif max_epochs not in (None, -1) and epochs >= max_epochs:
            self.ended = f"already {epochs} of {max_epochs} epochs: nothing to train"
        if self.ended:
            log.info("%s", self.ended)
            # What the test logs is logged at the step where the training ended.
            self.trainer.fit_loop.load_state_dict(content["loops"]["fit_loop"])

    def _note_fit(self) -> None:
        """What came out of the fit; in processes that the Trainer spawned, by their checkpoint."""
        self.metrics |= _metrics(self.trainer.callback_metrics)
        self.num_epochs = self.trainer.current_epoch
        last = self.directory.last_checkpoint() if self.directory else None
        if last:
            content = read_checkpoint(last)
            self.num_epochs = content["epoch"]
            self.ended = (content.get(STATE) or {}).get("ended")
            if self.ended is None and self.trainer.should_stop:  # before it trained: a Timer
                self.ended = why_ended(self.trainer)
            if self.trainer.global_step != content["global_step"]:  # spawned processes went there
                self.trainer.fit_loop.load_state_dict(content["loops"]["fit_loop"])

    def _best_checkpoint(self) -> str | None:
        """The best checkpoint, which is tested, or None: the weights at the end are."""
        callback = self.trainer.checkpoint_callback
        monitor = getattr(callback, "monitor", None)
        if monitor is None or self.path is None and not callback.best_model_path:
            return None
        path = Path(callback.best_model_path or Path(callback.dirpath or "", "best.ckpt"))
        if self.path is not None:
            path = self.path / "checkpoints" / path.name
        if not path.is_file():
            return None
        content = read_checkpoint(path)
        scores = [s for s in content["callbacks"].values() if s.get("monitor") == monitor]
        value = next((s["best_model_score"] for s in scores if "best_model_score" in s), None)
        if value is not None:
            self.best = {"value": round(float(value), 6), "epoch": content["epoch"] + 1}
        return str(path)

    def _announce(self, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> None:
        if self.directory is None:
            return
        if isinstance(datamodule, ImageFolderDataModule):
            datamodule.setup("fit")
            self.directory.update(**datamodule.record())
        device, why = device_and_reason(self.trainer, self.config["trainer"])
        number = sum(p.numel() for p in module.parameters())
        names = getattr(datamodule, "class_names", None)
        self.directory.update(
            num_parameters=number,
            class_names=list(names) if names else None,
            device={"name": device, "why": why, "num_threads": torch.get_num_threads()},
        )
        log.info("%s parameters on %s: %s", f"{number:,}", device, why)

    def _add_phases(self) -> None:
        """Note where the time of the fit went, that before an interruption included."""
        assert self.directory is not None
        record = self.directory.record
        for callback in self.trainer.callbacks:
            if isinstance(callback, Phases) and "fit" in record["seconds"]:
                fit = record["seconds"]["fit"] - self._fit_before
                parts = callback.seconds(self.trainer, fit)
                past = record.get("seconds_of_fit") or {}
                record["seconds_of_fit"] = past | {
                    name: round(past.get(name, 0.0) + value, 3) for name, value in parts.items()
                }

    @contextmanager
    def _processes_end_with_this_one(self) -> Iterator[None]:
        """End the processes that the Trainer started where this one is ended by a signal."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt):
            launcher = self.trainer.strategy.launcher
            if launcher is not None and hasattr(launcher, "kill"):
                launcher.kill(9)
            raise
        except ProcessExitedException:
            if self.stop.received is not None:
                raise Interrupted(self.stop.received) from None
            raise

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.directory is None else self.directory.phase(name)


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


def metrics_table(metrics: Mapping[str, float]) -> str:
    """A row a stage, a column a metric: loss and accuracy first."""
    titles = {"train": "training", "val": "validation", "test": "test"}
    values = {split_metric(key): value for key, value in metrics.items()}
    names = list(dict.fromkeys(name for stage, name in values if stage))
    names.sort(key=lambda name: ["loss", "acc", name].index(name))
    headings = {"acc": "accuracy", "macro_acc": "macro accuracy"}
    rows = [["", *(headings.get(name, name) for name in names)]]
    for stage, title in titles.items():
        if any((stage, name) in values for name in names):
            rows.append([title, *(_cell(name, values.get((stage, name))) for name in names)])
    return table(rows)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if "acc" in name else f"{value:.4f}"


def hyper_parameters(config: Config) -> dict[str, Any]:
    """What a run was made of, flat, for TensorBoard's HPARAMS tab; nothing twice."""
    chosen = {key: config[key] for key in ("model", "data", "trainer", "seed")}
    flat = {k: v for k, v in _flatten(chosen) if not k.endswith(("_target_", "data_dir"))}
    for copy, original in COPIES.items():
        if copy in flat and flat[copy] == flat.get(original):
            del flat[copy]
    return flat


def _flatten(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _flatten(value, f"{key}/{name}" if key else str(name))
    else:
        value = "null" if config is None else config
        yield key, value if isinstance(value, bool | int | float | str) else str(value)


def _metrics(logged: Mapping[str, Any]) -> dict[str, float]:
    """The metrics by name; a learning rate, which a monitor logs, is none."""
    return {
        key: round(float(value), 6) for key, value in logged.items() if not key.startswith("lr-")
    }
