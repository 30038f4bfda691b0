"""Which differences between the times of single layers are above noise."""

from __future__ import annotations

from dataclasses import dataclass

from lbyl_onnx.evaluate.layers import Details
from lbyl_onnx.runtime.timing import PairedLatency

# ONNX Runtime's profile counts whole microseconds: each of two times is off by up to one. In ms.
RESOLUTION = 0.002
# Two profiles of one model differ by this share in the middle of its layers, on a busy machine.
LEAST = 0.1


@dataclass(frozen=True)
class Noise:
    """What two profiles of one layer may differ by.

    Parameters
    ----------
    relative
        As a share of the time before, beyond the resolution of the profile.
    """

    relative: float

    def hides(self, before: float | None, after: float | None) -> bool:
        """Whether two times in milliseconds cannot be told apart; None is an unknown one."""
        if before is None or after is None:
            return True
        return abs(after - before) <= RESOLUTION + self.relative * before


def noise_of(details: Details, times: PairedLatency | None) -> Noise:
    """Estimate the noise of two profiles, which were taken one after the other.

    It is the largest of what is known: layers that have not changed tell how far the times of
    single ones stray, the sums of both profiles how far the machine was as fast for both, and the
    interval of the whole models' ratio how steady it was.

    Parameters
    ----------
    details
        The layers, profiled before and after.
    times
        The same models, timed in turns; None where those that were timed are others.
    """
    strayed = [
        (abs(layer.ms_after - layer.ms_before) - RESOLUTION) / layer.ms_before
        for layer in details.layers
        if layer.macs_after == layer.macs_before and layer.ms_before and layer.ms_after is not None
    ]
    unsteady = () if times is None else _unsteadiness(details, times)
    return Noise(max((LEAST, *strayed, *unsteady)))


def _unsteadiness(details: Details, times: PairedLatency) -> tuple[float, float]:
    """How far the profiles' sums are from the ratio that was timed, and its interval's width."""
    layers = details.layers
    before = sum(layer.ms_before or 0.0 for layer in layers) + details.others_before
    after = sum(layer.ms_after or 0.0 for layer in layers) + details.others_after
    if before <= 0.0 or times.ratio <= 0.0:
        return 0.0, 0.0
    return abs(after / before / times.ratio - 1.0), (times.high - times.low) / times.ratio
