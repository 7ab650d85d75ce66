"""What comes from someone else runs nothing, writes nowhere else, and tells nothing."""

import io
import itertools
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import compose_run

from simplecnn import cli as commands
from simplecnn.config import secrets
from simplecnn.config.build import TargetNotAllowed, build
from simplecnn.config.composition import compose_config
from simplecnn.errors import InputError
from simplecnn.inference.evaluate import load_classifier
from simplecnn.inference.export import load_network
from simplecnn.run_directory import RunDirectory
from simplecnn.training.run import train

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
pytorch_lightning.trainer.trainer.os.system simplecnn.config.allow_list.os.system
simplecnn.config.allow_list.build
simplecnn.models.classifier.Classifier.load_from_checkpoint pytorch_lightning.os.system
torch.nn.Sequential.__init__ torch.optim.Adam.__class__ evil_module.harm operator.attrgetter
""".split()

PLACES = [
    "model.network", "model.optimizer", "data.batch_size", "trainer.max_epochs",
    "+trainer.profiler", "+trainer.strategy",
    "+callbacks.mine", "+logger.mine", "callbacks.best", "+model.network.image_size",
    "hydra.callbacks.before_sweep", "+hydra.callbacks.mine", "hydra.launcher", "hydra.sweeper",
]  # fmt: skip


@pytest.fixture
def harm(tmp_path, monkeypatch) -> Path:
    """A file that is there if anything hostile has run; a module that makes it when imported."""
    harm = tmp_path / "harm"
    (tmp_path / "evil_module.py").write_text(f"open({str(harm)!r}, 'w')\ndef harm(*a): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
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
    num_places = 0
    for place, target in zip(itertools.cycle(PLACES), HOSTILE_TARGETS, strict=False):
        word = f"{place}={{_target_:{target},_args_:[touch {harm}],_partial_:{num_places % 2 > 0}}}"
        with pytest.raises(InputError) as caught:
            compose_config("train", [word])
        key = f"{place.lstrip('+')}._target_"
        told = [sentence for sentence in caught.value.mistakes if sentence.startswith(f"{key}: ")]
        assert told and f"'{target}' is not on the list of classes" in told[0], (word, told)
        num_places += 1
    assert not harm.exists() and "evil_module" not in set(sys.modules) - imported
    assert len(set(HOSTILE_TARGETS)) == len(HOSTILE_TARGETS) >= 40
    proves(
        "Hostile input",
        "Only classes on the list are built, wherever a configuration names them.",
        hostile_targets_refused=len(HOSTILE_TARGETS),
        ways_tried=5 * len(HOSTILE_TARGETS) + num_places,
    )  # fmt: skip


HOSTILE_HYDRA = {
    "factory": ("job_logging: {handlers: {console: {(): os.system, command: touch harm}}}",
                "hydra.job_logging.handlers.console.() is 'os.system': logging builds "),
    "handler": ("job_logging: {handlers: {file: {class: logging.handlers.SocketHandler}}}",
                "hydra.job_logging.handlers.file.class is 'logging.handlers.SocketHandler': "),
    "filter": ("hydra_logging: {filters: {x: {(): evil_module.harm}}}",
               "hydra.hydra_logging.filters.x.() is 'evil_module.harm': "),
    "stream": ("job_logging: {handlers: {console: {stream: 'ext://os.environ'}}}",
               "hydra.job_logging.handlers.console.stream is 'ext://os.environ': it must be "),
    "log file": ("job_logging: {handlers: {file: {filename: ../../../x.log}}}",
                 "hydra.job_logging.handlers.file.filename is '../../../x.log': it must stay "),
    "environment": ("job: {env_set: {SIMPLECNN_TARGETS: os.system}}",
                    "hydra.job.env_set is not taken: "),
    "copied": ("job: {env_copy: [HOME]}", "hydra.job.env_copy is not taken: "),
    "callback": ("callbacks: {x: {_target_: evil_module.harm}}",
                 "hydra.callbacks.x._target_: 'evil_module.harm' is not on the list"),
    "launcher": ("launcher: {_target_: torch.nn.ReLU}",
                 "hydra.launcher._target_: 'torch.nn.ReLU' is not on the list"),
    "run folder": ("run: {dir: ../elsewhere}",
                   "hydra.run.dir is '../elsewhere' by the configuration, and that is outside "),
    "absolute": ("run: {dir: /tmp/elsewhere}",
                 "hydra.run.dir is '/tmp/elsewhere' by the configuration, and that is outside "),
    "sweep folder": ("sweep: {dir: ../elsewhere}", "hydra.sweep.dir is '../elsewhere' by the "),
    "job folder": ("sweep: {subdir: ../../x}", "hydra.sweep.subdir is '../../x': it must stay "),
    "by words": ("sweep: {subdir: '../${hydra.job.override_dirname}'}",
                 "hydra.sweep.subdir is '../"),
    "hydra's own": ("output_subdir: ../../x", "hydra.output_subdir is '../../x': it must stay "),
    "job name": ("job: {name: ../../x}", "hydra.job.name is '../../x': it must stay "),
    "mode": ("mode: MULTIRUN", "hydra.mode is set by the configuration: type -m instead"),
}  # fmt: skip


@pytest.mark.parametrize("which", HOSTILE_HYDRA)
def test_an_experiment_of_someone_else_cannot_use_hydra_for_harm(which, harm, monkeypatch):
    text, sentence = HOSTILE_HYDRA[which]
    folder = harm.parent / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "theirs.yaml").write_text(f"# @package _global_\nhydra:\n  {text}\n")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "conf", "experiment=theirs"])
    with pytest.raises(InputError) as caught:
        commands.check_command_line("train")
    assert [m for m in caught.value.mistakes if m.startswith(sentence)], caught.value.mistakes
    assert {p.name for p in harm.parent.iterdir()} == {"conf", "evil_module.py"}


@pytest.mark.parametrize(
    "word",
    [
        "name=../../x", "name=/etc/x", "name=.ssh", "name='a/b'", "name=''", "name=..",
        "paths.output_dir=/etc", "paths.output_dir=${hydra:runtime.output_dir}/../..",
        "callbacks.best.dirpath=../x", "callbacks.filters.dirpath=/etc", "logger.csv.save_dir=~",
        "+trainer.default_root_dir=/", "hydra.job.name=../../x", "hydra.output_subdir=/etc/x",
        "hydra.sweep.subdir=../x",
        "+logger.x={_target_:pytorch_lightning.loggers.CSVLogger,save_dir:'${paths.output_dir}',"
        "name:../../..}",
        "+callbacks.x={_target_:pytorch_lightning.callbacks.ModelCheckpoint,filename:../../x}",
        "+trainer.profiler={_target_:pytorch_lightning.profilers.SimpleProfiler,dirpath:/etc}",
    ],
)  # fmt: skip
def test_no_word_places_a_file_elsewhere(word, harm):
    with pytest.raises(InputError):
        compose_config("train", [word])


def test_a_folder_that_is_typed_may_lie_anywhere(tmp_path):
    config = compose_config("train", [f"hydra.run.dir={tmp_path}/mine"])
    assert config["paths"]["output_dir"] == f"{tmp_path}/mine"
    assert config["callbacks"]["best"]["dirpath"] == f"{tmp_path}/mine/checkpoints"


# ------------------------------------------------------------------ run folders, checkpoints


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def zipped_pickle(content: bytes, *, padding: int = 0) -> bytes:
    """A file in torch's format, by hand."""
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
    never_run = "it holds more than weights and plain values, which is never run"
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
                          "its weights do not fit its network"),
        "zip bomb": (zipped_pickle(b"\x80\x02}.", padding=300 << 20), "it would unpack to 314,"),
        "a list": (saved([1, 2]), "it holds no weights"),
        "weights alone": (saved({"a": torch.zeros(2)}), "it holds no weights"),
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
        for load in (load_network, load_classifier):
            with pytest.raises(InputError) as caught:
                load(path)
            (told,) = caught.value.mistakes
            assert sentence in told and told.startswith(str(path)), (name, told)
            assert "\n" not in told and len(told) < 400, (name, told)
    assert not harm.exists() and "evil_module" not in sys.modules
    assert sum(p.numel() for p in load_network(source).parameters()) > 0
    proves(
        "Hostile input",
        "A checkpoint that is not a run's own is refused with a sentence; nothing in it runs.",
        hostile_checkpoints_refused=len(files),
    )  # fmt: skip


