"""Labelled images for the benchmarks, as the models expect them.

They lie outside the repository, in ``../shared`` beside it, and are not part of the project.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Dataset = Literal["cifar10", "fashion", "imagenet"]

SHARED = Path(__file__).resolve().parents[2] / "shared"
SEED = 0
# The means and deviations that the CIFAR-10 models were trained with, RGB, pixels in [0, 1].
CIFAR10_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
CIFAR10_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class SharedFilesError(Exception):
    """What the benchmark needs is not there."""


@dataclass(frozen=True, eq=False)
class Images:
    """Preprocessed images and their labels.

    Parameters
    ----------
    pixels
        Shape (n, channels, height, width), float32.
    labels
        Shape (n,), the class of each.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


def load(dataset: Dataset, limit: int | None, shared: Path = SHARED) -> Images:
    """Return the images of a data set, in an order drawn at random once.

    Parameters
    ----------
    dataset
        Which.
    limit
        How many at most; the same ones each time. None for all.
    shared
        The directory that holds ``data/``.

    Raises
    ------
    SharedFilesError
        When a file or Pillow is not there.
    """
    return _LOADERS[dataset](shared, limit)


def model_path(name: str, shared: Path = SHARED) -> Path:
    """Return the file of one of the models.

    Raises
    ------
    SharedFilesError
        When it is not there.
    """
    return _present(shared / "models" / f"{name}.onnx")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise SharedFilesError(
            f"{path} is not there: the models and images of this benchmark are third-party files "
            "that the repository does not hold; put them into a directory named shared beside it"
        )
    return path


def _chosen(count: int, limit: int | None) -> NDArray[np.intp]:
    return np.random.default_rng(SEED).permutation(count)[:limit]


def _cifar10(shared: Path, limit: int | None) -> Images:
    """Read ``<label>_<class>/<number>.jpg`` from a zip: RGB, 32 x 32."""
    picked, rgb = _pictures(shared / "data" / "cifar10_dev.zip", ".jpg", limit)
    pixels = (rgb / np.float32(255.0) - CIFAR10_MEAN) / CIFAR10_STD
    labels = np.array([int(name.partition("_")[0]) for name in picked], dtype=np.int64)
    # (n, h, w, 3) -> (n, 3, h, w)
    return Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels)


def _fashion(shared: Path, limit: int | None) -> Images:
    """Read x (n, 28, 28) and y (n,), uint8, from an npz."""
    with np.load(_present(shared / "data" / "fashion_dev.npz")) as data:
        picked = _chosen(len(data["y"]), limit)
        grey, labels = data["x"][picked], data["y"][picked]
    pixels = (grey.astype(np.float32) / 255.0 - 0.5) / 0.5
    # (n, h, w) -> (n, 1, h, w)
    return Images(pixels[:, np.newaxis], labels.astype(np.int64))


def _imagenet(shared: Path, limit: int | None) -> Images:
    """Read ``<label>_<class>.JPEG`` from a zip: RGB, 224 x 224, as EfficientNet-lite wants them."""
    paths, rgb = _pictures(shared / "data" / "imagenet_dev.zip", ".JPEG", limit)
    pixels = (rgb - 127.0) / 128.0
    labels = np.array([int(path.partition("_")[0]) for path in paths], dtype=np.int64)
    # (n, h, w, 3) -> (n, 3, h, w)
    return Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels)


def unlabelled(dataset: Dataset, count: int, shared: Path = SHARED) -> NDArray[np.float32]:
    """Return images for calibration, none of which scores a model.

    For CIFAR-10 training images; of Fashion-MNIST there are no others, so the last of the random
    order, which a benchmark must then leave out.
    """
    if dataset == "fashion":
        return load("fashion", None, shared).pixels[-count:]
    _, rgb = _pictures(shared / "data" / "cifar10_calib.zip", ".jpg", count)
    pixels = (rgb / np.float32(255.0) - CIFAR10_MEAN) / CIFAR10_STD
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))  # (n, h, w, 3) -> (n, 3, h, w)


def _pictures(path: Path, suffix: str, limit: int | None) -> tuple[list[str], NDArray[np.float32]]:
    """Names and pixels, (n, h, w, 3) of 0 to 255, of the images in a zip."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise SharedFilesError(
            "Pillow, which reads the images, is not installed: pip install 'lbyl-onnx[bench]'"
        ) from error
    with zipfile.ZipFile(_present(path)) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(suffix))
        picked = [names[i] for i in _chosen(len(names), limit)]
        rgb = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in picked]
    return picked, np.stack(rgb).astype(np.float32)


_LOADERS: dict[Dataset, Callable[[Path, int | None], Images]] = {
    "cifar10": _cifar10,
    "fashion": _fashion,
    "imagenet": _imagenet,
}
