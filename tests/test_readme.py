"""The README's section "Your own code": each code block is run with the command below it."""

import json
import os
import re

import pytest
from children import from_scripts, run_forked
from conftest import ROOT

SECTION = (ROOT / "README.md").read_text().partition("## Your own code")[2].partition("\n## ")[0]
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
}
COMMANDS = re.findall(r"^    uv run scripts/train\.py (.*)$", SECTION, re.MULTILINE)
FEW_BATCHES = ["trainer=cpu", "trainer.max_epochs=2", "+trainer.limit_train_batches=6"]


def test_each_code_block_has_a_file_name_and_a_command():
    assert list(FILES) == ["nets.py", "losses.py", "shapes.py", "watch.py", "modules.py"]
    assert len(COMMANDS) == len(FILES)


@pytest.mark.long
@pytest.mark.parametrize(("name", "command"), list(zip(FILES, COMMANDS, strict=True)))
def test_code_block_runs_with_its_command(name, command, tmp_path):
    (tmp_path / name).write_text(FILES[name])
    overrides = command.split()
    if "data._target_=shapes.Shades" not in overrides:
        overrides.append("data=mnist_5k")
    overrides += [*FEW_BATCHES, "hydra.run.dir=run"]
    # sys.path begins with scripts/, which has a shapes.py, too
    done = run_forked(tmp_path, "train.py", *overrides, trouble=from_scripts)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    metrics = record["metrics"]
    assert record["status"] == "finished" and record["num_epochs"] == 2
    figures = {path.name.partition("_epoch")[0] for path in (tmp_path / "run/images").iterdir()}
    expected = {
        "nets.py": ({"test/acc"}, {"filters_stem", "maps_body"}),
        "losses.py": ({"test/top2", "val/top2"}, {"filters_conv1", "maps_conv3"}),
        "shapes.py": ({"test/acc"}, {"filters_conv1", "maps_conv3"}),
        "watch.py": ({"test/acc"}, {"filters_conv1"}),
        "modules.py": ({"val/error"}, {"health.png", "curves.png"}),
    }[name]
    assert expected[0] <= set(metrics) and expected[1] <= figures
    if name == "losses.py":
        assert record["best"]["value"] == pytest.approx(metrics["val/top2"], abs=0.3)
        assert "top2" in done.stdout  # in the table
    if name == "watch.py":
        assert done.stdout.count("largest weight") == 2
    done = run_forked(tmp_path, "evaluate.py", "run=run")
    if name == "modules.py":
        assert 0 < json.loads((tmp_path / "run/run.json").read_text())["best"]["value"] < 1
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "run" / "evaluation.json").read_text()).values()
    if "test/acc" in metrics and name != "shapes.py":  # its images are random in each process
        assert result["acc"] == pytest.approx(metrics["test/acc"], abs=1e-6)


@pytest.mark.long
def test_torchvision_networks_run_with_the_overrides_of_the_readme(tmp_path):
    (overrides,) = re.findall(r"`(model\.network\._target_=torchvision[^`]*)`", SECTION)
    done = run_forked(
        tmp_path, "train.py", *overrides.split(), "data=mnist_5k", "trainer=cpu",
        "hydra.run.dir=run", "trainer.max_epochs=1", "+trainer.limit_train_batches=2",
        "+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1", "data.batch_size=8",
        "data.eval_batch_size=8",
        "callbacks=[checkpoint,progress,filters]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "images" / "filters_conv1_epoch=001_step=000002.png").is_file()


def test_a_failed_import_is_reported_with_its_reason_and_directory(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_like_it\n\nclass Net: ...\n")
    done = run_forked(tmp_path, "train.py", "model.network._target_=broken.Net", "data=mnist_5k")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "No module named 'nothing_like_it'" in done.stderr
    assert os.path.realpath(tmp_path) in done.stderr
    assert not (tmp_path / "outputs").exists()
