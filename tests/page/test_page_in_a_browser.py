"""Pages in Chromium: their computations equal those of PyTorch, and their controls work."""

import base64
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose_run
from pages import CHROMIUM, STROKES, Tab, chromium, default_run, drawn_digits, like_mnist, networks
from PIL import Image
from torch import nn

from simplecnn.inference.networks import load_network
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.page import html
from simplecnn.page.gather import gather
from simplecnn.page.network import network_data
from simplecnn.page.report import write_report
from simplecnn.page.sweep import write_sweep_page
from simplecnn.receptive_field import receptive_fields
from simplecnn.run_directory import RunDirectory
from simplecnn.training.run import train

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with chromium() as instance:
        yield instance


@pytest.fixture(scope="module")
def blank(browser: Any) -> Iterator[Any]:
    """An empty page with the functions of the network and preprocessing modules."""
    page = browser.new_page()
    page.evaluate(
        """source => new Promise(done => {
            const script = document.createElement("script");
            script.textContent = source;
            document.head.append(script);
            done();
        })""",
        html.script("windows") + html.script("digit")
        + "Object.assign(window, {bytes, floats, readNetwork, runNetwork, receptiveField});",
    )  # fmt: skip
    yield page
    page.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return default_run(tmp_path_factory)


@pytest.fixture(scope="module")
def shared_tab(browser: Any, run: Path) -> Iterator[Any]:
    with Tab(browser, run / "report.html") as tab:
        yield tab.page


@pytest.fixture
def tab(shared_tab: Any) -> Any:
    """The page as it opens, whatever an earlier test has clicked, pinned or scrolled."""
    shared_tab.mouse.move(2, 2)
    shared_tab.set_viewport_size({"width": 1320, "height": 900})
    shared_tab.evaluate("() => { history.scrollRestoration = 'manual'; }")
    shared_tab.reload()
    return shared_tab


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 1, [1]), (1, 60, [1, 2, 5, 10, 20, 50]), (1, 1000, [1, 10, 100, 1000])],
)
def test_ticks_of_a_logarithmic_axis(low, high, expected, blank):
    get_ticks = "([source, low, high]) => new Function(`${source}; return logTicks`)()(low, high)"
    assert blank.evaluate(get_ticks, [html.script("chart"), low, high]) == expected


def encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


@pytest.mark.parametrize("name", list(networks()))
def test_logits_are_those_of_pytorch(name, blank, bundled, proves):
    network = networks()[name]
    mnist = bundled[0][::25].astype(np.float32) / 255
    images = np.concatenate([mnist, drawn_digits(50)])
    description = network_data(network, (1, 28, 28))
    logits = blank.evaluate(
        """([description, text]) => {
            const network = readNetwork(description), all = floats(text, "float32");
            const logits = [];
            for (let i = 0; i < all.length; i += 784)
                logits.push(Array.from(runNetwork(network, {
                    shape: [1, 28, 28], values: all.subarray(i, i + 784)}).at(-1).values));
            return logits;
        }""",
        [description, encode(images)],
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(images).unsqueeze(1)).numpy()
    assert len(logits) == 250
    assert np.abs(np.array(logits) - expected).max() < 1e-3
    proves("Page", f"The logits in the browser equal those of PyTorch: {name}.", images=len(images))


@pytest.mark.parametrize("name", list(networks()))
def test_receptive_fields_are_those_of_python(name, blank):
    network = networks()[name]
    fields = receptive_fields(network, (1, 28, 28))
    description = network_data(network, (1, 28, 28))
    expected, cells = [], []
    for index, layer in enumerate(description["layers"], start=1):
        field = fields[layer["name"]]
        height, width = field.units
        if layer["kind"] == "flatten":
            continue
        for row in sorted({0, height // 2, height - 1}):
            for column in sorted({0, width // 2, width - 1}):
                cells.append([index, row, column])
                expected.append([list(pair) for pair in field.clipped((row, column))])
    windows = blank.evaluate(
        """([description, cells]) => {
            const network = readNetwork(description);
            const shapes = [[1, 28, 28], ...network.map((layer) => layer.shape)];
            return cells.map(([index, row, column]) => {
                const [image] = receptiveField(network, shapes, index, row, column);
                return [image.rows, image.columns];
            });
        }""",
        [description, cells],
    )
    assert len(cells) >= 3 and windows == expected


def padded_chains() -> dict[str, nn.Module]:
    """Chains in which padding is read by dilated kernels, or by nothing but padding."""
    return {
        "dilation": nn.Sequential(nn.Conv2d(1, 2, 3, padding=2, dilation=2)),
        "two dilations": nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, dilation=2), nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        ),
        "only padding": nn.Sequential(nn.Conv2d(1, 2, 1, padding=1), nn.ReLU()),
    }


@pytest.mark.parametrize("name", list(padded_chains()))
def test_receptive_fields_at_the_border_are_those_of_python(name, blank):
    network = padded_chains()[name]
    fields = receptive_fields(network, (1, 8, 8))
    description = network_data(network, (1, 8, 8))
    for index, layer in enumerate(description["layers"], start=1):
        field = fields[layer["name"]]
        cells = [(row, column) for row in range(field.units[0]) for column in range(field.units[1])]
        windows = blank.evaluate(
            """([description, index, cells]) => {
                const network = readNetwork(description);
                const shapes = [[1, 8, 8], ...network.map((layer) => layer.shape)];
                return cells.map(([row, column]) => {
                    const [image] = receptiveField(network, shapes, index, row, column);
                    return [image.rows, image.columns];
                });
            }""",
            [description, index, cells],
        )
        assert windows == [[list(pair) for pair in field.clipped(cell)] for cell in cells]


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("dilation", (0, 6), "receptive field is rows 0 to 2 and columns 4 to 6 (3 x 3 pixels)."),
        ("only padding", (0, 1), "Its receptive field is only padding."),
        ("only padding", (1, 2), "receptive field is rows 0 and columns 1 (1 x 1 pixels)."),
    ],
)
def test_the_explanation_of_a_cell_at_the_border(name, cell, expected, blank):
    text = blank.evaluate(
        """([source, description, [row, column]]) => new Function("description", `${source};
            setPalettes({signed: btoa("a".repeat(768))});
            const network = readNetwork(description);
            const image = {shape: [1, 8, 8], values: new Float32Array(64)};
            const tensors = runNetwork(network, image), names = ["image", "conv", "relu"];
            const [text] = explanation(network, tensors, names, 1, 0, ${row}, ${column}, null);
            return text.textContent;`)(description)""",
        [html.script("pointing"), network_data(padded_chains()[name], (1, 8, 8)), cell],
    )
    assert text.endswith(expected)


