"""What is likely to be done next with a result."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.text import printable


@dataclass(frozen=True)
class Step:
    """What may be done next: what for, and the command; an empty one for a change of the last."""

    purpose: str
    command: str


def next_step(result: CompressResult, source: str) -> str:
    """Return what is likely to be done next, in one line.

    Parameters
    ----------
    result
        The result.
    source
        The input, as the user named it.
    """
    if result.output is None:
        return "next: give OUT.onnx in place of --dry-run"
    step = (
        f"next: {printable(_verify(result, source))} (on data of your own: --inputs DATA.npz "
        "--labels KEY)"
    )
    return step if result.quantised else f"{step}; to quantise it, too: --quantize int8"


def next_steps(result: CompressResult, source: str) -> tuple[Step, ...]:
    """Return what may be done next, with the command of each.

    Parameters
    ----------
    result
        The result.
    source
        The input, as the user named it.
    """
    if result.output is None:
        return (Step("Nothing was written: give OUT.onnx in place of --dry-run", ""),)
    own = f"{_verify(result, source)} --inputs DATA.npz --labels KEY"
    curve = shlex.join(["lbyl-onnx", "sweep", source, "--out", "curve"])
    steps = (
        Step("Measure the accuracy on data of your own", own),
        Step("See how far the model can go", curve),
    )
    return steps if result.quantised else (*steps, Step("Quantise it, too: --quantize int8", ""))


def _verify(result: CompressResult, source: str) -> str:
    return shlex.join(["lbyl-onnx", "verify", source, str(result.output)])
