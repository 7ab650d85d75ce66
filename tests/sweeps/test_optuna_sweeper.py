"""Optuna searches: the space, the study on disk, pruning, and end-to-end sweeps with a resume."""

import errno
import json
import math
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
from children import run_forked
from conftest import compose_run
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hydra_plugins.simplecnn_joblib import JoblibLauncher
from hydra_plugins.simplecnn_optuna import OptunaSweeper
from simplecnn.errors import InputError
from simplecnn.sweeps import search
from simplecnn.sweeps.plan import plan_sweep
from simplecnn.sweeps.search import (
    PRUNED,
    STUDY,
    Search,
    check_study,
    interrupted_trials,
    open_study,
    search_space,
    tell,
)
from simplecnn.training.run import train

SMALL = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=4",
         "model.network.channels=[4,8]", "callbacks=[checkpoint]", "logger=csv",
         "hydra.sweep.dir=sweep"]  # fmt: skip
MEDIAN = {
    "_target_": "optuna.pruners.MedianPruner",
    "n_startup_trials": 2,
    "n_warmup_steps": 0,
}
SPACE = {"model.optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True)}


def space_of(*overrides: str) -> dict:
    return search_space(overrides, OverridesParser.create())[0]


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=interval(0,0.5)", FloatDistribution(0.0, 0.5)),
        ("a=interval(1,8)", FloatDistribution(1.0, 8.0)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(3,8)", IntDistribution(3, 7)),
        ("a=range(3,8,2)", IntDistribution(3, 7, step=2)),
        ("a=range(0,0.5,0.25)", FloatDistribution(0.0, 0.25, step=0.25)),
        ("a=choice(32,64)", CategoricalDistribution(["32", "64"])),
        ("a=[8,16],[16,32]", CategoricalDistribution(["[8,16]", "[16,32]"])),
        ("a=choice(adam,sgd)", CategoricalDistribution(["adam", "sgd"])),
    ],
)
def test_hydra_sweeps_as_optuna_distributions(override, expected):
    assert space_of(override) == {"a": expected}


def test_the_last_override_of_a_key_wins():
    overrides = ["a=1,2", "b=3", "a=interval(0,1)", "c=1,2", "c=5"]
    space, fixed = search_space(overrides, OverridesParser.create())
    assert space == {"a": FloatDistribution(0.0, 1.0)} and fixed == ["b=3", "c=5"]


def test_the_bounds_of_the_space_as_overrides():
    space = {"a": FloatDistribution(0, 0.5), "b": CategoricalDistribution(["x", "y"])}
    search = Search({"val/acc": "max"}, space, ["seed=3"])
    assert search.bounds() == [["seed=3", "a=0.0", "b=x"], ["seed=3", "a=0.5", "b=y"]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "The search space is empty: type an interval or several values, as in "),
        (["model.network.dropout=interval(0.0,1.5)"], "model.network.dropout is 1.5: it must be"),
        (["model.network.dropout=interval(0.5,0.1)"], "this is not a valid search space"),
        (["model.optimizer.lr=tag(log,interval(0,1))"], "this is not a valid search space"),
        (["seed=range(3,3)"], "this is not a valid search space: the range is empty"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials is 0: it must be 1"),
        (["seed=1,2", "hydra.sweeper.n_jobs=-1"], "hydra.sweeper.n_jobs is -1: it must be 1"),
        (["seed=1,2", "monitor=null"], "monitor is null: name what to optimize"),
        (["seed=1,2", "hydra.sweeper.objectives={val/ac:max}"], "Did you mean val/acc?"),
        (["seed=1,2", "hydra.sweeper.objectives={val/acc:up}"], "it must be max or min."),
        (["seed=1,2", "hydra.sweeper.objectives={test/acc:max}"], "test/acc cannot be optimized"),
        (["seed=1,2", "hydra.sweeper.objectives={val/loss:min}"], "monitor=val/loss mode=min inst"),
    ],
)
def test_an_invalid_search_is_rejected_before_the_first_trial(overrides, message):
    with pytest.raises(InputError) as error:
        plan_sweep("train", ["data=mnist_5k", "hydra/sweeper=optuna", *overrides])
    assert message in str(error.value)


