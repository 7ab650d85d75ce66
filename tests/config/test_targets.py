"""Which classes a configuration may build, and how their arguments are checked."""

import inspect
import sys

import pytest
import pytorch_lightning as pl
import torch
from fuzz import compose_once
from omegaconf import OmegaConf

from simplecnn.config import schema
from simplecnn.config.arguments import REQUIRED_PACKAGES, check_classes, missing_arguments
from simplecnn.config.build import build, target_nodes
from simplecnn.config.composition import compose_config
from simplecnn.config.targets import TargetNotAllowed, find_class, is_allowed
from simplecnn.errors import InputError


@pytest.fixture(autouse=True, scope="module")
def compositions():
    with compose_once():
        yield


SCHEDULERS = torch.optim.lr_scheduler
REQUIRED = {  # arguments without a default
    "StepLR": {"step_size": 3},
    "MultiStepLR": {"milestones": [1, 2]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
    "OneCycleLR": {"max_lr": 0.1},
    "SequentialLR": {
        "schedulers": [
            {"_target_": "torch.optim.lr_scheduler.LinearLR", "total_iters": 2},
            {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3},
        ],
        "milestones": [2],
    },
    "ChainedScheduler": {"schedulers": [{"_target_": "torch.optim.lr_scheduler.LinearLR"}]},
    "EarlyStopping": {"monitor": "val/acc"},
    "GradientAccumulationScheduler": {"scheduling": {0: 4}},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "here"},
    "StochasticWeightAveraging": {"swa_lrs": 0.01},
}
NEED_FUNCTIONS = ("LambdaLR", "MultiplicativeLR", "LambdaCallback", "ThroughputMonitor")
ABSTRACT = ("Optimizer", "LRScheduler", "_LRScheduler")


def classes(module, base) -> list[str]:
    return [
        name
        for name in dir(module)
        if isinstance(getattr(module, name), type) and issubclass(getattr(module, name), base)
        if name not in (*NEED_FUNCTIONS, *ABSTRACT)
    ]


def mistakes(config) -> list[str]:
    try:
        check_classes(config)
    except InputError as error:
        return list(error.mistakes)
    return []


def optimizer(name: str, **arguments) -> dict:
    return {"model": {"optimizer": {"_target_": f"torch.optim.{name}", **arguments}}}


@pytest.mark.parametrize("name", classes(torch.optim, torch.optim.Optimizer))
def test_every_optimizer_builds_and_steps_or_is_rejected(name):
    rejected = {
        "Muon": "model.optimizer: torch.optim.Muon rejects its arguments: Muon only supports 2D",
        "SparseAdam": "model.optimizer: torch.optim.SparseAdam failed at a trial step: SparseAdam",
    }
    expected = [rejected[name]] if name in rejected else []
    sentences = mistakes(optimizer(name))
    assert len(sentences) == len(expected)
    assert all(s.startswith(e) for s, e in zip(sentences, expected, strict=True)), sentences


@pytest.mark.parametrize("name", classes(SCHEDULERS, SCHEDULERS.LRScheduler))
def test_every_scheduler_builds(name):
    node = {"_target_": f"torch.optim.lr_scheduler.{name}", **REQUIRED.get(name, {})}
    config = optimizer("SGD", momentum=0.9)
    config["model"]["scheduler"] = node
    assert mistakes(config) == []
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    sgd = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    length = {"total_steps": 9} if name == "OneCycleLR" else {}
    assert isinstance(build({**node, **length}, optimizer=sgd), getattr(SCHEDULERS, name))


def test_a_partial_is_tried_like_the_object_it_builds():
    config = optimizer("Adam", _partial_=True, lr=0.001)
    node = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True}
    config["model"]["scheduler"] = node
    assert mistakes(config) == []  # its module passes max_lr
    node["max_lr"] = 0.1
    assert mistakes(config) == []
    node["pct_start"] = 2.0
    (mistake,) = mistakes(config)
    assert mistake.startswith("model.scheduler: ") and "pct_start" in mistake
    (mistake,) = mistakes(optimizer("Adam", _partial_=True, lr=-1))
    assert mistake.endswith("Invalid learning rate: -1")


