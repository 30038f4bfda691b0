"""The compression curve of the sample: accuracy over what is left, for each method.

Usage: ``python -m docs.figures.curve [FILE.svg]``; it takes about a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from docs.figures.writing import alone, write
from lbyl_onnx import Config, __version__
from lbyl_onnx.evaluate.score import ScoringData
from lbyl_onnx.report.svg import Axis, Series, curves
from lbyl_onnx.sweeps.cells import plan_cells, run_cell
from lbyl_onnx.sweeps.types import Outcome

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
METHODS: tuple[str, ...] = ("none", "nm", "lbyl", "lbyl+")
RATIOS = tuple(round(0.1 * number, 1) for number in range(1, 9))


def draw(ratios: Sequence[float] = RATIOS) -> str:
    """Return the curves as SVG."""
    series = []
    for method in METHODS:
        configs = [
            Config(ratio=ratio, method=method, provider="cpu", hardware="avx2") for ratio in ratios
        ]
        data = ScoringData(SAMPLES / "digits_test.npz", "labels")
        cells = plan_cells([SAMPLES / "digits.onnx"], configs, data, __version__)
        outcomes = [outcome for cell in cells if isinstance(outcome := run_cell(cell), Outcome)]
        points = [(1.0, outcomes[0].before.score)]
        points += [(o.after.macs / o.before.macs, o.after.score) for o in outcomes]
        series.append(Series(method, tuple(points)))
    x, y = Axis("MACs left", "{:.0%}".format), Axis("accuracy", "{:.0%}".format, 0.0, 1.0)
    return alone(curves("samples/digits.onnx, 540 test images", series, x, y))


if __name__ == "__main__":
    write(draw(), __file__)
