"""Train the sample model on scikit-learn's handwritten digits and export it to ONNX.

Writes, next to this script, ``digits.onnx`` (BatchNormalization kept, dynamic batch) and
``digits_test.npz`` (the held-out images and labels). Seeded, on one CPU thread: the same library
versions give the same files, byte for byte, on the same kind of processor.

Needs torch, scikit-learn, onnx and onnxruntime::

    python samples/train_digits.py
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 0
TEST_FRACTION = 0.3
EPOCHS = 40
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 0.05
WEIGHT_DECAY = 5e-4
OPSET = 17

# Two runtimes sum the products (up to 576 per output, over seven weighted layers) in different
# orders. Logits reach 18, where float32 values are 2e-6 apart: 1e-4 allows some 50 such steps.
EXPORT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class DigitsSplit:
    """Standardised images, float32 (n, 1, 8, 8), and labels 0..9, int64 (n,).

    ``mean`` and ``std`` are the training pixels' own, in the dataset's units (0..16).
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    mean: float
    std: float


class ConvUnit(nn.Module):
    """3x3 convolution without bias, then BatchNorm: (n, c, h, w) to (n, c', h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return BatchNorm(Conv(x))."""
        y: Tensor = self.bn(self.conv(x))
        return y


class ResidualBlock(nn.Module):
    """Two ConvUnits beside an identity shortcut: the Add couples its input and output channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit1 = ConvUnit(channels, channels)
        self.relu1 = nn.ReLU()
        self.unit2 = ConvUnit(channels, channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return ReLU(x + unit2(ReLU(unit1(x)))), of the shape of x."""
        y: Tensor = self.relu2(x + self.unit2(self.relu1(self.unit1(x))))
        return y


class DigitsNet(nn.Module):
    """Map (n, 1, 8, 8) images to (n, 10) logits: stem, widening, residual block, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 32)
        self.stem_relu = nn.ReLU()
        self.widen = ConvUnit(32, 64)
        self.widen_relu = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.block = ResidualBlock(64)
        self.top = ConvUnit(64, 96)
        self.top_relu = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(96 * 2 * 2, 64)
        self.hidden_relu = nn.ReLU()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem_relu(self.stem(x))
        x = self.pool1(self.widen_relu(self.widen(x)))  # (n, 64, 8, 8) -> (n, 64, 4, 4)
        x = self.block(x)
        x = self.pool2(self.top_relu(self.top(x)))  # (n, 96, 4, 4) -> (n, 96, 2, 2)
        x = self.flatten(x)  # (n, 96, 2, 2) -> (n, 384)
        logits: Tensor = self.classifier(self.hidden_relu(self.hidden(x)))
        return logits


def load_split() -> DigitsSplit:
    """Load the 1,797 digits, split them by class, standardise with the training statistics."""
    pixels, labels = load_digits(return_X_y=True)
    train_pixels, test_pixels, train_labels, test_labels = train_test_split(
        pixels, labels, test_size=TEST_FRACTION, stratify=labels, random_state=SEED
    )
    mean, std = float(train_pixels.mean()), float(train_pixels.std())

    def to_images(flat: NDArray[np.float64]) -> NDArray[np.float32]:
        # (n, 64) -> (n, 1, 8, 8)
        return ((flat - mean) / std).astype(np.float32).reshape(-1, 1, 8, 8)

    return DigitsSplit(
        train_images=to_images(train_pixels),
        train_labels=train_labels.astype(np.int64),
        test_images=to_images(test_pixels),
        test_labels=test_labels.astype(np.int64),
        mean=mean,
        std=std,
    )


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    """Train with SGD, Nesterov momentum, weight decay and a one-cycle learning rate."""
    model = DigitsNet()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=PEAK_LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )
    # Whole batches only: a last batch of a few images would give BatchNorm poor statistics.
    n_batches = len(images) // BATCH_SIZE
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK_LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=n_batches
    )
    model.train()
    for epoch in range(1, EPOCHS + 1):
        total_loss = 0.0
        order = torch.randperm(len(images))[: n_batches * BATCH_SIZE]
        # (n_batches * BATCH_SIZE,) -> (n_batches, BATCH_SIZE)
        for batch in order.reshape(n_batches, BATCH_SIZE):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            scheduler.step()
            total_loss += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:2d}/{EPOCHS}: training loss {total_loss / n_batches:.4f}")
    return model.eval()


def export(model: DigitsNet, split: DigitsSplit) -> onnx.ModelProto:
    """Export in inference mode with BatchNorm unfolded, and describe the model in its metadata."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "digits.onnx"
        # The older exporter is wanted: the newer keeps BatchNorm only when its optimisation is off,
        # and then hides the parameters behind Expand nodes.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (torch.from_numpy(split.train_images[:2]),),
            path,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            # PRESERVE exports the eval-mode model as it stands; EVAL would fold BatchNorm first.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
        exported = onnx.load_model(path)
    exported.graph.name = "digits"
    exported.graph.doc_string = "Handwritten digit classifier: (batch, 1, 8, 8) to 10 logits."
    helper.set_model_props(
        exported,
        {
            "task": "image-classification",
            "classes": "0,1,2,3,4,5,6,7,8,9",
            "preprocessing": f"(pixel - {split.mean!r}) / {split.std!r}, pixel in 0..16",
            "dataset": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak "
            "(1998), UCI Machine Learning Repository, https://doi.org/10.24432/C50P49",
            "dataset_license": "CC-BY-4.0",
        },
    )
    return exported


def check_export(exported: onnx.ModelProto, model: DigitsNet, images: NDArray[np.float32]) -> None:
    """Raise unless the export is valid, keeps every BatchNorm and computes what torch computes.

    Raises
    ------
    ValueError
        If a BatchNorm was folded, or left in training mode.
    AssertionError
        If the logits of ONNX Runtime and torch differ by more than the tolerance.
    """
    onnx.checker.check_model(exported, full_check=True)
    batch_norms = [node for node in exported.graph.node if node.op_type == "BatchNormalization"]
    expected = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if len(batch_norms) != expected:
        raise ValueError(
            f"the export holds {len(batch_norms)} BatchNormalization nodes, the model {expected}: "
            "export with TrainingMode.PRESERVE and do_constant_folding=False"
        )
    for node in batch_norms:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("training_mode", 0) != 0:
            raise ValueError(f"{node.name} is in training mode: call model.eval() before exporting")
    session = ort.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": images})
    with torch.inference_mode():
        reference = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, reference, rtol=0, atol=EXPORT_TOLERANCE)


def main() -> None:
    """Train, export, check, write both files and print the test score."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the number of threads decides the order of float sums
    torch.use_deterministic_algorithms(True)
    split = load_split()
    model = train(torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels))
    exported = export(model, split)
    check_export(exported, model, split.test_images)

    model_path, test_path = HERE / "digits.onnx", HERE / "digits_test.npz"
    onnx.save_model(exported, model_path)
    np.savez_compressed(test_path, input=split.test_images, labels=split.test_labels)
    with torch.inference_mode():
        predicted = model(torch.from_numpy(split.test_images)).argmax(dim=1).numpy()
    n_right = int((predicted == split.test_labels).sum())
    n_images = len(split.test_labels)
    print(f"test top-1 {n_right / n_images:.4f} ({n_right}/{n_images})")
    for path in (model_path, test_path):
        print(f"wrote {os.path.relpath(path)} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
