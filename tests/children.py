"""Commands and runs in child processes, most of them forked to save the imports."""

import contextlib
import faulthandler
import gc
import importlib
import io
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
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, compose_run
from hydra.core.global_hydra import GlobalHydra
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PATIENCE = 300  # seconds for a child to end, even on a busy machine
# Once torch.export has run, the first backward pass would start threads, after which a forked
# child could not train.
torch.ones(1, requires_grad=True).backward()
Screen = subprocess.CompletedProcess[str]  # exit code, stdout and stderr
error_files: dict[int, Path | None] = {}  # stderr of each child, by pid


def fork(what: Callable[[], Any], output: Path | None = None, errors: Path | None = None) -> int:
    """Call `what` in a forked child, which exits as a command would. Returns its pid.

    Appends stdout to the file `output`, and stderr to `errors` or, without it, to `output` too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        error_files[child] = errors or output
        return child
    code = 1
    # Else the child may destroy garbage of its parent, and wait for threads that it does not have.
    gc.freeze()
    # A background command of a shell ignores SIGINT, which its children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if output is not None:
            for descriptor, path in ((1, output), (2, errors or output)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
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
        os._exit(code)  # skips pytest's exit handlers


def drop_privileges(folder: Path | None = None) -> None:
    """Drop root privileges in this process, because root ignores file permissions.

    `folder` and its contents are given to the user nobody.
    """
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")] if folder else []:
            os.chown(path, 65534, 65534)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """An empty folder that all users can reach; owned by nobody if this process is root."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        yield path
        for part in path.rglob("*"):
            if part.is_dir():
                part.chmod(0o755)


def wait_for_exit(child: int) -> int:
    """Wait for a child. Returns its exit code, or minus the number of the signal that killed it."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if (code := exit_code(child)) is not None:
            return code
        time.sleep(0.005)
    abort(child)
    pytest.fail(f"The child was still running after {PATIENCE} s.")


def exit_code(child: int) -> int | None:
    """The exit code of a child, or None while it is running. Prints its stderr for pytest."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if not pid:
        return None
    show_errors(child)
    return os.waitstatus_to_exitcode(status)


def abort(child: int) -> None:
    """Kill a child, after it has printed the traceback of each of its threads."""
    os.kill(child, signal.SIGABRT)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    show_errors(child)


def show_errors(child: int) -> None:
    path = error_files.pop(child, None)
    if path is not None and path.exists():
        print(f"{path}:\n{path.read_text()}")


def run_new_process(folder: Path, script: str, *arguments: str, **environment: str) -> Screen:
    """Run a script, such as `train.py`, in `folder`, in a new process that imports everything."""
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, *arguments], cwd=folder,
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


@cache
def warm_up() -> None:
    """Import and compute what scripts need, before processes are forked: a run's first 0.6 s."""
    importlib.import_module("simplecnn.cli")
    from simplecnn.training.run import train

    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name, "run")
        train(compose_run(folder, "trainer.max_epochs=1"), folder)


def forked_script(
    folder: Path,
    script: str,
    *arguments: str,
    trouble: Callable[[], object] | None = None,
    **environment: str,
) -> Callable[[], None]:
    """A function for `fork` that runs a script in `folder`, after `trouble`, to inject a fault."""
    warm_up()

    def child() -> None:
        os.chdir(folder)
        os.environ.update(environment)
        GlobalHydra.instance().clear()  # may be left over from another test
        sys.argv = [f"scripts/{script}", *arguments]
        logging.getLogger().handlers.clear()
        if trouble is not None:
            trouble()
        exec((ROOT / "scripts" / script).read_text(), {"__name__": "__main__"})

    return child


def from_scripts() -> None:
    """Let this forked process look as if its script was started by its path.

    Then processes that it starts run the script, too.
    """
    main = sys.modules["__main__"]
    main.__file__ = sys.argv[0] = str(ROOT / sys.argv[0])
    main.__spec__ = None
    sys.path.insert(0, str(ROOT / "scripts"))


def run_forked(folder: Path, script: str, *arguments: str, **options: Any) -> Screen:
    """Run a script in `folder`, in a forked child: see `forked_script`.

    Faster than `run_new_process`, but does not test start-up and imports.
    """
    child = forked_script(folder, script, *arguments, **options)
    with tempfile.TemporaryDirectory() as files:
        output, errors = Path(files, "output"), Path(files, "errors")
        code = wait_for_exit(fork(child, output, errors))
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


def run_concurrently(stories: Iterable[Generator[int, int, None]], most: int = 2) -> None:
    """Run generators concurrently, `most` at a time. Each yields pids, and is sent exit codes."""
    waiting, running = list(stories), {}
    limit = time.monotonic() + PATIENCE
    while waiting or running:
        while waiting and len(running) < most:
            story = waiting.pop(0)
            running[next(story)] = story
        for child in list(running):
            code = exit_code(child)
            if code is not None:
                story = running.pop(child)
                with contextlib.suppress(StopIteration):
                    running[story.send(code)] = story
        if time.monotonic() > limit:
            for child in running:
                abort(child)
            pytest.fail(f"Children were still running after {PATIENCE} s.")
        time.sleep(0.003)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def events(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Read TensorBoard's events: for each `run/tag`, a list of (step, scalar or encoded image)."""
    content: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted({file.parent for file in folder.rglob("events.out.*")}):
        reader = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0}).Reload()
        prefix = "" if path == folder else f"{path.relative_to(folder)}/"
        for tag in reader.Tags()["scalars"]:
            content[prefix + tag] = [(e.step, e.value) for e in reader.Scalars(tag)]
        for tag in reader.Tags()["images"]:
            images = reader.Images(tag)
            content[prefix + tag] = [(e.step, e.encoded_image_string) for e in images]
    return content


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    """The content of a checkpoint, with paths relative to the run directory."""
    content = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    for state in content["callbacks"].values():  # never read by ModelCheckpoint
        state.pop("current_score", None)
    return _relative(content)


def _relative(value: Any) -> Any:
    if isinstance(value, dict):
        return {_relative(k): _relative(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_relative(v) for v in value]
    return re.sub(r".*/(?=checkpoints\b)", "", value) if isinstance(value, str) else value


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Assert that two nested values have equal types and bit-identical contents."""
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
