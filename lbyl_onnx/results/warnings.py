"""Warnings of a result: it is slower, it grew, a layer lost nearly all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.guard.effort import LARGE, Effort
from lbyl_onnx.runtime.timing import PairedLatency
from lbyl_onnx.text import count, size

# Groups that lose a larger share of their channels are told.
MOST_TAKEN = 0.7
# Names in a warning before the rest is only counted, and characters of each.
NAMED, LONGEST_NAME = 3, 60
Loss = tuple[str, int, int]
"""A group's name, its channels, and how many of them stay."""


@dataclass(frozen=True)
class Timed:
    """How long a result takes, and what its numbers of channels are multiples of.

    Parameters
    ----------
    latency
        Times of the original and of the result.
    step
        What the result's numbers of channels are multiples of.
    block
        What the hardware gains by.
    quantised
        Whether the result is in whole numbers.
    """

    latency: PairedLatency
    step: int
    block: int
    quantised: bool


def warnings_of(
    before: Costs, after: Costs, sizes: tuple[int, int], losses: Iterable[Loss], timed: Timed
) -> tuple[str, ...]:
    """Return the warnings that a result comes with, one line each.

    Parameters
    ----------
    before, after
        Parameters and multiply-accumulates.
    sizes
        Bytes of the original and of the result.
    losses
        The groups that were pruned.
    timed
        How long it takes.
    """
    return (*_slower(timed), *_grown(before, after, sizes), *_emptied(losses))


def run_from_file(bytes_of_model: int, effort: Effort) -> tuple[str, ...]:
    """Say what was left out, or done less often, for a model too large to be copied.

    Parameters
    ----------
    bytes_of_model
        Of the original.
    effort
        What was spent on it.
    """
    if bytes_of_model <= LARGE:
        return ()
    return (
        f"{size(bytes_of_model)} are more than is copied into memory: the models were run from "
        "their files, without ONNX Runtime's graph optimisations, so that the times are not those "
        f"of the deployed models; they were proven equal on {effort.random_inputs} random inputs "
        "of the first shape, and timed "
        f"in {effort.loaded_rounds} rounds",
    )


def _slower(timed: Timed) -> Iterator[str]:
    if not timed.latency.slower:
        return
    why = (
        "copying tensors around the pruned layers costs more than their work; prune more, ask for "
        "--latency 100%, or leave out layers with --exclude"
    )
    if timed.quantised:
        why = (
            "on this machine whole numbers gain its layers no time, only bytes; leave --quantize "
            "out, unless those count, or another machine runs it"
        )
    elif timed.step % timed.block:
        why = (
            f"channel counts that are no multiples of {timed.block} fall out of the fast layout of "
            "this hardware's kernels; use --round-to auto"
        )
    yield f"the result takes {timed.latency} of the original's time: {why}"


def _grown(before: Costs, after: Costs, sizes: tuple[int, int]) -> Iterator[str]:
    grown = []
    if after.parameters > before.parameters:
        grown.append(f"{count(after.parameters)} parameters instead of {count(before.parameters)}")
    if sizes[1] > sizes[0]:
        grown.append(f"{size(sizes[1])} instead of {size(sizes[0])}")
    if grown:
        yield (
            f"the result is larger than the original: {', '.join(grown)}; what had to be stored "
            "anew takes more than what was pruned; prune more, or use --method none"
        )


def _emptied(losses: Iterable[Loss]) -> Iterator[str]:
    names = [name for name, channels, kept in losses if channels - kept > MOST_TAKEN * channels]
    if not names:
        return
    shown = (n if len(n) <= LONGEST_NAME else f"{n[: LONGEST_NAME - 3]}..." for n in names[:NAMED])
    listed = "; ".join(shown)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    many = "a channel group loses" if len(names) == 1 else f"{len(names)} channel groups lose"
    yield (
        f"{many} more than {MOST_TAKEN:.0%} of the channels ({listed}{more}); "
        "ask for less, or leave them out with --exclude"
    )
