"""Commands and runs in processes of their own, most of which are forked: nothing is imported."""

import contextlib
import faulthandler
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PATIENCE = 300  # seconds that children may take, on a machine that does other things too
Screen = subprocess.CompletedProcess[str]  # exit code, and what was shown


screens: dict[int, Path | None] = {}  # by child: where its errors are


def fork(what: Callable[[], Any], output: Path | None = None, errors: Path | None = None) -> int:
    """Do `what` in a child process; gives its number. Its exit code is that of a command.

    What it prints is added to the file `output`, and its errors to `errors`, or there too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        screens[child] = errors or output
        return child
    code = 1
    # A shell's background command ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if output is not None:
            for number, path in ((1, output), (2, errors or output)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            faulthandler.enable()
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s", force=True)
        what()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # without pytest's own ending


def as_nobody(folder: Path | None = None) -> None:
    """Give up root's rights in this process: what is read-only is so for root in name only.

    What `folder` holds becomes nobody's too.
    """
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")] if folder else []:
            os.chown(path, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """An empty folder that every user can reach, and that belongs to nobody where root asks."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        yield path
        for part in path.rglob("*"):
            if part.is_dir():
                part.chmod(0o755)


def ended(child: int) -> int:
    """Wait for a child; gives its exit code, or minus the signal that killed it."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if (code := code_of(child)) is not None:
            return code
        time.sleep(0.005)
    abort(child)
    pytest.fail(f"The child was still there after {PATIENCE} s.")


def code_of(child: int) -> int | None:
    """The exit code of a child, or None while it is there. pytest shows its errors if need be."""
    number, status = os.waitpid(child, os.WNOHANG)
    if not number:
        return None
    show_errors(child)
    return os.waitstatus_to_exitcode(status)


def abort(child: int) -> None:
    """End a child, which says where each of its threads was."""
    os.kill(child, signal.SIGABRT)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    show_errors(child)


def show_errors(child: int) -> None:
    screen = screens.pop(child, None)
    if screen is not None and screen.exists():
        print(f"{screen}:\n{screen.read_text()}")


def start(folder: Path, script: str, *words: str, **environment: str) -> Screen:
    """Type a command, as `train.py`, in `folder`: a new process, which imports everything."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *words], cwd=folder,
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def type_in(
    folder: Path,
    script: str,
    *words: str,
    trouble: Callable[[], object] | None = None,
    **environment: str,
) -> Screen:
    """The same in a child that is forked, and may have `trouble`: for all but start and import."""
    from simplecnn import cli as commands

    def child() -> None:
        os.chdir(folder)
        os.environ.update(environment)
        GlobalHydra.instance().clear()  # what another test has left in this process
        sys.argv = [f"scripts/{script}", *words]
        logging.getLogger().handlers.clear()
        if trouble is not None:
            trouble()
        getattr(commands, Path(script).stem)()

    with tempfile.TemporaryDirectory() as screen:
        output, errors = Path(screen, "output"), Path(screen, "errors")
        code = ended(fork(child, output, errors))
        return subprocess.CompletedProcess(words, code, output.read_text(), errors.read_text())


def side_by_side(stories: Iterable[Generator[int, int, None]], most: int = 2) -> None:
    """Tell stories, some at a time: each yields the number of a child, and gets its exit code."""
    waiting, under_way = list(stories), {}
    limit = time.monotonic() + PATIENCE
    while waiting or under_way:
        while waiting and len(under_way) < most:
            story = waiting.pop(0)
            under_way[next(story)] = story
        for child in list(under_way):
            code = code_of(child)
            if code is not None:
                story = under_way.pop(child)
                with contextlib.suppress(StopIteration):
                    under_way[story.send(code)] = story
        if time.monotonic() > limit:
            for child in under_way:
                abort(child)
            pytest.fail(f"Children were still there after {PATIENCE} s.")
        time.sleep(0.003)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows of a run: by run and tag, the step and the number, or the bytes."""
    shown: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted({file.parent for file in folder.rglob("events.out.*")}):
        read = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0}).Reload()
        prefix = "" if path == folder else f"{path.relative_to(folder)}/"
        for tag in read.Tags()["scalars"]:
            shown[prefix + tag] = [(e.step, e.value) for e in read.Scalars(tag)]
        for tag in read.Tags()["images"]:
            shown[prefix + tag] = [(e.step, e.encoded_image_string) for e in read.Images(tag)]
    return shown


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    """All of a checkpoint, with paths from the run's directory on."""
    content = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    for state in content["callbacks"].values():  # ModelCheckpoint itself never reads this one
        state.pop("current_score", None)
    return _within_run(content)


def _within_run(value: Any) -> Any:
    if isinstance(value, dict):
        return {_within_run(k): _within_run(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_within_run(v) for v in value]
    return re.sub(r".*/(?=checkpoints\b)", "", value) if isinstance(value, str) else value


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal in every bit, whatever it is made of."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            assert_same(one, two, f"{where}/{i}")
    else:
        assert a == b, where


def wait_until(condition: Callable[[], bool], seconds: float, screen: Callable[[], str]) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, screen()
        time.sleep(0.02)
