"""Print the top-1 accuracy of an ONNX classifier on a file of labelled inputs.

Usage::

    python samples/score.py MODEL.onnx [samples/digits_test.npz]

The ``.npz`` holds one array named like the model's input and one named ``labels``, int64 (n,).
Needs onnxruntime and NumPy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

DEFAULT_DATA = Path(__file__).resolve().parent / "digits_test.npz"


def count_right(model_path: Path, data_path: Path) -> tuple[int, int]:
    """Count the images whose largest logit is at their label.

    Returns
    -------
    tuple of int
        The number of images classified right, and the number of images.

    Raises
    ------
    ValueError
        If the data has no images, lacks an array, or the output is not one row for each label.
    """
    session = ort.InferenceSession(str(model_path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(data_path) as data:
        missing = {name, "labels"} - set(data.files)
        if missing:
            raise ValueError(
                f"{data_path} holds {sorted(data.files)} but not {sorted(missing)}: "
                "save one array named like the model's input and one named labels"
            )
        images, labels = data[name], data["labels"]
    if len(labels) == 0:
        raise ValueError(f"{data_path} holds no images: nothing to score")
    logits = np.asarray(session.run(None, {name: images})[0])
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(
            f"the first output of {model_path} has shape {logits.shape}, but {len(labels)} labels "
            f"need ({len(labels)}, classes): score a classifier on its own data"
        )
    return int((logits.argmax(axis=1) == labels).sum()), len(labels)


def accuracy(model_path: str) -> float:
    """Return the share of the test images that a model classifies right, for `--score`."""
    right, images = count_right(Path(model_path), DEFAULT_DATA)
    return right / images


def main() -> None:
    """Parse the command line, score, print; exit 1 with the reason if nothing could be scored."""
    parser = argparse.ArgumentParser(description="Top-1 accuracy of an ONNX classifier.")
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("data", type=Path, nargs="?", default=DEFAULT_DATA, help="the .npz file")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.data):
        if not path.is_file():
            parser.error(f"no such file: {path}")
    try:
        n_right, n_images = count_right(arguments.model, arguments.data)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"top-1 {n_right / n_images:.4f} ({n_right}/{n_images} images)")


if __name__ == "__main__":
    main()
