"""One run, from configuration to folder: build, fit, test, record."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.utilities import rank_zero_only

from simplecnn.callbacks.images import ImageCallback
from simplecnn.callbacks.progress import STAGES, metric_text
from simplecnn.classifier import Classifier
from simplecnn.loggers import TensorBoard
from simplecnn.run_folder import RunFolder, short, with_uv
from simplecnn.screen import tame_lightning
from simplecnn.targets import build

log = logging.getLogger(__name__)
Config = Mapping[str, Any]


def train(
    config: Config,
    path: Path,
    *,
    seconds: Mapping[str, float] | None = None,
    again: bool = False,
) -> Any:
    """Do the run that `config` describes in the new folder `path`.

    Returns the best value of the monitored metric, or None without one. Whatever happens,
    `run.json` says how far the run came. `seconds` are those of phases before this call.
    With `again`, an unfinished run of this configuration in `path` goes on after its last
    finished epoch, as if it had never stopped; one that failed starts over.
    """
    tame_lightning()
    with state_restored():
        return _train(config, path, seconds=seconds or {}, again=again)


def _train(config: Config, path: Path, *, seconds: Mapping[str, float], again: bool) -> Any:
    if rank_zero_only.rank != 0:  # a further process of a DDP run; rank zero keeps the folder
        return Run(config).fit_and_test()
    folder = RunFolder.again(path, config) if again else RunFolder.create(path, config)
    folder.record["seconds"] |= {k: round(v, 3) for k, v in seconds.items()}
    run = Run(config, folder)
    try:
        best = run.fit_and_test()
    except (KeyboardInterrupt, SystemExit):
        run.record("interrupted")
        log.error("Interrupted. What was written stays in %s", short(path))
        raise SystemExit(130) from None
    except BaseException as error:
        run.record("failed", error=f"{type(error).__name__}: {error}")
        raise
    run.record("finished")
    log.info("\n%s", run.summary())
    return best


class Run:
    """The parts of one run and what came out of it."""

    def __init__(self, config: Config, folder: RunFolder | None = None) -> None:
        self.config = config
        self.folder = folder
        # An interrupted run that goes on has some of these already.
        record = folder.record if folder else {}
        self.metrics: dict[str, float] = dict(record.get("metrics") or {})
        self.best: dict[str, Any] | None = record.get("best")  # value, epoch (from 1): best.ckpt
        self.trainer: Any = None

    def fit_and_test(self) -> float | None:
        config = self.config
        if config["seed"] is not None:
            pl.seed_everything(config["seed"], workers=True)
        datamodule: pl.LightningDataModule = build(config["data"])
        # The module builds its network itself: the checkpoint then holds the configuration.
        module: Classifier = build(config["model"], _recursive_=False, _convert_="all")
        self.trainer = trainer = build_trainer(config)
        self._announce(module)
        checkpoint = self._begin_from()
        if config["train"] and not (self.folder and self.folder.record.get("fitted")):
            with self._phase("fit"):
                trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
            self.metrics |= _numbers(trainer)
            checkpoint = self._best_checkpoint()
            if self.folder:
                self.folder.update(fitted=True, metrics=self.metrics, best=self.best)
        if config["test"]:
            with self._phase("test"):
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
            drawn = [c.seconds for c in trainer.callbacks if isinstance(c, ImageCallback)]
            self.folder.record["seconds"]["pictures"] = round(sum(drawn), 3)
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
        folder = short(self.folder.path)
        rows.append(f"\nfolder       {folder}")
        if any(isinstance(logger, TensorBoard) for logger in self.trainer.loggers):
            # All runs of this name: of a single run TensorBoard's HPARAMS tab shows no metrics.
            parent = self.folder.path.parent
            shown = short(parent) if parent.name == self.config["name"] else folder
            show = with_uv(f"tensorboard --samples_per_plugin images=500 --logdir {shown}")
            rows.append(f"to see it    {show}")
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

    def _begin_from(self) -> str | None:
        """The checkpoint to start with: where an interrupted run stopped, or the one asked for."""
        if self.folder and self.folder.record.get("continued"):
            path = self.folder.path / "checkpoints"
            fitted = self.folder.record.get("fitted")
            return str(path / ("best.ckpt" if fitted and self.best else "last.ckpt"))
        return self.config["ckpt_path"]

    def _best_checkpoint(self) -> str | None:
        """The checkpoint to test after a fit: the best one, or None for the weights at the end."""
        for callback in self.trainer.checkpoint_callbacks:
            path = getattr(callback, "best_model_path", "")
            if getattr(callback, "monitor", None) == self.config["monitor"] and path:
                if self.config["monitor"] is None:
                    return None
                # From the file: a process that DDP spawned keeps the callback's own state.
                content = torch.load(path, map_location="cpu", weights_only=True)
                score = content["callbacks"][callback.state_key]["current_score"]
                self.best = {"value": round(float(score), 6), "epoch": content["epoch"] + 1}
                return path
        return None

    def _num_epochs(self) -> int:
        """Finished epochs; those of a spawned process are known from its last checkpoint."""
        assert self.folder is not None
        last = self.folder.path / "checkpoints" / "last.ckpt"
        if last.is_file():
            return torch.load(last, map_location="cpu", weights_only=True)["epoch"] + 1
        return 0 if self.trainer is None else self.trainer.current_epoch

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
    callbacks = [build(node) for node in (config["callbacks"] or {}).values() if node]
    loggers = [build(node) for node in (config["logger"] or {}).values() if node]
    given = {
        "default_root_dir": config["paths"]["output_dir"],
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_model_summary": False,
    }
    return build({**given, **config["trainer"]}, callbacks=callbacks, logger=loggers or False)


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
        yield key, config if isinstance(config, bool | int | float | str) else str(config)


def _numbers(trainer: pl.Trainer) -> dict[str, float]:
    return {key: round(float(value), 6) for key, value in trainer.callback_metrics.items()}
