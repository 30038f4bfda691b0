"""How near one model's outputs are to another's on the same inputs, output by output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.types import Array

# Why an output without elements was not compared.
EMPTY = "it is empty"


@dataclass(frozen=True)
class OutputFidelity:
    """How near one output of the compressed model is to the original's.

    Parameters
    ----------
    name
        Of the output.
    values
        How many values were compared.
    relative_error
        Norm of the difference over the norm of the original's; None where they are no floats.
    cosine
        Cosine of the angle between them; None likewise.
    top1_agreement
        Share of positions at which both have their largest value in the same class; None where
        there are no classes.
    equal
        Share of whole numbers, booleans or texts that are equal; None for floats.
    not_compared
        Why all or some of it was not compared; None where all was.
    """

    name: str
    values: int
    relative_error: float | None
    cosine: float | None
    top1_agreement: float | None
    equal: float | None
    not_compared: str | None = None

    @property
    def agreement(self) -> float | None:
        """Share of equal classes or whole numbers, else the cosine; None if none was compared."""
        if not self.values:
            return None
        near = self.cosine if self.equal is None else self.equal
        return near if self.top1_agreement is None else self.top1_agreement

    @property
    def nearness(self) -> float | None:
        """Cosine, or share of equal whole numbers; None if nothing was compared."""
        if not self.values:
            return None
        return self.cosine if self.equal is None else self.equal


@dataclass(frozen=True)
class Fidelity:
    """How near the compressed model is to the original: the worst over its outputs.

    Parameters
    ----------
    relative_error
        The largest of the outputs; None where none is of floats.
    cosine, top1_agreement, equal
        The least of the outputs; None where none has any.
    samples
        Inputs compared.
    outputs
        The outputs one by one.
    inputs
        What they were compared on.
    """

    relative_error: float | None
    cosine: float | None
    top1_agreement: float | None
    equal: float | None
    samples: int
    outputs: tuple[OutputFidelity, ...]
    inputs: str = "random inputs"

    @property
    def agreement(self) -> float | None:
        """The least agreement of the outputs; None where nothing was compared."""
        return min((x for o in self.outputs if (x := o.agreement) is not None), default=None)

    @property
    def nearness(self) -> float | None:
        """The least cosine, or share of equal whole numbers; None where nothing was compared."""
        return min((x for o in self.outputs if (x := o.nearness) is not None), default=None)

    @property
    def not_compared(self) -> dict[str, str]:
        """Outputs of which not all was compared, with the reason."""
        return {o.name: o.not_compared for o in self.outputs if o.not_compared is not None}


@dataclass
class _Sums:
    """Running sums of one output."""

    name: str
    values: int = 0
    old: float = 0.0
    new: float = 0.0
    product: float = 0.0
    error: float = 0.0
    equal: int = 0
    others: int = 0
    classes: int = 0
    positions: int = 0
    batches: int = 0
    empty: int = 0
    shapes: list[str] = field(default_factory=list)

    def add(self, old: Array, new: Array) -> None:
        """Take in one batch."""
        self.batches += 1
        if old.shape != new.shape:
            self.shapes.append(f"{new.shape}, not {old.shape}")
            return
        self.empty += not old.size
        self.values += old.size
        if old.dtype.kind != "f" or new.dtype.kind != "f":
            self.equal += int(np.sum(np.asarray(old == new)))
            self.others += old.size
            return
        one, two = (array.astype(np.float64).reshape(-1) for array in (old, new))
        self.old += float(one @ one)
        self.new += float(two @ two)
        self.product += float(one @ two)
        self.error += float((two - one) @ (two - one))
        self._classes(old, new)

    def _classes(self, old: Array, new: Array) -> None:
        one, two = top1(old), top1(new)
        if one is not None and two is not None and old.size:
            self.classes += int(np.sum(one == two))
            self.positions += one.size

    @property
    def result(self) -> OutputFidelity:
        """What it says."""
        reason = None
        if self.shapes:
            share = f"in {len(self.shapes)} of {self.batches} batches "
            reason = f"{share}its shape is another ({self.shapes[0]})"
        elif not self.values:
            reason = EMPTY
        floats = self.values > self.others
        relative, cosine = self._relative() if floats else (None, None)
        return OutputFidelity(
            self.name,
            self.values,
            relative,
            cosine,
            self.classes / self.positions if self.positions else None,
            self.equal / self.others if self.others else None,
            reason,
        )

    def _relative(self) -> tuple[float, float]:
        old, new, error = (float(np.sqrt(x)) for x in (self.old, self.new, self.error))
        if old == 0.0 or new == 0.0:
            return (0.0, 1.0) if old == new else (float(error > 0), 0.0)
        if error == 0.0:
            return 0.0, 1.0
        return error / old, self.product / (old * new)


def top1(output: Array) -> NDArray[np.intp] | None:
    """Return the class of the largest value at each position; None where there are no classes.

    Parameters
    ----------
    output : (samples, ..) array
        Classes lie last in a matrix or a sequence, on axis 1 of an image.
    """
    axis = 1 if output.ndim > 3 else output.ndim - 1
    if output.ndim < 2 or output.dtype.kind != "f" or output.shape[axis] < 2:
        return None
    return np.asarray(np.argmax(output, axis=axis))


def fidelity(
    names: Sequence[str],
    before: Iterable[Sequence[Array]],
    after: Iterable[Sequence[Array]],
    inputs: str = "random inputs",
) -> Fidelity:
    """Measure the nearness of two models' outputs, batch by batch, output by output.

    Parameters
    ----------
    names
        Of the outputs.
    before, after
        The outputs of both models, for each batch.
    inputs
        What they are of.
    """
    sums = [_Sums(name) for name in names]
    samples = 0
    for olds, news in zip(before, after, strict=True):
        samples += len(olds[0]) if olds and olds[0].ndim else 1
        for entry, old, new in zip(sums, olds, news, strict=True):
            entry.add(old, new)
    outputs = tuple(entry.result for entry in sums)
    return Fidelity(
        max((o.relative_error for o in outputs if o.relative_error is not None), default=None),
        _least(o.cosine for o in outputs),
        _least(o.top1_agreement for o in outputs),
        _least(o.equal for o in outputs),
        samples,
        outputs,
        inputs,
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
