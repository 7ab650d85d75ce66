"""The report prints tables and checks, saves figures, and fails if an experiment disagrees."""

import re
from dataclasses import replace

import pytest
import torch
from children import run_forked
from matplotlib.figure import Figure
from torch import nn

from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.receptive_field import receptive_fields
from simplecnn.receptive_field import report as field_report
from simplecnn.receptive_field.report import chain_table, receptive_field_report, tutorial_chains

TABLE = """\
SimpleCNN on images of 1 x 28 x 28
layers            units   size   stride   start   used
conv1 ... relu1      28      3        1      -1      3
pool1                14      4        2      -1      4
conv2 ... relu2      14      8        2      -3      8
pool2                 7     10        4      -3     10
conv3 ... relu3       7     18        4      -7     18
pool3                 3     22        8      -7     22   unread rows, columns of its input: 1, 1
flatten               3     22        8      -7     22
fc1 ... fc2           1     28        0       0     28   whole image
"""


@pytest.fixture
def digits(ten_digits) -> torch.Tensor:
    return torch.from_numpy(ten_digits[0])


@pytest.fixture
def drawn(monkeypatch) -> dict[str, tuple]:
    """Replace the drawing functions; returns the arguments of their calls by name."""
    calls: dict[str, tuple] = {}

    def replacement(name: str):
        def figure(*args) -> Figure:
            calls[name] = args
            return Figure()

        return figure

    for name in ("boxes_figure", "chains_figure", "effective_fields_figure"):
        monkeypatch.setattr(field_report, name, replacement(name))
    return calls


def test_simplecnn(digits, tmp_path, capsys):
    torch.manual_seed(0)
    network, trained = SimpleCNN(), SimpleCNN()
    folder = tmp_path / "new" / "folder"
    assert receptive_field_report(network, images=digits, folder=folder, trained=trained) is True
    text = capsys.readouterr().out
    assert text.startswith(TABLE)
    assert "gradient: 13 of 13 layers agree with the formulas, 2,891 units\n" in text
    assert "nan: 13 of 13 layers agree with the formulas, 2,891 units\n" in text
    assert "formulas, gradient and NaN agree\n" in text
    for state in ("initial", "trained"):
        (line,) = [x for x in text.splitlines() if x.startswith(state) and " pool3 " in x]
        assert line.split()[1:5] == ["pool3", "1,", "1", "22"]
    names = {"boxes.png", "effective.png", "chains.png"}
    assert {p.name for p in folder.iterdir()} == names
    assert all((folder / n).read_bytes().startswith(b"\x89PNG") for n in names)
    assert all(str(folder / n) in text for n in names)


def test_a_disagreement_fails_the_report(digits, tmp_path, capsys, monkeypatch, drawn):
    def off_by_one(network: nn.Module, size):
        fields = receptive_fields(network, size)
        vertical, horizontal = fields["pool2"].axes
        used = vertical.used.copy()
        used[0, 6] = False  # one row short of seven
        fields["pool2"] = replace(fields["pool2"], axes=(replace(vertical, used=used), horizontal))
        return fields

    monkeypatch.setattr(field_report, "receptive_fields", off_by_one)
    torch.manual_seed(0)
    assert receptive_field_report(SimpleCNN(), images=digits, folder=tmp_path) is False
    text = capsys.readouterr().out
    assert "gradient: 12 of 13 layers agree" in text and "nan: 12 of 13 layers agree" in text
    assert "  pool2: the gradient experiment disagrees: unit (0, 0) depends on row 6," in text
    assert "formulas, gradient and NaN DO NOT AGREE" in text


def test_limits_of_an_experiment_are_reported_by_layer(digits, tmp_path, capsys, drawn):
    network = nn.Sequential(
        nn.Upsample(scale_factor=(2, 1), mode="bilinear"),
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.Linear(26, 5),
    )
    torch.manual_seed(0)
    assert receptive_field_report(network, images=digits, folder=tmp_path)
    text = capsys.readouterr().out
    assert "4 layers from 0 on: as a lower bound: aten.upsample_bilinear2d spreads NaN" in text
    lines = [re.split(r"\s{2,}", line) for line in text.splitlines()[2:5]]
    assert lines[0] == ["0", "56 x 28", "2 x 1", "1/2 x 1", "-1 x 0", "2 x 1"]
    assert lines[1] == ["1 ... 2", "54 x 26", "3", "1/2 x 1", "-1 x 0", "3"]
    assert lines[2] == ["3", "54 x 1", "3 x 28", "1/2 x 0", "-1 x 0", "3 x 28"]


def test_a_network_without_a_grid_has_no_maps(digits, tmp_path, drawn):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert receptive_field_report(network, images=digits, folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"chains.png"}


def test_at_most_six_layers_are_drawn(digits, tmp_path, capsys, drawn):
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(11)))
    torch.manual_seed(0)
    assert receptive_field_report(network, images=digits, folder=tmp_path)
    titles = [layer.title for layer in drawn["boxes_figure"][1]]
    assert [title.split(":")[0] for title in titles] == ["0", "2", "4", "6", "8", "10"]
    assert titles[-1] == "10: size 23, stride 1"
    assert list(drawn["effective_fields_figure"][0]["initial"]) == ["0", "2", "4", "6", "8", "10"]
    table = capsys.readouterr().out.split("Effective fields")[1]
    assert table.count("initial") == 11


def test_cropped_pixels_are_not_visible(digits, tmp_path, drawn):
    network = nn.Sequential(nn.ZeroPad2d(-4), nn.Conv2d(1, 2, 3, padding=1))
    torch.manual_seed(0)
    assert receptive_field_report(network, images=digits, folder=tmp_path)
    conv = drawn["boxes_figure"][1][1]
    assert conv.boxes[0, 0] == ((3, 5), (3, 5)) and conv.visible == ((4, 23), (4, 23))


def test_costs_of_the_tutorials_chains():
    chains = {chain.name: chain for chain in tutorial_chains()}
    assert [chain.sizes[-1] for chain in chains.values()] == [7, 7, 9, 16]
    costs = {name: list(chain.costs.values()) for name, chain in chains.items()}
    assert costs["One 7x7"] == [12_560, 800, 614_656]
    assert costs["Three 3x3"] == [6_960, 4_800, 3_725_568]
    assert costs["Two 5x5"] == [12_832, 6_832, 5_331_200]
    assert costs["VGG-style"][:2] == [9_280, 7_120]
    # two layers of 28 x 28, two of 14 x 14
    assert costs["VGG-style"][2] == 784 * (144 + 2304) + 196 * 2 * 2304
    lines = chain_table(list(chains.values())).splitlines()
    assert lines[2].split() == [
        "Three", "3x3", "3", "5", "7", "1.414", "6,960", "4,800", "3,725,568"
    ]  # fmt: skip


def test_a_network_of_color_images_is_tried_in_evaluation_mode(tmp_path):
    """In training mode, one image is not enough for BatchNorm1d, and it changes BatchNorm2d."""
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n\n\n"
        "class Normed(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(1352, 8),\n"
        "                         nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))\n"
    )
    override = "model.network._target_=normed.Normed"
    done = run_forked(tmp_path, "receptive_field.py", override, "num_images=2")
    assert done.returncode == 0, done.stderr
    assert "Normed on images of 3 x 28 x 28" in done.stdout
