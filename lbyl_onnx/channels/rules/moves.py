"""Operators that move positions: the same NumPy operation on the label array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lbyl_onnx.channels.labels import Labels, Role, compress, expand, repeated_part, varying_axes
from lbyl_onnx.channels.rules.tables import following, repeats, started
from lbyl_onnx.channels.rules.view import NodeView, ShapeParameter

# Labels are spread over a tensor's whole shape to be reshaped; past this they are frozen.
LARGEST_RESHAPE = 1 << 26
# Elements of a tensor that are looked at to see that a reshape orders labels as at the first sizes.
SAMPLED = 4096


def reshape(view: NodeView) -> list[Labels | None]:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    labels, before, after = view.labels[0], view.shape(0), view.output_shape()
    if labels is None:
        return view.freeze_inputs(f"{view.op_type} reads them as a shape")
    if before is None or after is None or math.prod(before) > LARGEST_RESHAPE:
        return view.freeze_inputs(f"the shape that {view.op_type} gives is not known")
    moved = compress(expand(labels, before).reshape(after))  # input shape -> output shape
    if moved is None:
        return []
    axes = varying_axes(view.flow.coupling.canonical(moved))
    static = view.tensor_info.static_shape(view.node.outputs[0].name)
    if static is None or (axes and static[axes[-1]] is None and not _repeats(view, moved, axes)):
        return view.freeze_inputs(f"{view.op_type} merges them with a dynamic dimension")
    for axis in axes[:-1]:
        if static[axis] is None:
            # As many times as there are samples, say: all of them are one.
            moved = np.take(view.couple_along(moved, axis), [0], axis=axis)
    if not _same_at_all_sizes(view, labels, moved):
        return view.freeze_inputs(f"{view.op_type} orders them by a dynamic dimension")
    if view.op_type == "Reshape" and not sized(view, 1, moved):
        return view.freeze_inputs("the target of Reshape cannot be rewritten")
    return [moved if np.any(moved) else None]


def _repeats(view: NodeView, labels: Labels, axes: Sequence[int]) -> bool:
    """Whether whole heads lie along one axis alone, as often as a dynamic dimension is long.

    Whatever the number of samples is, every one of them has all heads, one after the other, as
    `_same_at_all_sizes` then has to see.
    """
    flow, sizes = view.flow, view.tensor_info.shapes(view.node.outputs[0].name)
    if not flow.heads or len(axes) > 1:
        return False
    heads = flow.coupling.canonical(np.concatenate(flow.heads))
    of_heads = bool(np.all(np.isin(flow.coupling.canonical(labels), heads)))
    return of_heads and any(s[axes[0]] != labels.shape[axes[0]] for (s,) in sizes)


def _same_at_all_sizes(view: NodeView, before: Labels, after: Labels) -> bool:
    """Whether each element keeps its label at the other input shapes, too: at many, by sample."""
    names = view.node.inputs[0].name, view.node.outputs[0].name
    if any(view.tensor_info.is_accidental(name) for name in names):
        return False
    for one, two in view.tensor_info.shapes(*names):
        total = math.prod(one)
        if len(one) != before.ndim or len(two) != after.ndim or total != math.prod(two):
            continue
        pairs = (_at_sizes(view, before, one), one), (_at_sizes(view, after, two), two)
        if any(n not in (1, d) for x, sizes in pairs for n, d in zip(x.shape, sizes, strict=True)):
            return False
        exhaustive = total <= SAMPLED
        indices = (
            np.arange(total) if exhaustive else np.random.default_rng(0).integers(0, total, SAMPLED)
        )
        labels = [_labels_at(array, indices, sizes) for array, sizes in pairs]
        if np.any(np.diff(view.flow.coupling.canonical(np.stack(labels)), axis=0)):
            return False
    return True


def _at_sizes(view: NodeView, labels: Labels, sizes: Sequence[int]) -> Labels:
    """Labels as they lie at other sizes, where one axis repeats heads another number of times."""
    axes = [axis for axis, size in enumerate(sizes) if labels.shape[axis] not in (1, size)]
    if len(axes) != 1 or not view.flow.heads:
        return labels
    once = repeated_part(view.flow.coupling.canonical(labels), axes[0])
    times, rest = divmod(sizes[axes[0]], once.shape[axes[0]])
    return labels if rest else np.concatenate([once] * times, axis=axes[0])


def _labels_at(labels: Labels, indices: Labels, sizes: Sequence[int]) -> Labels:
    """Labels at flat indices of a tensor, shape (m,)."""
    index = np.unravel_index(indices, sizes)
    along = zip(index, labels.shape, strict=True)
    return labels[tuple(i if size > 1 else np.zeros_like(i) for i, size in along)]


def sized(view: NodeView, operand: int, labels: Labels) -> bool:
    """Whether an output's shape follows its channels: by a new target, or as it is computed."""
    return retarget(view, operand, labels) or view.computed_from(operand) is not None


