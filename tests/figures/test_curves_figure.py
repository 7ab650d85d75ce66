"""The curves and health figures plot the given values."""

import numpy as np
import pytest

from simplecnn.figures.curves import curves_figure
from simplecnn.figures.health import health_figure

NAN = float("nan")


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.lines}


def test_curves_are_drawn_against_epochs():
    epochs = {
        "step": np.array([10, 20]),
        "train/loss": np.array([0.5, 0.25]),
        "val/loss": np.array([NAN, 0.3]),
        "train/acc": np.array([0.8, 0.9]),
        "val/acc": np.array([0.85, 0.875]),
    }
    steps = {"step": np.array([5, 15]), "loss": np.array([0.6, 0.4]), "lr": np.array([0.1, 0.2])}
    figure = curves_figure(epochs, steps, steps_per_epoch=10, title="Curves")
    loss, accuracy, rate = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "accuracy, %",
                                                                "learning rate"]  # fmt: skip
    curves = lines(loss)
    np.testing.assert_allclose(curves["training 0.2500"], [[1, 0.5], [2, 0.25]])
    np.testing.assert_allclose(curves["validation 0.3000"], [[2, 0.3]])
    np.testing.assert_allclose(curves["single batch"], [[0.5, 0.6], [1.5, 0.4]])
    curves = lines(accuracy)
    np.testing.assert_allclose(curves["validation 87.50 %"], [[1, 85], [2, 87.5]])
    np.testing.assert_allclose(curves["best"], [[2, 87.5]])
    np.testing.assert_allclose(rate.lines[0].get_xydata(), [[0.5, 0.1], [1.5, 0.2]])
    stages = [line for line in loss.lines if line.get_label() != "single batch"]
    line_styles = {(line.get_marker(), line.get_linestyle()) for line in stages}
    assert len(stages) == len(line_styles) == 2  # distinguishable without colors
    figure.canvas.draw()
    assert {x % 1 for x in loss.get_xticks()} == {0}  # whole epochs


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.02, 2.4, ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]),
     (1e-5, 3.0, ["1e−05", "0.0001", "0.001", "0.01", "0.1", "1"])],
)  # fmt: skip
def test_a_logarithmic_loss_has_several_numbers(low, high, expected):
    loss = np.geomspace(high, low, 20)
    steps = {"step": np.arange(1, 21), "loss": loss, "lr": np.ones(20)}
    figure = curves_figure({"step": np.array([20])}, steps, steps_per_epoch=20)
    figure.canvas.draw()
    ax = figure.axes[0]
    assert ax.get_yscale() == "log"
    bottom, top = ax.get_ylim()
    shown = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
    assert [t.get_text() for y, t in shown if bottom <= y <= top] == expected


def test_curves_of_a_run_that_continues_with_shorter_epochs():
    """After two epochs of 60 steps, one of 20, and 10 steps of another."""
    epochs = {"step": np.array([140, 150]), "epoch": np.array([3, 4]), "val/loss": np.ones(2)}
    steps = {"step": np.array([125, 145]), "loss": np.ones(2), "lr": np.ones(2)}
    loss = lines(curves_figure(epochs, steps, steps_per_epoch=20).axes[0])
    assert loss["validation 1.0000"][:, 0].tolist() == [3, 3.5]
    assert loss["single batch"][:, 0].tolist() == [2.25, 3.25]


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_single_step_is_a_dot(num_steps):
    steps = {"step": np.arange(1, num_steps + 1), "loss": np.ones(num_steps),
             "lr": np.full(num_steps, 0.1)}  # fmt: skip
    figure = curves_figure({"step": np.array([num_steps])}, steps, steps_per_epoch=num_steps)
    loss, _, rate = figure.axes
    markers = [line.get_marker() for ax in (loss, rate) for line in ax.lines]
    assert markers == (["."] * 2 if num_steps == 1 else ["None"] * 2)


def test_curves_of_a_run_without_validation():
    empty = np.zeros(0)
    epochs = {"step": np.array([3])}
    steps = {"step": empty, "loss": empty, "lr": empty}
    figure = curves_figure(epochs, steps, steps_per_epoch=3)
    figure.canvas.draw()
    assert [t.get_text() for ax in figure.axes[:2] for t in ax.texts] == 2 * ["no data"]


@pytest.mark.parametrize("num_layers", [2, 40])
def test_health_has_a_line_per_layer(num_layers):
    rng = np.random.default_rng(0)
    layers = [f"block{i}.conv" for i in range(num_layers)]
    gradients = {"step": np.array([1, 10, 100]), "norm": rng.random((3, num_layers)) + 0.1,
                 "update": rng.random((3, num_layers)) * 1e-3}  # fmt: skip
    gradients["update"][2, 0] = 0.0  # a learning rate of zero has no place on a logarithmic axis
    activity = {"step": np.array([100]), **{
        key: rng.random((1, num_layers)) for key in ("dead", "always_on", "zeros", "mean", "std")
    }}  # fmt: skip
    figure = health_figure(layers, gradients, activity, title="Health")
    figure.canvas.draw()
    titles = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert len(titles) == 6
    norm = titles["gradient norm"]
    assert len(norm.lines) == num_layers and norm.get_yscale() == norm.get_xscale() == "log"
    np.testing.assert_array_equal(norm.lines[1].get_ydata(), gradients["norm"][:, 1])
    dead = titles["dead: outputs that are zero for every image, %"]
    np.testing.assert_allclose(dead.lines[0].get_ydata(), 100 * activity["dead"][:, 0])
    mean = titles["mean output; dashed: standard deviation"].lines
    dashed = [line.get_ydata()[0] for line in mean if line.get_linestyle() == "--"]
    np.testing.assert_array_equal(dashed, activity["std"][0])
    update = titles["relative weight change per step"].lines
    assert np.isnan(update[0].get_ydata()[2]) and set(update[-1].get_ydata()) == {1e-3}
    shown = [t.get_text() for t in figure.legends[0].get_texts()]
    assert shown[0] == layers[0] and shown[-1] == layers[-1] and len(shown) <= 10
    note = figure.legends[0].get_title().get_text()
    assert note == ("" if num_layers == 2 else "10 of 40 layers")
    width, height = figure.canvas.get_width_height()
    box = figure.get_tightbbox()
    assert 0 <= box.x0 and box.x1 * figure.dpi <= width + 0.5
    assert 0 <= box.y0 and box.y1 * figure.dpi <= height + 0.5


def test_health_without_validation_says_so():
    gradients = {"step": np.array([1]), "norm": np.ones((1, 1)), "update": np.ones((1, 1))}
    figure = health_figure(["conv"], gradients, {"step": np.zeros(0)})
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert texts == [*4 * ["no validation data"], "about 0.001\nis healthy\n(CS231n)"]


@pytest.mark.parametrize("update", [0.0, 1e-9, NAN, np.inf])
def test_health_without_a_weight_change_says_so(update):
    steps = np.array([1, 10])
    gradients = {"step": steps, "norm": np.ones((2, 1)), "update": np.full((2, 1), update)}
    figure = health_figure(["conv"], gradients, {"step": np.zeros(0)})
    figure.canvas.draw()
    norm, change = figure.axes[-2:]
    assert norm.get_yscale() == norm.get_xscale() == "log"
    assert [t.get_text() for t in change.texts] == ["no finite value above 1e-07"]
