"""What becomes of the processes that a run has started, when a signal ends it."""

from types import SimpleNamespace

import pytest

from simplecnn.signals import Interrupted, Stop
from simplecnn.training.interruption import processes_end_with_this_one


def test_they_are_killed_and_lightning_no_longer_watches_them():
    """Lightning's observer would kill this process too, which has yet to write its record."""
    killed = []
    launcher = SimpleNamespace(procs=["one", "two"])
    launcher.kill = lambda signum: killed.extend((process, signum) for process in launcher.procs)
    watched = launcher.procs  # the observer has the list itself
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    with pytest.raises(Interrupted), processes_end_with_this_one(trainer, Stop()):
        raise Interrupted(15)
    assert killed == [("one", 9), ("two", 9)] and watched == []
