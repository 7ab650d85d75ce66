"""A run directory belongs to one run, is readable at any time, and reports its defects."""

import json
import os
import shlex
import sys
import zipfile
from pathlib import Path

import pytest
from children import drop_privileges, fork, shared_folder, wait_for_exit

from simplecnn.checkpoint_file import write_checkpoint
from simplecnn.command_line import check_command_line
from simplecnn.directories import latest
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory, relative_path, shell_command, write_json

CONFIG = {"model": {"lr": 0.1}, "data": {"n": 3}, "trainer": {}, "seed": 7}


def test_a_new_run_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "seed=7", "name=a b"])
    monkeypatch.delenv("UV", raising=False)
    folder = RunDirectory.create("outputs/x", CONFIG)
    record = json.loads((tmp_path / "outputs/x/run.json").read_text())
    assert record == folder.record
    assert record["status"] == "running" and record["seed"] == 7
    assert record["command"] == "python scripts/train.py seed=7 'name=a b'"
    assert record["versions"]["torch"].startswith("2.")
    assert record["git"] is None or len(record["git"]["revision"]) == 40
    assert RunDirectory.open("outputs/x").config() == CONFIG


def test_no_run_is_overwritten(tmp_path):
    RunDirectory.create(tmp_path / "run", CONFIG).update(status="finished")
    with pytest.raises(InputError, match="already contains a run, and runs are never overwritten"):
        RunDirectory.create(tmp_path / "run", CONFIG)
    assert RunDirectory.open(tmp_path / "run").record["status"] == "finished"


def test_a_folder_with_other_files_is_not_taken_for_a_run(tmp_path, monkeypatch):
    """A run that starts over deletes its folders, which may be the classes of a data set."""
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "flowers" / "train" / "rose" / "1.png"
    image.parent.mkdir(parents=True)
    image.touch()
    message = "hydra.run.dir=flowers already contains train: a run needs a new directory of its own"
    with pytest.raises(InputError, match=message):
        RunDirectory.create("flowers", CONFIG)
    with pytest.raises(InputError, match=message):
        check_command_line("train", ["data=mnist_5k", "hydra.run.dir=flowers"])
    assert image.is_file() and not (tmp_path / "flowers" / ".lock").exists()
    (tmp_path / "new" / ".hydra").mkdir(parents=True)  # by Hydra
    (tmp_path / "new" / "train.log").touch()
    assert RunDirectory.create("new", CONFIG).record["status"] == "running"
    killed = RunDirectory("killed")  # before its first record
    killed.lock()
    (tmp_path / "killed" / "config.yaml").touch()
    check_command_line("train", ["data=mnist_5k", "hydra.run.dir=killed"])
    (tmp_path / "killed" / ".lock").unlink()
    with pytest.raises(InputError, match="hydra.run.dir=killed already contains config.yaml"):
        RunDirectory.create("killed", CONFIG)


def test_a_checkpoint_may_be_named_as_in_the_run(tmp_path):
    folder = RunDirectory.create(tmp_path / "run", CONFIG)
    path = tmp_path / "run" / "checkpoints" / "mine.ckpt"
    path.parent.mkdir()
    write_checkpoint({"state_dict": {}}, path)
    assert folder.checkpoint("mine.ckpt") == path
    with pytest.raises(InputError, match="checkpoint=other.ckpt: other.ckpt does not exist"):
        folder.checkpoint("other.ckpt")


def test_the_last_run_may_be_in_the_folder_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDirectory.create("outputs", CONFIG)
    assert latest("last") == "outputs"


def test_a_finished_run_says_how_to_train_further(tmp_path):
    for scheduler, advice in (("OneCycleLR", "last.ckpt ckpt_weights_only=true and a larger"),
                              ("StepLR", "last.ckpt and a larger trainer.max_epochs")):  # fmt: skip
        target = {"_target_": f"torch.optim.lr_scheduler.{scheduler}"}
        folder = tmp_path / scheduler
        config = {**CONFIG, "model": {"scheduler": target}}
        RunDirectory.create(folder, config).update(status="finished")
        (folder / "checkpoints").mkdir()
        write_checkpoint({"state_dict": {}}, folder / "checkpoints" / "last.ckpt")
        with pytest.raises(InputError, match=advice):
            RunDirectory.open_to_resume(folder)


