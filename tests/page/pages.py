"""Helpers for the tests of pages: networks, handwritten digits, a browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train_once
from PIL import Image, ImageDraw
from torch import nn
from torchvision.transforms import Normalize

from simplecnn.config.build import build
from simplecnn.config.composition import compose_config
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.models.simple_cnn import SimpleCNN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Handwritten digits: strokes of points (x, y), from 0 to 100.
STROKES: list[list[list[tuple[int, int]]]] = [
    [[(52, 16), (36, 22), (28, 40), (27, 60), (34, 78), (50, 84), (65, 78), (72, 60), (71, 40),
      (65, 23), (52, 16)]],
    [[(40, 28), (52, 16), (51, 84)]],
    [[(30, 32), (38, 19), (53, 16), (66, 24), (66, 38), (54, 54), (40, 68), (29, 82), (50, 80),
      (72, 82)]],
    [[(32, 20), (50, 15), (64, 24), (62, 38), (46, 47), (64, 54), (69, 68), (58, 82), (40, 84),
      (29, 76)]],
    [[(40, 16), (33, 36), (29, 54), (48, 55), (70, 52)], [(62, 18), (60, 50), (58, 86)]],
    [[(66, 17), (38, 18), (35, 44), (50, 41), (65, 50), (68, 66), (58, 81), (42, 84), (29, 77)]],
    [[(60, 15), (44, 28), (33, 48), (31, 68), (40, 83), (56, 83), (66, 71), (61, 57), (47, 54),
      (34, 64)]],
    [[(28, 20), (48, 19), (70, 18), (60, 42), (50, 64), (44, 85)]],
    [[(64, 24), (50, 15), (36, 23), (38, 37), (52, 48), (65, 61), (63, 77), (49, 85), (35, 77),
      (36, 62), (50, 49), (63, 37), (64, 24)]],
    [[(65, 30), (52, 17), (36, 24), (34, 40), (46, 49), (60, 42), (66, 28), (65, 50), (61, 68),
      (56, 86)]],
]  # fmt: skip


def like_mnist(gray: np.ndarray) -> np.ndarray:
    """Return a drawing preprocessed as by `predict`: (28, 28), 0 to 1."""
    return Preprocessing().array(gray)[0]


def drawn_digits(num_digits: int) -> np.ndarray:
    """Return the strokes with random jitter, preprocessed: (num_digits, 28, 28), 0 to 1."""
    random = np.random.default_rng(0)
    digits = []
    for i in range(num_digits):
        image = Image.new("L", (280, 280), "white")
        for stroke in STROKES[i % 10]:
            points = 2.8 * np.array(stroke) + random.normal(0, 4, (len(stroke), 2))
            ImageDraw.Draw(image).line([tuple(p) for p in points], "black", 22, joint="curve")
        digits.append(like_mnist(np.asarray(image, np.float32) / 255))
    return np.stack(digits)


def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that trained the default network for one epoch."""
    overrides = [
        "model.network.channels=[16,32,64]", "trainer.max_epochs=1", "name=first",
        "+trainer.limit_train_batches=40", "callbacks.health.every_n_epochs=1",
    ]  # fmt: skip
    return train_once(tmp_path_factory, "default", *overrides)


def networks() -> dict[str, nn.Module]:
    """Return chains of all supported layers, with random weights and running statistics."""
    torch.manual_seed(0)
    small = {"channels": (4, 8), "hidden": 16}
    chains: dict[str, nn.Module] = {"max": SimpleCNN(), "lenet": build_lenet()}
    chains |= {p: SimpleCNN(**small, pool=p) for p in ("average", "blur", "stride", "none")}
    chains["crop"] = SimpleCNN(**small, crop=[4, 28])
    chains["batch norm"] = nn.Sequential(
        Normalize([0.13], [0.31]), nn.Conv2d(1, 6, 5, stride=2, dilation=2, bias=False),
        nn.BatchNorm2d(6), nn.GELU(),
        nn.Conv2d(6, 12, 3, padding="same", groups=3), nn.BatchNorm2d(12), nn.LeakyReLU(0.1),
        nn.AvgPool2d(3, 2, padding=1), nn.Dropout2d(), nn.Sequential(nn.ELU(), nn.SiLU()),
        nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20),
        nn.BatchNorm1d(20), nn.Hardtanh(), nn.Linear(20, 10),
    )  # fmt: skip
    for module in chains["batch norm"].modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 3)
    return {name: network.eval() for name, network in chains.items()}


def build_lenet() -> nn.Module:
    module: nn.Module = build(compose_config("train", ["model=lenet"])["model"]["network"])
    return module


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium; `Tab(browser, path)` opens a page in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page from a file; fails at the end if it logged a message or sent a request."""

    def __init__(self, browser: Any, path: Any, **options: Any) -> None:
        options = {"viewport": {"width": 1320, "height": 900}, **options}
        self.context = browser.new_context(permissions=["clipboard-read", "clipboard-write"],
                                           **options)  # fmt: skip
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.messages: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", self._note)
        self.url = path.as_uri()
        self.page.goto(self.url)
        self.page.locator("h2").first.wait_for()

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("data:", self.url)):
            self.messages.append(f"requested {request.url}")

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.messages == []