def finished_job(folder: Path, **metrics: float) -> Path:
    """Create the directory of a finished job with a best val/acc of 0.9."""
    folder.mkdir()
    (folder / "config.yaml").write_text("monitor: val/acc\nmode: max\n")
    content = {"status": "finished", "metrics": metrics, "num_parameters": 98_442,
               "best": {"value": 0.9, "epoch": 1}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_the_objectives_of_a_run_are_told_to_the_study(tmp_path):
    objectives = {"val/acc": "max", "val/loss": "min", "num_parameters": "min"}
    study = open_study(tmp_path, objectives=objectives)
    runs = [{"val/acc": 0.8, "val/loss": 0.3}, {"val/acc": 0.8, "val/loss": math.nan},
            {"val/acc": 0.8}]  # fmt: skip
    for metrics in runs:
        trial = study.ask(SPACE)
        folder = finished_job(tmp_path / str(trial.number), **metrics)
        tell(study, trial.number, folder, objectives=list(objectives))
    good, nan, missing = study.trials
    assert good.values == [0.9, 0.3, 98_442.0]
    assert (nan.state, missing.state) == (TrialState.FAIL, TrialState.FAIL)
    errors = [record(tmp_path / str(n)).get("error") for n in range(3)]
    assert errors == [
        None, "val/loss is nan, not a finite number.", "val/loss is None, not a finite number.",
    ]  # fmt: skip


def test_a_resumed_study_does_not_repeat_its_random_numbers(tmp_path):
    sampler = {"_target_": "optuna.samplers.RandomSampler", "seed": 1}
    first = open_study(tmp_path, objectives={"val/acc": "max"}, sampler=sampler)
    trial = first.ask(SPACE)
    first.tell(trial.number, 0.5)
    second = open_study(tmp_path, objectives={"val/acc": "max"}, sampler=sampler)
    next_trial = second.ask(SPACE)
    assert [t.state for t in second.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert next_trial.params != trial.params
    second.ask()  # as if the process had been killed before it sampled a parameter
    assert [t.number for t in interrupted_trials(second, SPACE)] == [1]
    assert second.trials[2].state == TrialState.FAIL
    # as if the process had been killed before it sampled the seed
    assert interrupted_trials(second, {**SPACE, "seed": IntDistribution(1, 9)}) == []
    assert second.trials[1].state == TrialState.FAIL


def test_an_incomplete_line_of_a_study_is_cut_off(tmp_path):
    check_study(tmp_path)  # there is no study yet
    study = open_study(tmp_path, objectives={"val/acc": "max"})
    for value in (0.5, 0.6):
        study.tell(study.ask(SPACE).number, value)
    content = (tmp_path / STUDY).read_bytes()
    (tmp_path / STUDY).write_bytes(content[:-10])  # the disk was full
    check_study(tmp_path)
    for _ in range(2):
        study = open_study(tmp_path, objectives={"val/acc": "max"})
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert [t.number for t in interrupted_trials(study, SPACE)] == [1]


@pytest.mark.parametrize("content", [b"<html>\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_damaged_study_is_one_sentence(content, tmp_path):
    open_study(tmp_path, objectives={"val/acc": "max"})
    with (tmp_path / STUDY).open("ab") as file:
        file.write(content)
    with pytest.raises(InputError, match=r"study\.journal is damaged; start a new search in anoth"):
        check_study(tmp_path)


def test_a_study_that_cannot_be_read_or_mended_is_not_called_damaged(tmp_path, monkeypatch):
    open_study(tmp_path, objectives={"val/acc": "max"})
    before = (tmp_path / STUDY).read_bytes()
    (tmp_path / STUDY).write_bytes(before + b'{"cut')
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(search, "atomic_write", Mock(side_effect=full))
        with pytest.raises(OSError, match="No space left"):
            check_study(tmp_path)
    check_study(tmp_path)
    assert (tmp_path / STUDY).read_bytes() == before
    (tmp_path / STUDY).unlink()
    (tmp_path / STUDY).mkdir()
    with pytest.raises(IsADirectoryError):
        check_study(tmp_path)


def test_a_batch_has_one_trial_per_joblib_worker_and_interrupted_trials_come_first(tmp_path):
    study = open_study(tmp_path, objectives={"val/acc": "max"})
    for _ in range(2):
        study.ask(SPACE)
    sweeper = OptunaSweeper(n_trials=5)
    sweeper.launcher = JoblibLauncher(n_jobs=2)
    batches = [[trial.number for trial in batch] for batch in sweeper._batches(study, SPACE)]
    assert batches == [[0, 1], [2, 3], [4]]


def test_a_search_with_other_objectives_is_another_search():
    overrides = ["data=mnist_5k", "hydra/sweeper=optuna", "seed=1,2"]
    plans = [
        plan_sweep("train", [*overrides, *objectives])
        for objectives in ([], ["hydra.sweeper.objectives={val/acc:max}"], ["monitor=val/loss"])
    ]
    assert plans[0].overrides == plans[1].overrides != plans[2].overrides
    assert plans[0].jobs is None


def test_a_run_worse_than_the_other_trials_is_pruned(tmp_path):
    """Two storages write and read the study, as in two processes."""
    study = open_study(tmp_path, objectives={"val/loss": "min"})  # not the run's monitor
    for _ in range(2):
        trial = study.ask(SPACE)
        trial.report(0.01, step=1)
        study.tell(trial.number, 0.01)
    hopeless = study.ask(SPACE)
    folder = tmp_path / str(hopeless.number)
    pruner = json.dumps(MEDIAN).replace('"', "")
    config = compose_run(
        folder, "trainer.max_epochs=4", "callbacks=[checkpoint,pruning]", "model.optimizer.lr=1e-9",
        f"callbacks.pruning.trial={hopeless.number}", f"callbacks.pruning.pruner={pruner}",
    )  # fmt: skip
    train(config, folder)
    assert record(folder)["num_epochs"] == 1
    stored = open_study(tmp_path, objectives={"val/loss": "min"}).trials[hopeless.number]
    reported = record(folder)["metrics"]["val/loss"]
    assert stored.intermediate_values == {1: pytest.approx(reported, abs=1e-6)}
    assert stored.user_attrs[PRUNED] == 1

    folder = tmp_path / "no_search"  # outside of a search the callback does nothing
    train(compose_run(folder, "callbacks=[checkpoint,pruning]", "model.optimizer.lr=1e-9"), folder)
    assert record(folder)["num_epochs"] == 2


@pytest.mark.long
def test_the_line_of_a_pruned_trial_names_its_last_epoch(tmp_path):
    (tmp_path / "sweep").mkdir()
    study = open_study(tmp_path / "sweep", objectives={"val/acc": "max"})
    for _ in range(2):
        trial = study.ask(SPACE)
        trial.report(2.0, step=1)  # better than any run
        study.tell(trial.number, 2.0)
    overrides = ["hydra/sweeper=optuna", "callbacks=[checkpoint,pruning]",
                 "model.optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=3",
                 "hydra.sweeper.pruner.n_startup_trials=2", "trainer.max_epochs=3"]  # fmt: skip
    small = [o for o in SMALL if not o.startswith(("trainer.max_epochs=", "callbacks="))]
    done = run_forked(tmp_path, "train.py", "-m", *small, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\njob 2   pruned after epoch 1   val/acc " in done.stdout
    assert "1 job: 1 pruned." in done.stdout
    pruned = record(tmp_path / "sweep/2")
    assert pruned["num_epochs"] == 1
    assert pruned["ended"] == "stopped after 1 epoch: pruned by Optuna"


def test_only_epochs_with_a_validation_are_reported_to_the_pruner(tmp_path):
    study = open_study(tmp_path, objectives={"val/loss": "min"})
    trial = study.ask(SPACE)
    folder = tmp_path / "0"
    pruner = json.dumps(MEDIAN).replace('"', "")
    config = compose_run(
        folder, "trainer.max_epochs=5", "+trainer.check_val_every_n_epoch=2", "logger=none",
        "callbacks=[checkpoint,pruning]", f"callbacks.pruning.trial={trial.number}",
        f"callbacks.pruning.pruner={pruner}",
    )  # fmt: skip
    train(config, folder)
    assert record(folder)["num_epochs"] == 5
    stored = open_study(tmp_path, objectives={"val/loss": "min"}).trials[trial.number]
    assert list(stored.intermediate_values) == [2, 4]


@pytest.mark.long
def test_a_search_survives_nan_and_resumes_from_disk(tmp_path):
    """Some of four trials are NaN, a fifth is interrupted; the same command runs up to six."""
    overrides = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "monitor=val/loss",
                 "mode=min", "model.optimizer.lr=choice(1e-3,1e30)"]  # fmt: skip
    done = run_forked(tmp_path, "train.py", "-m", *SMALL, *overrides, "hydra.sweeper.n_trials=4")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    folder = tmp_path / "sweep"
    study = open_study(folder, objectives={"val/loss": "min"})
    states = {(t.params["model.optimizer.lr"], t.state) for t in study.trials}
    assert states == {("0.001", TrialState.COMPLETE), ("1e+30", TrialState.FAIL)}
    for trial in study.trials:
        run = record(folder / str(trial.number))
        if trial.state == TrialState.FAIL:
            assert run["status"] == "failed"
            assert run["error"].startswith("RunError: The loss is not finite: detected at step ")
        else:
            assert run["best"]["value"] == trial.value

    space = study.trials[0].distributions
    unfinished_trial = study.ask(space)  # as if the process had been killed here
    before = [record(folder / str(n)) for n in range(4)]
    done = run_forked(tmp_path, "train.py", "-m", *SMALL, *overrides, "hydra.sweeper.n_trials=6")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[:2] == [
        "6 jobs in sweep, numbered from 0; Optuna chooses their values",
        "Resuming the study: 4 trials done, 1 interrupted.",
    ]
    study = optuna.load_study(study_name="simplecnn", storage=study._storage)
    assert len(study.trials) == 6
    assert not study.get_trials(states=[TrialState.RUNNING])
    assert [record(folder / str(n)) for n in range(4)] == before
    diverges = unfinished_trial.params["model.optimizer.lr"] == "1e+30"
    assert record(folder / "4")["status"] == ("failed" if diverges else "finished")

    (folder / STUDY).write_text("<html>\n")
    done = run_forked(tmp_path, "train.py", "-m", *SMALL, *overrides, "hydra.sweeper.n_trials=7")
    assert done.returncode == 2 and "6 jobs: " in done.stdout
    assert done.stderr.startswith("sweep/study.journal is damaged; start a new search in another ")
    assert done.stderr.count("\n") == 1


@pytest.mark.long
def test_several_objectives_in_batches_of_two(tmp_path):
    overrides = ["hparams_search=optuna", "hydra.sweeper.n_jobs=2",
                 "hydra.sweeper.objectives={val/acc:max,num_parameters:min}",
                 "model.network.channels=[4,8],[8,16]", "hydra.sweeper.n_trials=4"]  # fmt: skip
    done = run_forked(tmp_path, "train.py", "-m", *SMALL, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    objectives = {"val/acc": "max", "num_parameters": "min"}
    best = open_study(tmp_path / "sweep", objectives=objectives).best_trials
    assert best
    for trial in best:
        run = record(tmp_path / "sweep" / str(trial.number))
        assert run["status"] == "finished"  # Optuna does not prune multi-objective studies
        assert trial.values == [run["best"]["value"], run["num_parameters"]]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Pareto front job"))
    names = line.removeprefix("Pareto front job").lstrip("s ").split(", ")
    assert {int(name) for name in names} == {trial.number for trial in best}