@pytest.mark.parametrize("size", [(37, 90), (90, 61), (20, 30)])
def test_preprocessing_of_files_equals_that_of_python(size, blank):
    image = np.random.default_rng(0).random(size, np.float32)
    image *= np.linspace(0, 1, size[0])[:, None] ** 2  # moves the center of mass from the middle
    image = (255 * image).round().astype(np.uint8)
    for fit in ("pad", "crop", "stretch", None):
        values = blank.evaluate(
            """([height, width, text, fit]) => Array.from(
                toSize({height, width, values: floats(text, "float32")}, 32, 32, fit).values)""",
            [*size, encode(image / 255), fit],
        )
        expected = Preprocessing(size=32, box=None, fit=fit).array(image.astype(np.float32) / 255)
        error = np.abs(np.reshape(values, (32, 32)) - expected[0])
        assert error.max() < 1.6 / 255  # Pillow rounds bytes twice
    assert error.max() < 1e-5
    for box in (20, 28):
        values = blank.evaluate(
            """([height, width, text, box]) => Array.from(
                likeMnist({height, width, values: floats(text, "float32")}, box).digit.values)""",
            [*size, encode(image / 255), box],
        )
        expected = Preprocessing(box=box).array(image.astype(np.float32) / 255)[0]
        assert np.abs(np.reshape(values, (28, 28)) - expected).max() < 1e-5


