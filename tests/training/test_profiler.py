"""debug=profiler writes a table and a timeline of the operations."""

import json

import pytest
from conftest import compose_run

from simplecnn.training.run import train


@pytest.mark.filterwarnings("ignore:.*default schedule will be overridden")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_the_profiler_writes_a_table_and_a_timeline(tmp_path):
    folder = tmp_path / "run"
    train(compose_run(folder, "debug=profiler", "callbacks=none", "logger=none"), folder)
    table = (folder / "fit-profile.txt").read_text()
    assert "aten::convolution_backward" in table and "Self CPU" in table
    timelines = list(folder.glob("fit-profile*training_step*.pt.trace.json"))
    assert timelines
    names = {event.get("name") for event in json.loads(timelines[0].read_text())["traceEvents"]}
    assert {"aten::conv2d", "aten::max_pool2d"} <= names
