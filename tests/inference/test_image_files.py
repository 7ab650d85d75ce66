"""Image files of all formats are read; malicious files are rejected with little memory."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simplecnn.errors import InputError
from simplecnn.inference.image_files import read_image
from simplecnn.inference.preprocessing import Preprocessing


def like_mnist(gray: np.ndarray) -> np.ndarray:
    return Preprocessing().array(gray)[0]


@pytest.fixture(scope="module")
def drawing(bundled) -> Image.Image:
    """A seven, black on white, 280 x 280 pixels, off center on a larger page."""
    seven = bundled[0][3600]
    page = np.full((400, 320), 255, np.uint8)
    page[30:310, 20:300] = 255 - np.kron(seven, np.ones((10, 10), np.uint8))
    return Image.fromarray(page)


def transparent(drawing: Image.Image) -> Image.Image:
    """Black ink on a transparent background."""
    ink = Image.new("RGBA", drawing.size, (0, 0, 0, 0))
    ink.putalpha(Image.eval(drawing, lambda v: 255 - v))
    return ink


def sixteen_bits(drawing: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(drawing).astype(np.uint16) * 257)


KINDS = {
    "gray.png": lambda d: d,
    "color.png": lambda d: d.convert("RGB"),
    "palette.png": lambda d: d.convert("RGB").quantize(64),
    "palette.gif": lambda d: d.convert("P"),
    "transparent.png": transparent,
    "transparent.webp": transparent,
    "gray_alpha.png": lambda d: transparent(d).convert("LA"),
    "sixteen_bits.png": sixteen_bits,
    "sixteen_bits.tiff": sixteen_bits,
    "floats.tiff": lambda d: Image.fromarray(np.asarray(d, np.float32) / 255),
    "black_and_white.png": lambda d: d.convert("1", dither=Image.Dither.NONE),
    "photo.jpg": lambda d: d.convert("RGB"),
    "print.jpg": lambda d: d.convert("CMYK"),
    "bitmap.bmp": lambda d: d.convert("RGB"),
    "map.ppm": lambda d: d.convert("RGB"),
    "inverted.png": lambda d: Image.eval(d, lambda v: 255 - v),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_image_format_shows_the_same_digit(name, drawing, tmp_path):
    expected = like_mnist(np.asarray(drawing, np.float32) / 255)
    KINDS[name](drawing).save(tmp_path / name)
    digit = like_mnist(read_image(tmp_path / name))
    assert digit.shape == (28, 28) and digit.dtype == np.float32
    assert digit.min() == 0 and digit.max() == pytest.approx(1, abs=0.01)
    # without gray levels, the center of mass is rounded to another pixel
    tolerance = 0.08 if name == "black_and_white.png" else 0.03
    assert np.abs(digit - expected).mean() < tolerance, name


def test_all_rows_of_a_float_image_have_the_same_white(tmp_path):
    pixels = np.full((400, 300), 0.5, np.float32)
    pixels[300:] = 65535 / 2
    Image.fromarray(pixels).save(tmp_path / "floats.tiff")
    image = read_image(tmp_path / "floats.tiff")
    assert image[:300].max() == 0 and image[300:] == pytest.approx(0.5, abs=0.01)


def test_an_mnist_digit_is_not_changed(bundled, tmp_path):
    for i in (0, 1234, 4999):
        Image.fromarray(bundled[0][i]).save(tmp_path / "digit.png")
        digit = like_mnist(read_image(tmp_path / "digit.png"))
        np.testing.assert_allclose(digit, bundled[0][i] / 255, atol=1e-7)


def test_a_photograph_is_rotated_by_its_exif_orientation(drawing, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    drawing.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.jpg", exif=exif)
    expected = like_mnist(np.asarray(drawing, np.float32) / 255)
    assert np.abs(like_mnist(read_image(tmp_path / "x.jpg")) - expected).mean() < 0.03


def test_the_orientation_is_read_from_damaged_metadata(tmp_path):
    orientation = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    resolution = struct.pack("<HHI4s", 0x011A, 2, 4, b"ab\0\0")  # text instead of a number
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2)
    exif = header + orientation + resolution + struct.pack("<I", 0)
    Image.new("L", (60, 40)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (60, 40)


def test_the_digit_is_centered(drawing):
    digit = like_mnist(np.asarray(drawing, np.float32) / 255)
    rows, columns = np.indices(digit.shape)
    assert abs((rows * digit).sum() / digit.sum() - 14) <= 0.51
    assert abs((columns * digit).sum() / digit.sum() - 14) <= 0.51
    assert not digit[:3].any() and not digit[:, :3].any()


def test_an_image_of_one_color_is_rejected():
    with pytest.raises(InputError, match="image: it is blank"):
        like_mnist(np.full((50, 60), 0.5, np.float32))


# ------------------------------------------------------------------------------- malicious files


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, *, extra: bytes = b"") -> bytes:
    """A PNG of zeros: kilobytes on disk for any size, at most 200 MB decoded."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[color]
    row = b"\0" * (1 + (width * depth * channels + 7) // 8)
    num_rows = min(height, (200 << 20) // len(row))
    compressor = zlib.compressobj(1)
    body = b"".join(compressor.compress(row) for _ in range(num_rows)) + compressor.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    palette = chunk(b"PLTE", b"\0\0\0\xff\xff\xff") if color == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + header + palette + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def write_malicious_files(folder: Path) -> dict[str, str]:
    """Write files; returns, by name, a part of the expected error; "" if the file may be valid."""
    valid = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
        Image.fromarray(noise).save(buffer, kind)
        valid[kind] = buffer.getvalue()
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * (200 << 20), 1))
    files = {
        "bomb_gray.png": (png(60_000, 60_000, 8, 0), "too many pixels: at most"),
        "bomb_one_bit.png": (png(200_000, 200_000, 1, 0), "too many pixels: at most"),
        "bomb_color.png": (png(50_000, 2_000, 16, 6), "too many pixels: at most"),
        "bomb_thin.png": (png(2**31 - 1, 1, 1, 0)[:100], ""),
        "bomb_text.png": (png(10, 10, 8, 0, extra=bomb), ""),
        "largest_rgba.png": (png(6_300, 6_300, 8, 6), "it is blank"),
        "largest_16_bit.png": (png(6_300, 6_300, 16, 0), "it is blank"),
        "largest_palette.png": (png(6_300, 6_300, 8, 3), "it is blank"),
        "no_pixels.png": (png(0, 0, 8, 0), "image="),
        "truncated.png": (png(6_300, 6_300, 8, 0)[:20_000], "is damaged"),
        "empty.png": (b"", "is not an image that can be read"),
        "text.png": (b"this is not an image", "is not an image that can be read"),
        "script.svg": (b"<svg><script>alert(1)</script></svg>", "is not an image that can be read"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch harm) run\n",
                       "is not an image that can be read"),
        "pickle.png": (b"\x80\x04\x95", "is not an image that can be read"),
        "random.jpg": (os.urandom(5_000), "is not an image that can be read"),
        "giant.gif": (b"GIF89a" + struct.pack("<HH", 65535, 65535) + valid["GIF"][10:], ""),
    }  # fmt: skip
    for kind, data in valid.items():
        for fraction in (0.02, 0.3, 0.9):
            files[f"truncated_{fraction}.{kind}"] = (data[: int(fraction * len(data))], "image=")
        broken = bytearray(data)
        broken[len(data) // 2 : len(data) // 2 + 40] = os.urandom(40)
        files[f"broken.{kind}"] = (bytes(broken), "")
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with (folder / "long.png").open("wb") as file:
        file.truncate(100 << 20)
    return {name: error for name, (_, error) in files.items()} | {
        "folder.png": "is not a file",
        "pipe.png": "is not a file",
        "long.png": "at most 67,108,864 are read",
        "missing.png": "there is no such file",
    }


READ = r"""
import json, re, resource, sys
from pathlib import Path
from simplecnn.errors import InputError
from simplecnn.inference.image_files import read_image
from simplecnn.inference.preprocessing import Preprocessing

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
results = {}
for name in json.load(sys.stdin):
    try:
        results[name] = str(Preprocessing().array(read_image(name)).shape)
    except InputError as error:
        results[name] = str(error)
# Not ru_maxrss, which a process inherits from its parent.
status = Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
print(json.dumps({"results": results, "peak": peak, "torch": "torch" in sys.modules}))
"""


def test_malicious_images_are_rejected_with_little_memory(tmp_path, proves):
    expected = write_malicious_files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(list(expected)), cwd=tmp_path,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    output = json.loads(done.stdout)
    for name, part in expected.items():
        result = output["results"][name]
        assert part in result, (name, result)
        assert "\n" not in result and len(result) < 300, (name, result)
    rejected = [result for result in output["results"].values() if result != "(1, 28, 28)"]
    peak = output["peak"] // 2**20
    assert not output["torch"] and peak < 500
    assert not (tmp_path / "harm").exists()
    proves(
        "Hostile input",
        "An image file is read, or rejected with a one-line error, in less than 500 MB.",
        hostile_images=len(expected), rejected=len(rejected), MB_at_the_peak=peak,
    )  # fmt: skip


def test_a_file_without_read_permission_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(b"")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"secret.png cannot be read: permission denied\.$"):
        read_image(path)