def test_the_duration_of_a_failed_phase_is_recorded(tmp_path):
    folder = RunDirectory.create(tmp_path, CONFIG)
    with pytest.raises(ZeroDivisionError), folder.phase("fit"):
        1 / 0  # noqa: B018
    with folder.phase("test"):
        pass
    seconds = RunDirectory.open(tmp_path).record["seconds"]
    assert list(seconds) == ["fit", "test"] and seconds["fit"] >= 0


def test_a_folder_that_is_not_a_run_is_reported_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run=nothing: there is no such folder.$"):
        RunDirectory.open("nothing")
    (tmp_path / "outputs/a/b").mkdir(parents=True)
    with pytest.raises(InputError, match=r"not a run of simplecnn \(config.yaml is missing\).$"):
        RunDirectory.open("outputs/a/b")
    folder = RunDirectory.create("outputs/a/c", CONFIG)
    with pytest.raises(InputError, match=r"The newest run here: run=outputs/a/c$"):
        RunDirectory.open("outputs/a/d")
    newer = RunDirectory.create("outputs/newer", CONFIG)
    os.utime(newer.path / "run.json", (2e9, 2e9))
    with pytest.raises(InputError, match=r"The newest run here: run=outputs/newer$"):
        RunDirectory.open("outputs/a/d")
    with pytest.raises(InputError, match=r"The newest unfinished run here: resume=outputs/newer$"):
        RunDirectory.open_to_resume("outputs/a/d")
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(InputError, match=r"The newest run here: run=outputs/a/c$"):
        RunDirectory.open("outputs/a/d")  # the newer one has no checkpoint yet
    file = "outputs/a/c/checkpoints/best.ckpt"
    with pytest.raises(InputError, match=r"directory. Type run=outputs/a/c checkpoint=best.ckpt$"):
        RunDirectory.open(file)
    newer.update(status="finished")
    folder.update(status="pruned")
    with pytest.raises(InputError, match="this trial was pruned"):
        RunDirectory.open_to_resume("outputs/a/c")
    with pytest.raises(InputError, match="this run is finished, without last.ckpt"):
        RunDirectory.open_to_resume("outputs/newer")
    with pytest.raises(InputError, match=r"there is no such folder.$"):
        RunDirectory.open_to_resume("outputs/a/d")
    (folder.path / "run.json").write_text("{")
    with pytest.raises(InputError, match="run.json is damaged"):
        RunDirectory.open(folder.path)
    write_json(folder.path / "run.json", {"status": "finished"})
    (folder.path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="config.yaml cannot be read: "):
        RunDirectory.open(folder.path).config()
    (folder.path / "config.yaml").write_text("a: 3")
    with pytest.raises(InputError, match="config.yaml is not the configuration of a run"):
        RunDirectory.open(folder.path).config()


def test_a_missing_checkpoint_is_reported_with_the_existing_ones(tmp_path):
    folder = RunDirectory.create(tmp_path, CONFIG)
    with pytest.raises(InputError, match=r"best.ckpt does not exist. In this run: none."):
        folder.checkpoint("best")
    (tmp_path / "checkpoints").mkdir()
    write_zip(tmp_path / "checkpoints/last.ckpt")
    assert folder.checkpoint("last") == tmp_path / "checkpoints/last.ckpt"
    assert folder.checkpoint(str(tmp_path / "checkpoints/last.ckpt")).name == "last.ckpt"
    with pytest.raises(InputError, match=r"In this run: last.ckpt."):
        folder.checkpoint("best")
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text() + "monitor: null\n")  # best falls back to last
    assert folder.checkpoint("best").name == "last.ckpt"


