"""Channels on several axes of an activation, as those of heads: of each line go as many.

Reshape cuts an axis of heads * d channels into one of heads and one of channels. What is left must
be a full grid again, so every head keeps as many channels; which ones is each head's own affair.
A line is a set of channels between whose rows nothing but their number is shared: what no grid
tells apart. Where grids cross, or a line falls into parts that are pruned apart, whole slices go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lbyl_onnx.channels.labels import FIXED, Freeze, Labels, components, varying_axes
from lbyl_onnx.channels.rules.view import LabelFlow, rows_along


@dataclass(frozen=True)
class Lines:
    """Which channels lie on one line, and which lines keep as many.

    Parameters
    ----------
    line_of
        For each label, by its root, the number of its line; -1 where it lies on none.
    tie_of
        For each line the number of its tie: lines of one tie keep as many channels.
    grids
        For each tie the labels of the first activation on several axes.
    """

    line_of: Labels
    tie_of: Labels
    grids: tuple[Labels, ...]


@dataclass(frozen=True)
class _Grid:
    """Labels on several axes, and their roots by rows, (rows, n)."""

    labels: Labels
    rows: Labels


def find_lines(flow: LabelFlow, tensors: Mapping[str, Labels]) -> Lines:
    """Find the lines of a graph's channels; where grids cross, couple what they make one.

    Parameters
    ----------
    flow
        The couplings; takes more.
    tensors
        Labels of the activations.
    """
    while True:
        grids = list(_grids(flow, tensors))
        lines, crossed = _lines(len(flow.coupling.roots()), grids)
        if crossed is None:
            return lines
        couple_slices(flow, crossed)


def couple_slices(flow: LabelFlow, labels: Labels) -> None:
    """Let only whole slices along the last axis on which labels vary go."""
    roots = _roots_that_go(flow)[labels]
    axes = varying_axes(roots)[:-1]
    whole = _fixed_slices(roots, axes)
    stays = labels[(whole == FIXED) & (roots != FIXED)]
    if stays.size:
        reason = "channels of another row stay in their place"
        flow.freezes.append(Freeze(np.unique(stays), reason, None))
    for axis in axes:
        flow.coupling.unite(whole, np.take(whole, [0], axis=axis))


def _roots_that_go(flow: LabelFlow) -> Labels:
    """Return the root of each label, (labels,); that of a channel that stays is fixed."""
    roots = flow.coupling.roots()
    stay = [roots[freeze.labels] for freeze in flow.freezes]
    if not stay:
        return roots
    return np.where(np.isin(roots, np.concatenate(stay)), FIXED, roots)


def _fixed_slices(labels: Labels, axes: tuple[int, ...]) -> Labels:
    """Return labels with each slice fixed whole that holds a fixed one along some axes."""
    return np.where(np.any(labels == FIXED, axis=axes, keepdims=True), FIXED, labels)


def freeze_kept_axes(flow: LabelFlow) -> None:
    """Freeze channels that could go only along an axis whose length a node holds."""
    for kept in flow.kept_axes:
        axes = varying_axes(flow.coupling.canonical(kept.labels))
        if axes and axes[-1] == kept.axis:
            reason = "the length of their axis stays"
            flow.freezes.append(Freeze(np.unique(kept.labels), reason, kept.node))


def _grids(flow: LabelFlow, tensors: Mapping[str, Labels]) -> Iterator[_Grid]:
    """Yield each grid once, in the order of the graph."""
    visited: set[tuple[tuple[int, ...], bytes]] = set()
    of_labels = _roots_that_go(flow)
    for labels in (*tensors.values(), *flow.grids):
        if sum(size > 1 for size in labels.shape) < 2:
            continue
        roots = of_labels[labels]
        axes = varying_axes(roots)
        if len(axes) < 2:
            continue
        rows = np.atleast_2d(rows_along(roots, axes[-1]))
        key = rows.shape, rows.tobytes()
        if key not in visited:
            visited.add(key)
            yield _Grid(labels, rows)


def _lines(count: int, grids: Sequence[_Grid]) -> tuple[Lines, Labels | None]:
    """Return the lines, or labels whose whole slices have to go."""
    line_of, rows = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for grid in grids:
        at = np.unique(grid.rows)
        rows[at] = 0
        for number, row in enumerate(grid.rows, start=1):
            if np.any(rows[row]) or np.any(row == FIXED):
                # Where channels were first cut into rows tells which of the axes has heads.
                first = next(x for x in grids if np.any(np.isin(x.rows, at)))
                return Lines(line_of, line_of[:0], ()), first.labels
            rows[row] = number
        # What lay on one line stays on one where it lies in one row, too.
        codes = line_of[at] * (len(grid.rows) + 1) + rows[at]
        line_of[at] = line_of.max() + 1 + np.unique(codes, return_inverse=True)[1].reshape(-1)
    line_of = np.unique(np.append(line_of, 0), return_inverse=True)[1][:-1] - 1  # 0 is no line
    lines = int(line_of.max(initial=-1)) + 1
    together = [np.unique(line_of[grid.rows]) for grid in grids]
    tie_of = components(lines, [np.stack([x, np.full_like(x, x[0])]) for x in together])
    sizes = np.bincount(line_of[line_of >= 0], minlength=lines)
    firsts: dict[int, Labels] = {}
    for grid in grids:
        firsts.setdefault(int(tie_of[line_of[grid.rows[0, 0]]]), grid.labels)
    for grid in grids:
        members = sizes[tie_of == tie_of[line_of[grid.rows[0, 0]]]]
        if members.min() < 2 or np.any(members != members[0]) or not _even(grid, line_of):
            return Lines(line_of, tie_of, ()), firsts[int(tie_of[line_of[grid.rows[0, 0]]])]
    return Lines(line_of, tie_of, tuple(firsts[tie] for tie in range(len(firsts)))), None


def _even(grid: _Grid, line_of: Labels) -> bool:
    """Whether each channel of a line lies in its row as often as the others."""
    for row in grid.rows:
        distinct, counts = np.unique(row, return_counts=True)
        for line in np.unique(line_of[distinct]):
            often = counts[line_of[distinct] == line]
            if np.any(often != often[0]):
                return False
    return True
