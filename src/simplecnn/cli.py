"""The commands: what is typed is checked first, then handed to the room that does it.

Nothing heavy is imported until the check has passed: help, `--cfg job` and mistakes answer at once.

Exit codes: 0 done, 1 failed, 2 bad input (nothing was read, trained or written), 130 interrupted
by Ctrl-C, 143 by SIGTERM. A sweep is done when all its jobs are.
"""

import argparse
import atexit
import dataclasses
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simplecnn.config.composition import (
    SweepPlan,
    compose_config,
    conf_dir,
    config_text,
    plan_sweep,
    secrets,
    sweep_values,
)
from simplecnn.console import only_sweep_lines
from simplecnn.errors import InputError, RunError
from simplecnn.run_directory import (
    RECORD,
    RunDirectory,
    check_checkpoint,
    read_record,
    short,
    taken,
)
from simplecnn.sweeps.directory import SweepDirectory, listed, source_hashes
from simplecnn.training.processor import configure_threads
from simplecnn.training.signals import slurm_job, was_requeued

log = logging.getLogger(__name__)
LEAVES_RUNS = "train"  # the command whose jobs are runs, with a record each
Task = Callable[[dict[str, Any], Path], Any]


def command(name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a task of (config, output folder) the command that `conf/<name>.yaml` configures."""

    def decorate(task: Task) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            folder = Path(HydraConfig.get().runtime.output_dir)
            values = secrets.plain(config)
            if in_sweep and name == LEAVES_RUNS:
                return _job_of_sweep(task, values, folder)
            try:
                return task(values, folder)
            except Exception as error:
                code, message = _say(error, folder)
            # Outside the except block: the traceback, and the model it holds, can be freed.
            if in_sweep:
                raise JobFailed(message)
            sys.exit(code)

        def main() -> None:
            try:
                with start_up():
                    sweep = check_command_line(name)
            except InputError as error:
                print(error, file=sys.stderr)
                sys.exit(2)
            run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)
            try:
                if sweep is not None:
                    sys.exit(_do_sweep(run, sweep))
                run()
            except KeyboardInterrupt:  # where no run listens: nothing is lost
                print("Interrupted.", file=sys.stderr)
                sys.exit(130)

        main.__doc__ = task.__doc__
        return main

    return decorate


@contextmanager
def start_up() -> Iterator[None]:
    """Have Python not look for garbage inside, nor ever after among what is there at the end.

    Each look goes over all objects, a million once Lightning is imported: a quarter of the time of
    importing it, and later half a second every now and then. The first imports leave no garbage.
    """
    configure_threads()
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or Triton tells, at the end, of objects that were not freed
        gc.enable()


class JobFailed(CompactHydraException):
    """One job of a multirun failed; its log says why. The others go on."""


@command("train")
def train(config: dict[str, Any], folder: Path) -> float | None:
    """Train, test, and leave a run folder. Returns the best value of the monitored metric."""
    start = time.perf_counter()
    with start_up():
        from simplecnn.training import run

    again = HydraConfig.get().mode == RunMode.MULTIRUN
    by_hand = config.get("resume") is not None
    if by_hand:
        config = RunDirectory.open(folder).config_here()
    seconds = {"import": time.perf_counter() - start}
    return run.train(config, folder, seconds=seconds, resume=again or by_hand, requested=by_hand)


@command("evaluate")
def evaluate(config: dict[str, Any], folder: Path) -> float:
    """Evaluate a run's checkpoint on test digits. Returns the accuracy."""
    run = RunDirectory.open(config["run"])
    checkpoint = run.checkpoint(config["checkpoint"])
    run.checked_config()
    with start_up():
        from simplecnn.inference import evaluate as evaluation

    return evaluation.evaluate(run, checkpoint, data=config.get("data"))


@command("predict")
def predict(config: dict[str, Any], folder: Path) -> list[str]:
    """Tell which digit is on a person's own images. Returns the class of each."""
    from simplecnn.inference.image_files import like_mnist, read_grey

    run = RunDirectory.open(config["run"])
    checkpoint = run.checkpoint(config["checkpoint"])
    data = run.checked_config()["data"]
    names = config["image"] if isinstance(config["image"], list) else [config["image"]]
    digits = []
    mistakes: list[str] = []
    for name in names:
        try:
            digits.append(like_mnist(read_grey(name), invert=config["invert"]))
        except InputError as error:
            mistakes.append(str(error).replace("image:", f"image={name}:"))
    if mistakes:
        raise InputError(*mistakes)
    with start_up():
        import numpy as np

        from simplecnn.inference import predict as prediction

    return prediction.predict(
        checkpoint, np.stack(digits), names, dataset=data.get("dataset", "MNIST")
    )


@command("export")
def export(config: dict[str, Any], folder: Path) -> None:
    """Write a run's weights as safetensors."""
    run = RunDirectory.open(config["run"])
    checkpoint = run.checkpoint(config["checkpoint"])
    to = Path(config["to"] or run.path / "model.safetensors")
    if not to.parent.is_dir():
        raise InputError(f"to={to}: there is no folder {to.parent}.")
    run.checked_config()
    with start_up():
        from simplecnn.inference import export as weights

    written = weights.export(checkpoint, to)
    log.info(
        "%s  %s parameters in %d tensors, %s bytes",
        short(to), f"{written['num_parameters']:,}", written["num_tensors"],
        f"{written['num_bytes']:,}",
    )  # fmt: skip


@command("explain")
def explain(config: dict[str, Any], folder: Path) -> None:
    """Show what a run's network learned, or compare the networks of a sweep."""
    with start_up():
        from simplecnn.explain import explanation

    explanation.explain(config)


@command("sweep")
def sweep(config: dict[str, Any], folder: Path) -> None:
    """Show the report of a sweep again, as far as it is. Exit code 0 only if all succeeded."""
    from simplecnn.sweeps import report as room

    if not room.report(Path(config["sweep"])):
        sys.exit(1)


@command("benchmark")
def benchmark(config: dict[str, Any], folder: Path) -> None:
    """Time a training step beside the tutorial's and a bare loop's."""
    with start_up():
        from simplecnn.benchmark import benchmark as room

    room.benchmark(config, folder)


@command("convolution")
def convolution(config: dict[str, Any], folder: Path) -> None:
    """Draw what kernels respond to, and compare conv2d with PyTorch on it."""
    with start_up():
        from simplecnn.convolution.report import convolution_report
        from simplecnn.data.files import read_bundled

    images, _ = read_bundled()
    if not convolution_report(digit=images[config["digit"]], folder=Path(short(folder))):
        raise RunError("conv2d does not agree with PyTorch: see the line above.")


@command("receptive_field")
def receptive_field(config: dict[str, Any], folder: Path) -> None:
    """Print and draw what each layer of a network sees, checked by two experiments."""
    run = RunDirectory.open(config["run"]) if config["run"] else None
    checkpoint = run.any_checkpoint() if run else None
    parts: dict[str, Any] = run.checked_config() if run else {"model": config["model"], "data": {}}
    with start_up():
        import torch

        from simplecnn.config.allow_list import build
        from simplecnn.data.batches import scale
        from simplecnn.data.files import read_bundled
        from simplecnn.inference.networks import load_network
        from simplecnn.receptive_field.report import receptive_field_report

    trained = load_network(checkpoint) if checkpoint else None
    torch.manual_seed(config["seed"])
    network = build(parts["model"]["network"])
    digits, _ = read_bundled()
    chosen = torch.randperm(len(digits))[: config["num_images"]]
    images = scale(torch.from_numpy(digits)[chosen].unsqueeze(1))
    try:
        network(images[:1])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The network does not take digits of 1 x 28 x 28: {reason}") from None
    agree = receptive_field_report(
        network, images=images, folder=Path(short(folder)), trained=trained
    )
    if not agree:
        raise RunError("Formulas and experiments do not agree: see the lines above.")


def check_command_line(name: str) -> SweepDirectory | None:
    """Raise InputError with every mistake of this process's command line.

    Gives the folder of the sweep that it asks for, None for a run alone.
    """
    args = _options()
    words = list(args.overrides)
    only_shown = args.help or args.hydra_help or args.info
    if args.help:
        # Hydra makes a repository for each of a hundred groups that it lists: 20 ms each.
        loader: Any = ConfigLoaderImpl
        true = loader._parse_overrides_and_create_caching_repo
        made = functools.cache(lambda own, name, words: true(own, name, list(words)))
        loader._parse_overrides_and_create_caching_repo = lambda own, config_name, overrides: made(
            own, config_name, tuple(overrides)
        )
    if args.shell_completion or only_shown and not words:
        return None
    if args.config_dir:
        if not Path(args.config_dir).is_dir():
            raise InputError(f"--config-dir {args.config_dir}: there is no such folder.")
        words.append(f"hydra.searchpath=['file://{Path(args.config_dir).absolute()}']")
    config_name = args.config_name or name
    if not only_shown and (args.multirun or "hydra.mode=MULTIRUN" in words):
        if name == LEAVES_RUNS:
            plan = plan_sweep(config_name, words)
            return None if args.cfg else _claim(plan, args.overrides)
        for line in sweep_values(words):
            compose_config(config_name, line)
        return None
    if name == LEAVES_RUNS and was_requeued():
        _take_up_requeued(words)
        words = get_args_parser().parse_known_args()[0].overrides
    if args.cfg == "job" and not args.package and not args.resolve:
        sys.stdout.write(config_text(config_name, words))  # Hydra would compose a second time
        sys.exit(0)
    config = compose_config(config_name, words)
    if args.cfg == "job" and args.package not in (None, "_global_"):
        if OmegaConf.select(OmegaConf.create(config), args.package) is None:
            raise InputError(f"--package {args.package}: the configuration has no such part.")
    if _is_ddp_child():
        return None
    if config.get("resume") is not None:
        _resume(config["resume"], words)
        return None
    for word in words:
        key, _, value = word.partition("=")
        if key == "hydra.run.dir" and (Path(value) / RECORD).exists():
            raise InputError(taken(Path(value)))
    if config.get("ckpt_path") is not None:
        check_checkpoint(Path(config["ckpt_path"]))
    return None


def _resume(path: str, words: Sequence[str]) -> None:
    """Have this process go on in the folder of an interrupted run, if it can."""
    others = [w for w in words if not w.lstrip("+").startswith(("resume=", "hydra."))]
    if others:
        raise InputError(
            f"{others[0]}: resume goes on with the run's own configuration, in its own folder. To "
            f"change something, type ckpt_path={path}/checkpoints/last.ckpt instead, and all words "
            f"of the run."
        )
    folder = RunDirectory.to_resume(path)
    place = str(folder.path.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    sys.argv += [f"hydra.run.dir='{place}'", "hydra.output_subdir=null"]


def _take_up_requeued(words: Sequence[str]) -> None:
    """In a job that SLURM started again: make it continue the run that it was interrupted in."""
    named = [w.partition("=")[2] for w in words if w.startswith("hydra.run.dir=")]
    records = [Path(path) / RECORD for path in named] or Path("outputs").glob(f"*/*/{RECORD}")
    for record in records:
        found = read_record(record.parent)
        if found.get("slurm_job") == slurm_job() and found.get("status") != "finished":
            for word in words:
                sys.argv.remove(word)
            sys.argv.append(f"resume='{short(record.parent)}'")
            return


NOT_TAKEN = {  # options of Hydra that go round the check
    "config_path": "--config-path is not taken: --config-dir adds a folder of your own.",
    "experimental_rerun": "--experimental-rerun is not taken: it runs what is in a pickle.",
}


def _options() -> argparse.Namespace:
    """Hydra's options as they are typed. Raises InputError where they make no sense."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    args, apart = parser.parse_known_args()
    for word in apart:
        if word.startswith("-"):
            raise InputError(f"{word} is not an option: --help shows what there is.")
        raise InputError(f"{word!r} stands apart: write all key=value together, options first.")
    if refused := [why for name, why in NOT_TAKEN.items() if getattr(args, name)]:
        raise InputError(*refused)
    modes = {
        "--run": args.run,
        "--multirun": args.multirun,
        "--cfg": args.cfg,
        "--info": args.info,
        "--shell-completion": args.shell_completion,
    }
    given = [option for option, value in modes.items() if value]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} do not go together: give one of them.")
    if args.resolve and not (args.cfg or args.help):
        raise InputError("--resolve belongs to --cfg: type --cfg job --resolve.")
    if args.package and not args.cfg:
        raise InputError("--package belongs to --cfg: type --cfg job --package model.")
    return args


def _refuse(message: str) -> NoReturn:
    raise InputError(f"{message[:1].upper()}{message[1:]}. --help shows what there is.")


def _claim(plan: SweepPlan, overrides: Sequence[str]) -> SweepDirectory:
    """The folder of a sweep, from now on the same for all processes, and in the command."""
    path = plan.folder
    if not any(word.startswith("hydra.sweep.dir=") for word in overrides):
        if was_requeued():
            path = SweepDirectory.of_slurm_job(path.parent) or path
        word = f"hydra.sweep.dir={short(path)}"
        last = sys.argv.index(overrides[-1]) + 1 if overrides else len(sys.argv)
        sys.argv.insert(last, word)
    return SweepDirectory.claim(
        path,
        words=plan.words,
        jobs=plan.jobs,
        command=[short(sys.argv[0]), *sys.argv[1:]],
        source=source_hashes(*plan.config_folders),
    )


def _do_sweep(run: Callable[[], Any], folder: SweepDirectory) -> int:
    """Do all the jobs and show what came out of them, whatever happens. Gives the exit code."""
    from simplecnn.sweeps import report as room

    code = 1
    succeeded = False
    told: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        told.append(128 + signum)
        sys.exit(128 + signum)

    # While a job runs in this process, it has handlers of its own.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        run()
        code = 0
    except SystemExit as end:
        # Ray raises one of its own.
        code = told[0] if told else end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    finally:
        signal.signal(signal.SIGTERM, before)
        folder.release()
        succeeded = room.report(folder.path)
    return code or int(not succeeded)


def _job_of_sweep(task: Task, config: dict[str, Any], folder: Path) -> Any:
    """Do one job, unless it was done before; one line on it whatever comes of it.

    A failure is told by the job's record, and to a search, which chooses the next values, by
    JobFailed; nothing holds on to the job.
    """
    from simplecnn.sweeps import report as room

    hydra_config = HydraConfig.get()
    sweep = SweepDirectory.open(hydra_config.sweep.dir)
    sources = [s.path for s in hydra_config.runtime.config_sources if s.schema == "file"]
    changed = sweep.changed(source_hashes(*map(Path, sources)))
    if changed:
        reason = f"{listed(changed)} changed since the sweep was started: no further job begins."
        if sweep.record["process"] == os.getpid():
            print(reason, file=sys.stderr)
            sys.exit(2)
        raise JobFailed(reason)  # in a process of a launcher, which would start another one
    only_sweep_lines()
    jobs = sweep.record["jobs"]
    keys = room.swept(sweep.record["words"])
    tell = partial(
        room.line, number=hydra_config.job.num, total=len(jobs) if jobs else None, keys=keys
    )
    run = RunDirectory(folder)
    before = read_record(folder)
    if before.get("status") == "finished" and run.holds(config):
        room.log.info(tell(room.read_job(folder), note="done before"))
        return room.result(before, config["monitor"])
    value, failure = None, ""
    try:
        value = task(config, folder)
    except Exception as error:
        failure = _say(error, folder)[1]
    # Outside the except block: the traceback, and the model it holds, can be freed.
    record = read_record(folder)
    if failure and (not record or record.get("status") == "running"):
        run.record = record
        run.update(status="failed", error=failure)
    _free_memory()
    job = room.read_job(folder, under_way=True)
    if failure:
        job = dataclasses.replace(job, status="failed", error=failure)
    room.log.info(tell(job))
    if failure and jobs is None:  # a search is told; Hydra's sweeper would only repeat it
        raise JobFailed(failure)
    return value


def _free_memory() -> None:
    """Give back what a job held in circles of references, and on the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _is_ddp_child() -> bool:
    """Lightning starts the further processes of a DDP run with the same command."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _say(error: Exception, folder: Path) -> tuple[int, str]:
    """Log an error, its traceback in the file only. Gives the exit code and the sentence."""
    if isinstance(error, InputError):
        log.error("%s", error)
        return 2, str(error)
    if isinstance(error, RunError):
        log.error("%s", error)
        return 1, str(error)
    reason = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    log.error("Failed with %s\nThe traceback is in the log of %s", message, folder, exc_info=error)
    return 1, message
