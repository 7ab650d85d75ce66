"""The Python interface: load or train a run from a script or a notebook.

import simplecnn

run = simplecnn.train(["experiment=quickstart", "seed=7"])
run = simplecnn.load("outputs/quickstart/2026-11-27_14-53-27-623995")
run.predict("seven.png").classes
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from simplecnn.config.arguments import check_classes
from simplecnn.config.composition import compose_config
from simplecnn.config.validation import checked_parts
from simplecnn.console import add_log_handlers
from simplecnn.directories import latest
from simplecnn.errors import InputError, relative_path
from simplecnn.inference.model_card import write_model_card
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.run_directory import RunDirectory
from simplecnn.training import run as training

COMMAND_ONLY = ("-", "hparams_search=", "hydra/sweeper=", "hydra/launcher=", "dry_run=")


def load(path: str | Path, checkpoint: str | None = None) -> TrainedRun:
    """Load a trained run, with its network in evaluation mode on the CPU.

    path: the run directory; `last` or a directory of runs selects the newest run.
    checkpoint: `best`, `last` or a file; None: best, or last if the run has no best.

    Raises InputError if the run or the checkpoint does not exist.

    >>> import simplecnn
    >>> run = simplecnn.load("outputs/quickstart")
    >>> run.class_names
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    >>> sorted(run.metrics)
    ['test/acc', 'test/loss', 'train/acc', 'train/loss', 'val/acc', 'val/loss']

    Images may have any size: arrays, tensors, Pillow images, file names, or a list of them.

    >>> from simplecnn.data.files import read_bundled
    >>> digits, labels = read_bundled()
    >>> guess = run.predict(digits[:200])
    >>> guess.probabilities.shape, set(guess.classes[:5])
    ((200, 10), {'0'})
    >>> {name: maps.shape for name, maps in run.feature_maps(digits[:2]).items()}
    {'conv1': (2, 16, 28, 28), 'conv2': (2, 32, 14, 14), 'conv3': (2, 64, 7, 7)}
    """
    directory = RunDirectory.open(latest(str(path)))
    run = TrainedRun(directory, directory.checkpoint(checkpoint))
    checked_parts(run.config, relative_path(run.path))
    _ = run.class_names  # loads the network, so that its errors are raised here
    return run


def train(overrides: Sequence[str] = ()) -> TrainedRun:
    """Train one run, as `scripts/train.py` does with the same overrides, and return it.

    Overrides choose options and set keys of conf/: `experiment=quickstart`,
    `model.optimizer.lr=3e-3`, `resume=outputs/…`. Messages are logged to train.log, and to the
    screen unless the root logger already has handlers.

    Raises InputError with all mistakes before anything is created; RunError if the run fails;
    KeyboardInterrupt if it is interrupted (resume it with `resume=`).

    >>> import simplecnn
    >>> run = simplecnn.train(["data=mnist_5k", "trainer.max_epochs=1", "callbacks=checkpoint",
    ...                        "+trainer.limit_train_batches=2", "hydra.run.dir=outputs/short"])
    >>> run.path.name, run.record["status"], run.checkpoint.name
    ('short', 'finished', 'best.ckpt')
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    is_list = isinstance(overrides, Sequence) and all(isinstance(o, str) for o in overrides)
    if not is_list:
        raise InputError(f"overrides is {overrides!r}: pass a list of strings, as ['seed=1'].")
    overrides = list(overrides)
    for override in overrides:
        if override.startswith(COMMAND_ONLY):
            raise InputError(
                f"{override}: simplecnn.train trains one run; type scripts/train.py {override}"
            )
    config = compose_config("train", overrides)
    resume = config["resume"] is not None
    if resume:
        directory = RunDirectory.open_to_resume(latest(config["resume"]))
        config = directory.relocated_config()
    if not config["train"]:
        raise InputError("train=false: simplecnn.train trains a run; simplecnn.load opens one.")
    check_classes(config)
    nodes = [node for node in (config.get("callbacks") or {}).values() if node]
    if not any("Checkpoint" in node["_target_"] for node in nodes):
        raise InputError(
            "callbacks: simplecnn.train returns the run from its checkpoint; add checkpoint."
        )
    folder = Path(config["paths"]["output_dir"])
    with _logging_to(folder):
        try:
            command = f"simplecnn.train({overrides!r})"
            training.train(config, folder, resume=resume, requested=resume, command=command)
        except SystemExit as end:
            if end.code == 130:  # a notebook's stop button: keep its kernel alive
                raise KeyboardInterrupt from None
            raise
    write_model_card(RunDirectory.open(folder))
    return load(folder)


@contextmanager
def _logging_to(folder: Path) -> Iterator[None]:
    """Inside the context, log to train.log, and to the screen as `add_log_handlers` does."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = add_log_handlers(folder)
    root.setLevel(min(level, logging.INFO))
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
