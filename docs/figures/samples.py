"""Synthetic images: dead leaves and 1/f noise, as the model is measured on.

Usage: ``python -m docs.figures.samples [FILE.svg]``
"""

from __future__ import annotations

import base64
import io
from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image

from docs.figures.writing import write
from lbyl_onnx.data.synthetic.images import images

COUNT, SIZE, GAP = 6, 96, 8


def draw() -> str:
    """Return a row of images as SVG."""
    batch = images(COUNT, (3, SIZE, SIZE), np.random.default_rng([0, 1]))
    width = COUNT * (SIZE + GAP) - GAP
    root = ET.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {SIZE}"}
    )
    for number, image in enumerate(batch):
        low, high = np.quantile(image, [0.01, 0.99])
        pixels = np.clip(255 * (image - low) / (high - low), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(file, "png")  # (3, h, w) -> (h, w, 3)
        place = {"x": str(number * (SIZE + GAP)), "width": str(SIZE), "height": str(SIZE)}
        data = base64.b64encode(file.getvalue()).decode()
        ET.SubElement(root, "image", {**place, "href": f"data:image/png;base64,{data}"})
    return ET.tostring(root, encoding="unicode") + "\n"


if __name__ == "__main__":
    write(draw(), __file__)
