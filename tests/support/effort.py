"""How little may be spent where graphs are tested, not accuracies or times."""

from __future__ import annotations

from lbyl_onnx.guard.effort import Effort

# Few samples, no rounds of timing to speak of, and no sizes that take long.
LITTLE = Effort(
    rounds=2,
    fewest_rounds=2,
    narrow_rounds=2,
    pass_macs=10**9,
    fewest_samples=8,
    enough_samples=16,
    fewest_compared=4,
    most_compared=4,
    most_unmeasured=4,
    most_predicted=4,
    slowest_run=0.1,
)
