"""The commands. Each checks its command line, then calls the module that does the work.

torch and Lightning are imported only after simplecnn's keys and values have been validated, so help
and error messages appear at once. Then the configured classes are imported and their arguments
validated, still before any file is created. `errors` lists the exit codes; a sweep succeeds if all
its jobs do.
"""

import atexit
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from simplecnn import errors
from simplecnn.command_line import (
    TRAIN,
    check_command_line,
    check_imported,
    prepare_data,
)
from simplecnn.config import resolvers
from simplecnn.config.build import build
from simplecnn.config.composition import drop_replaced_arguments
from simplecnn.config.search_path import conf_dir
from simplecnn.config.validation import checked_parts
from simplecnn.console import discard_output, prepare_output
from simplecnn.directories import CHECKPOINTS, SWEEP_RECORD, latest
from simplecnn.errors import InputError, RunError, full_or_obstructed, log_error, reraise
from simplecnn.run_directory import RunDirectory, raise_if_links_lead_out, relative_path
from simplecnn.slurm import is_further_process
from simplecnn.sweeps.plan import SweepPlan
from simplecnn.training.processor import configure_threads

log = logging.getLogger(__name__)
Task = Callable[[dict[str, Any], Path], Any]
seconds: dict[str, float] = {}  # spent before the job starts, by phase


def command(name: str) -> Callable[[Task], Callable[[], None]]:
    """Turn a function of (config, output folder) into the command of conf/<name>.yaml."""

    def decorate(task: Task) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            folder = Path(HydraConfig.get().runtime.output_dir)
            errors.command_directory = (
                HydraConfig.get().runtime.cwd if HydraConfig.get().job.chdir else None
            )
            plain: Any = OmegaConf.to_container(config, resolve=True)
            try:
                values = drop_replaced_arguments(plain, HydraConfig.get(), name)
                if in_sweep and name == TRAIN:
                    from simplecnn.sweeps.launch import run_job

                    return run_job(task, values, folder)
                return task(values, folder)
            except BrokenPipeError:  # as by `| head`
                discard_output()
                sys.exit(1)
            except Exception as error:
                code, message = log_error(error)
            # Outside the except block, so that the traceback and the model it references are freed.
            if in_sweep:
                raise CompactHydraException(message)
            sys.exit(code)

        def main() -> None:
            prepare_output()
            script = Path(sys.argv[0])
            if script.is_file() and os.path.realpath(sys.path[0]) == str(script.resolve().parent):
                del sys.path[0]  # else scripts/report.py would shadow a user's module `report`
            run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)
            with exit_on_error():
                with fast_imports():
                    request = check_command_line(name, sys.argv[1:])
                    start = time.perf_counter()
                    check_imported(name, request)
                    seconds["import"] = time.perf_counter() - start
                if name == TRAIN and request is not None:
                    prepare_data(request)
                if isinstance(request, SweepPlan):
                    from simplecnn.sweeps.launch import run_sweep

                    sys.exit(run_sweep(run, request))
                if request is None or _needs_setup(request[1].hydra):
                    run()
                else:  # the composition of the checks: Hydra itself would reject run=a,b
                    values, config = request
                    HydraConfig.instance().set_config(config)
                    configure_log(config.hydra.job_logging, config.hydra.verbose)
                    run(OmegaConf.create(values))

        main.__doc__ = task.__doc__
        return main

    return decorate


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print the message of an expected error outside of a job, and exit with its code."""
    try:
        yield
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:
        discard_output()
        sys.exit(1)
    except OSError as error:  # by a sweep
        if (message := full_or_obstructed(error)) is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # a run handles signals itself
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _needs_setup(hydra: Any) -> bool:
    """Whether Hydra must create files, change directory, set variables or run custom callbacks."""
    must_write = hydra.output_subdir is not None or not Path(hydra.runtime.output_dir).is_dir()
    custom_callbacks = set(hydra.callbacks or ()) - {"prepare_sweep"}
    return bool(must_write or hydra.job.chdir or hydra.job.env_set or custom_callbacks)


@contextmanager
def fast_imports() -> Iterator[None]:
    """Pause the garbage collector while importing, then freeze the imported objects.

    A full collection traverses all objects, a million once Lightning is imported: a quarter of its
    import time, and later half a second per collection. The first imports leave no garbage.
    """
    configure_threads()
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # collections at exit skip frozen objects: an eighth of a short command
        if "torch" in sys.modules:
            atexit.register(gc.unfreeze)  # else Triton reports leaked objects at exit
        gc.enable()


@command("train")
def train(config: dict[str, Any], folder: Path) -> float | None:
    """Train, test, and write a run directory. Returns the best value of the monitored metric."""
    start = time.perf_counter()
    with fast_imports():
        from simplecnn.training import run

    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if config["ckpt_path"] is not None and HydraConfig.get().job.chdir:
        config["ckpt_path"] = to_absolute_path(config["ckpt_path"])
    requested = config.get("resume") is not None or "run" in resolvers.requeued_run
    if requested:
        config = RunDirectory.open(folder).relocated_config()
    spent = {"import": seconds.pop("import", 0.0) + time.perf_counter() - start}
    command = None
    if in_sweep:
        from simplecnn.sweeps.launch import own_command

        command = own_command()
    best = run.train(
        config, folder, seconds=spent, resume=in_sweep or requested, requested=requested,
        command=command,
    )  # fmt: skip
    if not is_further_process():
        # Imported after training, which it would delay.
        from simplecnn.inference.model_card import write_model_card

        write_model_card(RunDirectory.open(folder))
    return best


def _open_run(config: dict[str, Any]) -> tuple[RunDirectory, Path]:
    """Open and validate the run and the checkpoint of a command, which may be untrusted."""
    run = RunDirectory.open(latest(config["run"], needs=CHECKPOINTS))
    checkpoint = run.checkpoint(config["checkpoint"])
    checked_parts(run.config(), relative_path(run.path))
    raise_if_links_lead_out(run.path)
    log.info("run          %s, %s", relative_path(run.path), checkpoint.name)
    return run, checkpoint


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


@command("evaluate")
def evaluate(config: dict[str, Any], folder: Path) -> float:
    """Evaluate a run's checkpoint on test images. Returns the accuracy."""
    run, checkpoint = _open_run(config)
    with fast_imports():
        from simplecnn.inference import evaluate as evaluation
        from simplecnn.inference.model_card import write_model_card
        from simplecnn.inference.trained_run import TrainedRun

    accuracy = evaluation.evaluate(TrainedRun(run, checkpoint), data=config.get("data"))
    write_model_card(run)
    return accuracy


