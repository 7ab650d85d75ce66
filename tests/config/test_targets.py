"""Signatures read from source are the real ones; nothing but the list is built."""

import importlib
import inspect
import subprocess
import sys

import pytest

from simplecnn.config.allow_list import (
    ALLOWED,
    TargetNotAllowed,
    allowed,
    build,
    target_nodes,
)
from simplecnn.config.signatures import accepts, signature


def resolve(name: str):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_signature_is_the_one_that_python_sees():
    for name in sorted(ALLOWED):
        target = resolve(name)
        real = inspect.signature(target)
        names = [n for n in real.parameters if n != "self"]
        static = signature(name)
        assert static is not None, name
        if name.startswith("torchvision"):  # a wrapper hides the arguments of the function
            real = inspect.signature(inspect.unwrap(target))
            names = list(real.parameters)
        assert list(static.parameters) == names, name
        for parameter in names:
            has_default = real.parameters[parameter].default is not inspect.Parameter.empty
            assert (static.parameters[parameter].default is not inspect.Parameter.empty) == (
                has_default
            ), (name, parameter)


def test_signatures_import_nothing():
    code = (
        "import sys; from simplecnn.config.signatures import signature\n"
        "from simplecnn.config.allow_list import ALLOWED\n"
        "assert all(signature(name) for name in ALLOWED)\n"
        "assert not {'torch', 'torchvision', 'pytorch_lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [3, -1], [3.5, "3", True, None]),
        ("float", [3, 3.5], ["3", True, None, [1.0]]),
        ("bool", [True], [1, "true"]),
        ("str | None", ["a", None], [3]),
        ("Optional[Union[int, float]]", [None, 1, 0.5], ["x", [1]]),
        ("float | Tensor", [0.1], ["abc", None]),
        ("tuple[float, float]", [[0.9, 0.99]], [[0.9], ["a", "b"], 0.9]),
        ("Sequence[int]", [[1, 2]], [3, ["a"]]),
        ("Literal['epoch', 'step']", ["step"], ["batch", 1]),
        ("Mapping[str, Any]", [{"a": 1}], [[1]]),
        ("'int'", [3], ["x"]),
        ("SomethingUnknown", [3, "x", None], []),
    ],
)
def test_annotations_judge_values(annotation, good, bad):
    for value in good:
        assert accepts(annotation, value), value
    for value in bad:
        assert not accepts(annotation, value), value


def test_target_nodes_finds_nested_and_positional_ones():
    config = {
        "a": {"_target_": "x.A", "inner": {"_target_": "x.B", "_partial_": True}},
        "b": {"_target_": "x.C", "_args_": [{"_target_": "x.D"}, 3]},
        "c": 3,
    }
    nodes = {node.key: node for node in target_nodes(config)}
    assert {key: node.target for key, node in nodes.items()} == {
        "a": "x.A", "a.inner": "x.B", "b": "x.C", "b._args_[0]": "x.D",
    }  # fmt: skip
    assert nodes["a.inner"].partial and nodes["b"].positional[1] == 3


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "pathlib.Path.unlink", "torch.load", "logging.os.system",
     "torch.nn.modules.linear.Linear.__init__", "subprocess.Popen", "", 3, None],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_only_listed_classes_are_built(target, nested, tmp_path):
    harm = tmp_path / "harm"
    node = {"_target_": target, "_args_": [f"touch {harm}"]}
    config = {"_target_": "torch.nn.Sequential", "_args_": [node]} if nested else node
    with pytest.raises(TargetNotAllowed, match="is not on the list"):
        build(config)
    assert not harm.exists()


def test_own_classes_are_allowed_by_the_environment(monkeypatch):
    config = {"_target_": "fractions.Fraction", "_args_": [1, 2]}
    with pytest.raises(TargetNotAllowed, match="SIMPLECNN_TARGETS=fractions.Fraction"):
        build(config)
    monkeypatch.setenv("SIMPLECNN_TARGETS", "decimal.Decimal, fractions.Fraction")
    assert "decimal.Decimal" in allowed()
    assert build(config) * 2 == 1
