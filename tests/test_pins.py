"""The pinned versions agree with each other, the allowed ranges and the installed versions."""

import re
import tomllib
from importlib.metadata import version

from conftest import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = [Requirement(pin) for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]]


def applies_here(pin: Requirement) -> bool:
    return pin.marker is None or pin.marker.evaluate()


def test_pyproject_and_requirements_pin_the_same():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^([\w.-]+)==([\w.+]+)(.*)$", text, re.MULTILINE)
    assert {(name, number) for name, number, _ in lines} == {
        (pin.name, str(pin.specifier).removeprefix("==")) for pin in PINS
    }
    assert text.count("--hash=sha256:") >= len(lines)
    for block in re.split(r"\n(?=\w)", text.partition("\n")[2]):
        assert "--hash=sha256:" in block, block


def test_no_url_is_recorded():
    for name in ("pyproject.toml", "requirements.txt"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_every_range_contains_its_pin_which_is_installed():
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in PINS if applies_here(pin)}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *sum(extras.values(), [])]
    dev = PROJECT["dependency-groups"]["dev"]
    (simplecnn,) = (name for name in dev if name.startswith("simplecnn"))
    assert Requirement(simplecnn).extras == set(extras)  # the tests need all extras
    wanted += [name for name in dev if name != simplecnn]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement.name
        assert version(requirement.name) == pinned[requirement.name], requirement.name