def retarget(view: NodeView, operand: int, labels: Labels) -> bool:
    """Note how a target shape is rewritten when channels go; False where it cannot be."""
    values = view.tensor_info.traced_value(view.node.inputs[operand].name)
    before = view.tensor_info.static_shape(view.node.inputs[0].name)
    if values is None or before is None:
        return False
    expands = view.op_type == "Expand"
    literal = view.int_attribute("allowzero", 0)  # a 0 is a size then: it must not be there
    zero_copies = view.op_type == "Reshape" and not (literal and 0 in values[0])
    shape = view.shape(0) or ()
    ahead = len(values[0]) - len(shape) if expands else 0  # axes that Expand puts before
    sizes: list[int | Labels] = []
    repeated: Labels | None = None  # along a dynamic axis: what the graph computes for it changes
    offset = len(values[0]) - labels.ndim  # Expand may name fewer axes than its output has
    for axis, (first, dynamic) in enumerate(zip(*values, strict=True)):
        along = view.counted(labels, axis - offset)
        if dynamic:
            repeated = along if along is not None and along.size > 1 else repeated
            source = axis - ahead
            copied = 0 <= source < len(shape) and before[source] is None
            copied = copied and shape[source] == int(first)
            # Reshape copies a size for 0, Expand for 1; -1 is what only Reshape works out.
            keeps = 1 if expands else 0
            sizes.append(keeps if copied and (expands or zero_copies) else -1)
        else:
            counts = along is not None and first not in (0, -1, 1)
            sizes.append(along if counts and along is not None else int(first))
    computed = view.computed_from(operand)
    if repeated is not None and not expands:
        computed = np.union1d(repeated, [] if computed is None else computed).astype(np.int64)
    if computed is None and all(isinstance(size, int) for size in sizes):
        return True
    fixed = [size for size in sizes if isinstance(size, int)]
    unknown = -1 in fixed and view.op_type != "Reshape"
    if fixed.count(-1) > 1 or unknown or (0 in fixed and not zero_copies):
        return False
    replaced = "allowzero" if literal and 0 in fixed else None
    view.flow.sizes.append(
        ShapeParameter(view.index, operand, tuple(sizes), replaces=replaced, also=computed)
    )
    return True


def transpose(view: NodeView) -> list[Labels | None]:
    """Permute the axes of the label array."""
    labels = view.labels[0]
    if labels is None:
        return []
    order = view.node.attrs.get("perm", list(reversed(range(labels.ndim))))
    return [np.transpose(labels, order)]


def concat(view: NodeView) -> list[Labels | None]:
    """Concatenate the label arrays; inputs without labels bring fixed positions."""
    shapes = [view.shape(i) for i in range(len(view.labels))]
    if any(shape is None for shape in shapes):
        return view.freeze_inputs("an input of Concat has an unknown shape")
    known_shapes = [shape for shape in shapes if shape is not None]
    rank = len(known_shapes[0])
    axis = view.int_attribute("axis", 0) % rank
    parts = [following(view, i, axis) if x is None else x for i, x in enumerate(view.labels)]
    common = np.broadcast_shapes(*((*x.shape[:axis], 1, *x.shape[axis + 1 :]) for x in parts))
    widened = [
        np.broadcast_to(x, (*common[:axis], shape[axis], *common[axis + 1 :]))
        for x, shape in zip(parts, known_shapes, strict=True)
    ]
    joined = np.concatenate(widened, axis=axis)
    if any(size > 1 for size in common) and any(x.shape[axis] == 1 for x in parts):
        # Channels that lie across the concatenation are one channel along it.
        joined = view.couple_along(joined, axis)
    return [compress(joined)]


