"""TensorBoard's projector reads the written points, labels and sprites."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from subjects import color_subject, digit_subject
from torch import nn
from werkzeug.test import Client

from simplecnn.explain.embedding import embedding, penultimate


def test_the_input_of_the_last_linear_layer(bundled):
    subject = digit_subject(bundled, num_steps=5)
    layer, points, logits = penultimate(subject.network, subject.images)
    assert layer == "fc2" and points.shape == (200, 16)
    torch.testing.assert_close(subject.network.fc2(points), logits)
    convolution = nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten())
    layer, points, logits = penultimate(convolution, subject.images[:3])
    assert layer == "output" and torch.equal(points, logits)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # in TensorBoard
@pytest.mark.parametrize("color", [False, True])
def test_projector_reads_the_embedding(bundled, tmp_path, color):
    from tensorboard.backend import application
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin

    subject = color_subject() if color else digit_subject(bundled)
    num = 30 if color else 100
    path = embedding(subject, num_images=num).save(tmp_path, "embedding")
    plugin = ProjectorPlugin(TBContext(logdir=str(path)))
    app = application.TensorBoardWSGI([plugin])
    get = Client(app).get
    runs = json.loads(get("/data/plugin/projector/runs").get_data())
    assert runs == ["."]
    (info,) = json.loads(get("/data/plugin/projector/info?run=.").get_data())["embeddings"]
    with np.load(path / "embedding.npz") as file:
        saved = dict(file)
    assert info["tensorShape"] == list(saved["points"].shape)
    name = info["tensorName"]
    raw = get(f"/data/plugin/projector/tensor?run=.&name={name}").get_data()
    points = np.frombuffer(raw, np.float32).reshape(saved["points"].shape)
    np.testing.assert_allclose(points, saved["points"], rtol=1e-5, atol=1e-6)
    text = get(f"/data/plugin/projector/metadata?run=.&name={name}").get_data(as_text=True)
    header, *rows = text.splitlines()
    assert header.split("\t") == ["answer", "class", "predicted", "right", "probability", "image"]
    true, predicted = ([subject.class_names[c] for c in saved[k]] for k in ("labels", "predicted"))
    assert [row.split("\t")[1] for row in rows] == true
    assert [row.split("\t")[0] for row in rows] == [
        f"{a} → {b}" for a, b in zip(true, predicted, strict=True)
    ]
    sprite = get(f"/data/plugin/projector/sprite_image?run=.&name={name}")
    assert sprite.status_code == 200
    (sheet,) = path.glob("*/*/sprite.png")
    side = 64 if color else 28
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(float) / 255
    first = pixels[:side, :side].transpose(2, 0, 1)
    np.testing.assert_allclose(first, np.broadcast_to(saved["images"][0], first.shape), atol=0.01)
