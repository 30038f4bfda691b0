"""What was made for the user's target, and how that compares with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbyl_onnx.compensate.group import Fitted
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.option_types import Allocation
from lbyl_onnx.runtime import timing
from lbyl_onnx.target import Kind


@dataclass(frozen=True)
class Before:
    """What the original costs, and its bytes.

    `stored` are those of the model that is pruned, where that is another one.
    """

    costs: Costs
    size: int
    stored: int | None = None


@dataclass(frozen=True)
class Nearby:
    """A model that was measured on the way: what one step more or less would do.

    Parameters
    ----------
    macs
        Multiply-accumulates, as a share of the original's.
    value
        Its fidelity, or score.
    """

    macs: float
    value: float


@dataclass(frozen=True)
class TargetReport:
    """The target, and what was reached.

    Parameters
    ----------
    kind
        What of the model.
    wanted
        The most (of fidelity the least) that was allowed: multiply-accumulates, parameters, bytes,
        milliseconds; for a ratio the share of the groups' channels to remove.
    reached
        The same of the result.
    text
        The target as the user gave it.
    allocation, round_to
        How channels were shared out, and what their numbers are multiples of.
    latency
        The measured times that the result was decided by; None where it was not by times.
    less, more
        Where fidelity or a score decided: the models next to the result that were measured, which
        keep more and less of the original; None where there is none.
    """

    kind: Kind
    wanted: float
    reached: float
    text: str
    allocation: Allocation
    round_to: int
    latency: timing.PairedLatency | None = None
    less: Nearby | None = None
    more: Nearby | None = None


@dataclass(frozen=True, eq=False)
class Reached:
    """What was made, what it costs, and how that compares with the target.

    `predicted` is the share of its consumers' outputs that each group's loss takes along, by the
    group's key, where moments or curves tell it.
    """

    fitted: Fitted
    costs: Costs
    size: int
    target: TargetReport
    predicted: Mapping[int, float]