def draw(page: Any, strokes: list[list[tuple[int, int]]]) -> None:
    page.get_by_role("button", name="Clear").click()
    box = page.locator(".pad").bounding_box()
    for stroke in strokes:
        positions = [(box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"])
                     for x, y in stroke]  # fmt: skip
        page.mouse.move(*positions[0])
        page.mouse.down()
        for position in positions[1:]:
            page.mouse.move(*position, steps=3)
        page.mouse.up()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def test_a_drawing_is_preprocessed_as_by_predict(tab, run, tmp_path):
    network = load_network(run / "checkpoints" / "best.ckpt")
    for strokes in (STROKES[4], STROKES[1], STROKES[8]):
        draw(tab, strokes)
        drawing = tab.evaluate(
            """() => {
                const pad = document.querySelector(".pad");
                const {data} = pad.getContext("2d").getImageData(0, 0, pad.width, pad.height);
                return {pad: Array.from({length: data.length / 4}, (_, i) => data[4 * i]),
                        digit: Array.from(report.work.current().values)};
            }"""
        )
        gray = np.array(drawing["pad"], np.float32).reshape(280, 280) / 255
        digit = like_mnist(gray)
        assert np.abs(np.array(drawing["digit"]).reshape(28, 28) - digit).max() < 1e-5
        expected = network(torch.from_numpy(digit)[None, None]).softmax(1)[0].tolist()
        texts = tab.locator(".bars .share").all_inner_texts()
        shares = [float(text.removeprefix(">").split()[0]) for text in texts]
        assert shares == pytest.approx([100 * p for p in expected], abs=0.06)
        caption = tab.locator(".caption").inner_text()
        assert caption.startswith(f"your drawing: predicted {int(np.argmax(expected))} (")
    tab.locator("#network .thumbnail").first.click()
    assert not tab.locator(".steps").is_visible()
    pad = np.array(drawing["pad"], np.uint8).reshape(280, 280)
    Image.fromarray(pad).save(tmp_path / "eight.png")
    tab.get_by_label("or an image file").set_input_files(tmp_path / "eight.png")
    tab.locator(".steps").wait_for()
    values = np.array(tab.evaluate("() => Array.from(report.work.current().values)"))
    assert np.abs(values.reshape(28, 28) - digit).max() < 1e-4


def test_handwritten_digits_are_recognized(browser, mnist_dir, tmp_path):
    if mnist_dir is None:
        pytest.skip("the MNIST files are not available")
    from simplecnn.config.composition import compose_config

    overrides = ["experiment=fast", f"paths.data_dir={mnist_dir}", f"hydra.run.dir={tmp_path}/run",
                 "callbacks=[checkpoint,report]", "trainer=cpu"]  # fmt: skip
    train(compose_config("train", overrides), tmp_path / "run")
    with Tab(browser, tmp_path / "run" / "report.html") as tab:
        predictions = []
        for strokes in STROKES:
            draw(tab.page, strokes)
            predictions.append(tab.page.locator(".bars .best .class").inner_text())
    assert sum(p == str(digit) for digit, p in enumerate(predictions)) >= 9, predictions


def test_showing_an_image_takes_less_than_fifty_milliseconds(tab):
    seconds = tab.evaluate(
        """() => Array.from({length: 30}, (_, i) => {
            const values = report.data.images.items[i % 10].values, start = performance.now();
            report.work.show(values, "a digit");
            return performance.now() - start;
        })"""
    )
    assert min(seconds) < 50, sorted(seconds)[:5]


def test_pointing_at_a_cell_of_the_first_layer_shows_the_sum(tab, run):
    network = load_network(run / "checkpoints" / "best.ckpt")
    tab.evaluate("() => report.work.show(report.data.images.items[3].values, 'three')")
    image = torch.tensor(tab.evaluate("() => Array.from(report.data.images.items[3].values)"))
    maps = network.conv1(image.reshape(1, 1, 28, 28))[0].detach()
    canvas = tab.locator(".layers canvas").first
    width = canvas.evaluate("canvas => canvas.width / canvas.getBoundingClientRect().width")
    tab.mouse.move(1, 1)  # the first event of a pointer has no movement
    canvas.hover(position={"x": (58 + 2 * 11 + 1) / width, "y": (2 * 14 + 1) / width})
    details = tab.locator(".details").inner_text()
    value = float(maps[1, 14, 11])
    assert "conv1, channel 1, row 14, column 11" in details
    assert "rows 13 to 15 and columns 10 to 12 (3 x 3 pixels)" in details
    assert number_in(details, "it is ") == pytest.approx(value, rel=0.01)
    tables = tab.locator(".details .numbers")
    assert tables.count() == 3
    shown = [[float(t.replace("−", "-")) for t in tables.nth(i).locator("td").all_inner_texts()]
             for i in range(3)]  # fmt: skip
    patch = image.reshape(28, 28)[13:16, 10:13].flatten().tolist()
    kernel = network.conv1.weight[1, 0].flatten().tolist()
    assert shown[0] == pytest.approx(patch, rel=0.06, abs=1e-3)
    assert shown[1] == pytest.approx(kernel, rel=0.06, abs=1e-3)
    assert shown[2] == pytest.approx([p * k for p, k in zip(patch, kernel, strict=True)],
                                     rel=0.06, abs=1e-3)  # fmt: skip


def number_in(text: str, after: str) -> float:
    return float(text.partition(after)[2].split()[0].rstrip(".;").replace("−", "-"))


def test_selecting_a_deeper_cell_by_keys_lists_its_strongest_inputs(tab, run):
    network = load_network(run / "checkpoints" / "best.ckpt")
    image = torch.tensor(tab.evaluate("() => Array.from(report.data.images.items[0].values)"))
    tab.evaluate("() => report.work.show(report.data.images.items[0].values, 'zero')")
    canvas = tab.get_by_label("conv2: 32 maps of 14 x 14")
    canvas.focus()
    for key in ("ArrowRight", "PageDown", "PageDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    details = tab.locator(".details").inner_text()
    assert "conv2, channel 2, row 1, column 2" in details
    pooled = nn.Sequential(*list(network)[:3])(image.reshape(1, 1, 28, 28))[0]
    products = nn.functional.pad(pooled, (1, 1, 1, 1))[:, 1:4, 2:5] * network.conv2.weight[2]
    strongest = products.flatten()[products.abs().flatten().argmax()]
    row = tab.locator(".details tbody tr").first.inner_text().split("\t")
    assert row[0].startswith("pool1 ")
    assert float(row[3].replace("−", "-")) == pytest.approx(float(strongest), rel=0.01)
    assert "144 products" in details
    tab.keyboard.press("Escape")
    assert "Point at any cell" in tab.locator(".details").inner_text()
    units = tab.get_by_label("fc2: 10 units")
    units.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("End")
    tab.mouse.wheel(0, 30)  # scrolling the maps under the pointer does not change the selection
    tab.evaluate("() => new Promise((done) => setTimeout(done, 200))")
    details = tab.locator(".details").inner_text()
    assert "fc2, unit 9 (class 9)" in details and "the whole image" in details
    has_frame = canvas.evaluate(
        """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, 1).data
            .filter((_, i) => i % 4 === 1).every((green) => green === 149)"""
    )
    assert has_frame  # one frame around all maps, which are read as a whole


def test_a_click_pins_a_cell_until_another_click_or_escape(tab):
    first, second = tab.locator(".layers canvas").nth(0), tab.locator(".layers canvas").nth(1)
    first.click(position={"x": 20, "y": 20})
    details = tab.locator(".details").inner_text()
    assert "conv1, channel 0" in details and "Pinned" in details
    second.hover(position={"x": 30, "y": 30})
    assert tab.locator(".details").inner_text() == details
    second.click(position={"x": 30, "y": 30})
    assert "relu1, channel 0" in tab.locator(".details").inner_text()
    first.click(position={"x": 20, "y": 20})
    tab.locator(".details").click()
    tab.keyboard.press("Escape")
    assert "Point at any cell" in tab.locator(".details").inner_text()
    second.focus()
    tab.keyboard.press("Enter")
    first.hover(position={"x": 20, "y": 20})
    assert "relu1" in tab.locator(".details").inner_text()
    tab.locator(".thumbnail").nth(1).click()  # another image ends pointing
    assert tab.locator(".answer.open").count() == 0
    second.hover()
    assert tab.locator(".answer.open").count() == 1
    tab.mouse.move(2, 2)
    assert tab.locator(".answer.open").count() == 0


def test_the_explanation_is_beside_the_maps(tab):
    for width, height in ((1366, 650), (1320, 900), (900, 700)):
        tab.set_viewport_size({"width": width, "height": height})
        tab.evaluate("() => new Promise((done) => setTimeout(done, 100))")
        for canvas in (tab.locator(".layers canvas").first, tab.get_by_label("fc2: 10 units")):
            canvas.hover(position={"x": 5, "y": 5})
            box, input_box = (tab.locator(s).bounding_box() for s in (".details", "canvas.input"))
            assert input_box["y"] >= 0 and box["y"] + box["height"] <= height + 1, (width, box)
            assert box["x"] + box["width"] < canvas.bounding_box()["x"]


def test_filter_history(tab, run):
    with np.load(run / "images" / "filter_history_conv1.npz") as file:
        weights, steps = file["weights"], file["step"]
    assert "Random weights reach" in tab.locator("#filters").inner_text()
    slider = tab.get_by_label("snapshot of conv1")
    slider.focus()
    tab.keyboard.press("Home")
    assert "before the first step" in tab.locator(".snapshots output").inner_text()
    canvas = tab.locator(".filters canvas").nth(2)
    start = canvas.evaluate("canvas => canvas.toDataURL()")
    tab.keyboard.press("End")
    assert f"step {steps[-1]}" in tab.locator(".snapshots output").inner_text()
    assert canvas.evaluate("canvas => canvas.toDataURL()") != start
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 5 / 6, "y": box["height"] / 2})
    text = tab.locator("#filters .values").inner_text()
    assert "filter 2, row 1, column 2" in text
    assert number_in(text, "column 2: ") == pytest.approx(float(weights[-1, 2, 0, 1, 2]), abs=2e-3)
    change = np.linalg.norm(weights[-1, 2] - weights[0, 2]) / np.linalg.norm(weights[0, 2])
    percentage = tab.locator(".filters .change").nth(2).inner_text()
    assert float(percentage.split()[0]) == pytest.approx(100 * change, abs=1)
    tab.get_by_role("button", name="Play").click()
    assert int(slider.input_value()) < len(weights) / 2  # from the start, three a second
    slider.evaluate("e => { e.value = e.max - 1; e.dispatchEvent(new Event('input')); }")
    is_paused = "() => document.querySelector('.snapshots button').textContent === 'Play'"
    tab.wait_for_function(is_paused)
    assert int(slider.input_value()) == len(weights) - 1