@pytest.mark.parametrize("name", classes(pl.callbacks, pl.Callback))
def test_every_callback_of_lightning_builds(name):
    node = {"_target_": f"pytorch_lightning.callbacks.{name}", **REQUIRED.get(name, {})}
    assert mistakes({"callbacks": {"x": node}}) == []
    assert isinstance(build(node), getattr(pl.callbacks, name))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (optimizer("Adam", lrr=1), "model.optimizer.lrr is not a key of torch.optim.Adam. "
                                   "Did you mean lr?"),
        (optimizer("Adam", lr="abc"), "model.optimizer.lr is 'abc': torch.optim.Adam expects "
                                      "a number."),
        (optimizer("Adam", lr=-1), "model.optimizer: torch.optim.Adam rejects its arguments: "
                                   "Invalid learning rate: -1"),
        (optimizer("Adam", betas=[0.9]), "model.optimizer.betas is [0.9]: torch.optim.Adam "
                                         "expects a list of 2: a number; a number."),
        (optimizer("Adam", fused=True, foreach=True), "model.optimizer: torch.optim.Adam rejects"),
        (optimizer("Adam", params=3), "model.optimizer.params cannot be set: simplecnn passes "),
        (optimizer("Sgd"), "model.optimizer._target_: torch.optim has no Sgd. Did you mean SGD?"),
        ({"model": {"network": {"_target_": "torch.optim.Adam"}}},
         "model.network._target_: torch.optim.Adam is not a subclass of torch.nn.Module, which is "
         "required here."),
        ({"model": {"network": {"_target_": "torch.nn.Linear", "in_features": 3}}},
         "model.network.out_features is missing: torch.nn.Linear requires it."),
        ({"model": {"network": {"_target_": "torch.nn.Conv2d", "out_channels": 1,
                                "kernel_size": 3}}},
         "model.network.in_channels is missing: torch.nn.Conv2d requires it. Training infers it "
         "from the data, but this command has no data: type model.network.in_channels=1"),
        ({"model": {"network": {"_target_": "torch.nn.Sequental"}}},
         "model.network._target_: torch.nn has no Sequental. Did you mean Sequential?"),
        ({"model": {"network": {"_target_": "torchvision.models.resnet18", "channels": 3}}},
         "model.network: torchvision.models.resnet18 rejects its arguments: ResNet.__init__() got"),
        ({"model": {"network": {"_target_": "torchvision.models.resnet19"}}},
         "model.network._target_: torchvision.models.resnet19 cannot be imported: there is no such "
         "model. Did you mean resnet18?"),
        ({"model": {"network": {"_target_": "torchvision.models.resnet18", "weights": "BEST"}}},
         "model.network.weights is 'BEST': torchvision.models.resnet18 expects one of IMAGENET1K"),
        ({"trainer": {"_target_": "pytorch_lightning.Trainer", "max_epoch": 3}},
         "trainer.max_epoch is not a key of pytorch_lightning.Trainer. Did you mean max_epochs?"),
        ({"trainer": {"_target_": "pytorch_lightning.Trainer", "enable_model_summary": "x"}},
         "trainer.enable_model_summary is 'x': pytorch_lightning.Trainer expects true or false, or "
         "null."),
        ({"trainer": {"_target_": "pytorch_lightning.Trainer", "strategy": "dpp"}},
         "trainer: pytorch_lightning.Trainer rejects its arguments: You selected an invalid"),
        ({"callbacks": {"x": {"_target_": "pytorch_lightning.callbacks.EarlyStopping",
                              "monitor": "val/acc", "mode": "up"}}},
         "callbacks.x: pytorch_lightning.callbacks.EarlyStopping rejects its arguments: `mode`"),
        ({"callbacks": {"x": {"_target_": "torch.nn.ReLU"}}},
         "callbacks.x._target_: torch.nn.ReLU is not a subclass of pytorch_lightning.Callback"),
    ],
)  # fmt: skip
def test_rejected_arguments_are_reported_with_their_key(config, sentence):
    (mistake,) = mistakes(config)
    assert mistake.startswith(sentence), mistake


def test_missing_arguments_follow_hydras_keys():
    linear = {"_target_": "torch.nn.Linear"}
    assert missing_arguments(linear, torch.nn.Linear) == ["in_features", "out_features"]
    assert missing_arguments({**linear, "_args_": [3]}, torch.nn.Linear) == ["out_features"]
    assert missing_arguments({**linear, "_partial_": True}, torch.nn.Linear) == []


def test_all_mistakes_in_arguments_are_reported_at_once():
    config = optimizer("Adam", lrr=1, betas=3)
    config["trainer"] = {"_target_": "pytorch_lightning.Trainer", "max_epoch": 3}
    assert [m.split()[0] for m in mistakes(config)] == [
        "model.optimizer.lrr", "model.optimizer.betas", "trainer.max_epoch",
    ]  # fmt: skip


