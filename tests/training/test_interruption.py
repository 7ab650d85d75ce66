"""When a signal ends a run, the processes that it launched are killed."""

from types import SimpleNamespace

import pytest

from simplecnn.signals import Interrupted, SignalHandler
from simplecnn.training.interruption import kill_processes_on_interrupt


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
