"""Untrusted input executes nothing, writes only where it may, and reads no secrets."""

import io
import itertools
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from fuzz import compose_once

from simplecnn.command_line import check_command_line
from simplecnn.config.arguments import check_classes
from simplecnn.config.build import build
from simplecnn.config.composition import compose_config
from simplecnn.config.targets import TargetNotAllowed
from simplecnn.config.validation import checked_parts
from simplecnn.errors import InputError, relative_path
from simplecnn.inference.networks import load_network
from simplecnn.run_directory import RunDirectory

HOSTILE_TARGETS = """
os.system os.popen os.remove os.execv os.kill os._exit posix.system subprocess.run
subprocess.Popen subprocess.getoutput logging.os.system random._os.system shutil.rmtree
pathlib.Path.unlink pathlib.Path.write_text builtins.eval builtins.exec builtins.open
builtins.__import__ builtins.compile importlib.import_module runpy.run_path code.interact
pickle.loads marshal.loads ctypes.CDLL socket.socket urllib.request.urlopen webbrowser.open
tempfile.os.system torch.load torch.hub.load torch.serialization.os.system torch.jit.load
torch.utils.cpp_extension.load torch.nn.modules.module.warnings.sys.exit numpy.load
torchvision.models.os.system hydra.utils.get_method hydra.utils.instantiate
omegaconf.OmegaConf.register_new_resolver pytorch_lightning.Trainer.fit functools.partial
pytorch_lightning.trainer.trainer.os.system simplecnn.config.targets.os.system
simplecnn.config.build.build
simplecnn.models.classifier.Classifier.load_from_checkpoint pytorch_lightning.os.system
torch.nn.Sequential.__init__ torch.optim.Adam.__class__ evil_module.harm operator.attrgetter
""".split()