def test_a_cell_of_the_confusion_matrix_shows_its_images(tab):
    note = tab.locator("#confusion .note").inner_text()
    assert " validation images, as predicted by best.ckpt, after epoch " in note
    wrong = tab.locator(".matrix button.wrong").first
    label = wrong.get_attribute("aria-label")
    wrong.click()
    assert label in tab.locator(".cell-images h3").inner_text()
    thumbnails = tab.locator(".cell-images .thumbnail")
    assert thumbnails.count() >= 1
    true, _, predicted = label.partition(": ")[0].partition(" predicted as ")
    description = f"{true}, predicted as {predicted}"
    assert thumbnails.first.get_attribute("aria-label").startswith(description)
    thumbnails.first.focus()
    tab.keyboard.press("Enter")
    caption = tab.locator(".caption").inner_text()
    assert caption.startswith(f"image of {true}: predicted {predicted} (")


def test_curves_show_their_values_and_the_command_is_copied(tab, run):
    record = RunDirectory.open(run).record
    accuracy = tab.locator(".chart").nth(1).locator("svg[role=img]")
    accuracy.focus()
    tab.keyboard.press("End")
    text = tab.locator(".chart").nth(1).locator(".values").inner_text()
    assert text.startswith("epoch 1, step 40: ")
    assert number_in(text, "validation ") == pytest.approx(100 * record["metrics"]["val/acc"],
                                                           abs=0.1)  # fmt: skip
    button = tab.locator(".command .copy")
    button.click()
    tab.wait_for_function("() => document.querySelector('.copy').textContent === 'Copied'")
    assert tab.evaluate("() => navigator.clipboard.readText()") == record["command"]


