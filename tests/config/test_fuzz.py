"""Mutated command lines and configurations are valid or get a short report, and never crash."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from children import run_forked
from conftest import ROOT
from fuzz import compose_once

from simplecnn.config.arguments import check_classes
from simplecnn.config.build import build
from simplecnn.config.composition import compose_config
from simplecnn.config.process_state import restore_process_state
from simplecnn.errors import InputError
from simplecnn.signals import SignalHandler
from simplecnn.training.build import build_trainer

NUM_CASES, SEED = 520, 6


@pytest.fixture(autouse=True, scope="module")
def compositions():
    with compose_once():
        yield


@pytest.fixture(scope="module")
def fuzzed() -> dict:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz.py", str(NUM_CASES), str(SEED)],
        capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.long
def test_every_mutation_is_valid_or_gets_a_short_report(fuzzed, proves):
    results = fuzzed["results"]
    assert len(results) == NUM_CASES
    for result in results:
        assert "crash" not in result and "exit" not in result, result
        for mistake in result.get("mistakes", []):
            assert mistake and "\n" not in mistake and "Traceback" not in mistake, result
            assert len(mistake) <= 500, result
        assert len(result.get("mistakes", [])) <= 20, result
        assert result["seconds"] < 2.5, result  # CPU time of the process
    rejected = [r for r in results if "mistakes" in r]
    valid = [r for r in results if r.get("valid")]
    assert len(rejected) + len(valid) == NUM_CASES and len(valid) > 50
    assert all(r["mistakes"] for r in rejected)
    assert fuzzed["heavy"] == [] and fuzzed["files"] == ["conf"]  # nothing imported or written
    proves(
        "Bad input",
        "A mutated command line or configuration is valid, or is rejected with a short report.",
        bad_inputs_tried=NUM_CASES, rejected=len(rejected), valid=len(valid),
    )  # fmt: skip


@pytest.mark.long
def test_valid_configurations_can_be_built(fuzzed, tmp_path, monkeypatch, proves):
    """Build network, optimizer, scheduler and Trainer of the runs that passed validation."""
    monkeypatch.chdir(tmp_path)
    lines = [
        result["argv"]
        for result in fuzzed["results"]
        if result.get("valid") and result["command"] == "train"
        if not any(text.startswith("-") for text in result["argv"])
    ][:30]
    num_built = 0
    for overrides in lines:
        try:
            config = compose_config("train", overrides)
            check_classes(config)
        except InputError as error:  # raised by a class that an override names
            assert all("\n" not in m and len(m) < 1000 for m in error.mistakes)
            continue
        with restore_process_state():
            module = build(config["model"], _recursive_=False)
            trainer = build_trainer(config, SignalHandler())
            assert module.network(torch.zeros(2, 1, 28, 28)).shape == (2, 10), overrides
            assert trainer.max_epochs == config["trainer"]["max_epochs"] or trainer.fast_dev_run
        num_built += 1
    assert num_built > 20
    proves(
        "Bad input",
        "A configuration that passes validation can be built.",
        valid_inputs_built=num_built,
    )


@pytest.mark.parametrize(
    ("script", "argv", "sentence"),
    [
        ("train.py", ["--cfg", "x"], "Argument --cfg/-c: invalid choice: 'x'"),
        ("train.py", ["--cfg"], "Argument --cfg/-c: expected one argument."),
        ("train.py", ["--resolve"], "--resolve requires --cfg"),
        ("train.py", ["--run", "-m", "seed=1,2"], "Argument --multirun/-m: not allowed"),
        ("train.py", ["--config-path", "/"], "--config-path is not supported"),
        ("train.py", ["--experimental-rerun", "x"], "--experimental-rerun is not an option"),
        ("train.py", ["--config-dir", "none"], "--config-dir none: there is no such folder."),
        ("train.py", ["--cfg", "job", "--package", "x"], "--package x: the configuration has no"),
        ("train.py", ["seed=1,2"], "seed=1,2 lists several values: add -m to run a sweep"),
        ("train.py", ["hydra.run.dir=file/x"], "hydra.run.dir is 'file/x': "),
        ("train.py", ["hydra=evaluate"], "hydra.run.dir is the working directory: a run needs"),
        ("export.py", ["run=file"], "run=file: this is a file"),
    ],
)  # fmt: skip
def test_commands_exit_with_code_2(script, argv, sentence, tmp_path):
    (tmp_path / "file").write_text("")
    done = run_forked(tmp_path, script, *argv, HYDRA_FULL_ERROR="1")
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1, done.stderr
    assert [p.name for p in Path(tmp_path).iterdir()] == ["file"]


COMBINATIONS = [
    ("trainer=cpu model.network.in_channels=3", "model.network.in_channels is 3: the data set has"),
    ("model.network.image_size=64", "model.network.image_size is 64: the data set has 28"),
    ("model.network.num_classes=5", "model.network.num_classes is 5: the data set has 10"),
    ("model.network.channels=[65536,65536]", "model.network.channels and hidden result in 39,"),
    ("data=mnist_5k data.val_size=5000", "data.val_size is 5000: it must be at most 4499"),
    ("trainer.limit_val_batches=0.01", "trainer.limit_val_batches is 0.01: less than one of 10"),
    ("+trainer.val_check_interval=5000", "trainer.val_check_interval is 5000: an epoch has 860"),
    ("+trainer.limit_val_batches=0", "monitor is 'val/acc': this run logs train/loss"),
    ("model/scheduler=one_cycle trainer.max_epochs=-1", "model.scheduler needs to know how long"),
    ("model/scheduler=plateau model.scheduler_monitor=val/f1", "model.scheduler_monitor is 'val/"),
    ("callbacks=[default,early_stopping] callbacks.early_stopping.monitor=test/acc",
     "callbacks.early_stopping.monitor is 'test/acc': this run logs"),
    ("model/optimizer=sgd model.optimizer.momentum=0.0", "model.optimizer: torch.optim.SGD"),
    ("+model.optimizer.foreach=true", "model.optimizer: torch.optim.Adam rejects its arguments"),
    ("trainer.enable_checkpointing=false", "trainer: pytorch_lightning.Trainer rejects its "),
    ("model/optimizer=adam model/scheduler=one_cycle model.optimizer._target_=torch.optim.Adagrad",
     "model.scheduler: torch.optim.lr_scheduler.OneCycleLR rejects its arguments: optimizer must"),
    ("trainer.logger=false", "trainer.logger is false: it must be null."),
    ("+trainer.min_epochs=5 trainer.max_epochs=3", "trainer.min_epochs is 5: it must be at most"),
    ("+model.network._partial_=true", "model.network._partial_ is not a key of"),
    ("~seed", "data.seed: Interpolation key 'seed' not found"),
    ("~train", "train is required: it cannot be deleted."),
    ("train=false test=false", "train and test are both false"),
    ("seed=${seed}", "seed: Recursive interpolation detected"),
    ("paths.data_dir=???", "paths.data_dir is missing: type paths.data_dir=…"),
    ("data=image_folder trainer.default_root_dir=${data.root}", "data.root is missing: type data."),
    ("paths.data_dir=${nope}", "paths.data_dir: Interpolation key 'nope' not found"),
]  # fmt: skip


def test_invalid_combinations_are_rejected(proves):
    for line, sentence in COMBINATIONS:
        with pytest.raises(InputError) as caught:
            check_classes(compose_config("train", line.split()))
        assert any(m.startswith(sentence) for m in caught.value.mistakes), (line, caught.value)
    proves("Bad input", "Invalid combinations of values are reported before any data is read.",
           combinations_rejected=len(COMBINATIONS))  # fmt: skip


def test_mistakes_of_all_kinds_are_in_one_report():
    overrides = ["trainer=gpuu", "seeed=3", "a b", "model.network.in_channels=3",
                 "data.batch_size=0", "~nothing", "monitor=val/f1"]  # fmt: skip
    with pytest.raises(InputError) as caught:
        compose_config("train", overrides)
    first_words = [m.split()[0] for m in caught.value.mistakes]
    assert sorted(first_words) == sorted([
        "trainer=gpuu:", "seeed", "'a", "model.network.in_channels", "data.batch_size",
        "nothing", "monitor",
    ])  # fmt: skip
