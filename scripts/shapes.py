"""Draw images of shapes, one folder per class, to try data=image_folder.

    uv run scripts/shapes.py shapes

300 circles, 150 crosses, 80 rings, 40 squares and 20 triangles in random colors, sizes and
positions (seed 0), of 64 x 64 pixels.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NUM_IMAGES = {"circle": 300, "cross": 150, "ring": 80, "square": 40, "triangle": 20}
SIZE = 64


def shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """A light shape on a dark background."""
    background, color = (tuple(map(int, rng.integers(*ends, 3))) for ends in ((0, 90), (130, 256)))
    image = Image.new("RGB", (SIZE, SIZE), background)
    draw = ImageDraw.Draw(image)
    r = int(rng.integers(12, 24))
    x, y = map(int, rng.integers(r + 2, SIZE - r - 2, 2))
    box = x - r, y - r, x + r, y + r
    match kind:
        case "circle":
            draw.ellipse(box, fill=color)
        case "cross":
            draw.line((x - r, y, x + r, y), fill=color, width=8)
            draw.line((x, y - r, x, y + r), fill=color, width=8)
        case "ring":
            draw.ellipse(box, outline=color, width=5)
        case "square":
            draw.rectangle(box, fill=color)
        case "triangle":
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=color)
    return image


def main(root: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, number in NUM_IMAGES.items():
        (root / kind).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            shape(kind, rng).save(root / kind / f"{i:03d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    try:
        main(parser.parse_args().folder)
    except OSError as error:
        raise SystemExit(f"{error.filename} cannot be written: {error.strerror}.") from None