def test_drawing_by_keys(tab):
    tab.get_by_role("button", name="Clear").click()
    tab.locator(".pad").focus()
    for key in ["ArrowUp"] * 8 + [" "] + ["ArrowDown"] * 16 + [" "]:
        tab.keyboard.press(key)
    tab.wait_for_function(
        "() => document.querySelector('.caption').textContent.startsWith('your drawing')"
    )
    digit = np.array(tab.evaluate("() => Array.from(report.work.current().values)"))
    rows, columns = np.nonzero(digit.reshape(28, 28) > 0.5)
    assert np.ptp(rows) == 19 and np.ptp(columns) <= 3  # a vertical line of 20 pixels
    pen, pad = tab.locator(".pen").bounding_box(), tab.locator(".pad").bounding_box()
    assert pen["y"] + pen["height"] / 2 - pad["y"] == pytest.approx(220 / 280 * 224, abs=2)
    tab.get_by_role("button", name="Clear").click()
    assert tab.locator(".caption").inner_text() == "" and not tab.locator(".bars").is_visible()
    assert not tab.locator(".pen").is_visible() and not tab.locator(".steps").is_visible()
    assert tab.locator(".layers canvas").first.evaluate(
        "canvas => canvas.getContext('2d').getImageData(0, 0, 99, 40).data.every((v) => v === 0)"
    )


def test_all_controls_have_a_name_and_are_reached_by_keys(tab):
    unnamed, unreached = tab.evaluate(
        """() => {
            const name = (e) => e.getAttribute("aria-label") || e.textContent.trim()
                || (e.id && document.querySelector(`label[for="${e.id}"]`)?.textContent);
            const all = [...document.querySelectorAll(
                "button, input, canvas:not([aria-hidden]), svg[role=img], a, summary, img")];
            const live = [...document.querySelectorAll("button, input, .pad, .layers canvas, "
                + ".filters canvas, svg[role=img], summary, .scroll")];
            return [all.filter((e) => !(name(e) || e.alt)).map((e) => e.outerHTML.slice(0, 99)),
                    live.filter((e) => e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 99))];
        }"""
    )
    assert unnamed == [] and unreached == []