def test_a_run_that_lost_its_last_checkpoint_keeps_its_best(tmp_path):
    folder = RunDirectory.create(tmp_path, CONFIG)
    folder.release()
    (tmp_path / "checkpoints").mkdir()
    write_zip(tmp_path / "checkpoints/best.ckpt")
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,epoch,val/acc\n938,0,0.9\n")
    RunDirectory.open_to_resume(tmp_path)  # killed before its first epoch was saved: starts over
    metrics.write_text("step,epoch,val/acc\n938,0,0.9\n1876,1,0.95\n")
    with pytest.raises(InputError, match=r"has no last.ckpt, .* with ckpt_path=\S+/best.ckpt, or"):
        RunDirectory.open_to_resume(tmp_path)
    assert (tmp_path / "checkpoints/best.ckpt").exists()
    (tmp_path / "checkpoints/best.ckpt").unlink()
    RunDirectory.open_to_resume(tmp_path)  # nothing is lost by starting over


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"weights")


def test_a_run_is_locked_by_one_process(tmp_path):
    folder = RunDirectory.create(tmp_path / "run", CONFIG)
    assert folder.is_locked() and (tmp_path / "run" / ".lock").exists()
    with pytest.raises(InputError, match="The run in .*run is locked by another process.$"):
        RunDirectory.resume_or_create(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="resume=.*: this run is locked by another process.$"):
        RunDirectory.open_to_resume(tmp_path / "run")
    folder.release()
    assert not folder.is_locked() and not (tmp_path / "run" / ".lock").exists()
    RunDirectory.resume_or_create(tmp_path / "run", CONFIG).release()


def test_paths_of_a_moved_run_are_updated(tmp_path):
    config = {**CONFIG, "paths": {"output_dir": "/old place/x"},
              "callbacks": {"last": {"dirpath": "/old place/x/checkpoints"}}}  # fmt: skip
    RunDirectory.create(tmp_path / "new", config).release()
    config = RunDirectory.open(tmp_path / "new").relocated_config()
    assert config["callbacks"]["last"]["dirpath"] == f"{tmp_path}/new/checkpoints"
    assert config["data"] == CONFIG["data"]


def test_a_record_is_replaced_atomically(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [1, 2]})
    assert json.loads(path.read_text()) == {"b": [1, 2]}
    assert list(tmp_path.iterdir()) == [path]


def test_commands_are_formatted_for_the_shell(tmp_path, monkeypatch):
    project, bin_dir = Path(__file__).parents[1], Path(sys.executable).parent
    monkeypatch.chdir(project / "tests")
    monkeypatch.setenv("UV", "/somewhere/uv")
    assert shell_command("tensorboard --logdir x") == "uv run tensorboard --logdir x"
    monkeypatch.chdir(tmp_path)
    start = f"uv run --project {shlex.quote(str(project))}"
    assert shell_command("tensorboard --logdir x") == f"{start} tensorboard --logdir x"
    monkeypatch.delenv("UV")
    monkeypatch.setenv("PATH", str(bin_dir))
    assert shell_command("tensorboard --logdir x") == "tensorboard --logdir x"
    assert shell_command("scripts/train.py seed=1") == "python scripts/train.py seed=1"
    monkeypatch.setenv("PATH", str(tmp_path))  # the environment is not activated
    for command in ("tensorboard --logdir x", "'a dir/train.py' seed=1"):
        program, *arguments = shlex.split(shell_command(command))
        assert Path(program).parent == bin_dir and arguments[-1] in command
    assert shell_command("bin/simplecnn-train seed=1") == "bin/simplecnn-train seed=1"


def test_paths_inside_the_working_directory_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_path(tmp_path / "a/b") == "a/b"
    assert relative_path("/somewhere/else") == "/somewhere/else"


def test_files_without_permission_are_reported_as_such():
    with shared_folder() as folder:
        run = RunDirectory.create(folder / "run", CONFIG)
        run.update(status="interrupted")
        run.release()

        def child() -> None:
            drop_privileges(run.path)
            run.path.chmod(0o555)
            with pytest.raises(InputError, match="run is not writable"):
                RunDirectory.open_to_resume(run.path)
            (run.path / "run.json").chmod(0)
            with pytest.raises(InputError, match="run.json cannot be read: permission denied"):
                RunDirectory.open(run.path)

        assert wait_for_exit(fork(child)) == 0