def split(view: NodeView) -> list[Labels | None]:
    """Cut the label array; the sizes of the parts are counted anew."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs("the shape that Split cuts is not known")
    axis = view.int_attribute("axis", 0) % len(shape)
    outputs = [view.output_shape(i) for i in range(len(view.node.outputs))]
    if labels.shape[axis] == 1:
        return [labels] * len(outputs)
    if any(output is None for output in outputs):
        return view.freeze_inputs("the sizes of Split are not known")
    ends = np.cumsum([output[axis] for output in outputs if output is not None])
    pieces = np.split(labels, ends[:-1], axis=axis)
    along = view.counted(labels, axis)
    if along is None:  # the parts hold channels that go together: their number stays
        return list(pieces)
    place: int | str = "split" if view.tensor_info.opset < 13 else 1
    cut = tuple(np.split(along, ends[:-1], axis=-1))
    view.flow.sizes.append(ShapeParameter(view.index, place, cut, replaces="num_outputs"))
    return [piece if np.any(piece) else None for piece in pieces]


def split_to_sequence(view: NodeView) -> list[Labels | None]:
    """SplitToSequence: the labels stay whole, SequenceAt cuts them; the sizes are counted anew."""
    labels, parts = view.labels[0], view.tensor_info.parts(view.node.outputs[0].name)
    if labels is None or parts is None:
        return view.freeze_inputs("the sizes of SplitToSequence are not known")
    axis = view.int_attribute("axis", 0) % labels.ndim
    along = view.varying(labels, axis)
    if along is None:
        return [labels]
    if not view.has(1) or not view.is_constant(1):
        return view.freeze_inputs("SplitToSequence takes them one by one, or by computed sizes")
    ends = np.cumsum([part[axis] for part in parts])
    view.flow.sizes.append(ShapeParameter(view.index, 1, tuple(np.split(along, ends[:-1]))))
    return [labels]


def sequence_at(view: NodeView) -> list[Labels | None]:
    """SequenceAt: one part of what SplitToSequence has cut."""
    labels, position = view.labels[0], view.ints_of(1)
    source = next(iter(view.node.inputs[0].inputs), None)
    parts = view.tensor_info.parts(view.node.inputs[0].name)
    is_split = source is not None and source.op == "SplitToSequence"
    if labels is None or position is None or parts is None or source is None or not is_split:
        return view.freeze_inputs("SequenceAt takes them from a sequence that is not known")
    axis = int(source.attrs.get("axis", 0)) % labels.ndim
    whole = len(parts[0]) == labels.ndim
    if labels.shape[axis] == 1:
        return [labels if whole else np.squeeze(labels, axis)]
    ends = np.cumsum([part[axis] if whole else 1 for part in parts])
    piece = np.split(labels, ends[:-1], axis=axis)[position[0]]
    piece = piece if whole else np.squeeze(piece, axis)
    return [piece if np.any(piece) else None]


def slice_(view: NodeView) -> list[Labels | None]:
    """Slice: along the channels only with step 1; starts and ends are counted anew."""
    labels, shape = view.labels[0], view.shape(0)
    if all(x is None for x in view.labels):
        return started(view)
    if labels is None or shape is None:
        return view.freeze_inputs("Slice reads them as a bound or from an unknown shape")
    starts, ends = view.ints(1, "starts"), view.ints(2, "ends")
    axes, steps = view.ints(3, "axes"), view.ints(4, "steps")
    if (view.has_parameter(3, "axes") and axes is None) or (
        view.has_parameter(4, "steps") and steps is None
    ):
        return view.freeze_inputs("the axes or steps of Slice are not constant")
    sliced_axes = [a % len(shape) for a in axes] if axes is not None else list(range(len(shape)))
    if all(labels.shape[a] == 1 for a in sliced_axes):
        return [labels]
    if starts is None or ends is None:
        return view.freeze_inputs("the bounds of Slice along them are not constant")
    bounds: tuple[list[int | Labels], list[int | Labels]] = (list(starts), list(ends))
    from_end: Labels | None = None
    for i, axis in enumerate(sliced_axes):
        if labels.shape[axis] == 1:
            continue
        step = 1 if steps is None else steps[i]
        taken = range(*slice(starts[i], ends[i], step).indices(shape[axis]))
        along = view.varying(labels, axis)
        if along is not None and step != 1:
            return view.freeze_inputs("Slice takes them in steps")
        if along is not None:
            bounds[0][i], bounds[1][i] = along[: taken.start], along[: max(taken.start, taken.stop)]
            from_end = along if min(starts[i], ends[i]) < 0 else from_end
        labels = np.take(labels, taken, axis=axis)
    for operand, name, numbers in ((1, "starts", bounds[0]), (2, "ends", bounds[1])):
        if any(not isinstance(number, int) for number in numbers):
            place: int | str = name if view.tensor_info.opset < 10 else operand
            view.flow.sizes.append(ShapeParameter(view.index, place, tuple(numbers), also=from_end))
    return [labels if labels.size and np.any(labels) else None]


def gather(view: NodeView) -> list[Labels | None]:
    """Gather with constant indices along the channels: an index follows the channel it names."""
    labels, shape = view.labels[0], view.shape(0)
    if all(x is None for x in view.labels):
        return started(view)
    if labels is None or shape is None:
        return view.freeze_inputs("Gather reads them as indices or from an unknown shape")
    axis = view.int_attribute("axis", 0) % len(shape)
    indices = view.ints_of(1)
    rank = len(view.shape(1) or ())
    along = view.varying(labels, axis)
    plain = labels.shape[axis] == 1
    if plain or (along is None and indices is not None and rank < 2):
        # Nothing along this axis, or channels that go together: the numbers of it stay.
        taken = np.take(labels, [0] if plain else indices or [], axis=axis)
        if rank == 0:
            return [np.squeeze(taken, axis)]
        return [np.expand_dims(taken, tuple(range(axis, axis + rank - 1)))]
    if along is None or indices is None or rank != 1:
        return view.freeze_inputs("Gather picks single channels or by computed indices")
    positive = [i % shape[axis] for i in indices]
    view.binding(1, 0, along[positive], Role.FOLLOWER)
    view.flow.sizes.append(
        ShapeParameter(view.index, 1, tuple(along[:i] for i in positive), along[positive])
    )
    return [compress(np.take(labels, positive, axis=axis))]


def pad(view: NodeView) -> list[Labels | None]:
    """Pad: channels that are padded on are new ones, which may go like any others."""
    labels, shape = view.labels[0], view.shape(0)
    if labels is None or shape is None:
        return view.freeze_inputs("Pad reads them as a width or from an unknown shape")
    rank = len(shape)
    along_axes = varying_axes(view.flow.coupling.canonical(labels))
    widths = view.ints(1, "pads")
    named = view.ints_of(3) if view.has(3) else list(range(rank))
    if widths is None or named is None:
        return view.freeze_inputs("the widths of Pad are not constant")
    axes = [a % rank for a in named]
    sizes: list[int | Labels] = list(widths)
    for i, axis in enumerate(axes):
        before, after = widths[i], widths[i + len(axes)]
        if axis not in along_axes or before == after == 0:
            continue
        if view.node.attrs.get("mode", "constant") != "constant" or min(before, after) < 0:
            return view.freeze_inputs("Pad fills them from other channels or crops them")
        if labels.size != labels.shape[axis]:
            return view.freeze_inputs("Pad fills channels that lie on several axes")
        parts = []
        for number, width in ((i, before), (i + len(axes), after)):
            fresh = view.flow.coupling.fresh(width)
            sizes[number] = fresh
            parts.append(np.expand_dims(fresh, tuple(a for a in range(rank) if a != axis)))
        labels = np.concatenate([parts[0], labels, parts[1]], axis=axis)
    place: int | str = "pads" if view.tensor_info.opset < 11 else 1
    if any(not isinstance(size, int) for size in sizes):
        view.flow.sizes.append(ShapeParameter(view.index, place, tuple(sizes)))
    return [labels]


def resize(view: NodeView) -> list[Labels | None]:
    """Resize, Upsample: each channel by itself."""
    labels, before, after = view.labels[0], view.shape(0), view.output_shape()
    if labels is None or before is None or after is None:
        return view.freeze_inputs(f"the shape that {view.op_type} gives is not known")
    axes = varying_axes(view.flow.coupling.canonical(labels))
    if any(before[a] != after[a] for a in axes):
        return view.freeze_inputs(f"{view.op_type} mixes them")
    has_sizes = view.op_type == "Resize" and view.tensor_info.opset >= 11 and view.has(3)
    if has_sizes and not _resize_sizes(view, labels, axes):
        return view.freeze_inputs("the sizes of Resize cannot be rewritten")
    return [labels]


def _resize_sizes(view: NodeView, labels: Labels, axes: Sequence[int]) -> bool:
    values = view.tensor_info.traced_value(view.node.inputs[3].name)
    named = view.node.attrs.get("axes", list(range(labels.ndim)))
    touched = {i: a for i, a in enumerate(x % labels.ndim for x in named) if a in axes}
    if not touched:
        return True
    if values is None or values[1].any():
        return view.computed_from(3) is not None
    sizes: list[int | Labels] = [int(v) for v in values[0]]
    for i, axis in touched.items():
        along = view.counted(labels, axis)
        assert along is not None
        sizes[i] = along
    view.flow.sizes.append(ShapeParameter(view.index, 3, tuple(sizes)))
    return True


def expand_(view: NodeView) -> list[Labels | None]:
    """Expand: broadcast; the shape that is asked for counts channels."""
    labels, after = view.labels[0], view.output_shape()
    if all(x is None for x in view.labels):
        return repeats(view)
    if labels is None or after is None:
        return view.freeze_inputs("Expand reads them as a shape or gives an unknown one")
    moved = labels.reshape((1,) * (len(after) - labels.ndim) + labels.shape)  # -> output rank
    if not sized(view, 1, moved):
        return view.freeze_inputs("the shape of Expand cannot be rewritten")
    return [moved]


def tile(view: NodeView) -> list[Labels | None]:
    """Tile: the label array is repeated along its channel axis."""
    labels = view.labels[0]
    repeats = view.ints_of(1)
    if labels is None or repeats is None:
        return view.freeze_inputs("Tile repeats them a computed number of times")
    counts = [n if labels.shape[a] > 1 else 1 for a, n in enumerate(repeats)]
    return [np.tile(labels, counts)]


def depth_to_space(view: NodeView) -> list[Labels | None]:
    """DepthToSpace: each output channel takes b * b input channels, which go together."""
    labels = view.labels[0]
    along = None if labels is None else view.along(labels, 1)
    if along is None:
        return view.freeze_inputs("DepthToSpace reads them along another axis")
    block = view.int_attribute("blocksize", 1) ** 2
    columns_first = view.node.attrs.get("mode", "DCR") == "CRD"
    # (C,) -> (b * b, C / b / b), or for CRD (C / b / b, b * b) and transposed
    grid = along.reshape(-1, block).T if columns_first else along.reshape(block, -1)
    view.couple(grid, grid[:1])
    return [grid[0].reshape(1, -1, 1, 1)]  # (C / b / b,) -> (1, C / b / b, 1, 1)


def space_to_depth(view: NodeView) -> list[Labels | None]:
    """SpaceToDepth: each channel becomes b * b of them."""
    labels = view.labels[0]
    along = None if labels is None else view.along(labels, 1)
    if along is None:
        return view.freeze_inputs("SpaceToDepth reads them along another axis")
    block = view.int_attribute("blocksize", 1) ** 2
    return [np.tile(along, block).reshape(1, -1, 1, 1)]  # (C * b * b,) -> (1, C * b * b, 1, 1)
