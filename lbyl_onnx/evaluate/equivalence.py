"""Check that a model written out in standard operators computes what its file does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from lbyl_onnx.errors import ModelError, VerificationError
from lbyl_onnx.graph import source as graph_source
from lbyl_onnx.graph.tensor_info import DRAWING
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.runtime.baseline import Baseline
from lbyl_onnx.runtime.execute import run_as_written
from lbyl_onnx.types import Array

# Functions written out are the same nodes; a fused kernel may round the same sums otherwise.
# Relative to the largest value of an output, by its type; whole numbers by the share that differs.
TOLERANCE = {"float16": 3e-2}
OTHERWISE = 1e-3


def check_written_out(source: Path, folder: Path, baseline: Baseline) -> None:
    """Run a file and what is pruned in its place on the same inputs; neither is optimised.

    The proof that a compressed model is right is a comparison with the reference as it is written
    out; this makes it one with the file. Nothing is compared where the model draws numbers.

    Parameters
    ----------
    source
        The file.
    folder
        For the written out model.
    baseline
        The inputs.

    Raises
    ------
    VerificationError
        When an output differs, or the model does not run.
    """
    model, _ = graph_source.load_model(source)
    if any(node.op_type in DRAWING for node in model.graph.node):
        return
    path = folder / "written-out.onnx"
    write_draft(ModelDraft.of(model), path, TensorReader(source), "auto")
    try:
        before = run_as_written(source, baseline.provider, baseline.feeds)
        after = run_as_written(path, baseline.provider, baseline.feeds)
    except ModelError as error:
        raise VerificationError(f"{source}, written out in standard operators: {error}") from error
    for file in folder.glob(f"{path.name}*"):
        file.unlink()
    for old, new in zip(before.outputs, after.outputs, strict=True):
        for info, was, now in zip(model.graph.output, old, new, strict=True):
            _check_equal(source, info, was, now)


def _check_equal(source: Path, info: onnx.ValueInfoProto, was: Array, now: Array) -> None:
    deviation = 1.0
    if was.shape == now.shape and was.dtype == now.dtype:
        deviation = _deviation(was, now)
    if not deviation <= TOLERANCE.get(str(was.dtype), OTHERWISE):
        raise VerificationError(
            f"{source}, written out in standard operators, gives another output {info.name} "
            f"(by {deviation:.3g}): please report this model"
        )


def _deviation(was: Array, now: Array) -> float:
    """Largest difference relative to the largest value; for other types the share that differs."""
    if was.dtype.kind != "f":
        return float(np.mean(was != now)) if was.size else 0.0
    old, new = was.astype(np.float64), now.astype(np.float64)
    alike = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(invalid="ignore"):
        difference = np.where(alike, 0.0, np.abs(old - new))
    largest = float(np.max(np.abs(old), initial=0.0, where=np.isfinite(old)))
    return float(np.max(difference, initial=0.0)) / (largest or 1.0)