@pytest.mark.parametrize("target", sorted(schema.BUILT_IN))
def test_the_schema_has_the_arguments_of_the_built_in_classes(target):
    arguments: set[str] = set()
    for base in find_class(target).__mro__:  # `**options` are passed to the base class
        parameters = inspect.signature(base).parameters.values()
        arguments |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    fields = {field.alias or name for name, field in schema.BUILT_IN[target].model_fields.items()}
    passed_by_code = {"purge_step", "test_classes", "validation"}
    assert {n for n in fields if not n.startswith("_")} == arguments - passed_by_code


def test_functions_and_lambdas_are_rejected():
    for target in (
        "pytorch_lightning.callbacks.LambdaCallback", "torch.optim.lr_scheduler.LambdaLR",
        "hydra.utils.get_method", "builtins.eval", "os.system", "torch.load", "torch.hub.load",
        "torch.nn.functional.relu", "torch.nn.init.zeros_", "torch.nn.modules.linear.Linear",
        "pytorch_lightning.LightningModule", "pytorch_lightning.seed_everything", "", 3, None,
        "torch.nn.Linear.__init__", "torchvision.models.os.system", "torchvision.io.read_image",
    ):  # fmt: skip
        with pytest.raises(TargetNotAllowed):
            build({"_target_": target})
    for function in ("torch.nn.factory_kwargs", "torch.optim.functional", "torch.nn.parameter"):
        with pytest.raises(InputError):
            build({"_target_": function})


# --------------------------------------------------------------------------------- custom classes

