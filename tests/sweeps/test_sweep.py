"""The report of a sweep, its directory, and the resume of a single run directory."""

import csv
import errno
import json
import math
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simplecnn import cli
from simplecnn.config.composition import compose_checked
from simplecnn.directories import read_record
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory
from simplecnn.sweeps import jobs as sweep_jobs
from simplecnn.sweeps import report as sweep
from simplecnn.sweeps.directory import SweepDirectory, own_hashes, source_hashes
from simplecnn.sweeps.jobs import seed_groups

FIXED = ["data=mnist_5k", "+trainer.limit_train_batches=8"]
CONFIG = {"monitor": "val/acc", "mode": "max", "seed": 1, "model": {}, "data": {}, "trainer": {}}

UV_RUN = f"uv run --project {Path(__file__).parents[2]}"  # elsewhere than in the clone


def write_job(folder: Path, overrides: list[str], *, best: float | None = None, **record) -> None:
    """Write the directory of a job: overrides, configuration, record, log, learning curve."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([*FIXED, *overrides]))
    (folder / "config.yaml").write_text(json.dumps({**CONFIG, **record.pop("config", {})}))
    (folder / "train.log").write_text("what was printed\n")
    if best is not None:
        record["best"] = {"value": best, "epoch": 2}
        record.setdefault("metrics", {"val/acc": best - 0.01, "test/acc": best + 0.01,
                                      "test/loss": 1 - best})  # fmt: skip
        rows = [f"{8 * e},{e - 1},{best - 0.1 / e:.4f}" for e in (1, 2)]
        (folder / "metrics.csv").write_text("step,epoch,val/acc\n0,,\n" + "\n".join(rows) + "\n")
    record = {"status": "finished", "seconds": {"import": 9.0, "fit": 1.5, "test": 0.25}} | record
    (folder / "run.json").write_text(json.dumps(record))


def write_sweep(folder: Path, jobs: list[list[str]]) -> None:
    directory = SweepDirectory.resume_or_create(
        folder, overrides=[*FIXED, "lr=1,2", "seed=1,2"], jobs=[[*FIXED, *job] for job in jobs],
        command=["scripts/train.py", "-m", "lr=1,2", "seed=1,2"], source={"a.py": "1"},
    )  # fmt: skip
    directory.release()


JOBS = [["model.optimizer.lr=0.001", "seed=1"], ["model.optimizer.lr=0.001", "seed=2"],
        ["model.optimizer.lr=0.003", "seed=1"], ["model.optimizer.lr=0.003", "seed=2"],
        ["model.optimizer.lr=0.01", "seed=1"], ["model.optimizer.lr=0.01", "seed=2"]]  # fmt: skip


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> Path:
    """Six jobs: three finished, one failed, one killed, one not started."""
    monkeypatch.chdir(tmp_path)
    root = Path("outputs/s")
    write_sweep(root, JOBS)
    write_job(root / "0", JOBS[0], best=0.90, num_epochs=2)
    write_job(root / "1", JOBS[1], best=0.94, num_epochs=2)
    write_job(root / "2", JOBS[2], best=0.93, num_epochs=2)
    write_job(root / "3", JOBS[3], status="failed", error="RuntimeError: no luck\nin line 3")
    write_job(root / "4", JOBS[4], status="running", num_epochs=0)
    (root / "4" / "metrics.csv").write_text("step,epoch,val/acc\n7,0,0.8\n15,1,0.99\n")
    return root


def sorted_jobs(root: Path) -> list[sweep_jobs.Job]:
    jobs = sweep_jobs.read_jobs(SweepDirectory.open(root))
    return sorted(jobs, key=lambda job: sweep_jobs.rank([job]))


def read_all(root: Path, names: str) -> list[sweep_jobs.Job]:
    """Read jobs without a sweep.json, the best first."""
    jobs = [sweep_jobs.read_job(root / name) for name in names]
    return sorted(jobs, key=lambda job: sweep_jobs.rank([job]))


def test_the_table_is_sorted_and_complete(mixed, capsys, monkeypatch):
    monkeypatch.setenv("UV", "uv")  # as under uv run
    assert sweep.report(mixed) is False
    out = capsys.readouterr().out
    assert "6 jobs: 3 finished, 1 failed, 1 killed, 1 not started." in out
    with (mixed / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == ["1", "2", "0", "3", "4", "5"]
    assert rows[0] == {
        "job": "1", "status": "finished", "model.optimizer.lr": "0.001", "seed": "2",
        "monitor": "val/acc", "best": "0.94", "best_epoch": "2", "test/acc": "0.95",
        "test/loss": str(1 - 0.94), "val/acc": str(0.94 - 0.01), "seconds": "1.8",
        "num_epochs": "2", "num_parameters": "", "error": "", "log": "outputs/s/1/train.log",
        "folder": "outputs/s/1",
    }  # fmt: skip
    assert rows[3]["error"] == "RuntimeError: no luck" and rows[3]["best"] == ""
    assert rows[3]["log"] == "outputs/s/3/train.log"
    assert rows[4]["status"] == "killed" and "out of memory" in rows[4]["error"]
    assert rows[4]["num_epochs"] == "2"  # as logged: the record was not completed
    assert rows[5]["status"] == "not started" and rows[5]["model.optimizer.lr"] == "0.01"
    # the same on the screen, and in Markdown
    table = sweep._table(sweep.job_columns(sorted_jobs(mixed)))
    lines = table.splitlines()
    titles = (
        "job lr seed status best val/acc % at epoch val/acc % test/acc % test/loss seconds epochs"
    )
    assert lines[0].split() == titles.split()
    assert lines[1].split() == "1 0.001 2 finished 94.00 2 93.00 95.00 0.0600 1.8 2".split()
    caption = "Jobs, sorted by best val/acc %, highest first\n"
    failure = "job 3 failed: RuntimeError: no luck\n    log: outputs/s/3/train.log\n"
    markdown = (mixed / "sweep.md").read_text()
    for text in (out, markdown):
        assert caption + table in text and failure in text and "\nreproduce    " in text
    assert f"\n    {UV_RUN} scripts/train.py -m lr=1,2 seed=1,2\n" in markdown
    assert "![The monitored metric against the varied parameters](sweep.png)" in markdown
    assert (mixed / "sweep.html").is_file() and "view         outputs/s/sweep.html\n" in out


def test_the_best_run_and_the_command_that_reproduces_it(mixed, monkeypatch):
    monkeypatch.setenv("UV", "uv")  # as under uv run, elsewhere
    lines = sweep.report_text(sorted_jobs(mixed), SweepDirectory.open(mixed).record).splitlines()
    assert lines[-4:] == [  # with lr=0.001, a job with 94.00, and a mean of 92.00
        "best mean    best val/acc % 93.00 (1)   model.optimizer.lr=0.003",
        "best job     2: val/acc 93.00 %   model.optimizer.lr=0.003 seed=1",
        f"reproduce    {UV_RUN} scripts/train.py data=mnist_5k +trainer.limit_train_batches=8 "
        "model.optimizer.lr=0.003 seed=1",
        f"resume       {UV_RUN} scripts/train.py -m lr=1,2 seed=1,2",
    ]


def test_the_command_that_reproduces_a_parallel_job_sets_its_number_of_threads(mixed, monkeypatch):
    monkeypatch.setenv("UV", "uv")
    jobs, record = sorted_jobs(mixed), SweepDirectory.open(mixed).record
    for job in jobs:
        job.record["device"] = {"num_threads": 3}
    assert dict(sweep.commands(jobs, record))["reproduce"].startswith(UV_RUN)
    parallel = {**record, "command": f"{record['command']} hydra/launcher=joblib"}
    command = dict(sweep.commands(jobs, parallel))["reproduce"]
    assert command.startswith(f"OMP_NUM_THREADS=3 {UV_RUN} scripts/train.py data=mnist_5k")


def test_the_command_that_reproduces_a_job_names_its_configuration_folder():
    for options in (["--config-dir=conf"], ["-cd", "conf", "--config-name=mine"]):
        record = {"command": shlex.join(["train.py", "-m", *options, "seed=1,2"])}
        assert sweep_jobs.job_command(record, ["seed=2"]) == ["train.py", *options, "seed=2"]


def test_the_command_that_reproduces_a_job_of_a_predefined_search_is_one_run(tmp_path, monkeypatch):
    monkeypatch.delenv("UV", raising=False)
    overrides = ["hparams_search=width", "model.network.channels=[8,16]"]
    write_job(tmp_path / "0", overrides, best=0.5)
    commands = sweep.commands(read_all(tmp_path, "0"), {"command": "scripts/train.py -m"})
    arguments = shlex.split(dict(commands)["reproduce"].partition("scripts/train.py")[2])
    values, config = compose_checked("train", arguments)
    assert values["model"]["network"]["channels"] == [8, 16]
    assert not config.hydra.sweeper.params


def test_repeated_seeds_are_averaged(mixed):
    jobs = sweep_jobs.read_jobs(SweepDirectory.open(mixed))
    table = sweep._table(sweep.mean_columns(sweep_jobs.seed_groups(jobs))).splitlines()
    assert table[0].split() == "lr best val/acc % test/acc % test/loss jobs".split()
    # lr=0.003: one of two jobs has a value; lr=0.001: mean 0.92, deviation 0.04 / sqrt(2)
    assert table[1].split() == "0.003 93.00 (1) 94.00 (1) 0.0700 (1) 2".split()
    deviation = 0.04 / math.sqrt(2)
    accuracy = f"± {100 * deviation:.2f} (2)"
    assert table[2].split() == (
        f"0.001 92.00 {accuracy} 93.00 {accuracy} 0.0800 ± {deviation:.4f} (2) 2".split()
    )
    assert table[3].split() == ["0.01", "2"]


def test_means_if_only_the_seed_varies_and_none_if_it_does_not(tmp_path):
    record = {"command": "scripts/train.py -m"}
    write_job(tmp_path / "0", ["seed=1"], best=0.5)
    write_job(tmp_path / "1", ["seed=2"], best=0.7)
    text = sweep.report_text(read_all(tmp_path, "01"), record)
    caption = "Means over seeds, the best first: mean ± standard deviation (number of jobs)\n"
    assert caption in text and "60.00 ± 14.14 (2)" in text
    write_job(tmp_path / "2", ["lr=1"], best=0.5)
    write_job(tmp_path / "3", ["lr=2"], status="interrupted")
    assert "±" not in sweep.report_text(read_all(tmp_path, "23"), record)


def test_means_of_test_metrics_leave_out_interrupted_jobs(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.7)):
        write_job(tmp_path / str(seed), [f"seed={seed}"], best=accuracy)
    metrics = {"val/acc": 0.1, "test/acc": 0.1}  # as with test_each_epoch
    write_job(tmp_path / "2", ["seed=2"], best=0.1, status="interrupted", metrics=metrics)
    (group,) = sweep.seed_groups(read_all(tmp_path, "012"))
    columns = sweep.mean_columns([group])
    assert columns["best val/acc %"] == ["60.00 ± 14.14 (2)"]
    assert columns["test/acc %"] == ["61.00 ± 14.14 (2)"] and columns["jobs"] == ["3"]


def test_the_csv_file_has_values_in_full_precision(tmp_path):
    for name, lr in (("0", "0.00123456"), ("1", "0.00123457")):
        write_job(tmp_path / name, [f"lr={lr}"], best=0.5)
    rows = csv.DictReader(sweep.csv_text(read_all(tmp_path, "01")).splitlines())
    assert sorted(row["lr"] for row in rows) == ["0.00123456", "0.00123457"]


def test_losses_are_sorted_in_ascending_order_and_nan_is_last(tmp_path):
    config = {"monitor": "val/loss", "mode": "min"}
    for name, best in [("0", 0.3), ("1", math.nan), ("2", 0.1)]:
        metrics = {"val/loss": best}
        write_job(tmp_path / name, [f"seed={name}"], best=best, metrics=metrics, config=config)
    jobs = read_all(tmp_path, "012")
    assert [job.name for job in jobs] == ["2", "0", "1"]
    assert sweep.mean_text("val/loss", (job.value for job in jobs)) == "0.2000 ± 0.1414 (2)"


def test_without_a_monitor_jobs_are_compared_by_test_accuracy(tmp_path):
    for name, accuracy in [("0", 0.3), ("1", 0.4)]:
        write_job(tmp_path / name, [f"lr={name}"], metrics={"test/acc": accuracy},
                  config={"monitor": None})  # fmt: skip
    assert [(j.name, j.value, j.criterion) for j in read_all(tmp_path, "01")] == [
        ("1", 0.4, "test/acc"), ("0", 0.3, "test/acc"),
    ]  # fmt: skip


def test_damaged_and_unrelated_directories_do_not_stop_the_report(mixed, capsys):
    (mixed / "3" / "run.json").write_text("{")
    (mixed / "4" / ".hydra" / "overrides.yaml").write_text(": [")
    (mixed / "5").mkdir()
    assert sweep.report(mixed) is False
    assert "killed" in capsys.readouterr().out


def test_only_jobs_that_succeeded_are_compared(tmp_path):
    """Jobs that ended early, with the values of fewer epochs, are listed last."""
    statuses = ["interrupted", "finished", "failed", "finished"]
    for seed, (status, best) in enumerate(zip(statuses, [0.9, 0.5, 0.8, 0.7], strict=True)):
        error = "RunError: The loss is not finite." if status == "failed" else None
        write_job(tmp_path / str(seed), [f"seed={seed}"], best=best, status=status, error=error)
    jobs = read_all(tmp_path, "0123")
    assert [job.name for job in jobs] == ["3", "1", "0", "2"]
    text = sweep.report_text(jobs, {"command": "scripts/train.py -m"})
    assert "60.00 ± 14.14 (2)" in text and "best job     3: val/acc 70.00 %" in text
    # an interrupted job has no error, and its log tells nothing
    assert "job 2 failed: The loss is not finite.\n    log: " in text
    assert text.count("log: ") == 1 and "job 0 interrupted" not in text


def test_metrics_of_a_custom_class_are_columns(tmp_path):
    for seed in (1, 2):
        write_job(tmp_path / f"{seed - 1}", ["lr=1", f"seed={seed}"], best=0.5)
        path = tmp_path / f"{seed - 1}" / "run.json"
        record = json.loads(path.read_text())
        record["metrics"] |= {"train/f1": 0.1, "val/f1": 0.2, "test/f1": 0.3, "val/top2_acc": seed}
        path.write_text(json.dumps(record))
    jobs = read_all(tmp_path, "01")
    columns = sweep.job_columns(jobs)
    assert columns["test/f1"] == ["0.3000", "0.3000"] and not {"val/f1", "train/f1"} & {*columns}
    assert sweep.mean_columns(seed_groups(jobs))["val/top2_acc %"] == ["150.00 ± 70.71 (2)"]


def test_several_objectives_are_columns_and_their_pareto_front_is_named(tmp_path):
    jobs = [(0.90, 100), (0.95, 300), (0.94, 300), (0.95, 300), (0.80, 100), (0.99, 900)]
    for i, (best, size) in enumerate(jobs):
        status = "interrupted" if i == 5 else "finished"
        write_job(tmp_path / str(i), [f"lr={i}"], best=best, num_parameters=size, status=status)
    record = {"command": "scripts/train.py -m", "words": ["lr=interval(0,9)"]}
    text = sweep.report_text(read_all(tmp_path, "012345"), record)
    assert "num_parameters" not in text and "Pareto" not in text
    record["words"].append("hydra.sweeper.objectives={val/acc:max,num_parameters:min}")
    text = sweep.report_text(read_all(tmp_path, "012345"), record)
    assert "\nPareto front jobs 1, 3, 0\n" in text
    head, first = (line.split() for line in text.splitlines() if line[:2] in ("jo", "1 "))
    assert head[-2:] == ["num_parameters", "seconds"] and first[-2:] == ["300", "1.8"]


def test_numbers_of_parameters_have_thousands_separators_except_in_the_csv_file(tmp_path, capsys):
    write_sweep(tmp_path, [["lr=1", "seed=1"], ["lr=2", "seed=1"]])
    objectives = "hydra.sweeper.objectives={val/acc:max,num_parameters:min}"
    record = json.loads((tmp_path / "sweep.json").read_text())
    record["words"].append(objectives)
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    for i, size in enumerate((98_442, 1_000_000)):
        write_job(tmp_path / str(i), [f"lr={i + 1}", "seed=1"], best=0.9, num_parameters=size)
    sweep.report(tmp_path)
    for text in (capsys.readouterr().out, (tmp_path / "sweep.md").read_text()):
        assert " num_parameters " in text and " 98,442 " in text and " 1,000,000 " in text
    data = (tmp_path / "sweep.html").read_text().partition('id="data">')[2].partition("</script>")
    cells = [job["cells"]["num_parameters"] for job in json.loads(data[0])["jobs"]]
    assert cells == ["98,442", "1,000,000"]
    with (tmp_path / "sweep.csv").open(newline="") as file:
        assert [row["num_parameters"] for row in csv.DictReader(file)] == ["98442", "1000000"]


def test_a_sweep_without_any_result_has_no_empty_columns(tmp_path):
    write_sweep(tmp_path, [["lr=1", "seed=1"], ["lr=1", "seed=2"]])
    write_job(tmp_path / "0", ["lr=1", "seed=1"], status="interrupted")
    jobs = sorted_jobs(tmp_path)
    assert sweep._table(sweep.job_columns(jobs)).splitlines()[0].split() == [
        "job",
        "seed",
        "status",
        "seconds",
    ]
    text = sweep.report_text(jobs, SweepDirectory.open(tmp_path).record)
    assert text.startswith("2 jobs: 1 interrupted, 1 not started.\n\njob  seed")


def test_another_process_reports_a_running_job_without_torch(mixed):
    run = RunDirectory(mixed / "4")
    run.lock()
    code = ("import sys; from pathlib import Path; from simplecnn.sweeps.report import report\n"
            "report(Path(sys.argv[1]))\n"
            "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)")  # fmt: skip
    other = subprocess.run(
        [sys.executable, "-c", code, str(mixed)], capture_output=True, text=True, check=True
    )
    assert "6 jobs: 3 finished, 1 failed, 1 running, 1 not started." in other.stdout
    assert "resume " not in other.stdout  # the sweep cannot be resumed yet
    run.release()
    assert sweep_jobs.read_job(mixed / "4").status == "killed"


def test_files_are_written_before_the_report_is_printed(mixed, monkeypatch):
    def broken_pipe(*args, **kwargs):  # as of `scripts/sweep.py … | head`
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken_pipe)
    with pytest.raises(BrokenPipeError):
        sweep.report(mixed)
    names = {"sweep.csv", "sweep.md", "sweep.png", "sweep.html"}
    assert names <= {path.name for path in mixed.iterdir()}


def test_a_full_disk_does_not_cost_the_printed_report(mixed, monkeypatch, capsys):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(sys, "argv", ["scripts/sweep.py", f"sweep={mixed}"])
    with pytest.raises(SystemExit) as caught:
        cli.sweep()
    assert caught.value.code == 1
    screen = capsys.readouterr()
    assert "6 jobs: 3 finished, 1 failed, 1 killed, 1 not started." in screen.out
    assert screen.err == f"{mixed}/sweep.csv cannot be written: No space left on device.\n"
    with pytest.raises(OSError, match="sweep.csv"):
        sweep.report(mixed)


def test_pruned_jobs_count_as_succeeded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sweep(Path("a"), [["lr=1"], ["lr=2"]])
    write_job(Path("a/0"), ["lr=1"], status="pruned")
    write_job(Path("a/1"), ["lr=2"])
    assert sweep.report(Path("a")) is True
    assert "2 jobs: 1 finished, 1 pruned." in capsys.readouterr().out
    assert not Path("a/sweep.png").exists()  # no job has a value


def test_the_log_line_of_a_job(mixed):
    overrides = [*FIXED, "model.optimizer.lr=0.001,0.003", "seed=range(1,3)"]
    record, job = {"words": overrides}, sweep_jobs.read_job(mixed / "1")
    rest = "   val/acc 94.00 %   1.8 s   model.optimizer.lr=0.001 seed=2"
    assert sweep.job_line(job, record, number=1) == f"job 1   finished{rest}"
    line = sweep.job_line(job, record, number=1, status="already finished")
    assert line == f"job 1   already finished{rest}"
    failed = sweep.job_line(sweep_jobs.read_job(mixed / "3"), record, number=3)
    assert failed == ("job 3   failed     1.8 s   model.optimizer.lr=0.003 seed=2   "
                      "RuntimeError: no luck")  # fmt: skip


def test_short_names_are_unique():
    assert sweep.short_names(["model.optimizer.lr", "data.batch_size", "model/optimizer"]) == {
        "model.optimizer.lr": "lr", "data.batch_size": "batch_size", "model/optimizer": "optimizer",
    }  # fmt: skip
    keys = ["model.network._target_", "model.network.hidden"]
    assert list(sweep.short_names(keys).values()) == ["network", "hidden"]
    assert sweep.short_names(["a.lr", "b.lr"]) == {"a.lr": "a.lr", "b.lr": "b.lr"}


@pytest.fixture
def drawn_figures(monkeypatch):
    """A list of the arguments of each call of `sweep_figure`, and the figure it returned."""
    from simplecnn.figures import sweep as figures

    calls = []
    original = figures.sweep_figure
    monkeypatch.setattr(
        figures,
        "sweep_figure",
        lambda *a, **k: calls.append((a, original(*a, **k))) or calls[-1][1],
    )
    return calls


def test_the_figure_shows_each_parameter_and_each_curve(mixed, drawn_figures):
    sweep.report(mixed)
    ((parameters, results, curves), figure) = drawn_figures[0]
    assert parameters == {"lr": [0.001, 0.001, 0.003, 0.003, 0.01, 0.01]}
    np.testing.assert_allclose(results, [90, 94, 93, math.nan, math.nan, math.nan])
    assert list(curves) == [
        "job 1: lr 0.001, seed 2", "job 2: lr 0.003, seed 1", "job 0: lr 0.001, seed 1",
    ]  # fmt: skip
    np.testing.assert_allclose(curves["job 1: lr 0.001, seed 2"], [(1, 84), (2, 89)])
    panel, learning = figure.axes
    dots, means, crosses = panel.lines
    np.testing.assert_allclose(dots.get_xdata(), [0.001, 0.001, 0.003])
    np.testing.assert_allclose(dots.get_ydata(), [90, 94, 93])
    np.testing.assert_allclose(means.get_ydata(), [92, 93])
    np.testing.assert_allclose(crosses.get_xdata(), [0.003, 0.01, 0.01])  # jobs without a value
    assert (crosses.get_ydata() < 90).all()
    assert panel.get_xlabel() == "lr" and panel.get_ylabel() == "best val/acc %"
    assert len(learning.lines) == 3 and learning.get_xlabel() == "epoch"
    with Image.open(mixed / "sweep.png") as picture:
        width, height = picture.size
    assert width > 1000 and height > 400


def test_seeds_without_a_monitor_are_dots_beside_their_loss_curves(tmp_path, drawn_figures):
    write_sweep(tmp_path, [[f"seed={seed}"] for seed in (1, 2, 3)])
    for seed, accuracy in [(1, 0.99), (2, 0.97), (3, 0.98)]:
        write_job(tmp_path / str(seed), [f"seed={seed}"], metrics={"test/acc": accuracy},
                  config={"monitor": None})  # fmt: skip
        (tmp_path / str(seed) / "metrics.csv").write_text(
            f"step,epoch,train/loss,test/acc\n7,0,0.{seed},\n15,1,0.0{seed},\n16,2,,{accuracy}\n"
        )
    sweep.report(tmp_path)
    panel, learning = drawn_figures[0][1].axes
    (dots,) = panel.lines  # no line connects the seeds
    np.testing.assert_allclose(dots.get_xydata(), [[1, 99], [2, 97], [3, 98]])
    assert panel.get_xlabel() == "seed" and panel.get_ylabel() == "test/acc %"
    assert learning.get_ylabel() == "train/loss"
    np.testing.assert_allclose(learning.lines[0].get_xydata(), [[1, 0.1], [2, 0.01]])


def test_a_mean_at_a_single_value_has_no_line_in_the_legend():
    from simplecnn.figures.sweep import sweep_figure

    figure = sweep_figure({"lr": [1, 1, 2]}, [3, 4, math.nan], {}, metric="m", curve_metric="m")
    assert figure.axes[0].get_legend() is None
    figure = sweep_figure({"lr": [1, 1, 2]}, [3, 4, 5], {}, metric="m", curve_metric="m")
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["mean"]


def test_parallel_coordinates_from_three_parameters_on():
    from simplecnn.figures.sweep import sweep_figure

    values = {"lr": [0.1, 0.01, 0.001], "depth": [1, 2, 3], "pool": ["max", "stride", "max"]}
    figure = sweep_figure(values, [1.0, 3.0, 2.0], {}, metric="m", curve_metric="m")
    parallel = figure.axes[3]
    assert [t.get_text() for t in parallel.get_xticklabels()] == ["lr", "depth", "pool", "m"]
    lines = [line for line in parallel.lines if len(line.get_xdata()) == 4]
    # the best job is drawn last: lr 0.01, depth 2, stride, 3.0, each scaled to 0..1
    np.testing.assert_allclose(lines[-1].get_ydata(), [0.5, 0.5, 1.0, 1.0], atol=1e-12)
    assert len(lines) == 3
    two = {name: values[name] for name in ("lr", "depth")}
    figure = sweep_figure(two, [1.0, 3.0, 2.0], {}, metric="m", curve_metric="m")
    assert len(figure.axes) == 3


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1e-3, 3e-3, 1e-2], "log"), ([16, 32, 64], "log"), ([1, 2, 3], "linear"),
     ([0.01, 0.05, 0.1, 0.12, 0.2], "linear"), ([0.0, 0.1, 1.0], "linear")],
)  # fmt: skip
def test_values_with_a_constant_ratio_have_a_logarithmic_axis(values, scale):
    from simplecnn.figures.sweep import sweep_figure

    results = [float(i) for i in range(len(values))]
    figure = sweep_figure({"x": values}, results, {}, metric="m", curve_metric="m")
    assert figure.axes[0].get_xscale() == scale
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == [f"{value:.4g}" for value in values]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", b"step,epoch,val/acc\n7,0,0.8\n8,x,0.9\n9,1,abc\n"),
        ("metrics.csv", b"\xf4\xff\x00" * 400),
        ("config.yaml", b"- a\n"),
        ("run.json", b'{"status": "finished", "best": {"value": "x"}, "metrics": {"val/acc": []}}'),
        ("run.json", b'{"status": ["x"], "best": [1], "metrics": 3, "seconds": {"fit": "x"}}'),
    ],
)
def test_a_damaged_file_of_a_job_does_not_cost_the_report_of_the_others(name, content, mixed):
    (mixed / "0" / name).write_bytes(content)
    sweep.report(mixed)
    assert "2,val/acc,0.94,2" in (mixed / "sweep.csv").read_text()


def test_a_record_of_an_earlier_version_is_enough_for_a_report(mixed):
    record = json.loads((mixed / "sweep.json").read_text())
    del record["slurm_job"], record["words"]
    (mixed / "sweep.json").write_text(json.dumps(record))
    sweep.report(mixed)
    assert "6 jobs: " in (mixed / "sweep.md").read_text()


def test_a_damaged_record_of_a_sweep_is_one_sentence(mixed):
    for content in ('{"command": "x"}', "[]", "{"):
        (mixed / "sweep.json").write_text(content)
        with pytest.raises(InputError, match=r"outputs/s/sweep.json is damaged."):
            sweep.report(mixed)


# The directory of a sweep and its lock.


def resume_or_create(path, **changed):
    arguments = {"overrides": ["seed=1,2"], "jobs": [["seed=1"], ["seed=2"]],
                 "command": ["scripts/train.py", "-m"], "source": {"conf/a.yaml": "1"}}  # fmt: skip
    directory = SweepDirectory.resume_or_create(path, **{**arguments, **changed})
    directory.release()
    return directory


def test_the_same_sweep_is_resumed(tmp_path):
    first = resume_or_create(tmp_path / "s")
    second = resume_or_create(tmp_path / "s", command=["another", "launcher"])
    assert second.record == first.record and first.record["command"] == "scripts/train.py -m"
    resume_or_create(tmp_path / "search", jobs=None)
    longer = ["scripts/train.py", "-m", "hydra.sweeper.n_trials=9"]
    resume_or_create(tmp_path / "search", jobs=None, command=longer)
    assert SweepDirectory.open(tmp_path / "search").record["command"].endswith("n_trials=9")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"jobs": [["seed=1"]]}, r"s holds another sweep \(scripts/train.py -m\): name another"),
        ({"source": {"conf/a.yaml": "2", "b": "1"}},
         r"b, conf/a.yaml changed since the sweep in .*s was started: .*start a new sweep"),
    ],
)  # fmt: skip
def test_another_sweep_or_source_is_rejected(changed, message, tmp_path):
    resume_or_create(tmp_path / "s")
    before = (tmp_path / "s" / "sweep.json").read_text()
    with pytest.raises(InputError, match=message):
        resume_or_create(tmp_path / "s", **changed)
    assert (tmp_path / "s" / "sweep.json").read_text() == before


def test_a_change_of_the_users_own_file_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text("width = 1")
    source = own_hashes([tmp_path / "nets.py"], tmp_path)
    resume_or_create(tmp_path / "s", source=source)
    resume_or_create(tmp_path / "s", source=source)
    Path("nets.py").write_text("width = 2")
    job = SweepDirectory.open(tmp_path / "s")  # in a worker, which does not know all files
    for check in (
        lambda: job.check_source({}, tmp_path),
        lambda: resume_or_create("s", source=own_hashes([tmp_path / "nets.py"], tmp_path)),
    ):
        with pytest.raises(InputError, match=r"^\./nets.py changed since the sweep in s was"):
            check()


def test_a_search_is_identified_by_its_overrides(tmp_path):
    resume_or_create(tmp_path / "s", jobs=None)
    resume_or_create(tmp_path / "s", jobs=None)
    with pytest.raises(InputError, match="holds another sweep"):
        resume_or_create(tmp_path / "s", jobs=None, overrides=["seed=1,2,3"])


def test_a_directory_with_runs_or_below_a_file_is_rejected(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    for path in (tmp_path / "run", tmp_path):
        message = "holds runs that do not belong to a sweep: name another"
        with pytest.raises(InputError, match=message):
            resume_or_create(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/s cannot be written: Not a directory"):
        resume_or_create(tmp_path / "file" / "s")


def test_two_processes_cannot_run_the_same_sweep(tmp_path):
    first = resume_or_create(tmp_path)
    first.lock()
    with pytest.raises(InputError, match="The sweep in .* is locked by another process"):
        resume_or_create(tmp_path)
    first.release()
    resume_or_create(tmp_path)


def test_missing_and_damaged_sweeps_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="sweep=nothing: there is no such folder. sweep=last is"):
        SweepDirectory.open("nothing")
    Path("outputs/x").mkdir(parents=True)
    with pytest.raises(InputError, match="not a sweep of simplecnn, sweep.json is missing.$"):
        SweepDirectory.open("outputs/x")
    Path("outputs/x/sweep.json").write_text("[")
    with pytest.raises(InputError, match="outputs/x/sweep.json is damaged."):
        SweepDirectory.open("outputs/x")


def test_source_hashes_cover_the_package_and_the_configuration(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text("a: 1")
    for skipped in (".venv/a.py", "outputs/0/run.json", "outputs/0/config.yaml"):
        path = tmp_path / "conf" / skipped
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    before = source_hashes(tmp_path / "conf")
    assert [name for name in before if name.startswith("conf/")] == ["conf/a.yaml"]
    assert {"conf/a.yaml", "simplecnn/training/run.py", "simplecnn/figures/sweep.py"} <= set(before)
    (tmp_path / "conf" / "a.yaml").write_text("a: 2")
    after = source_hashes(tmp_path / "conf")
    assert [name for name in after if after[name] != before[name]] == ["conf/a.yaml"]


def test_source_hashes_tell_folders_of_the_same_name_apart(tmp_path):
    folders = [tmp_path / "conf", tmp_path / "own" / "conf", tmp_path / "other" / "conf"]
    for i, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "a.yaml").write_text(f"a: {i}")
    single = [source_hashes(folder)["conf/a.yaml"] for folder in folders]
    hashes = source_hashes(*folders, folders[0])
    names = [name for name in hashes if name.endswith("/a.yaml")]
    assert names == ["conf/a.yaml", "own/conf/a.yaml", "other/conf/a.yaml"]
    assert [hashes[name] for name in names] == single and len(set(single)) == 3


# The directory of a run that is resumed.

RUN = {"model": {"lr": 0.1}, "data": {}, "trainer": {}, "seed": 7}


def run_config(folder):
    return {**RUN, "paths": {"output_dir": str(folder)}, "log": f"{folder}/x"}


def test_an_interrupted_run_resumes_and_a_failed_one_starts_over(tmp_path):
    folder = tmp_path / "a"
    run = RunDirectory.resume_or_create(folder, run_config(folder))
    assert run.record["status"] == "running" and "continued" not in run.record
    (folder / "checkpoints").mkdir()
    with zipfile.ZipFile(folder / "checkpoints" / "last.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", "state")
    (folder / "train.log").write_text("log")
    run.update(status="interrupted", seconds={"fit": 3.0})
    run.release()

    moved = folder.rename(tmp_path / "b")
    resumed = RunDirectory.resume_or_create(moved, run_config(moved))
    assert resumed.record["status"] == "running" and len(resumed.record["continued"]) == 1
    assert resumed.record["seconds"] == {"fit": 3.0} and resumed.last_checkpoint()

    for damage, seconds in ({"seconds": "x"}, {}), ({}, {"fit": 3.0}):  # of an edited run.json
        resumed.update(status="interrupted", **damage)
        resumed.release()
        resumed = RunDirectory.resume_or_create(moved, run_config(moved))
        assert resumed.record["seconds"] == seconds
        resumed.record["seconds"] = {"fit": 3.0}
    record = (moved / "run.json").read_bytes()
    resumed.release()
    (moved / "run.json").write_bytes(record[:100])
    with pytest.raises(InputError, match=r"b/run.json is damaged: delete .*/b to start over\.$"):
        RunDirectory.resume_or_create(moved, run_config(moved))
    assert resumed.last_checkpoint()
    (moved / "run.json").write_bytes(record)

    resumed = RunDirectory.resume_or_create(moved, run_config(moved))
    resumed.update(status="failed", error="no luck")
    resumed.release()
    restarted = RunDirectory.resume_or_create(moved, run_config(moved))
    assert "continued" not in restarted.record and restarted.record["seconds"] == {}
    restarted.release()
    assert sorted(p.name for p in moved.iterdir()) == ["config.yaml", "run.json", "train.log"]


def test_a_killed_run_without_a_checkpoint_starts_over(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "run.json").touch()  # killed before it wrote anything
    RunDirectory.resume_or_create(folder, run_config(folder))
    assert read_record(folder)["status"] == "running"
    RunDirectory.resume_or_create(folder, run_config(folder))
    assert "continued" not in read_record(folder)


def test_another_run_is_not_resumed(tmp_path):
    RunDirectory.create(tmp_path, run_config(tmp_path)).update(status="interrupted")
    with pytest.raises(InputError, match="already contains a run"):
        RunDirectory.resume_or_create(tmp_path, {**run_config(tmp_path), "seed": 8})
    assert read_record(tmp_path)["status"] == "interrupted"
