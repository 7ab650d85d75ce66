"""The commands: what is typed is checked first, then handed to the room that does it.

Nothing heavy is imported until the check has passed: help, `--cfg job` and mistakes answer at once.

Exit codes: 0 done, 1 failed, 2 bad input (nothing was read, trained or written), 130 interrupted.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simplecnn.config import compose_config, conf_dir, sweep_values
from simplecnn.errors import InputError, RunError
from simplecnn.run_folder import RECORD, RunFolder, short, taken

log = logging.getLogger(__name__)
Task = Callable[[dict[str, Any], Path], Any]


def command(name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a task of (config, output folder) the command that `conf/<name>.yaml` configures."""

    def decorate(task: Task) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            folder = Path(HydraConfig.get().runtime.output_dir)
            resolved = OmegaConf.to_container(config, resolve=True)
            assert isinstance(resolved, dict)
            try:
                return task({str(k): v for k, v in resolved.items()}, folder)
            except Exception as error:
                code, message = _say(error, folder)
            # Outside the except block: the traceback, and the model it holds, can be freed.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise JobFailed(message)
            sys.exit(code)

        def main() -> None:
            try:
                _check_command_line(name)
            except InputError as error:
                print(error, file=sys.stderr)
                sys.exit(2)
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()

        main.__doc__ = task.__doc__
        return main

    return decorate


class JobFailed(Exception):
    """One job of a multirun failed; its log says why. The others go on."""


@command("train")
def train(config: dict[str, Any], folder: Path) -> float | None:
    """Train, test, and leave a run folder. Returns the best value of the monitored metric."""
    start = time.perf_counter()
    from simplecnn import run

    return run.train(config, folder, seconds={"import": time.perf_counter() - start})


@command("evaluate")
def evaluate(config: dict[str, Any], folder: Path) -> float:
    """Evaluate a run's checkpoint on test digits. Returns the accuracy."""
    run = RunFolder.open(config["run"])
    checkpoint = run.checkpoint(config["checkpoint"])
    from simplecnn import evaluation

    return evaluation.evaluate(run, checkpoint, data=config.get("data"))


@command("benchmark")
def benchmark(config: dict[str, Any], folder: Path) -> None:
    """Time a training step beside the tutorial's and a bare loop's."""
    from simplecnn import benchmark as room

    room.benchmark(config, folder)


@command("convolution")
def convolution(config: dict[str, Any], folder: Path) -> None:
    """Draw what kernels respond to, and hold conv2d against PyTorch."""
    from simplecnn.agreement import convolution_report
    from simplecnn.mnist_files import read_bundled

    images, _ = read_bundled()
    agree = convolution_report(
        digit=images[config["digit"]],
        folder=Path(short(folder)),
        num_calls=config["num_calls"],
        seed=config["seed"],
    )
    if not agree:
        raise RunError("conv2d does not agree with PyTorch: see the table above.")


@command("receptive_field")
def receptive_field(config: dict[str, Any], folder: Path) -> None:
    """Print and draw what each layer of a network sees, with three proofs that agree."""
    run = RunFolder.open(config["run"]) if config["run"] else None
    checkpoint = run.any_checkpoint() if run else None
    import torch

    from simplecnn.evaluation import load_classifier
    from simplecnn.field_report import receptive_field_report
    from simplecnn.mnist import scale
    from simplecnn.mnist_files import read_bundled
    from simplecnn.targets import build

    model = run.config()["model"] if run else config["model"]
    trained = load_classifier(checkpoint).network if checkpoint else None
    torch.manual_seed(config["seed"])
    network = build(model["network"])
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
        raise RunError("The receipts do not agree: see the table above.")


def _check_command_line(name: str) -> None:
    """Raise InputError with every mistake of this process's command line."""
    args, apart = get_args_parser().parse_known_args()
    for word in apart:
        if word.startswith("-"):
            raise InputError(f"{word} is not an option: --help shows what there is.")
        raise InputError(f"{word!r} stands apart: write all key=value together, options first.")
    if args.help or args.hydra_help or args.info or args.shell_completion:
        return
    words = list(args.overrides)
    if args.config_dir:
        words.append(f"hydra.searchpath=[file://{Path(args.config_dir).absolute()}]")
    name = args.config_name or name
    if args.multirun:
        for line in sweep_values(words):
            compose_config(name, line)
        return
    compose_config(name, words)
    for word in words:
        key, _, value = word.partition("=")
        if key == "hydra.run.dir" and (Path(value) / RECORD).exists() and not _is_ddp_child():
            raise InputError(taken(Path(value)))


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
