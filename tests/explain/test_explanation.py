"""scripts/explain.py on run directories: the files it writes, its log and its errors."""

import dataclasses
import errno
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from subjects import digit_subject
from torch import nn

from simplecnn.config.composition import compose_config
from simplecnn.errors import InputError
from simplecnn.explain.explanation import PARTS, explain, plan
from simplecnn.explain.findings import Findings

FEW = ["channels.num_images=50", "channels.layers=first", "translation.num_images=20",
       "translation.num_maps=10", "translation.reach=1", "robustness.num_images=20",
       "embedding.num_images=50", "claims.num_images=20", "attribution.num_right=1",
       "attribution.num_wrong=1"]  # fmt: skip


def config(*overrides: str) -> dict:
    return compose_config("explain", [*FEW, *overrides])


def test_all_parts_of_a_run(finished_run, tmp_path, caplog):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    before = {p.name for p in run.iterdir()}
    with caplog.at_level(logging.INFO):
        folder = explain(config(f"run={run}"))
    assert folder == run / "explain"
    assert {p.name for p in folder.iterdir()} == set(PARTS)
    assert {p.name for p in run.iterdir()} == before | {"explain"}
    for part in PARTS:
        assert list((folder / part).glob("*.png")), part
        assert np.load(folder / part / f"{part}.npz").files
        json.loads((folder / part / f"{part}.json").read_text())
    record = json.loads((folder / "channels" / "channels.json").read_text())
    assert record["num_searched"] == 500 and record["num_images"] == 50
    assert "accuracy unshifted" in caplog.text and "Weight sharing gives" in caplog.text
    command = "3 networks with different seeds. Type the run's command with -m"
    assert caplog.text.count(command) == 1
    assert "tensorboard --samples_per_plugin images=500 --logdir" in caplog.text

    # A part that is computed again replaces its own folder only.
    (folder / "robustness" / "old.png").touch()
    stamp = (folder / "channels" / "channels.json").stat().st_mtime_ns
    explain(config(f"run={run}", "parts=[robustness]", "seed=1"))
    assert not (folder / "robustness" / "old.png").exists()
    assert (folder / "channels" / "channels.json").stat().st_mtime_ns == stamp
    assert {p.name for p in folder.iterdir()} == set(PARTS)


def test_parts_that_need_convolutions_are_skipped(
    finished_run, bundled, tmp_path, monkeypatch, caplog
):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).requires_grad_(False)
    subject = dataclasses.replace(digit_subject(bundled), network=network)
    monkeypatch.setattr("simplecnn.explain.subject.load_subject", lambda *_, **__: subject)
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    with caplog.at_level(logging.INFO):
        folder = explain(config(f"run={run}"))
    assert {p.name for p in folder.iterdir()} == {"translation", "robustness", "embedding"}
    skipped = [r.message for r in caplog.records if "skipped" in r.message]
    assert [s.split()[1] for s in skipped] == ["channels:", "attribution:", "claims:"]
    with pytest.raises(InputError, match="^channels: Sequential has no 2-D convolution"):
        explain(config(f"run={run}", "parts=channels"))


def test_several_runs_are_compared(finished_run, tmp_path, caplog):
    for i in range(2):
        shutil.copytree(finished_run, tmp_path / "runs" / str(i))
    run = f"run=[{tmp_path}/runs/0,{tmp_path}/runs/1]"
    runs, parts, folder = plan(config(run))
    assert parts == ["translation", "robustness", "claims"] and len(runs) == 2
    assert folder == tmp_path / "runs" / "explain_0_1"
    for name in ("A/0", "B/0", "C/0"):
        shutil.copytree(finished_run, tmp_path / name)
    folders = [plan(config(f"run=[{tmp_path}/A/0,{tmp_path}/{b}/0]"))[2] for b in ("B", "C")]
    assert folders == [tmp_path / "explain_A_0_B_0", tmp_path / "explain_A_0_C_0"]
    with caplog.at_level(logging.INFO):
        explain(config(run, "parts=[translation,robustness]"))
    assert caplog.text.count("  mean of 2 networks   ") == 2  # a row in the table of each part
    assert "this network" not in caplog.text
    errors = np.load(folder / "robustness" / "robustness.npz")["errors"]
    assert errors.shape == (2, 9, 6) and np.array_equal(errors[0], errors[1])


