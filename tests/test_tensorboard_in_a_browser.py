"""TensorBoard in Chromium shows all scalars, images, embeddings and hyperparameters of runs."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose_run
from PIL import Image

from simplecnn.config.composition import compose_config
from simplecnn.explain.explanation import explain
from simplecnn.run_directory import RunDirectory
from simplecnn.training.loggers import TensorBoard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 60_000  # milliseconds; TensorBoard takes seconds to load
NUM_PICTURES = 25  # more than TensorBoard's default of 10

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """An empty tab of headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as playwright:
        # Software rendering, because the projector needs WebGL.
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(WAIT)
        yield page
        browser.close()


@contextmanager
def serve(*options: str) -> Iterator[str]:
    """Start TensorBoard on a free local port; yields its URL."""
    command = [sys.executable, "-m", "tensorboard.main", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if match := re.search(r"at (http://localhost:\d+/)", line):
                    yield match[1]
                    break
            else:
                raise AssertionError("TensorBoard exited without serving a URL.")
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def run_url(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard, started as the summary says, on a run with an embedding and a frequent image."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(finished_run, folder)
    logger = TensorBoard(str(folder))
    png = (folder / "images" / "filter_history_conv1.png").read_bytes()
    for step in range(NUM_PICTURES):
        logger.add_png("filter/often", png, 100, 100, step)
    logger.experiment.close()
    explain(compose_config("explain", [f"run={folder}", "parts=embedding"]))
    with serve("--samples_per_plugin", "images=500", "--logdir", str(folder.parent)) as url:
        yield url


@pytest.fixture(scope="module")
def sweep_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """TensorBoard on two runs that differ in the learning rate."""
    from simplecnn.training.run import train

    folder = tmp_path_factory.mktemp("sweep")
    for job, rate in enumerate((0.001, 0.004)):
        overrides = ["trainer.max_epochs=1", "callbacks=none", f"model.optimizer.lr={rate}"]
        train(compose_run(folder / str(job), *overrides), folder / str(job))
    with serve("--logdir", str(folder)) as url:
        yield url


def open_tab(page: Any, url: str, tab: str, tag_filter: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{url}?tagFilter={tag_filter}#{tab}")


def fetch(page: Any, path: str) -> Any:
    return page.evaluate("path => fetch(path).then(response => response.json())", path)


def wait_for_text(page: Any, text: str) -> None:
    page.get_by_text(text, exact=True).first.wait_for(state="visible")


def test_time_series_lists_every_scalar_and_image(page, run_url):
    open_tab(page, run_url, "timeseries")
    page.locator("scalar-card").nth(1).wait_for()
    groups = [text.strip() for text in page.locator(".group-text .tag-group-name, .group-title")
              .all_inner_texts()]  # fmt: skip
    assert groups[:5] == ["Pinned", "acc", "loss", "lr-Adam", "pictures"]
    titles = page.locator("scalar-card .tag").all_inner_texts()
    assert ["".join(title.split()) for title in titles][:2] == ["acc", "loss"]


def test_a_scalar_has_every_step(page, run_url, finished_run):
    open_tab(page, run_url, "scalars")
    tags = fetch(page, "data/plugin/scalars/tags")
    for stage in ("train", "val", "test"):
        assert set(tags[f"run/{stage}"]) == {"acc", "loss"}
    assert set(tags["run"]) == {"acc", "lr-Adam"}  # metrics of health would clutter HPARAMS
    points = fetch(page, "data/plugin/scalars/scalars?run=run%2Ftrain&tag=loss")
    assert [step for _, step, _ in points] == [7, 15]
    record = RunDirectory.open(finished_run).record
    assert points[-1][2] == pytest.approx(record["metrics"]["train/loss"], abs=1e-6)
    wait_for_text(page, "acc")


def test_images_are_shown_at_every_step(page, run_url):
    open_tab(page, run_url, "images")
    wait_for_text(page, "pictures/confusion/val")
    image = page.locator("tf-image-loader img").first
    image.wait_for(state="visible")
    page.wait_for_function(
        "image => image.complete && image.naturalWidth > 500", arg=image.element_handle()
    )
    tags = fetch(page, "data/plugin/images/tags")["run"]
    names = {tag.removeprefix("pictures/") for tag in tags}
    assert {"confusion/val", "curves", "filter_history/conv1", "filters/conv1", "health",
            "maps/conv1", "maps/conv2", "mistakes/val"} <= names  # fmt: skip
    often = "pictures%2Ffilter%2Foften"
    shown = fetch(page, f"data/plugin/images/images?run=run&tag={often}&sample=0")
    assert [entry["step"] for entry in shown] == list(range(NUM_PICTURES))


def test_the_projector_shows_the_points_as_images(page, run_url):
    with page.expect_response(lambda response: "sprite_image" in response.url) as sprites:
        open_tab(page, run_url, "projector")
    while not (frames := [f for f in page.frames if f.url.endswith("projector_binary.html")]):
        page.wait_for_timeout(200)  # it is in a nested frame
    projector = frames[0]
    projector.get_by_text("Points: 500").first.wait_for()  # all bundled test digits
    projector.get_by_text("Dimension: 128").first.wait_for()
    label = projector.locator("paper-item.iron-selected").filter(has_text="answer").first
    label.wait_for(state="attached")  # points are labeled by their answer
    sheet = Image.open(io.BytesIO(sprites.value.body()))
    assert sheet.size == (23 * 28, 23 * 28)
    canvas = projector.locator("canvas").first
    for _ in range(60):
        drawn = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L"))
        if (drawn < 40).mean() > 0.01:
            break  # the digits are white on black, and nothing else is black
        page.wait_for_timeout(500)
    else:
        raise AssertionError("No digits were drawn.")


def test_hparams_of_a_run_and_of_a_sweep(page, run_url, sweep_url):
    for url, rates in ((run_url, ["0.0010000"]), (sweep_url, ["0.0010000", "0.0040000"])):
        open_tab(page, url, "hparams")
        wait_for_text(page, "Trial ID")
        page.get_by_text("model/optimizer/lr", exact=True).first.wait_for(state="attached")
        sessions = fetch_sessions(page)
        assert sorted(f"{s['hparams']['model/optimizer/lr']:.7f}" for s in sessions) == rates
        for session in sessions:
            names = [m["name"] for m in session["metricValues"]]
            metrics = {f"{name.get('group', '')}/{name['tag']}" for name in names}
            assert {"train/acc", "val/acc", "test/acc"} <= metrics
            assert ("/acc" in metrics) == (url == run_url)  # only this run has a best checkpoint
            assert session["hparams"]["model/compile"] in ("true", "false")  # not 0.0000
    page.get_by_text("true", exact=True).first.wait_for(state="attached")
    open_tab(page, run_url, "hparams")
    wait_for_text(page, "acc")  # the best value of the monitor, the only metric shown by default


def fetch_sessions(page: Any) -> list[dict[str, Any]]:
    """Send the requests of the HPARAMS table; returns one session group per trial."""
    experiment = page.evaluate(
        """() => fetch("data/plugin/hparams/experiment", {
            method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"
        }).then(response => response.json())"""
    )
    columns = [{"metric": i["name"], "includeInResult": True} for i in experiment["metricInfos"]]
    columns += [{"hparam": i["name"], "includeInResult": True} for i in experiment["hparamInfos"]]
    groups = page.evaluate(
        """columns => fetch("data/plugin/hparams/session_groups", {
            method: "POST", headers: {"Content-Type": "application/json"},
            body: JSON.stringify({
                startIndex: 0, sliceSize: 100, colParams: columns,
                allowedStatuses: ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_RUNNING"],
            }),
        }).then(response => response.json())""",
        columns,
    )
    return groups["sessionGroups"]
