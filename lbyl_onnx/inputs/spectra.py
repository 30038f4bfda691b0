"""Planes of one channel that are spectrograms: told by their sides, and by what normalises them."""

from __future__ import annotations

from collections.abc import Sequence

from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.graph.model_graph import Node, node_name
from lbyl_onnx.graph.tensor_info import TensorInfo

# Usual rows of a mel filter bank, and windows of a Fourier transform, whose power has half as many
# rows and one more.
MEL_BINS = frozenset({32, 40, 64, 80, 96, 128})
WINDOWS = frozenset({256, 320, 400, 512, 640, 800, 1024, 2048, 4096})
# Of the mel filter banks those that are usual heights of lines of text, too.
TEXT_HEIGHTS = frozenset({32, 64, 96})
# A plane is so many times as long in time as it has bins where it is no image by its sides.
LONGER = 1.4


def spectrogram_by_plane(
    shape: Sequence[int | None], readers: Sequence[Node], tensor_info: TensorInfo
) -> InputKind | None:
    """Tell a spectrogram from an image of one channel.

    A normalisation with parameters of its own for each place of one side is none of images. A side
    of a Fourier transform's rows, which is odd, is no image's either. A filter bank's number of
    rows is a guess: on the last axis, or on the first unless lines of text are as high.

    Parameters
    ----------
    shape
        Of the input, None where it is dynamic; its batch first.
    readers
        The nodes that read its values.
    tensor_info
        The graph's shapes and constants.

    Returns
    -------
    InputKind or None
        None for another number of channels, and where nothing tells.
    """
    if len(shape) != 4 or 1 not in (shape[1], shape[3]):
        return None
    rows, columns = shape[2:] if shape[1] == 1 else shape[1:3]
    sides = {side for side in (rows, columns) if side is not None and side > 1}
    for node in readers:
        if _rows(node, tensor_info) in sides:
            reason = f"{node_name(node)} normalises each of {_rows(node, tensor_info)} rows"
            return InputKind("spectrogram", reason, "likely")
    if rows == columns:
        return None
    for bins in sides:
        if 2 * (bins - 1) in WINDOWS:
            reason = f"{bins} rows, as of a Fourier transform of {2 * (bins - 1)}"
            return InputKind("spectrogram", reason, "likely")
    for height, frames, images in (
        (columns, rows, frozenset[int]()),
        (rows, columns, TEXT_HEIGHTS),
    ):
        long = height is not None and (frames is None or frames >= LONGER * height)
        if height in MEL_BINS - images and long:
            reason = f"{height} rows along {frames or 'any'} frames, as of a filter bank"
            return InputKind("spectrogram", reason, "guessed")
    return None


def _rows(node: Node, tensor_info: TensorInfo) -> int | None:
    """How many places a normalisation has parameters for; None for any other node."""
    if node.op not in ("BatchNormalization", "LayerNormalization") or len(node.inputs) < 2:
        return None
    scale = tensor_info.shape(node.inputs[1].name)
    return scale[0] if scale is not None and len(scale) == 1 else None
