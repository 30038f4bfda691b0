"""Photographs that come with scikit-image, cut out at random: those that score, and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.fed_case import Pixels, folder_of

FACE = "astronaut.png"
FACE_BOX = (150, 40, 300, 210)  # left, top, right, bottom of the head, pixels
SCORED = ("chelsea.png", "coffee.png", "motorcycle_left.png")
OTHERS = ("camera.png", "motorcycle_right.png", "rocket.jpg", "ihc.png", "retina.jpg", "coins.png")
SMALL_FACES, SMALL_SIDE, GRID = "lfw_subset.npy", 25, (3, 4)  # 100 faces of 25 x 25 in grey


def data_folder() -> Path:
    """Return the folder of the photographs.

    Raises
    ------
    SubjectMissingError
        When scikit-image is not installed.
    """
    return folder_of("skimage", "scikit-image") / "data"


def crops(names: Sequence[str], seed: int, count: int, size: tuple[int, int]) -> list[Pixels]:
    """Cut rectangles out of photographs, at random places and scales.

    Parameters
    ----------
    names
        Of the photographs.
    seed, count
        Which, and how many.
    size
        Width and height in pixels.

    Returns
    -------
    list of pixels
        uint8 RGB, [height, width, 3].
    """
    rng = np.random.default_rng(seed)
    photographs = [Image.open(data_folder() / name).convert("RGB") for name in names]
    found = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        width, height = photograph.size
        ratio = size[0] / size[1]
        wide = rng.uniform(0.25, 1.0) * min(width, height * ratio)
        left, top = rng.uniform(0, width - wide), rng.uniform(0, height - wide / ratio)
        box = (left, top, left + wide, top + wide / ratio)
        found.append(_varied(photograph.resize(size, box=box), rng))
    return found


def portraits(seed: int, count: int) -> list[Pixels]:
    """Cut rectangles with the head out of the photograph of an astronaut; they differ in size.

    Returns
    -------
    list of pixels
        uint8 RGB, [height, width, 3].
    """
    rng = np.random.default_rng(seed)
    photograph = Image.open(data_folder() / FACE).convert("RGB")
    left, top, right, bottom = FACE_BOX
    found = []
    for _ in range(count):
        box = (
            int(rng.integers(0, left)),
            int(rng.integers(0, top)),
            int(rng.integers(right, photograph.width)),
            int(rng.integers(bottom, photograph.height)),
        )
        scale = rng.uniform(0.3, 0.8)
        size = int(scale * (box[2] - box[0])), int(scale * (box[3] - box[1]))
        found.append(_varied(photograph.resize(size, box=box), rng))
    return found


def groups(seed: int, count: int, half: int) -> list[Pixels]:
    """Put small faces side by side, three times as large; one half of them scores.

    Parameters
    ----------
    seed, count
        Which, and how many groups.
    half
        0 or 1: which fifty faces.

    Returns
    -------
    list of pixels
        uint8 RGB, [height, width, 3].
    """
    rng = np.random.default_rng(seed)
    faces = np.load(data_folder() / SMALL_FACES)[50 * half : 50 * half + 50]
    rows, columns = GRID
    found = []
    for _ in range(count):
        chosen = faces[rng.choice(len(faces), rows * columns, replace=False)]
        # (rows * columns, 25, 25) -> (rows * 25, columns * 25)
        sheet = chosen.reshape(rows, columns, SMALL_SIDE, SMALL_SIDE).transpose(0, 2, 1, 3)
        sheet = sheet.reshape(rows * SMALL_SIDE, columns * SMALL_SIDE)
        image = Image.fromarray((255.0 * sheet).astype(np.uint8)).convert("RGB")
        image = image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC)
        found.append(_varied(image, rng))
    return found


def _varied(image: Image.Image, rng: np.random.Generator) -> Pixels:
    """Mirror half of the images, and change brightness and contrast."""
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.7, 1.3)))
    image = ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.7, 1.3)))
    return np.asarray(image)