KEYS = [
    "model.network", "model.optimizer", "data.batch_size", "trainer.max_epochs",
    "+trainer.profiler", "+trainer.strategy",
    "+callbacks.mine", "+logger.mine", "callbacks.best", "+model.network.image_size",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def compositions():
    with compose_once():
        yield


@pytest.fixture
def harm(tmp_path, monkeypatch) -> Path:
    """A file that exists if hostile code has run; `evil_module` creates it when imported."""
    work, installed = tmp_path / "work", tmp_path / "installed"
    work.mkdir()
    installed.mkdir()
    harm = work / "harm"
    text = f"open({str(harm)!r}, 'w').close()\ndef harm(*a): pass\n"
    (installed / "evil_module.py").write_text(text)
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(work)
    return harm


def test_no_hostile_target_is_built_or_imported(harm, proves):
    imported = set(sys.modules)
    for target in HOSTILE_TARGETS:
        node = {"_target_": target, "_args_": [f"touch {harm}"]}
        for config in (
            node,
            {**node, "_partial_": True},
            {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU"}, node]},
            {"_target_": "simplecnn.models.simple_cnn.SimpleCNN", "channels": {"a": [node]}},
            {**node, "_target_": f"{target}", "_convert_": "all", "_recursive_": False},
        ):
            with pytest.raises(TargetNotAllowed, match="is not on the list of classes"):
                build(config)
    num_keys = 0
    for position, target in zip(itertools.cycle(KEYS), HOSTILE_TARGETS, strict=False):
        override = (
            f"{position}={{_target_:{target},_args_:[touch {harm}],_partial_:{num_keys % 2 > 0}}}"
        )
        with pytest.raises(InputError) as caught:
            check_classes(compose_config("train", [override]))
        key = f"{position.lstrip('+')}._target_"
        mistakes = caught.value.mistakes
        on_target = [m for m in mistakes if m.startswith(f"{key}: ")]
        assert on_target or [m for m in mistakes if m.startswith(key.rpartition(".")[0])], (
            override, mistakes,
        )  # fmt: skip
        num_keys += 1
    assert not harm.exists() and "evil_module" not in set(sys.modules) - imported
    assert len(set(HOSTILE_TARGETS)) == len(HOSTILE_TARGETS) >= 40
    proves(
        "Hostile input",
        "At any key outside of `hydra`, only classes on the list of allowed ones are built.",
        hostile_targets_rejected=len(HOSTILE_TARGETS),
        ways_tried=5 * len(HOSTILE_TARGETS) + num_keys,
    )  # fmt: skip


ROUTES = {  # from an untrusted experiment to a class that is not on the list
    "escaped": "callbacks: {best: {filename: '\\${oc.create:{_target_:evil_module.harm}}'}}",
    "created": "callbacks: {best: '${oc.create:{_target_: evil_module.harm}}'}",
    "decoded": "callbacks: {best: {_target_: '${oc.decode:evil_module.harm}'}}",
    "referred": "x_: {_target_: evil_module.harm}\ncallbacks: {best: '${x_}'}",
    "in a list": "model: {network: {_args_: [{_target_: evil_module.harm}]}}",
    "as a key": "callbacks: {best: {'\\${oc.env:HOME}': 3}}",
    "partial": "callbacks: {best: {_target_: evil_module.harm, _partial_: true}}",
    "nested": "callbacks: {best: {filename: {a: [{_target_: evil_module.harm}]}}}",
    "in the data": "data: {mirrors: ['\\${oc.env:MY_TOKEN}']}",
    "method": "model: {network: {_target_: hydra.utils.get_method, path: os.system}}",
}


@pytest.mark.parametrize("which", ROUTES)
def test_no_interpolation_bypasses_the_check(which, harm, monkeypatch):
    folder = harm.parent / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "untrusted.yaml").write_text(f"# @package _global_\n{ROUTES[which]}\n")
    with pytest.raises(InputError) as caught:
        check_command_line("train", ["--config-dir", "conf", "experiment=untrusted"])
    assert all("\n" not in m and len(m) < 500 for m in caught.value.mistakes)
    assert [p.name for p in harm.parent.iterdir()] == ["conf"]
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("override", ["name=../../x", "name=/etc/x", "name=.ssh", "name='a/b'",
                                  "name=''", "name=..", "paths.output_dir=/etc"])  # fmt: skip
def test_a_name_is_not_a_path(override, harm):
    with pytest.raises(InputError):
        compose_config("train", [override])


def test_hydra_run_dir_may_be_any_directory(tmp_path):
    config = compose_config("train", [f"hydra.run.dir={tmp_path}/mine"])
    assert config["paths"]["output_dir"] == f"{tmp_path}/mine"
    assert config["callbacks"]["best"]["dirpath"] == f"{tmp_path}/mine/checkpoints"


def test_only_harmless_environment_variables_are_readable(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cr3t")
    monkeypatch.setenv("SIMPLECNN_MINE", "mine")
    for override in ("data.data_dir=${oc.env:MY_TOKEN}", "+data.mirrors=['http://x/${oc.env:MY_TOKEN}']",
                 "data.data_dir=${oc.env:MY_TOKEN,x}"):  # fmt: skip
        with pytest.raises(InputError) as caught:
            compose_config("train", [override])
        assert "MY_TOKEN is not readable" in str(caught.value) and "s3cr3t" not in str(caught.value)
    overrides = ["name=${oc.env:SIMPLECNN_MINE}", "data.data_dir=${oc.env:HOME}/digits"]
    config = compose_config("train", overrides)
    assert config["name"] == "mine" and config["data"]["data_dir"].endswith("/digits")


# -------------------------------------------------------------- run directories, checkpoints


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def zipped_pickle(content: bytes, *, padding: int = 0) -> bytes:
    """A zip file in the format of torch.save, with `content` as its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", b"\0" * padding)
    return buffer.getvalue()


def hostile_checkpoints(harm: Path, good: dict) -> dict[str, tuple[bytes, str]]:
    def saved(content: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def named(network: object) -> bytes:
        return saved({**good, "hyper_parameters": {**good["hyper_parameters"], "network": network}})

    network = good["hyper_parameters"]["network"]
    never_run = "it contains more than tensors and plain values"
    return {
        "pickle": (pickle.dumps(Harm(harm)), "is not a checkpoint of simplecnn: "),
        "zipped pickle": (zipped_pickle(pickle.dumps(Harm(harm))), never_run),
        "in a checkpoint": (saved({**good, "extra": Harm(harm)}), never_run),
        "function": (saved({**good, "f": print}), never_run),
        "hostile network": (named({"_target_": "os.system", "command": f"touch {harm}"}),
                            "'os.system' is not on the list of classes"),
        "nested": (named({"_target_": "torch.nn.Sequential",
                          "_args_": [{"_target_": "os.system", "command": f"touch {harm}"}]}),
                   "'os.system' is not on the list of classes"),
        "instantiator": (saved({"state_dict": {}, "hyper_parameters": {
            "_instantiator": "evil_module.harm"}}), "it names no network"),
        "giant network": (named({**network, "channels": [60_000, 60_000]}),
                          "its weights do not fit its network"),
        "other weights": (saved({**good, "state_dict": {"network.x": torch.zeros(3)}}),
                          "its weights do not fit its network: Missing key(s) in state_dict: "),
        "other names": (saved({**good, "state_dict": {1: 2}}), "it contains no weights"),
        "other parameters": (saved({**good, "hyper_parameters": "x"}),
                             "its hyper_parameters are not a dict"),
        "zip bomb": (zipped_pickle(b"\x80\x02}.", padding=300 << 20), "it would unpack to 314,"),
        "a list": (saved([1, 2]), "it contains no weights"),
        "weights alone": (saved({"a": torch.zeros(2)}), "it contains no weights"),
        "empty": (b"", "is not a checkpoint of simplecnn"),
        "text": (b"hello", "is not a checkpoint of simplecnn"),
        "cut": (saved(good)[:5_000], "is not a checkpoint of simplecnn"),
    }  # fmt: skip


def test_no_checkpoint_runs_anything(finished_run, harm, proves):
    source = finished_run / "checkpoints" / "best.ckpt"
    good = torch.load(source, weights_only=True)
    files = hostile_checkpoints(harm, good)
    for name, (data, sentence) in files.items():
        path = Path(f"{name}.ckpt".replace(" ", "_"))
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            load_network(path)
        (mistake,) = caught.value.mistakes
        assert sentence in mistake and mistake.startswith(str(path)), (name, mistake)
        assert "\n" not in mistake and len(mistake) < 400, (name, mistake)
    assert not harm.exists() and "evil_module" not in sys.modules
    assert sum(p.numel() for p in load_network(source).parameters()) > 0
    proves(
        "Hostile input",
        "A checkpoint that simplecnn has not written is rejected, and no code in it is executed.",
        hostile_checkpoints_rejected=len(files),
    )  # fmt: skip


HOSTILE_RUNS = {
    "a target": ("data: {_target_: os.system, command: touch harm}", "'os.system' is not on the"),
    "a nested target": ("data: {_target_: simplecnn.data.mnist.MNISTDataModule, batch_size: "
                        "{_target_: evil_module.harm}}", "'evil_module.harm' is not on the list"),
    "no data": ("data: 3", "is not the configuration of a run"),
    "an object": ("data: !!python/object/apply:os.system ['touch harm']", "cannot be read: "),
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\ndata: [*b, *b]", "it contains YAML aliases"),
    "a circle": ("data: ${model}\nextra: ${extra}", "cannot be read: "),
    "depth": ("data: " + "[" * 5000, "cannot be read: "),
    "bytes": ("data: \udcff", "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("which", HOSTILE_RUNS)
def test_an_untrusted_run_directory_does_no_harm(which, harm):
    text, sentence = HOSTILE_RUNS[which]
    folder = harm.parent / "run"
    folder.mkdir()
    network = "network: {_target_: torch.nn.ReLU}"
    model = f"model: {{_target_: simplecnn.models.classifier.Classifier, {network}}}"
    config = f"{model}\ntrainer: {{}}\n{text}\n"
    (folder / "config.yaml").write_bytes(config.encode(errors="surrogateescape"))
    (folder / "run.json").write_text('{"status": "finished"}')
    with pytest.raises(InputError) as caught:
        checked_parts(RunDirectory.open(folder).config(), relative_path(folder))
    message = "\n".join(caught.value.mistakes)
    assert sentence in message and len(message) < 500, message
    (folder / "run.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="run.json is damaged"):
        RunDirectory.open(folder)
    assert not harm.exists()
