"""CIFAR-10, read from a small archive in its format."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from simplecnn.data import cifar10
from simplecnn.data.cifar10 import CIFAR10DataModule
from simplecnn.data.files import DataError


def write(path: Path, *, num_images: int = 20, label: int | None = None) -> np.ndarray:
    """Write an archive of six files with `num_images` images each; return records (6, N, 3073)."""
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, num_images, 3073), np.uint8)
    records[:, :, 0] = np.arange(num_images) % 10 if label is None else label
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in zip(names, records, strict=True):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = content.nbytes
            archive.addfile(info, io.BytesIO(content.tobytes()))
    return records


def test_images_and_labels_are_those_of_the_archive(tmp_path):
    records = write(tmp_path / "cifar-10-binary.tar.gz")
    data = CIFAR10DataModule(data_dir=str(tmp_path), val_size=10, normalize=True)
    data.setup()
    images, labels, _ = data.split("test")
    assert torch.equal(images, torch.from_numpy(records[5, :, 1:]).view(-1, 3, 32, 32))
    assert labels.tolist() == records[5, :, 0].tolist()
    assert data.class_counts("val") == [1] * 10 and data.class_counts("train") == [9] * 10
    train_val = torch.cat([data.split(name).images for name in ("train", "val")])
    stacked = records[:5].reshape(100, -1)[:, 1:]
    assert {x.tobytes() for x in train_val.flatten(1).numpy()} == {x.tobytes() for x in stacked}
    train = data.split("train").images.double() / 255
    assert data.normalization()["mean"] == pytest.approx(train.mean((0, 2, 3)).tolist(), abs=1e-6)
    batch, _ = next(iter(data.train_dataloader()))
    assert batch.shape == (64, 3, 32, 32) and batch.dtype == torch.float32


def test_a_download_is_verified_before_it_is_stored(tmp_path, monkeypatch):
    source = tmp_path / "source" / "cifar-10-binary.tar.gz"
    write(source)
    monkeypatch.setattr(cifar10, "URL", source.as_uri())
    data = CIFAR10DataModule(data_dir=str(tmp_path / "data"), val_size=10)
    with pytest.raises(DataError, match="could not be downloaded .*expected c4a38c50"):
        data.setup()
    assert not [p for p in (tmp_path / "data").iterdir() if "tar" in p.suffixes[-1]]
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "SHA256", sha256)
    data.setup()
    assert (tmp_path / "data" / source.name).read_bytes() == source.read_bytes()


def flip_bit(path):
    """Change one pixel: the images are noise, which gzip stores as it is."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(b"not an archive"), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        (lambda path: flip_bit(path), "is damaged"),
        (lambda path: write(path, label=11), "contains the label 11"),
    ],
)
def test_a_damaged_archive_raises_data_error(tmp_path, damage, sentence):
    path = tmp_path / "cifar-10-binary.tar.gz"
    write(path)
    damage(path)
    with pytest.raises(DataError, match=sentence):
        CIFAR10DataModule(data_dir=str(tmp_path), val_size=10).setup()


def test_without_download_the_error_contains_the_url(tmp_path):
    with pytest.raises(DataError, match=r"is missing.*https://www.cs.toronto.edu"):
        CIFAR10DataModule(data_dir=str(tmp_path), download=False).setup()