def swipe(page: Any, canvas: Any) -> None:
    """Swipe up from the middle of a canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, at in (("Start", y), *(("Move", y - 40 * i) for i in range(1, 7)), ("End", None)):
        points = [] if at is None else [{"x": x, "y": at}]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})


def wait_until_scrolled(page: Any) -> None:
    """Wait until a swipe scrolls no further: a tap before only stops the page."""
    page.evaluate(
        """() => new Promise((done) => {
            const wait = (y, frames) => requestAnimationFrame(() => frames > 20 ? done()
                : wait(window.scrollY, window.scrollY === y ? frames + 1 : 0));
            wait(window.scrollY, 0);
        })"""
    )


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1320, "dark")])
def test_the_page_fits_a_phone_and_a_desktop_in_light_and_dark(width, scheme, browser, run):
    with Tab(browser, run / "report.html", color_scheme=scheme, has_touch=width == 360,
             viewport={"width": width, "height": 780}) as tab:  # fmt: skip
        page = tab.page
        page.wait_for_function(f"() => document.documentElement.scrollWidth <= {width}")
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 31)")
        if width == 360:
            canvas = page.locator(".layers canvas").nth(2)
            swipe(page, canvas)
            assert page.locator(".answer.open").count() == 0
            wait_until_scrolled(page)
            canvas.tap(position={"x": 20, "y": 10})
            panel = page.locator(".answer.open").bounding_box()
            assert panel["y"] + panel["height"] == pytest.approx(780, abs=1)  # at the bottom
            digit = page.locator(".answer.open .input").bounding_box()
            assert panel["y"] < digit["y"] < 780 - digit["height"]
            page.get_by_role("button", name="close").tap()
            assert page.locator(".answer.open").count() == 0
            pad, bars = (page.locator(s).bounding_box() for s in (".pad", ".bars"))
            assert bars["y"] + bars["height"] - pad["y"] < 780  # probabilities and pad fit together
            screenshot = Image.open(BytesIO(page.locator("#file").screenshot()))
            column = np.asarray(screenshot.convert("L"))[:, 8]  # of the button, beside its text
            edges = np.flatnonzero(column != column[len(column) // 2])
            assert edges.min() < 10 and edges.max() > 20  # the button is not cut off


def test_text_of_a_run_is_shown_as_text(browser, run, tmp_path):
    hostile = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\">'\"&"
    data = gather([RunDirectory.open(run)])
    data |= {"title": hostile, "classes": [f"{hostile}{i}" for i in range(10)]}
    run_data = data["runs"][0]
    run_data |= {"title": hostile, "error": hostile + "y" * 10_000, "status": "failed",
                 "command": hostile, "checkpoint": hostile,
                 "config": [[hostile, hostile, hostile], ["k", "z" * 10_000, None]]}  # fmt: skip
    run_data["network"]["layers"][0]["name"] = hostile
    run_data["metrics"] = None  # interrupted: those of the last epoch are in the curves
    run_data["curves"]["epochs"] |= {"val/accuracy": [[1, 0.9876]], "val/accel_mae": [[1, 3.2]]}
    data["box"] = None  # the images are not drawings
    (tmp_path / "hostile.html").write_bytes(html.render("report", data, title=hostile))
    with Tab(browser, tmp_path / "hostile.html") as tab:
        page = tab.page
        assert page.locator("h1").inner_text() == hostile == page.title()
        assert page.locator(".error").inner_text() == hostile + "y" * 10_000
        assert hostile in page.locator(".layers figcaption").first.inner_text()
        assert page.locator("img[src=x]").count() == 0
        facts = page.locator(".facts").inner_text()
        assert "validation accuracy, epoch 1" in facts
        assert "98.76\xa0%" in facts and "3.2000" in facts  # as in simplecnn.table
        assert re.search(r"total time\s+\d+\.\d s\s", facts)
        assert page.locator(".pad").count() == 0
        corner = page.locator("canvas.input").evaluate(
            "canvas => canvas.getContext('2d').getImageData(2, 2, 1, 1).data[0]"
        )
        assert corner == 0  # drawn as a photograph, not as ink
        page.wait_for_function("document.documentElement.scrollWidth <= 1320")


@pytest.mark.parametrize("width", [360, 1320])
def test_long_names_are_shortened_but_distinguishable(width, browser, run, tmp_path):
    data = gather([RunDirectory.open(run)])
    data["classes"] = [*(f"species number {i:02d} long" for i in range(9)), 30 * "\u5317"]
    run_data = data["runs"][0]
    run_data["pictures"][0]["name"] = 12 * "filter_history_features_"
    num_snapshots, num_filters, *_ = run_data["filters"]["shape"]
    run_data["filters"]["shape"] = [num_snapshots, 1, num_filters, 3, 3]
    (tmp_path / "long.html").write_bytes(html.render("report", data, title="long"))
    with Tab(browser, tmp_path / "long.html", viewport={"width": width, "height": 780}) as tab:
        page = tab.page
        page.wait_for_function(f"() => document.documentElement.scrollWidth <= {width}")
        for names in (".bars .class", ".matrix tbody th"):
            texts = page.locator(names).all_inner_texts()
            assert len(set(texts)) == 10 and texts[3] == "species…03 long"
            overflowing = "all => all.filter((e) => e.scrollWidth > e.clientWidth).length"
            assert page.locator(names).evaluate_all(overflowing) == 0
        assert page.locator(".matrix thead th").nth(4).inner_text() == "species…03 long"
        row = page.locator(".matrix tbody th").first
        box = row.bounding_box()
        scrolled = page.locator("#confusion .scroll").evaluate(
            "area => { area.scrollLeft = 300; return area.scrollLeft; }"
        )
        assert scrolled > 0 and row.bounding_box() == box
        color = row.evaluate("element => getComputedStyle(element).backgroundColor")
        assert color == "rgb(255, 255, 255)"
        assert "0.55" not in page.locator("#filters").inner_text()


def test_outputs_that_are_no_class_of_the_data_are_not_in_the_matrix(browser, run, tmp_path):
    data = gather([RunDirectory.open(run)])
    data["classes"] += ["10", "11"]
    (tmp_path / "more.html").write_bytes(html.render("report", data, title="more"))
    with Tab(browser, tmp_path / "more.html") as tab:
        names = tab.page.locator(".matrix thead th").all_inner_texts()
        assert names == ["true", *map(str, range(10)), "recall"]


STRIPES = """
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


class Stripes(LightningDataModule):
    classes = ["red", "green", "blue", "left <b>", "right"]

    def setup(self, stage):
        torch.manual_seed(1)
        images, self.labels = torch.rand(100, 3, 64, 64) / 2, torch.arange(100) % 5
        for image, label in zip(images, self.labels):
            image[label % 3, 12 * label : 12 * label + 10] = 1
        self.data = TensorDataset(images, self.labels)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=20)

    val_dataloader = test_dataloader = train_dataloader