@command("predict")
def predict(config: dict[str, Any], folder: Path) -> None:
    """Classify the user's images. Exit code 1 if some cannot be read."""
    from simplecnn.inference.image_files import find_images

    run, checkpoint = _open_run(config)
    files = find_images(_as_list(config["image"]))
    with fast_imports():
        from simplecnn.inference import predict as prediction
        from simplecnn.inference.trained_run import TrainedRun

    options = {key: config[key] for key in ("invert", "reject", "explain", "to")}
    data_dir = config["paths"]["data_dir"]
    prediction.predict(TrainedRun(run, checkpoint), files, **options, data_dir=data_dir)


@command("export")
def export(config: dict[str, Any], folder: Path) -> None:
    """Export a run's network to a file."""
    run, checkpoint = _open_run(config)
    suffixes = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
    to = Path(config["to"] or run.path / f"model{suffixes[config['format']]}")
    if to.suffix != (suffix := suffixes[config["format"]]):  # nor may it be a file of the run
        format = {s: name for name, s in suffixes.items()}.get(to.suffix)
        advice = f"Type format={format}" if format else f"End the name with {suffix}"
        raise InputError(f"to={to}: format is {config['format']}. {advice}")
    if not to.parent.is_dir():
        raise InputError(f"to={to}: there is no folder {to.parent}.")
    with fast_imports():
        from simplecnn.inference import export as exports
        from simplecnn.inference.trained_run import TrainedRun

    exports.export(TrainedRun(run, checkpoint), to, config["format"])


@command("explain")
def explain(config: dict[str, Any], folder: Path) -> None:
    """Explain what a run's network learned, or compare the networks of a sweep."""
    with fast_imports():
        from simplecnn.explain import explanation

    runs = config["run"]
    newest = partial(latest, needs=CHECKPOINTS)
    runs = list(map(newest, runs)) if isinstance(runs, list) else runs and newest(runs)
    sweep = config["sweep"] and latest(config["sweep"], SWEEP_RECORD)
    explanation.explain({**config, "run": runs, "sweep": sweep})
    if isinstance(runs, str):
        # Imported only now: it imports SciPy, which would delay the answer to a mistake.
        from simplecnn.inference.model_card import write_model_card

        write_model_card(RunDirectory.open(runs))