PARTS = """
import torch
from subprocess import Popen
from pytorch_lightning import Callback, LightningDataModule, LightningModule
from simplecnn.models.classifier import Classifier

class Net(torch.nn.Module):
    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()

class Lit(LightningModule):
    def __init__(self, hidden: int = 3):
        super().__init__()

class Better(Classifier):
    def __init__(self, *args, weight: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)

class Data(LightningDataModule):
    def __init__(self, batch_size: int = 3):
        super().__init__()

class Look(Callback):
    pass

class Plain:
    pass
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A working directory with a custom module, and modules in directories that are untrusted."""
    (tmp_path / "my_parts.py").write_text(PARTS)
    (tmp_path / "broken_parts.py").write_text("import nothing_of_that_name")
    for folder, mark in (("run", "run.json"), ("venv", "pyvenv.cfg"), ("site-packages", "x")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / mark).write_text("")
        (tmp_path / folder / "untrusted.py").write_text("open('harm', 'w')\n" + PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_parts", "run", "run.untrusted", "broken_parts"):
        sys.modules.pop(name, None)


def test_a_file_that_is_missing_or_untrusted_is_named(parts):
    (parts / "my_package").mkdir()
    (parts / "my_package" / "net.py").write_text(PARTS)
    for target, sentence in (
        ("run.untrusted.Net", "run/untrusted.py is in a virtual environment, or in the directory"),
        ("my_package.nets.Net", "there is no my_package/nets.py in .* Did you mean net.py?"),
        ("EMAWeightAveraging", "is not a full name: type its module too, as in torch.optim.SGD"),
        ("my_prts.Net", "there is no my_prts.py in .* Did you mean my_parts.py?"),
        ("simplecnn.SimpleCNN", "type simplecnn.models.simple_cnn.SimpleCNN$"),
        ("torch.optim.adam.Adam", "type torch.optim.Adam$"),
        ("lightning.Trainer", "type pytorch_lightning.Trainer$"),
        ("lightning.pytorch.loggers.csv_logs.CSVLogger",
         "type pytorch_lightning.loggers.CSVLogger$"),
    ):  # fmt: skip
        with pytest.raises(TargetNotAllowed, match=sentence):
            find_class(target)


def test_a_module_of_the_package_lightning_is_told_where_to_import_from(parts):
    advice = r"\. Import from pytorch_lightning instead of lightning\.$"
    (parts / "broken_parts.py").write_text("from lightning import LightningModule")
    with pytest.raises(InputError, match=f"No module named 'lightning'.*{advice}"):
        find_class("broken_parts.Lit")
    # As if the package were installed.
    base = "type('LightningModule', (), {'__module__': 'lightning.pytorch.core.module'})"
    (parts / "my_parts.py").write_text(f"class Lit({base}): pass")
    with pytest.raises(InputError, match=f"subclass of pytorch_lightning.LightningModule{advice}"):
        find_class("my_parts.Lit", "pytorch_lightning.LightningModule")


def test_classes_below_the_working_directory_are_allowed(parts):
    assert build({"_target_": "my_parts.Net", "depth": 3}).__class__.__name__ == "Net"
    for name, sentence in [
        ("Popen", "is not a subclass of torch.nn.Module.$"),
        ("Plain", "is not a subclass of torch.nn.Module.$"),
        ("torch", "is not a class.$"),
    ]:
        with pytest.raises(TargetNotAllowed, match=f"^my_parts.{name} {sentence}"):
            find_class(f"my_parts.{name}")
    (parts / "reexports.py").write_text("from torchvision.models import ResNet\n")
    with pytest.raises(TargetNotAllowed, match="If you trust it, allow it: SIMPLECNN_TARGETS=reex"):
        find_class("reexports.ResNet")
    (mistake,) = mistakes({"callbacks": {"x": {"_target_": "my_parts.Plain"}}})
    assert "my_parts.Plain is not a subclass of pytorch_lightning.Callback" in mistake
    for target in ("run.untrusted.Net", "venv.untrusted.Net", "nowhere.Net"):
        assert not is_allowed(target)
    (parts / "logging.py").write_text(PARTS)  # shadowed by the standard library
    assert not is_allowed("logging.Net")
    assert not (parts / "harm").exists()
    place = r"\(broken_parts.py, line 1\)"
    with pytest.raises(InputError, match=f"named 'nothing_of_that_name' {place}. Looked in "):
        find_class("broken_parts.Net")
    (parts / "failing_parts.py").write_text("raise ValueError('two of one kind')\n")
    place = r"\(failing_parts.py, line 1\)"
    with pytest.raises(InputError, match=f"cannot be imported: two of one kind {place}.$"):
        find_class("failing_parts.Net")


NET = "model.network._target_=my_parts.Net"


@pytest.mark.parametrize(
    ("line", "part", "expected"),
    [
        (f"{NET} +model.network.depth=3", "network", {"depth": 3}),
        (f"{NET} ++model.network.depth=3 model.network.num_classes=10", "network",
         {"depth": 3, "num_classes": 10}),
        ("model.network._target_=torchvision.models.resnet18 model.network.num_classes=10 "
         "data.channels=3", "network", {"num_classes": 10}),
        ("model.optimizer._target_=torch.optim.SGD model.optimizer.lr=0.1", "optimizer",
         {"lr": 0.1}),
        ("model/optimizer=adamw model.optimizer._target_=torch.optim.Adam", "optimizer", {}),
        (f"model=simplecnn_large {NET} +model.network.depth=3", "network", {"depth": 3}),
        ("model.optimizer._target_=torch.optim.AdamW", "optimizer", {"lr": 0.001, "fused": True}),
    ],
)  # fmt: skip
def test_a_replaced_class_keeps_only_explicit_arguments(line, part, expected, parts):
    node = compose_config("train", line.split())["model"][part]
    assert {k: v for k, v in node.items() if k != "_target_"} == expected


def test_a_custom_lightning_module_replaces_the_classifier(parts):
    overrides = ["model._target_=my_parts.Lit", "+model.hidden=5", "monitor=val/top2"]
    assert compose_config("train", overrides)["model"] == {"_target_": "my_parts.Lit", "hidden": 5}
    overrides = ["model._target_=my_parts.Better", "+model.weight=2.0", "monitor=val/f1"]
    model = compose_config("train", overrides)["model"]
    assert model["weight"] == 2.0 and model["optimizer"]["lr"] == 0.001  # a subclass keeps all
    data = compose_config("train", ["data._target_=my_parts.Data", "data.batch_size=7"])["data"]
    assert data == {"_target_": "my_parts.Data", "batch_size": 7}
    assert compose_config("train", ["+callbacks.look._target_=my_parts.Look"])["callbacks"]["look"]


@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_an_optimizer_without_parameters_is_reported_with_what_to_type(name, parts):
    (parts / "lit.py").write_text(f"""
from pytorch_lightning import LightningModule

class Lit(LightningModule):
    def __init__(self, {name}):
        super().__init__()
""")
    target = {"optimizer": "torch.optim.Adam", "scheduler": "torch.optim.lr_scheduler.LinearLR"}
    model = {"_target_": "lit.Lit", name: {"_target_": target[name]}}
    (mistake,) = mistakes({"model": model})
    assert mistake.startswith(f"model.{name}: simplecnn instantiates it without its ")
    assert f"++model.{name}._partial_=true" in mistake
    assert "++model._recursive_=false" in mistake
    assert mistakes({"model": {**model, "_recursive_": False}}) == []
    assert mistakes({"model": {**model, name: {**model[name], "_partial_": True}}}) == []
    network = {"_target_": "torch.nn.ReLU"}
    better = {**model, "_target_": "my_parts.Better", "network": network}  # a Classifier
    assert mistakes({"model": better}) == []
    sys.modules.pop("lit")


def test_an_experiment_file_can_replace_a_class(parts):
    folder = parts / "conf" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\nmodel: {network: {_target_: my_parts.Net, depth: 4}}\n"
    (folder / "mine.yaml").write_text(text)
    overrides = ["experiment=mine", f"hydra.searchpath=[file://{parts}/conf]"]
    network = compose_config("train", overrides)["model"]["network"]
    assert network == {"_target_": "my_parts.Net", "depth": 4}


def test_a_group_that_is_chosen_is_kept_for_a_replaced_class(parts):
    folder = parts / "conf" / "experiment"
    folder.mkdir(parents=True)
    lit = "model: {_target_: my_parts.Lit}\n"
    (folder / "lit.yaml").write_text(f"# @package _global_\n{lit}")
    choice = "defaults: [{override /model/optimizer: sgd}]\n"
    (folder / "with_sgd.yaml").write_text(f"# @package _global_\n{choice}{lit}")

    def model(line: str) -> dict:
        search = f"hydra.searchpath=[file://{parts}/conf]"
        return compose_config("train", [search, "monitor=val/f1", *line.split()])["model"]

    assert model("experiment=lit").keys() == {"_target_"}
    typed = model("experiment=lit model/optimizer=adamw")
    assert typed["optimizer"]["_target_"] == "torch.optim.AdamW"
    chosen = model("experiment=with_sgd")
    assert chosen["optimizer"]["_target_"] == "torch.optim.SGD"
    assert typed.keys() == chosen.keys() == {"_target_", "optimizer"}
    replaced = model("experiment=with_sgd model.optimizer._target_=torch.optim.Adam")
    assert replaced["optimizer"] == {"_target_": "torch.optim.Adam"}


def test_an_environment_variable_allows_packages(monkeypatch):
    config = {"_target_": "fractions.Fraction", "_args_": [1, 2]}
    with pytest.raises(TargetNotAllowed, match="SIMPLECNN_TARGETS=fractions.Fraction"):
        build(config)
    for allowed in ("decimal.Decimal, fractions.Fraction", "fractions"):
        monkeypatch.setenv("SIMPLECNN_TARGETS", allowed)
        assert build(config) * 2 == 1


# ----------------------------------------------------------------------------------------- build


def test_target_nodes_finds_nested_and_positional_nodes():
    config = {
        "a": {"_target_": "x.A", "inner": {"_target_": "x.B", "_partial_": True}},
        "b": {"_target_": "x.C", "_args_": [{"_target_": "x.D"}, 3]},
        "c": 3,
    }
    assert {key: node["_target_"] for key, node in target_nodes(config)} == {
        "a": "x.A", "a.inner": "x.B", "b": "x.C", "b._args_[0]": "x.D",
    }  # fmt: skip


def test_build_follows_hydras_keys():
    layer = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    network = build({"_target_": "torch.nn.Sequential", "_args_": [layer, layer]})
    assert [type(m).__name__ for m in network] == ["Linear", "Linear"]
    assert build({**layer, "_partial_": True})(bias=False).bias is None
    assert build(layer, bias=False).bias is None
    kept = build({"_target_": "torch.nn.ParameterDict", "parameters": layer}, _recursive_=False)
    assert kept["_target_"] == "torch.nn.Linear"


def test_interpolations_are_resolved_once():
    for text in ("${oc.env:HOME}", "\\${oc.env:HOME}", "a${b}"):
        node = {"_target_": "torch.nn.Linear", "in_features": text, "out_features": 1}
        with pytest.raises(TargetNotAllowed, match="this interpolation is not resolved"):
            build(node)
    config = OmegaConf.create({
        "n": 3, "x": {"_target_": "torch.nn.Linear", "in_features": "${n}", "out_features": 1},
    })  # fmt: skip
    assert build(config.x).in_features == 3


def test_a_network_that_downloads_its_backbone_is_not_built(monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("weights were downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    target = "torchvision.models.deeplabv3_resnet50"
    check_classes({"model": {"network": {"_target_": target}}})


@pytest.mark.parametrize("target", REQUIRED_PACKAGES)
def test_a_class_without_its_package_is_reported_before_the_run(target, monkeypatch):
    group = "logger" if "loggers" in target else "callbacks"
    config = compose_config("train", [f"+{group}.mine._target_={target}"])
    monkeypatch.setattr("simplecnn.errors.find_spec", lambda package: None)
    with pytest.raises(InputError) as caught:
        check_classes(config)
    package = REQUIRED_PACKAGES[target]
    sentence = (
        f"{group}.mine._target_: {target} needs the package {package}, which is not installed."
    )
    if group == "callbacks":
        sentence += " Type uv sync --extra monitor, or pip install '.[monitor]'."
    assert sentence in caught.value.mistakes