HOSTILE_RUNS = {
    "a target": ("data: {_target_: os.system, command: touch harm}", "'os.system' is not on the"),
    "a nested target": ("data: {_target_: simplecnn.data.mnist.MNIST5kDataModule, batch_size: "
                        "{_target_: evil_module.harm}}", "'evil_module.harm' is not on the list"),
    "no data": ("data: 3", "data is 3: it must be a class to build"),
    "an object": ("data: !!python/object/apply:os.system ['touch harm']", "cannot be read: "),
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\ndata: [*b, *b]", "it has aliases"),
    "a circle": ("data: ${model}\nextra: ${extra}", "cannot be read: "),
    "depth": ("data: " + "[" * 5000, "cannot be read: "),
    "bytes": ("data: \udcff", "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("which", HOSTILE_RUNS)
def test_the_run_folder_of_someone_else_does_no_harm(which, harm):
    text, sentence = HOSTILE_RUNS[which]
    folder = harm.parent / "run"
    folder.mkdir()
    network = "network: {_target_: torch.nn.ReLU}"
    model = f"model: {{_target_: simplecnn.models.classifier.Classifier, {network}}}"
    config = f"{model}\ntrainer: {{}}\n{text}\n"
    (folder / "config.yaml").write_bytes(config.encode(errors="surrogateescape"))
    (folder / "run.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        RunDirectory.open(folder).checked_config()
    told = "\n".join(caught.value.mistakes)
    assert sentence in told and len(told) < 500, told
    (folder / "run.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="run.json is damaged"):
        RunDirectory.open(folder)
    assert not harm.exists()


# ------------------------------------------------------------------------------ secrets

TOKEN = "s3cr3t-T0K3N-of-mine"


class Messenger(torch.nn.ReLU):
    """Takes a password, as a logger or a network of one's own might."""

    seen: list[str] = []

    def __init__(self, token: str) -> None:
        super().__init__()
        self.seen.append(token)


def test_no_secret_is_written_anywhere(tmp_path, monkeypatch, proves):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.setenv("SIMPLECNN_TARGETS", "test_hostile.Messenger")
    layers = (
        "{_target_:torch.nn.Sequential,_args_:[{_target_:test_hostile.Messenger,"
        "token:'${oc.env:MY_TOKEN}'},{_target_:torch.nn.Flatten},"
        "{_target_:torch.nn.Linear,in_features:784,out_features:10}]}"
    )
    folder = tmp_path / "run"
    gone = ("channels", "pool", "kernel_size", "hidden", "dropout", "in_channels", "num_classes")
    words = ["model.network.channels=[4]", f"++model.network={layers}"]
    words += [f"~model.network.{name}" for name in gone]
    words += ["callbacks=[checkpoint,progress]", "trainer.max_epochs=1"]
    config = compose_run(folder, *words)
    assert TOKEN not in str(config) and "${oc.env:MY_TOKEN}" in str(config)
    Messenger.seen.clear()
    train(config, folder)
    assert set(Messenger.seen) == {TOKEN}  # who needs it gets it
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert "${oc.env:MY_TOKEN}" in (folder / "config.yaml").read_text()
    assert len([p for p in files if "tfevents" in p.name]) == 1
    # the run can be built again, by whoever has the token
    load_classifier(folder / "checkpoints" / "last.ckpt")
    assert RunDirectory.open(folder).config()["model"] == config["model"]
    proves(
        "Hostile input",
        "A value from the environment is in no file of a run.",
        files_searched=len(files),
    )


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_an_address_holds_nothing_from_the_environment(data, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    mirror = "+data.mirrors=['http://example.org/${oc.env:MY_TOKEN}/']"
    with pytest.raises(InputError) as caught:
        compose_config("train", [f"data={data}", mirror])
    assert caught.value.mistakes == (
        "data.mirrors holds ${oc.env:…}: what stands in an address is sent to it. Allowed are "
        "addresses that are written out.",
    )
    compose_config("train", [f"data={data}", "+data.mirrors=['http://example.org/']"])


def test_secrets_are_masked_in_logs_and_sentences(monkeypatch):
    import logging

    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with pytest.raises(InputError) as caught:
        compose_config("train", ["seed='${oc.env:MY_TOKEN}'"])
    assert caught.value.mistakes == (
        "seed is '${oc.env:MY_TOKEN}': it must be a whole number from 0 to 4294967295.",
    )
    try:
        raise RuntimeError(f"cannot log in with {TOKEN}")
    except RuntimeError:
        record = logging.LogRecord("x", 40, "", 0, "failed: %s", (TOKEN,), sys.exc_info())
    text = secrets.Formatter("%(message)s").format(record)
    assert TOKEN not in text and text.count("${oc.env:MY_TOKEN}") == 2
