"""Command lines: error messages, --help, dry runs, and the name of the run directory."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from children import run_forked
from fuzz import compose_once
from omegaconf import OmegaConf

from simplecnn.checkpoint_file import check_checkpoint
from simplecnn.command_line import check_command_line, check_imported
from simplecnn.config.composition import compose_config
from simplecnn.config.schema import COMMANDS
from simplecnn.config.search_path import conf_dir
from simplecnn.config.spelling import format_override
from simplecnn.directories import latest
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory


@pytest.fixture(autouse=True, scope="module")
def compositions():
    with compose_once():
        yield


def mistakes_of(*argv: str, name: str = "train") -> list[str]:
    with pytest.raises(InputError) as caught:
        check_imported(name, check_command_line(name, argv))
    return list(caught.value.mistakes)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "parts"])
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        check_command_line(name, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert len([ln for ln in text.splitlines() if ln.startswith("  uv run scripts/")]) >= 2
    assert f"scripts/{name}.py" in text and "yaml-language-server" not in text
    head = (conf_dir() / f"{name}.yaml").read_text().splitlines()[1]
    assert text.startswith(head.removeprefix("# "))
    for key in OmegaConf.load(conf_dir() / f"{name}.yaml"):
        assert key in ("defaults", "hydra") or f"  {key}:" in text, key
        if key in ("run", "sweep"):
            assert re.search(rf"^  {key}: .* # .*last: the newest {key}$", text, re.MULTILINE)
    foreign = {"run: ???", "ckpt_path:", "digit:"} - {
        "train": {"ckpt_path:"}, "convolution": {"digit:"},
        "evaluate": {"run: ???"}, "predict": {"run: ???"}, "export": {"run: ???"},
    }.get(name, set())  # fmt: skip
    assert not [key for key in foreign if key in text]
    groups = ["callbacks: checkpoint, ", "logger: csv, ", "hydra/launcher: basic, joblib"]
    assert [group in text for group in groups] == [name == "train"] * 3
    assert ("  model.optimizer.lr: 1.0e-3" in text) == (name == "train")


def test_the_version_is_that_of_simplecnn(capsys):
    with pytest.raises(SystemExit) as end:
        check_command_line("train", ["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"simplecnn \d\S+, Hydra 1\.3\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "argv", "sentence"),
    [
        ("evaluate", ["run=[a,b]"], "run is ['a', 'b']: it must be a string."),
        ("evaluate", ["run=a", "checkpoint=null"], "checkpoint is null: it must be a string."),
        ("sweep", ["sweep=true"], "sweep is true: it must be a string."),
        (
            "explain",
            ["channels.layer=all"],
            "channels.layer is not a key of channels. Did you mean layers?",
        ),
        ("convolution", ["digit=5000"], "digit is 5000: it must be an integer from 0 to 4999."),
        ("train", ["--lr", "0.1"], "--lr is not an option: type model.optimizer.lr=…, without "),
        ("train", ["--resume"], "--resume is not an option: type resume=…, without dashes."),
        (
            "train",
            ["--hlep"],
            "--hlep is not an option: --hydra-help lists the options. Did you mean --help?",
        ),
        (
            "train",
            ["+callbacks.x._target_=simplecnn.callbacks.report.Report", "+callbacks.x.every=2"],
            "callbacks.x.every is not a key of simplecnn.callbacks.report.Report, which has none.",
        ),
        (
            "explain",
            ["run=last", "parts=claims,channels", "--cfg", "job"],
            'With --cfg, write a list in brackets: "parts=[claims,channels]".',
        ),
        (
            "train",
            ["+trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1"],
            "trainer.gradient_clip_val is 1: with precision bf16-mixed, a fused optimizer",
        ),
        (
            "train",
            [
                "model.network._target_=torchvision.models.resnet18",
                "model.network.num_classes=10",
                "data.channels=3",
                "data.normalize=true",
            ],
            "model.network: data.normalize is true, but torchvision.models.resnet18 has no",
        ),
        ("train", ["lr", "=", "3"], "Write lr=3, without spaces around the '='."),
        (
            "train",
            ["model.network.channels=[8,", "16]", "seed=1"],
            'Write "model.network.channels=[8,16]", without spaces.',
        ),
        (
            "train",
            ["model.network.channels=[8,", "16", "seed=1"],
            "'model.network.channels=[8,16' cannot be parsed: a bracket",
        ),
        ("train", ["quickstart"], "'quickstart' cannot be parsed: type experiment=quickstart"),
        ("evaluate", ["run=a", "trainer=cpu"], "trainer is not a config group of this command."),
        (
            "evaluate",
            ["run=a", "trainer.max_epochs=3"],
            "trainer is not a key of this command, but of train.",
        ),
        ("train", ["run=last"], "run is not a key of this command, but of evaluate, predict, exp"),
        (
            "evaluate",
            ["run=a", "callbacks.filters.layers=all"],
            "callbacks is not a key of this command, but of train.",
        ),
        (
            "train",
            ["dry_run.x=1,2"],
            "dry_run.x is not a key of the configuration. Did you mean dry_",
        ),
        ("evaluate", ["run=0"], "run is 0: it must be a string. Type \"run='0'\""),
        (
            "evaluate",
            ["run=a,b"],
            "run=a,b lists several values: add -m to run a sweep, or type "
            "\"run='a,b'\" if it is a single one.",
        ),
        ("predict", ["run=a", "it.png"], "'it.png' cannot be parsed: type image=it.png"),
        ("train", ["--batch-size", "3"], "--batch-size is not an option: type data.batch_size=…"),
        ("train", ["hparams_search=optuna"], "hparams_search describes several runs: add -m"),
        (
            "train",
            ["callbacks.early_stopping.patience=3"],
            "callbacks.early_stopping is not set: type callbacks=[default,early_stopping] as well.",
        ),
        (
            "train",
            ["callbacks.largest._target_=simplecnn.callbacks.report.Report"],
            "callbacks.largest is not set yet: add it with a plus, +callbacks.largest._target_=s",
        ),
        (
            "train",
            ["model/optimizer.lr=0.1"],
            "'model/optimizer.lr=0.1' cannot be parsed: keys are written with dots, type "
            "model.optimizer.lr=0.1",
        ),
        (
            "train",
            ["model.network.channels=16,32"],
            "model.network.channels=16,32 lists several values: add -m to run a sweep, or "
            "write a list as model.network.channels=[16,32].",
        ),
        (
            "train",
            ["model.network.channels=[16,32"],
            "'model.network.channels=[16,32' cannot be parsed: a bracket is not closed.",
        ),
        (
            "train",
            ["model.lr=0.1"],
            "model.lr is not a key of simplecnn.models.classifier.Classifier. Type "
            "model.optimizer.lr=0.1",
        ),
        (
            "train",
            ["data.dataset=mnist"],
            "data.dataset is 'mnist': it must be MNIST, FashionMNIST, KMNIST or MNIST5k. Did you "
            "mean MNIST?",
        ),
        (
            "export",
            ["run=x", "format=onnxx"],
            "format is 'onnxx': it must be safetensors, onnx or torch_export. Did you mean onnx?",
        ),
        ("evaluate", [], "run is missing: type run=last, or run=<directory>"),
        (
            "train",
            ["data=image_folder", "data.root=flowers"],
            "data.root is 'flowers': it must be an existing folder. Looked in ",
        ),
        (
            "train",
            [
                "data=mnist_5k",
                "model.network._target_=torchvision.models.resnet18",
                "model.network.num_classes=10",
            ],
            "model.network: the network does not accept images of shape 1 x 28 x 28: Invalid "
            "channel dimensions. Type data.channels=3, which repeats gray.",
        ),
        ("train", ["hydra.mode=X"], "hydra.mode=X: "),
        ("train", ["--cfg", "hydra", "--resolve"], "--cfg hydra cannot be resolved without"),
        ("train", ["+callbacks.best.save_last=true"], "callbacks.best.save_last is set, but call"),
        (
            "train",
            ["data=mnist_5k", "+trainer.overfit_batches=0.05", "data.eval_batch_size=500"],
            "trainer.overfit_batches is 0.05: less than one of 1 batches. Type a number of ",
        ),
        ("train", ["hparams_search=grid"], "hparams_search describes several runs: add -m"),
        ("train", ["trainer.max_epoch=3"], "trainer.max_epoch is not a key of pytorch_lightning."),
        (
            "train",
            ["trainer.epochs=3"],
            "trainer.epochs is not a key of pytorch_lightning.Trainer. Did you mean max_epochs?",
        ),
        ("train", ["model.optimizer.lr=-1"], "model.optimizer: torch.optim.Adam rejects its "),
        ("train", ["+model.optimizer.lrr=1"], "model.optimizer.lrr is not a key of torch.optim."),
        ("train", ["-m", "model.optimizer.lr=-1,1"], "model.optimizer: torch.optim.Adam rejects "),
        ("train", ["resume=x", "seed=3"], "seed=3: resume uses the run's own "),
        ("train", ["resume=x", "hydra.run.dir=y"], "hydra.run.dir=y: resume uses the run's own "),
        ("train", ["name=\udcff"], r"'name=\udcff' is not UTF-8: rename it, or name its folder."),
        ("train", ["-m", "resume=x,y"], "resume continues one run: leave out -m. A sweep is "),
    ],
)
def test_a_mistake_is_reported_with_what_to_type(name, argv, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (mistake,) = mistakes_of(*argv, name=name)
    assert mistake.startswith(sentence), mistake
    assert list(tmp_path.iterdir()) == []


FILES = {
    "nopackage": ("seed: 5", "experiment=nopackage has no effect: its file must begin with "
                             "the line '# @package _global_'."),
    "override": ("defaults: [{override /data: mnist_5k}]", "In 'experiment/override': Could not "
                 "override 'data@experiment.data'. Its file must begin with the line "
                 "'# @package _global_'."),
    "sead": ("# @package _global_\nsead: 5", "sead is not a key of the configuration. "
                                             "Did you mean seed?"),
    "dots": ("# @package _global_\n'trainer.max_epochs': 5", "'trainer.max_epochs' is a single key "
             "with a dot in a YAML file: write trainer: and, indented below it, max_epochs:"),
    "list": ("# @package _global_\n- a", "In 'experiment/list': a list stands where keys with "
                                         "values are expected."),
    "latin": ("# @package _global_\nname: \udcff", "a selected YAML file is not UTF-8, at byte 26"),
    "sgdd": ("# @package _global_\ndefaults: [{override /model/optimizer: sgdd}]",
             "Could not find 'model/optimizer/sgdd': available options are adam, adamw, sgd. Did "
             "you mean sgd?"),
    "broken": ("# @package _global_\na: [", "{folder}/experiment/broken.yaml, line 3: expected"),
    "lr": ("# @package _global_\nlr: 0.1", "lr is not a key of the configuration. "
                                           "Did you mean model.optimizer.lr?"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_invalid_experiment_file_is_reported(name, tmp_path):
    text, sentence = FILES[name]
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / f"{name}.yaml"
    file.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")
    (mistake,) = mistakes_of("--config-dir", str(tmp_path), f"experiment={name}")
    assert mistake.startswith(sentence.replace("{folder}", str(tmp_path))), mistake


def test_an_experiment_may_be_in_a_subfolder(tmp_path):
    (tmp_path / "experiment/mine").mkdir(parents=True)
    (tmp_path / "experiment/mine/x.yaml").write_text("# @package _global_\nseed: 5\n")
    for options in (["--config-dir", str(tmp_path)], [f"hydra.searchpath=[{tmp_path}]"]):
        values, _ = check_command_line("train", [*options, "experiment=mine/x"])
        assert values["seed"] == 5
        (mistake,) = mistakes_of(*options, "experiment=mine/y")
        assert mistake.startswith("experiment=mine/y: available options are mine/x.")


def test_a_custom_primary_config(tmp_path):
    text = "defaults: [train, _self_]\nname: mine\ntrainer: {max_epochs: 3}\n"
    (tmp_path / "mine.yaml").write_text(text)
    mine = ["--config-dir", str(tmp_path), "--config-name", "mine"]
    values, _ = check_command_line("train", [*mine, "seed=5"])
    assert (values["name"], values["seed"], values["trainer"]["max_epochs"]) == ("mine", 5, 3)
    plan = check_command_line("train", [*mine, "-m", "seed=5,6"])
    assert [values["name"] for values, _ in plan.configs] == ["mine", "mine"]
    assert mistakes_of(*mine, "seeed=5") == [
        "seeed is not a key of the configuration. Did you mean seed?"
    ]


def test_hydra_run_dir_may_interpolate_hydras_own_keys():
    _, config = check_command_line("train", ["hydra.run.dir=x_${hydra:job.name}", "seed=5"])
    assert config.hydra.runtime.output_dir == os.path.abspath("x_train")


def test_overrides_may_interpolate_hydras_own_keys():
    override = "data.data_dir=${hydra:runtime.cwd}/digits"
    data_dir = f"{os.getcwd()}/digits"
    assert compose_config("train", [override])["data"]["data_dir"] == data_dir
    values, config = check_command_line("train", [override])
    check_imported("train", (values, config))
    assert values["data"]["data_dir"] == data_dir


def test_keys_may_be_integers():
    node = "{_target_:pytorch_lightning.callbacks.GradientAccumulationScheduler,scheduling:{0:4}}"
    assert compose_config("train", [f"+callbacks.x={node}"])["callbacks"]["x"]["scheduling"] == {
        0: 4
    }


def test_a_dry_run_lists_the_jobs_and_starts_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        overrides = ["-m", "dry_run=true", "seed=1,2", "model.network.pool=max,none"]
        check_imported("train", check_command_line("train", overrides))
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 0   seed=1 model.network.pool=max", "job 1   seed=1 model.network.pool=none",
        "job 2   seed=2 model.network.pool=max", "job 3   seed=2 model.network.pool=none",
        "All jobs are valid; none was started.",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as end:
        check_imported("train", check_command_line("train", ["dry_run=true"]))
    assert end.value.code == 0 and "valid" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    (mistake,) = mistakes_of("-m", "dry_run=true", "seed=1,x")
    assert mistake.startswith("seed is 'x'")


def test_a_measured_run_is_checked_before_a_directory_is_made(tmp_path, monkeypatch, finished_run):
    monkeypatch.chdir(tmp_path)
    (mistake,) = mistakes_of("run=nope", name="receptive_field")
    assert mistake.startswith("run=nope: there is no such folder.")
    (mistake,) = mistakes_of(f"run={finished_run}", "model=lenet", name="receptive_field")
    assert mistake.startswith("model=lenet: run has a model of its own.")
    assert list(tmp_path.iterdir()) == []
    os.mkfifo("pipe.ckpt")
    with pytest.raises(InputError, match="pipe.ckpt is not a file"):
        check_checkpoint(Path("pipe.ckpt"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hydra.sweeper=3", "hydra.sweeper is 3: it must be a class and its arguments. Type "),
        ("-m seed=1,2 hydra.sweeper=3", "hydra.sweeper is 3: it must be a class"),
        ("-m seed=1,2 hydra.launcher=3", "hydra.launcher is 3: it must be a class"),
        ("-m seed=1,2 hydra.launcher._target_=os.system",
         "hydra.launcher._target_: 'os.system' is not a plugin of Hydra"),
        ("-m seed=1,2 hydra/launcher=joblib hydra.launcher.n_jobs=x",
         "hydra.launcher.n_jobs is 'x': hydra_plugins.simplecnn_joblib.JoblibLauncher expects an"),
        ("-m hparams_search=optuna +hydra.sweeper.sampler.foo=3",
         "hydra.sweeper.sampler.foo is not a key of optuna.samplers.TPESampler"),
        ("-m hparams_search=optuna hydra.sweeper.sampler._target_=os.system",
         "hydra.sweeper.sampler._target_: 'os.system' is not on the list of classes"),
    ],
)  # fmt: skip
def test_plugins_of_hydra_are_checked_before_a_directory_is_made(
    line, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (mistake,) = mistakes_of(*line.split())
    assert mistake.startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("report", ["run=a,b/c"], {"run": ["a", "b/c"]}),
        ("report", ["run=last", "image=one.png,'two 2.png'"], {"image": ["one.png", "two 2.png"]}),
        ("predict", ["run=last", "image=scans,more/*.jpg"], {"image": ["scans", "more/*.jpg"]}),
        ("explain", ["run=a,b", "parts=channels,claims"], {"parts": ["channels", "claims"]}),
        ("explain", ["run=[a,b]", "checkpoint=last"], {"run": ["a", "b"], "checkpoint": "last"}),
    ],
)
def test_a_list_may_be_typed_without_brackets(name, overrides, expected):
    values, _ = check_command_line(name, overrides)
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "override"),
    [("evaluate", "run=a,b"), ("report", "run=choice(a,b)"), ("explain", "checkpoint=best,last")],
)
def test_a_list_for_a_single_value_is_rejected(name, override):
    mistake = mistakes_of(override, name=name)[0]
    assert mistake.startswith(f"{override} lists several values: add -m to run a sweep")


def test_commands_that_write_elsewhere_may_be_typed_in_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Not by its mode: root ignores it, and other users may have no access to this clone.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for command in ("evaluate", "export", "explain", "report"):
        check_command_line(command, ["run=../elsewhere"])
    check_command_line("predict", ["run=../elsewhere", "image=../one.png"])
    for command, argument in [("train", "data=mnist_5k"), ("convolution", "digit=3")]:
        with pytest.raises(InputError, match=f"^hydra.run.dir is .*: {tmp_path} is not writable.$"):
            check_command_line(command, [argument])
    assert list(tmp_path.iterdir()) == []


def test_last_and_a_directory_of_runs_mean_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for at, name in enumerate(("a/1", "a/2", "b/1")):
        path = Path("outputs", name)
        path.mkdir(parents=True)
        (path / "run.json").write_text("{}")
        os.utime(path / "run.json", (at, at))
    assert latest("last") == "outputs/b/1" and latest("outputs/a") == "outputs/a/2"
    assert latest("last", needs="*.ckpt") == "outputs/b/1"  # no run has one
    (tmp_path / "outputs/a/1/x.ckpt").touch()
    assert latest("last", needs="*.ckpt") == "outputs/a/1"
    assert latest("outputs/a/1") == "outputs/a/1" and latest("elsewhere") == "elsewhere"
    newest = Path("outputs/b/1/run.json")
    newest.write_text('{"status": "failed"}')  # before the end of the first epoch
    os.utime(newest, (9, 9))
    assert latest("last") == "outputs/a/2"
    Path("outputs/b/1/checkpoints").mkdir()
    Path("outputs/b/1/checkpoints/last.ckpt").touch()
    assert latest("last") == "outputs/b/1"
    (tmp_path / "outputs/a/sweep.json").touch()
    assert latest("last", "sweep.json") == "outputs/a"
    for choose in (latest, lambda path: check_command_line("train", [f"resume={path}"])):
        with pytest.raises(InputError, match="^outputs/a is a sweep: choose one of its jobs, such"):
            choose("outputs/a")


def model(overrides: list[str]) -> dict[str, Any]:
    return compose_config("train", overrides)["model"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], None),
        (["model.optimizer.lr=0.1", "data.batch_size=8", "seed=7"], None),
        (["model/optimizer=sgd"], "model.optimizer._target_ is torch.optim.SGD, but in "),
        (["model/scheduler=one_cycle"], "model.scheduler._target_ is torch.optim.lr_scheduler.One"),
        (["model/scheduler=cosine"], "model.scheduler._target_ is torch.optim.lr_scheduler.Cosine"),
        (["model.network.channels=[8]"], "model.network.channels is [8], but in saved.ckpt it is "),
        (["model.network.channels=[8]", "ckpt_weights_only=true"], None),
        (["model.network._target_=torch.nn.Flatten"], "model.network._target_ is torch.nn.Flatten"),
    ],
)
def test_an_incompatible_checkpoint_is_rejected(overrides, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": model([])}, "saved.ckpt")
    values = compose_config("train", [*overrides, "ckpt_path=saved.ckpt"])
    request = (values, OmegaConf.create({"hydra": {"overrides": {"task": []}, "runtime": {
        "config_sources": [], "choices": {}}}}))  # fmt: skip
    if sentence is None:
        check_imported("train", request)
        return
    with pytest.raises(InputError) as caught:
        check_imported("train", request)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(sentence) and "None" not in mistake
    # The weights of another network could not be loaded either.
    assert ("ckpt_weights_only=true" in mistake) == ("model.network" not in mistake)


def test_a_scheduler_keeps_the_length_of_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hydra = {"hydra": {"overrides": {"task": []}, "runtime": {"config_sources": [], "choices": {}}}}
    for choice, sentence in (
        ("cosine", "model.scheduler.T_max is 20, but in saved.ckpt it is 10"),
        ("one_cycle", "model.scheduler is OneCycleLR, whose length is fixed by the run of"),
    ):
        overrides = [f"model/scheduler={choice}"]
        torch.save({"state_dict": {}, "hyper_parameters": model(overrides)}, "saved.ckpt")
        overrides += ["trainer.max_epochs=20", "ckpt_path=saved.ckpt"]
        with pytest.raises(InputError, match=re.escape(sentence)):
            check_imported("train", (compose_config("train", overrides), OmegaConf.create(hydra)))
    with pytest.raises(InputError, match="model.scheduler needs to know how long the run is"):
        compose_config("train", ["model/scheduler=cosine", "trainer.max_epochs=-1",
                                 "trainer.max_steps=9"])  # fmt: skip


def write_only() -> None:
    """Replace training: a run only writes its configuration, a record and its arguments."""
    from simplecnn.training import run

    def train(config: dict[str, Any], path: Path, **arguments: Any) -> float:
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        (path / "run.json").write_text(
            json.dumps({"status": "interrupted", "format": 3, **arguments})
        )
        return 0.5

    run.train = train


def test_a_run_directory_is_named_after_the_overrides():
    overrides = ["experiment=quickstart", "+model.optimizer.betas=[0.9,0.99]", "seed=2", "seed=3",
             "model/optimizer=adamw", "~callbacks.health", "paths.data_dir=/a"]  # fmt: skip
    (name,) = Path(compose_config("train", overrides)["paths"]["output_dir"]).parts[-1:]
    assert re.fullmatch(r"[\d-]+_[\d-]+_betas-0.9-0.99_seed-3_optimizer-adamw_no-health", name), (
        name
    )
    overrides = ["data.data_dir=/a/b/digits/", "model.network._target_=torch.nn.Identity"]
    (name,) = Path(compose_config("train", overrides)["paths"]["output_dir"]).parts[-1:]
    assert name.endswith("_data_dir-digits_network-torch.nn.Identity")
    long = compose_config("train", ["+data.mirrors=[" + "a" * 300 + "]"])["paths"]["output_dir"]
    assert len(Path(long).name) < 120
    many = ["data.eval_batch_size=100", "data.batch_size=128", "model.label_smoothing=0.1",
            "model.optimizer.lr=0.0123"]  # fmt: skip
    (name,) = Path(compose_config("train", many)["paths"]["output_dir"]).parts[-1:]
    # the fourth would not fit
    assert name.endswith("_eval_batch_size-100_batch_size-128_label_smoothing-0.1")


NAMES = ["plain", "it's", 'a "quote"', "two words", "a=b", "a,b", "[a]", "{a}", "äöü日本", "back\\",
         "$HOME", "a:b", "(x)", "~", "#1", "100%", "'", "\\'", "trailing "]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_quoting_preserves_any_directory_name(name, tmp_path, monkeypatch):
    from simplecnn.training.summary import resume_instructions

    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(f"outputs/{name}")
    *_, printed = shlex.split(resume_instructions(directory).splitlines()[-1])
    for text in (format_override("hydra.run.dir", f"outputs/{name}"), printed):
        value = compose_config("train", [text])
        assert value["paths"]["output_dir"] == str(Path("outputs", name).absolute())


@pytest.mark.parametrize("name", ["0", "1e3", "-1_0", "NaN", "-inf", "null", "true"])
def test_quoting_preserves_the_type_of_a_text(name):
    assert compose_config("convolution", [format_override("name", name)])["name"] == name


@pytest.mark.parametrize("word", ["resume=it's", 'resume=a"b', "resume=a[b]", "resume=a{b},'c"])
def test_the_advice_for_a_text_is_a_word_of_the_shell(word):
    (mistake,) = mistakes_of(word)
    typed = shlex.split(mistake.partition(" cannot be parsed: type ")[2])
    assert compose_config("train", typed)["resume"] == word.partition("=")[2]


@pytest.mark.long
@pytest.mark.parametrize("name", ["it's", 'a "quote", [a]=ü'])
def test_a_run_is_resumed_in_its_own_directory(name, tmp_path):
    run_dir = f"outputs/{name}"
    first = run_forked(
        tmp_path,
        "train.py",
        "data=mnist_5k",
        format_override("hydra.run.dir", run_dir),
        trouble=write_only,
    )
    assert first.returncode == 0, first.stderr
    path = tmp_path / run_dir
    record = json.loads((path / "run.json").read_text())
    assert (record["resume"], record["requested"]) == (False, False)
    hydra_files = {p.name: p.read_text() for p in (path / ".hydra").iterdir()}
    resumed = run_forked(
        tmp_path, "train.py", format_override("resume", run_dir), trouble=write_only
    )
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads((path / "run.json").read_text())
    assert (record["resume"], record["requested"]) == (True, True)
    assert {p.name: p.read_text() for p in (path / ".hydra").iterdir()} == hydra_files
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == [name]


@pytest.mark.parametrize("option", ["disabled", "none", "stdout", "default"])
def test_hydras_options_for_logging_work(option, tmp_path):
    done = run_forked(
        tmp_path, "train.py", "data=mnist_5k", f"hydra/job_logging={option}", "hydra.run.dir=run",
        trouble=write_only,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/run.json").is_file()


def test_a_run_with_a_symlink_out_of_it_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    (run / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for file in ("config.yaml", "run.json"):
        (run / file).write_text('{"format": 3}')
    (run / "images" / "inside").symlink_to(run / "run.json")
    check_command_line("train", ["resume=run"])
    (run / "wandb").mkdir()
    (run / "wandb" / "debug.log").symlink_to(tmp_path / "elsewhere")  # simplecnn writes none there
    check_command_line("train", ["resume=run"])
    (run / "images" / "out").symlink_to(tmp_path / "elsewhere")
    (mistake,) = mistakes_of("resume=run")
    assert mistake == "run/images/out is a symbolic link out of the run: nothing is written there."


def test_hydras_own_options_work(tmp_path):
    shown = run_forked(tmp_path, "train.py", "--cfg", "job", "model.optimizer.lr=0.5",
                       "data.data_dir=${hydra:runtime.cwd}/x")  # fmt: skip
    assert shown.returncode == 0 and "lr: 0.5" in shown.stdout
    assert "data_dir: ${hydra:runtime.cwd}/x" in shown.stdout
    info = run_forked(tmp_path, "train.py", "--info", "searchpath")
    assert info.returncode == 0 and info.stdout.count(str(conf_dir())) == 1
    completed = run_forked(
        tmp_path, "train.py", "-sc", "query=bash",
        COMP_LINE="scripts/train.py model/optimizer=", COMP_POINT="33",
    )  # fmt: skip
    options = "model/optimizer=adam model/optimizer=adamw model/optimizer=sgd"
    assert completed.stdout.strip() == options
    assert run_forked(tmp_path, "train.py", "--hydra-help").stdout.startswith("Hydra (")
    assert list(tmp_path.iterdir()) == []


def test_no_private_name_of_hydra_is_imported():
    import simplecnn

    for path in Path(simplecnn.__file__).parent.rglob("*.py"):
        if path.parent.name == "config" or path.name in ("cli.py", "command_line.py"):
            text = path.read_text()
            assert "hydra._internal" not in text and "sys.argv +=" not in text, path
            assert "sys.argv.append" not in text and "sys.argv.insert" not in text, path
    assert "simplecnn.cli" in sys.modules
