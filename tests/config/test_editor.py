"""The JSON schemas are up to date, and every YAML file of conf/ is valid against its schema."""

import json
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "schema.py"))
FILES = sorted((ROOT / "conf").rglob("*.yaml"))


def validator(name: str) -> jsonschema.Draft7Validator:
    content = json.loads((ROOT / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator(content)


def test_the_schemas_are_current():
    written = {p.stem: json.loads(p.read_text()) for p in (ROOT / "schemas").glob("*.json")}
    assert written == SCRIPT["schemas"](), "type uv run scripts/schema.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT / "conf").as_posix())
def test_every_file_names_its_schema_and_is_valid(path: Path):
    text = path.read_text(encoding="utf-8")
    name = SCRIPT["schema_name"](path)
    if path.is_relative_to(ROOT / "conf" / "hydra"):  # configures Hydra itself
        assert name is None
        return
    assert SCRIPT["header"](path) in text.splitlines()[:2], SCRIPT["header"](path)
    problems = list(validator(name).iter_errors(yaml.safe_load(text)))
    assert not problems, problems[0].message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data", "defaults: [mnist]\ndatset: KMNIST"),
        ("data", "{_target_: simplecnn.data.mnist.MNISTDataModule, batch_size: 0}"),
        ("data", "{_target_: simplecnn.data.mnist.MNISTDataModule, dataset: MINST}"),
        ("model", "network: {_target_: simplecnn.models.simple_cnn.SimpleCNN, pool: maximum}"),
        ("model", "{_target_: simplecnn.models.classifier.Classifier, labelsmoothing: 0.1}"),
        ("trainer", "accelerator: tpu"),
        ("train", "sead: 5"),
        ("train", "{trainer: {max_epochs: [3]}}"),
        ("callbacks", "f: {_target_: simplecnn.callbacks.filters.Filters, layer: all}"),
        ("evaluate", "run: [a]"),
    ],
)
def test_invalid_yaml_is_underlined(name, text):
    assert list(validator(name).iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("data", "{_target_: my_data.Mine, anything: 3}"),
        ("model", "{_target_: my_nets.Lit, hidden: 3}"),
        ("trainer", "gradient_clip_val: 1.0"),
        ("train", "seed: ${data.batch_size}"),
        ("train", "{model: {optimizer: {lr: 0.1, betas: [0.9, 0.99]}}, hydra: {sweeper: {}}}"),
    ],
)
def test_valid_yaml_is_not_underlined(name, text):
    problems = list(validator(name).iter_errors(yaml.safe_load(text)))
    assert not problems, problems[0].message