def test_runs_of_different_recipes_are_not_averaged(finished_run, tmp_path):
    for name, channels, seed in (("a", "[4, 8]", 1), ("b", "[4, 8]", 2), ("c", "[5, 8]", 1)):
        shutil.copytree(finished_run, tmp_path / name)
        path = tmp_path / name / "config.yaml"
        text = path.read_text().replace("\nseed: 42", f"\nseed: {seed}")
        text = text.replace("    channels:\n    - 4\n    - 8\n", f"    channels: {channels}\n")
        path.write_text(text.replace("  seed: 42", f"  seed: {seed}"))
    runs, _, _ = plan(config(f"run=[{tmp_path}/a,{tmp_path}/b,{tmp_path}/c]"))
    key = "model.network.channels"
    assert [values for _, _, values in runs] == [{key: [4, 8]}, {key: [4, 8]}, {key: [5, 8]}]
    text = path.read_text().replace("pool: max", "pool: blur").replace("hidden: 128", "hidden: 64")
    path.write_text(text.replace("kernel_size: 3", "kernel_size: 5"))
    runs, _, _ = plan(config(f"run=[{tmp_path}/a,{tmp_path}/c]"))
    assert [values for _, _, values in runs] == [
        {"run": f"{tmp_path}/a"}, {"run": f"{tmp_path}/c"},
    ]  # fmt: skip


def test_errors_are_sentences(finished_run, tmp_path):
    def error_of(*overrides: str) -> str:
        with pytest.raises(InputError) as error:
            explain(config(*overrides))
        return str(error.value)

    run = f"run={finished_run}"
    assert error_of().startswith("Specify what to explain by exactly one of run=<run directory>")
    assert error_of(run, "sweep=x").startswith("Specify what to explain by exactly one of")
    assert error_of("run=none").startswith("run=none: there is no such folder.")
    (tmp_path / "file").touch()
    assert error_of(f"run={tmp_path}/file").endswith("/file: this is a file, not a run directory.")
    assert error_of("sweep=none").startswith("sweep=none: there is no such folder.")
    assert (
        error_of(run, "parts=[channels,chanels]")
        == f"parts is chanels: it must be all, or a list of {', '.join(PARTS)}. "
        "Did you mean channels?"
    )
    assert error_of(run, "parts=[]").startswith("parts is [")
    assert error_of(run, "channels.layers=[conv1,conv_2]") == (
        "layers: conv_2 is not a convolution of this network. Allowed: all, first, last, or a list "
        "of conv1, conv2. Did you mean conv2?"
    )
    assert "channels can explain only one network" in error_of(
        f"run=[{finished_run},{finished_run}]", "parts=channels"
    )
    linked = Path(shutil.copytree(finished_run, tmp_path / "linked"))
    (linked / "explain").symlink_to(tmp_path)
    assert "explain is a symbolic link out of the run" in error_of(f"run={linked}")
    broken = tmp_path / "broken"
    shutil.copytree(finished_run, broken)
    shutil.rmtree(broken / "checkpoints")
    assert "In this run: none." in error_of(f"run={broken}")
    content = (broken / "config.yaml").read_text()
    (broken / "config.yaml").write_text(content.replace("crop: null", "crop: all"))
    assert "model.network.crop is 'all': it must be a list" in error_of(f"run={broken}")
    assert not (finished_run / "explain").exists() and not (broken / "explain").exists()
    with pytest.raises(InputError, match="channels.num_images is 0: it must be an integer"):
        config(run, "channels.num_images=0")


def test_missing_captum_is_reported_with_the_command_that_installs_it(finished_run, monkeypatch):
    monkeypatch.setattr("simplecnn.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match="attribution needs .* Type uv sync --extra explain"):
        plan(config(f"run={finished_run}"))
    assert plan(config(f"run={finished_run}", "parts=claims"))[1] == ["claims"]


def test_images_of_the_wrong_size(finished_run):
    import simplecnn
    from simplecnn.explain.subject import load_subject
    from simplecnn.models.simple_cnn import SimpleCNN

    run = simplecnn.load(finished_run)
    assert load_subject(run).images.shape == (500, 1, 28, 28)
    run.network = SimpleCNN(image_size=64).eval()
    with pytest.raises(InputError, match="does not accept images of 1 x 28 x 28"):
        load_subject(run)


def test_findings_are_saved_completely_or_not_at_all(tmp_path):
    Findings([], {"x": 1}, {}, []).save(tmp_path, "a")

    def figures():
        yield from ()
        raise RuntimeError("no ink")

    broken = Findings([], {}, {"x": np.zeros(2)}, figures())
    with pytest.raises(RuntimeError, match="no ink"):
        broken.save(tmp_path, "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert json.loads((tmp_path / "a" / "a.json").read_text()) == {"x": 1}


def test_findings_may_be_saved_by_several_processes_at_once(tmp_path):
    def save(i: int) -> None:
        Findings([], {"i": i}, {"x": np.zeros(9)}, []).save(tmp_path, "a")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(100)))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["a.json", "a.npz"]


def test_findings_are_saved_though_another_process_was_faster_and_a_third_moved_its_results_away(
    tmp_path, monkeypatch
):
    rename, refused = Path.rename, []

    def rename_after_others(path: Path, target: Path) -> Path:
        if path.name == "new" and len(refused) < 3:
            refused.append(path)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_after_others)
    Findings([], {"i": 1}, {"x": np.zeros(9)}, []).save(tmp_path, "a")
    assert len(refused) == 3
    assert json.loads((tmp_path / "a" / "a.json").read_text()) == {"i": 1}