"""
RESIDUAL = """
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + x.relu())
"""


def test_color_images_of_another_size_with_class_names(browser, tmp_path, monkeypatch):
    (tmp_path / "stripes_of_a_test.py").write_text(STRIPES)
    monkeypatch.chdir(tmp_path)
    overrides = [
        "data._target_=stripes_of_a_test.Stripes", "model.network.channels=[4,8]",
        "trainer=cpu", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/run",
        "callbacks=[checkpoint,mistakes,report]",
    ]  # fmt: skip
    from simplecnn.config.composition import compose_config

    train(compose_config("train", overrides), tmp_path / "run")
    color = np.zeros((80, 120, 3), np.uint8)
    color[..., 2] = 200
    Image.fromarray(color).save(tmp_path / "blue.png")
    with Tab(browser, tmp_path / "run" / "report.html") as tab:
        page = tab.page
        names = page.locator(".bars .class").all_inner_texts()
        assert names == ["red", "green", "blue", "left <b>", "right"]
        assert page.locator(".pad").count() == 0 and page.locator(".bars .share").count() == 5
        pixels = page.locator("canvas.input").evaluate(
            """canvas => Array.from(canvas.getContext("2d").getImageData(6, 6, 1, 1).data)"""
        )
        assert pixels[0] == 255 and max(pixels[1:3]) < 160  # class 0: the first rows are red
        network = load_network(tmp_path / "run" / "checkpoints" / "best.ckpt")
        values = page.evaluate("() => Array.from(report.work.current().values)")
        expected = network(torch.tensor(values).reshape(1, 3, 64, 64)).softmax(1)[0].tolist()
        texts = page.locator(".bars .share").all_inner_texts()
        shares = [float(text.removeprefix(">").split()[0]) for text in texts]
        assert shares == pytest.approx([100 * p for p in expected], abs=0.2)  # float16 weights
        page.get_by_label("or an image file").set_input_files(tmp_path / "blue.png")
        page.wait_for_function(
            "() => document.querySelector('.caption').textContent.startsWith('blue.png')"
        )  # noqa: E501
        values = np.array(page.evaluate("() => Array.from(report.work.current().values)"))
        values = values.reshape(3, 64, 64)
        assert values[:2].max() == 0 and values[2] == pytest.approx(200 / 255, abs=0.005)
        for x in (10, 20):  # the first event does not count as a movement
            page.locator(".layers canvas").first.hover(position={"x": x, "y": 20})
        tables = [t.bounding_box() for t in page.locator(".details .numbers").all()]
        assert len({t["x"] for t in tables}) == len({t["y"] for t in tables}) == 3  # 3 per color
        panel = page.locator(".details").bounding_box()
        assert all(t["x"] + t["width"] < panel["x"] + panel["width"] for t in tables)
        tracks = {t.bounding_box()["x"] for t in page.locator(".bars .track").all()}
        assert len(tracks) == 1


def test_the_page_of_a_network_that_is_not_a_chain(browser, tmp_path, monkeypatch):
    (tmp_path / "residual_of_a_test.py").write_text(RESIDUAL)
    monkeypatch.chdir(tmp_path)
    overrides = ["model.network._target_=residual_of_a_test.Residual", "model=simplecnn",
                 "trainer.max_epochs=1"]  # fmt: skip
    train(compose_run(tmp_path / "run", *overrides), tmp_path / "run")
    with Tab(browser, tmp_path / "run" / "report.html") as tab:
        page = tab.page
        assert "Residual is not a chain" in page.locator(".sentence").inner_text()
        assert page.locator(".filters canvas").count() == 4
        assert page.locator(".matrix").count() == 1 and page.locator(".chart").count() >= 3
        page.get_by_text("maps_stem").click()
        assert page.locator("#pictures img").first.evaluate("image => image.naturalWidth") > 100
        assert "plain JavaScript" not in page.locator("#network").inner_text()
        page.locator("#network .thumbnail").nth(3).click()
        network = load_network(tmp_path / "run" / "checkpoints" / "best.ckpt")
        values = page.evaluate("() => Array.from(report.work.current().values)")
        expected = network(torch.tensor(values).reshape(1, 1, 28, 28)).softmax(1)[0].tolist()
        texts = page.locator(".bars .share").all_inner_texts()
        shares = [float(text.removeprefix(">").split()[0]) for text in texts]
        assert shares == pytest.approx([100 * p for p in expected], abs=0.06)
        assert page.locator("canvas.input").is_visible() and page.locator(".details").is_hidden()


def test_two_runs_side_by_side(browser, run):
    second = run.parent / "second"
    overrides = [
        "model.network.channels=[4,8]", "trainer.max_epochs=1", "model.network.pool=average",
        "callbacks=[checkpoint,curves,filter_history,mistakes,report]",
    ]  # fmt: skip
    train(compose_run(second, *overrides), second)
    path = write_report([RunDirectory.open(run), RunDirectory.open(second)])
    assert path == run / "report_second.html"
    with Tab(browser, path) as tab:
        page = tab.page
        differing = page.locator("#configuration table").first.inner_text()
        assert "model.network.pool\tmax\taverage" in differing and "seed" not in differing
        ids = page.locator("section").evaluate_all("all => all.map((section) => section.id)")
        assert ids == ["configuration", "curves", "filters", "network", "confusion", "health",
                       "pictures"]  # fmt: skip
        assert page.locator("h1").inner_text() == "first and train"
        assert page.locator("#network h4", has_text="Mistakes of A").count() == 1
        assert page.locator(".layers").count() == 2 and page.locator(".bars").count() == 2
        legend = page.locator(".chart").first.locator(".legend").inner_text()
        assert "A validation" in legend and "B validation" in legend
        assert page.locator(".matrix").count() == 2
        shades = page.locator(".matrix .wrong").evaluate_all(
            "all => all.map((e) => [e.textContent, e.style.backgroundColor])"
        )
        assert len(set(map(tuple, shades))) == len({count for count, _ in shades}) > 2
        steps = page.locator("#health svg", has_text="step, log scale")
        assert steps.count() == 2  # gradients and updates of A; B has not recorded its health
        heading = page.get_by_text("A is right, B is wrong")
        items = json.loads(page.locator("#data").text_content())["images"]["items"]
        expected = [i for i in items if i.get("label") == i["predicted"][0] != i["predicted"][1]]
        thumbnails = heading.locator("xpath=following-sibling::*[1]").locator(".thumbnail")
        assert thumbnails.count() == len(expected) > 0
        thumbnails.first.click()
        first, second = page.locator(".bars .best .class").all_inner_texts()
        assert [first, second] == [str(c) for c in expected[0]["predicted"]]


def test_the_columns_of_a_sweep_are_sorted_as_numbers_or_as_texts(browser, tmp_path):
    columns = {"num_parameters": ["1,000,000", "98,442", "", "9,999"],
               "channels": ["[8,16]", "[16]", "[4]", "1,2"]}  # fmt: skip
    jobs = [{"name": str(i), "label": "", "status": "finished", "link": None, "values": [],
             "cells": {"job": str(i), **{name: cells[i] for name, cells in columns.items()}},
             "result": 1.0, "error": "", "log": None, "curve": []}
            for i in range(4)]  # fmt: skip
    path = write_sweep_page(tmp_path, {
        "title": "sweep", "command": "train.py -m", "summary": "4 jobs", "mode": "max",
        "answers": [], "metric": "m", "curve_metric": "m", "means": {}, "keys": [], "jobs": jobs,
    })  # fmt: skip
    with Tab(browser, path) as tab:
        column = tab.page.locator(".jobs tbody tr td:first-child")
        assert tab.page.locator(".jobs th.text").all_inner_texts() == ["channels"]
        for name, order in (("num_parameters", "3102"), ("channels", "2013")):
            tab.page.get_by_role("button", name=name).click()
            assert "".join(column.all_inner_texts()) == order


def test_the_page_of_a_sweep(browser, tmp_path):
    jobs = [{"name": str(i), "label": f"job {i}: lr {10.0 ** -(i + 1):g}",
             "status": "failed" if i == 3 else "finished",
             "link": f"{i}/report.html" if i != 3 else None,
             "cells": {"job": str(i), "lr": str(10.0 ** -(i + 1)), "status": "finished",
                       "val/acc %": "" if i == 3 else str(90 + 3 * i)},
             "values": [10.0 ** -(i + 1)], "result": None if i == 3 else 90 + 3 * i,
             "error": "<b>diverged</b>" if i == 3 else "", "log": "3/train.log" if i == 3 else None,
             "curve": [] if i == 3 else [[1, 80 + i], [2, 90 + 3 * i]]}
            for i in range(4)]  # fmt: skip
    path = write_sweep_page(tmp_path, {
        "title": "sweep", "command": "train.py -m", "summary": "4 jobs", "mode": "max",
        "answers": [["best job", "2"]], "metric": "best val/acc %", "curve_metric": "val/acc %",
        "means": {"lr": ["0.1"], "best val/acc %": ["91.50 ± 2.12 (2)"]}, "keys": ["lr"],
        "jobs": jobs,
    })  # fmt: skip
    with Tab(browser, path) as tab:
        page = tab.page
        means = page.locator(".means tbody td")
        assert means.all_inner_texts() == ["0.1", "91.50 ± 2.12 (2)"]
        column = page.locator(".jobs tbody tr td:first-child")
        page.get_by_role("button", name="val/acc %").click()
        assert column.all_inner_texts() == ["0", "1", "2", "3"]  # the job without a value is last
        page.get_by_role("button", name="val/acc %").click()
        assert column.all_inner_texts() == ["2", "1", "0", "3"]
        head = page.locator(".jobs th", has_text="val/acc %")
        assert head.get_attribute("aria-sort") == "descending"
        assert page.locator(".jobs a").first.get_attribute("href") == "2/report.html"
        assert page.locator(".error").inner_text() == "job 3 failed: <b>diverged</b> log"
        assert page.locator(".error a").get_attribute("href") == "3/train.log"
        assert page.locator("#means .note").inner_text().startswith("The best first: mean ± ")
        order = "Sorted by best val/acc %, highest first. "
        assert page.locator("#jobs .note").inner_text().startswith(order)
        dots = page.locator("#values circle")
        assert dots.count() == 3
        dots.nth(1).hover()
        assert page.locator(".jobs tr.highlighted td").first.inner_text() == "1"
        assert "lr 0.01, best val/acc % 93" in page.locator("#values .values").inner_text()
        plot = page.locator("#curves svg[role=img]")
        box = plot.bounding_box()
        plot.hover(position={"x": box["width"] - 14, "y": 14})
        assert page.locator(".jobs tr.highlighted td").first.inner_text() == "2"
        assert page.locator("#curves .dimmed").count() == 2
        plot.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        text = page.locator("#curves .values").inner_text()
        assert page.locator(".jobs tr.highlighted td").first.inner_text() == text[4:5]
        assert text.startswith(f"job {text[4:5]}: lr 0.")
        page.set_viewport_size({"width": 360, "height": 780})
        page.wait_for_function(
            "() => document.documentElement.scrollWidth <= 360"
        )  # redrawn by now
