"""The commands as a user runs them: exit codes, output, files."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from children import (
    fork,
    forked_script,
    from_scripts,
    run_forked,
    run_new_process,
    wait_for_exit,
    wait_until,
)
from conftest import ROOT

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.cli import fast_imports
from simplecnn.config.search_path import conf_dir

STRICT = {"PYTHONWARNINGS": "error::ResourceWarning"}


def only(paths) -> Path:
    (path,) = paths
    return path


def test_garbage_collection_is_paused_during_the_first_imports(monkeypatch):
    with fast_imports():
        assert gc.isenabled()  # torch is imported already, as in a second job of this process
    monkeypatch.delitem(sys.modules, "torch")
    num_frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), fast_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > num_frozen


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The files of a wheel, with the script of an entry point as pip writes it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(only(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    points = only((folder / "installed").glob("*.dist-info/entry_points.txt")).read_text()
    assert "simplecnn-train = simplecnn.cli:train" in points
    (folder / "simplecnn-train").write_text("""
import simplecnn
from simplecnn.cli import train
assert "installed" in simplecnn.__file__
train()
""")
    return folder / "installed"


def test_a_wheel_has_the_configuration_and_the_plugins(installed):
    for path in conf_dir().rglob("*.yaml"):
        assert (installed / "simplecnn" / "conf" / path.relative_to(conf_dir())).is_file()
    for name in ("joblib", "optuna"):
        assert (installed / "hydra_plugins" / f"simplecnn_{name}.py").is_file()


@pytest.mark.long
def test_quickstart_of_an_installed_wheel_and_evaluate(installed, tmp_path):
    script = installed.with_name("simplecnn-train")
    done = subprocess.run(
        [sys.executable, script, "experiment=quickstart"], cwd=tmp_path,
        env={**os.environ, **STRICT, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = only((tmp_path / "outputs" / "quickstart").iterdir())
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"]["test/acc"] >= 0.965
    # the output: number of parameters, one line per epoch, a table, the directory, the next command
    assert "98,442 parameters on " in done.stdout
    assert len(re.findall(r"^epoch \d+/10 .* val/acc \d+\.\d\d %", done.stdout, re.M)) == 10
    assert re.search(r"^test +\d+ +\d\.\d{4} +9[6-9]\.\d\d %", done.stdout, re.M)
    relative = folder.relative_to(tmp_path)
    assert f"directory    {relative}\n" in done.stdout
    assert f"--logdir {relative.parent}\n" in done.stdout
    assert "Warning" not in done.stderr and "\r" not in done.stderr  # no bar outside a terminal
    assert "leaked" not in done.stderr  # Triton reports unfreed objects at exit
    text = (folder / "train.log").read_text()
    assert "`Trainer.fit` stopped: `max_epochs=10` reached." in text  # Lightning's message
    assert "epoch 10/10" in text and "litlogger" not in text
    assert record["command"].endswith("simplecnn-train experiment=quickstart")

    evaluated = run_forked(tmp_path, "evaluate.py", f"run={relative}")
    assert evaluated.returncode == 0, evaluated.stderr
    (result,) = json.loads((folder / "evaluation.json").read_text()).values()
    assert result["acc"] == pytest.approx(record["metrics"]["test/acc"], abs=1e-6)
    assert "best on 500 test images of MNIST 5k" in evaluated.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]


def test_mistakes_in_a_command_line_change_nothing(tmp_path):
    """Exit code 2, one sentence, no new folder; an existing run is not modified."""
    for execute, script, overrides, sentence in [
        (
            run_new_process,
            "train.py",
            ["seeed=3"],
            "seeed is not a key of the configuration. Did you mean seed?",
        ),
        (run_forked, "train.py", ["trainer=tpu"], "trainer=tpu: available options are auto, cpu, "),
        (run_forked, "train.py", ["-m", "seed=1,x"], "seed is 'x': it must be an integer"),
        (
            run_forked,
            "train.py",
            ["seed=1", "-m", "name=x"],
            "'name=x' is separated from the other overrides by an option: write options first.",
        ),
        (
            run_forked,
            "train.py",
            ["--modle"],
            "--modle is not an option: --hydra-help lists the options.",
        ),
        (
            run_forked,
            "train.py",
            ["model.optimizer.lr=-1"],
            "model.optimizer: torch.optim.Adam",
        ),
        (
            run_forked,
            "train.py",
            ["model.network.width=8"],
            "model.network.width is not a key of simplecnn.models.simple_cnn.SimpleCNN. Avail",
        ),
        (
            run_forked,
            "train.py",
            ["model.optimizr.lr=1"],
            "model.optimizr.lr is not a key of model. Did you mean optimizer?",
        ),
        (run_forked, "evaluate.py", [], "run is missing: type run="),
        (
            run_forked,
            "evaluate.py",
            ["run=outputs/none"],
            "run=outputs/none: there is no such folder.",
        ),
    ]:
        done = execute(tmp_path, script, *overrides)
        assert (done.returncode, done.stdout) == (2, ""), (overrides, done)
        assert done.stderr.startswith(sentence) and "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{}")
    done = run_forked(tmp_path, "train.py", "hydra.run.dir=old")
    assert done.returncode == 2
    assert done.stderr.startswith("old already contains a run, and runs are never overwritten")
    assert [p.name for p in (tmp_path / "old").iterdir()] == ["run.json"]


@pytest.mark.long
def test_help_and_configuration_are_printed_without_importing_torch(tmp_path):
    spy = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
    (tmp_path / "sitecustomize.py").write_text(spy)
    work = tmp_path / "work"
    work.mkdir()
    for arguments, expected in [
        (["--help"], "scripts/train.py experiment=quickstart"),
        (["--cfg", "job", "model.optimizer.lr=0.5"], "lr: 0.5"),
    ]:
        done = run_new_process(work, "train.py", *arguments, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0 and expected in done.stdout
        assert done.stdout.endswith("False\n")
    assert list(work.iterdir()) == []


def test_a_report_compares_two_runs(finished_run, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(finished_run, tmp_path / name)
    done = run_forked(tmp_path, "report.py", "run=a,b")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "view         a/report_b.html\n"
    assert (tmp_path / "a" / "report_b.html").stat().st_size > 100_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_missing_data_without_a_network_connection_is_one_sentence(tmp_path):
    unavailable = ["data.data_dir=digits", "+data.mirrors=[http://127.0.0.1:9/]"]
    done = run_forked(tmp_path, "train.py", *unavailable)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    sentence = only(line for line in done.stderr.splitlines() if "mnist_5k" in line)
    assert "digits" in sentence and "data=mnist_5k" in sentence
    assert not (tmp_path / "outputs").exists()


@pytest.mark.long
@pytest.mark.parametrize("name", ["fdr", "limit", "overfit"])
def test_debug_configurations_run_with_all_default_callbacks(name, tmp_path):
    small = ["data=mnist_5k", "model.network.channels=[4,8]"]
    if name == "overfit":
        small.append("trainer.max_epochs=4")
    screen = run_forked(tmp_path, "train.py", f"debug={name}", *small, "hydra.run.dir=run")
    assert screen.returncode == 0, screen.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert f"scripts/train.py debug={name}" in record["command"]


@pytest.mark.long
def test_two_simulated_processes_train_for_three_epochs_with_all_default_callbacks(tmp_path):
    small = ["data=mnist_5k", "trainer.max_epochs=3", "+trainer.limit_train_batches=4",
             "model.network.channels=[4,8]", "trainer=ddp_sim", "hydra.run.dir=run"]  # fmt: skip
    screen = run_forked(tmp_path, "train.py", *small, trouble=from_scripts)
    assert screen.returncode == 0, screen.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished" and record["num_epochs"] == 3
    assert "test/acc" in record["metrics"]


@pytest.mark.long
def test_a_run_of_two_processes_is_resumed_by_a_command_that_starts_both(tmp_path):
    small = ["data=mnist_5k", "+trainer.limit_train_batches=4", "model.network.channels=[4,8]"]
    command = [*small, "trainer=cpu", "trainer.devices=2", "trainer.max_epochs=900",
               "hydra.run.dir=run"]  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    screen = tmp_path / "screen"
    head = fork(forked_script(tmp_path, "train.py", *command, trouble=from_scripts), screen)
    wait_until(last.exists, 90, screen.read_text)
    os.kill(head, signal.SIGTERM)
    assert wait_for_exit(head) == 143
    num_done = read_checkpoint(last)["epoch"]
    config = tmp_path / "run" / "config.yaml"
    shorter = f"max_epochs: {num_done + 2}"
    config.write_text(config.read_text().replace("max_epochs: 900", shorter))
    done = run_forked(tmp_path, "train.py", "resume=run", trouble=from_scripts)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["num_epochs"] == num_done + 2 and "max_epochs=900" in record["command"]
