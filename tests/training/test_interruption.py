"""When a signal ends a run, the processes that it launched are killed."""

import signal
import sys
from types import SimpleNamespace

import pytest

from simplecnn.signals import Interrupted, SignalHandler
from simplecnn.training.interruption import Interruption, kill_processes_on_interrupt


def test_launched_processes_are_killed_and_no_longer_monitored():
    """Lightning's monitor would also kill this process before it writes its record."""
    killed = []
    launcher = SimpleNamespace(procs=["one", "two"])
    launcher.kill = lambda signum: killed.extend((process, signum) for process in launcher.procs)
    monitored = launcher.procs  # Lightning's monitor holds this list
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with pytest.raises(Interrupted), kill_processes_on_interrupt(trainer, SignalHandler()):
        raise Interrupted(15)
    assert killed == [("one", 9), ("two", 9)] and monitored == []


def test_an_interruption_that_python_discards_ends_the_run_at_the_next_batch():
    """An exception that is raised while a DataLoader forks its workers is printed and ignored."""
    handler = SignalHandler()
    callback = Interruption(handler)
    callback.setup(SimpleNamespace(world_size=1), None, "fit")
    callback.on_train_batch_start()
    with pytest.raises(Interrupted):
        handler.receive(signal.SIGINT, None)
    for hook in ("on_train_batch_start", "on_validation_batch_start", "on_test_batch_start"):
        with pytest.raises(Interrupted) as error:
            getattr(callback, hook)()
        assert error.value.code == 130


def test_a_discarded_interruption_is_not_printed(monkeypatch):
    class Destroyed:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    printed: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(error.exc_type))
    with SignalHandler().handle_signals():
        Destroyed(Interrupted(signal.SIGINT))
        Destroyed(ValueError())
    Destroyed(Interrupted(signal.SIGINT))
    assert printed == [ValueError, Interrupted]


def test_forked_workers_leave_ctrl_c_to_their_parent():
    handler = SignalHandler()
    handler.pid += 1  # as seen by a worker
    handler.receive(signal.SIGINT, None)
    assert handler.received is None
    with pytest.raises(Interrupted):  # its parent ends it
        handler.receive(signal.SIGTERM, None)