@command("sweep")
def sweep(config: dict[str, Any], folder: Path) -> None:
    """Show the report of a sweep, finished or not. Exit code 0 only if all jobs succeeded."""
    from simplecnn.sweeps.report import report

    if not report(Path(latest(config["sweep"], SWEEP_RECORD))):
        sys.exit(1)


@command("report")
def report(config: dict[str, Any], folder: Path) -> None:
    """Write the HTML report of a run, of two compared runs, or of a sweep."""
    if config["sweep"] is not None:
        from simplecnn.sweeps import report as sweeps

        sweeps.report(Path(latest(config["sweep"], SWEEP_RECORD)))
        return
    runs = [RunDirectory.open(latest(name)) for name in _as_list(config["run"])]
    if len(runs) == 2 and runs[0].path.samefile(runs[1].path):
        raise InputError(f"run names {relative_path(runs[0].path)} twice: compare two runs.")
    for run in runs:
        checked_parts(run.config(), relative_path(run.path))
        if config["checkpoint"] is not None:
            run.checkpoint(config["checkpoint"])
    raise_if_links_lead_out(runs[0].path)
    with fast_imports():
        from simplecnn.page.report import write_report

    images = _as_list(config["image"])
    path = write_report(runs, checkpoint=config["checkpoint"], own_images=images)
    log.info("view         %s", relative_path(path))


@command("convolution")
def convolution(config: dict[str, Any], folder: Path) -> None:
    """Draw what kernels respond to, and compare conv2d with PyTorch."""
    with fast_imports():
        from simplecnn.convolution_report import convolution_report
        from simplecnn.data.files import read_bundled

    images, _ = read_bundled()
    if not convolution_report(digit=images[config["digit"]], folder=Path(relative_path(folder))):
        raise RunError("conv2d does not agree with PyTorch: see above.")


@command("receptive_field")
def receptive_field(config: dict[str, Any], folder: Path) -> None:
    """Print and draw the receptive field of each layer, verified by two experiments."""
    run = RunDirectory.open(latest(config["run"], needs=CHECKPOINTS)) if config["run"] else None
    model = config["model"]
    if run is not None:
        checked_parts(run.config(), relative_path(run.path))
    elif "network" not in model:
        raise InputError(
            f"{model['_target_']} builds its network itself: there is no model.network."
        )
    with fast_imports():
        import torch

        from simplecnn.data.batches import scale
        from simplecnn.data.files import read_bundled
        from simplecnn.inference.networks import untrained_network
        from simplecnn.inference.trained_run import TrainedRun
        from simplecnn.models.activations import evaluation_mode
        from simplecnn.receptive_field.report import receptive_field_report

    digits, _ = read_bundled()
    if run is None:
        torch.manual_seed(config["seed"])
        network, trained = build(model["network"]), None
        chosen = torch.randperm(len(digits))[: config["num_images"]]
        images = scale(torch.from_numpy(digits)[chosen].unsqueeze(1))
        try:
            with torch.no_grad(), evaluation_mode(network):
                network(images[:1])
        except RuntimeError:  # perhaps a network of color images
            images = images.expand(-1, 3, -1, -1)
    else:
        trained_run = TrainedRun(run, run.checkpoint())
        blank = torch.zeros(1, *trained_run.preprocessing.shape)
        network = untrained_network(trained_run.checkpoint, config["seed"], blank)
        chosen = torch.randperm(len(digits))[: config["num_images"]]
        images = trained_run.prepare(digits[chosen.numpy()])
        trained = trained_run.network
    shape = " x ".join(map(str, images.shape[1:]))
    message = f"The network does not accept digits of {shape}"
    with reraise(message), torch.no_grad(), evaluation_mode(network):
        network(images[:1])
        if trained is not None:
            trained(images[:1])
    path = Path(relative_path(folder))
    if not receptive_field_report(network, images=images, folder=path, trained=trained):
        raise RunError("The experiments do not agree with the formulas: see the table above.")
