"""The lines and tables of results on a terminal; other text uses some of them, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lbyl_onnx.budget.reached import TargetReport
from lbyl_onnx.channels.groups import Refusal
from lbyl_onnx.evaluate.doubt import PairedAccuracy
from lbyl_onnx.evaluate.metrics import Fidelity, OutputFidelity
from lbyl_onnx.evaluate.prediction.predict import Prediction
from lbyl_onnx.evaluate.verify import Verification
from lbyl_onnx.factor.stage import FactorReport
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.quantise.int8 import Quantised
from lbyl_onnx.results.groups import GroupReport
from lbyl_onnx.results.layout import LONGEST_LIST, Lines, TextTable
from lbyl_onnx.runtime.timing import PairedLatency
from lbyl_onnx.text import LONGEST_GROUP, count, listed, milliseconds, printable, short, size

# Probability of a difference by chance below which it is one.
CHANCE = 0.05
# Shares that differ by more than whole channels make them.
EVEN = 0.15


def costs_table(
    costs: tuple[Costs, Costs], sizes: tuple[int, int], times: PairedLatency, optimised: bool
) -> Table:
    """Return costs before and after.

    Parameters
    ----------
    costs, sizes
        Of the original and of the result.
    times
        Of both.
    optimised
        Whether ONNX Runtime optimised their graphs.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "before", "after", "ratio"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    rows = [
        ("parameters", costs[0].parameters, costs[1].parameters, count),
        ("MACs", costs[0].macs, costs[1].macs, count),
        ("file size", *sizes, size),
    ]
    for title, before, after, form in rows:
        ratio = f"{after / before:.1%}" if before else "-"
        table.add_row(title, form(before), form(after), ratio)
    name = "time" if optimised else "time, not optimised"
    sides = (milliseconds(times.before.median), milliseconds(times.after.median))
    table.add_row(name, *sides, str(times), style=style_of(times))
    return table


def style_of(times: PairedLatency) -> str:
    """Colour of a time: only of what is outside the interval."""
    return "green" if times.faster else "yellow" if times.slower else ""


def nearness(near: Fidelity | OutputFidelity) -> str:
    """Return in words how near outputs are; of a whole model the worst of its outputs."""
    parts = []
    if near.relative_error is not None:
        parts.append(f"relative error {near.relative_error:.3f}")
    if near.cosine is not None:
        parts.append(f"cosine {near.cosine:.3f}")
    if near.top1_agreement is not None:
        parts.append(f"top-1 agreement {near.top1_agreement:.1%}")
    if near.equal is not None:
        parts.append(f"{near.equal:.1%} equal")
    return ", ".join(parts) or "nothing could be compared"


def difference(pair: PairedAccuracy) -> str:
    """Return in words whether two models are equally accurate."""
    sure = "differ" if pair.p_value < CHANCE else "do not measurably differ"
    return (
        f"the accuracies {sure}: {pair.only_original} samples are right in the original alone, "
        f"{pair.only_compressed} in the compressed model alone (McNemar's test, p "
        f"{pair.p_value:.2g})"
    )


def by_output(near: Fidelity) -> list[str]:
    """Return a line for each output, where there are several or one was not compared."""
    if len(near.outputs) < 2 and not near.not_compared:
        return []
    lines = []
    for output in near.outputs[:LONGEST_LIST]:
        messages = [nearness(output)] if output.values else []
        messages += [] if output.not_compared is None else [f"not compared: {output.not_compared}"]
        lines.append(f"{printable(output.name)}: {'; '.join(messages)}")
    if len(near.outputs) > LONGEST_LIST:
        lines.append(f"... and {len(near.outputs) - LONGEST_LIST} more; --json lists them all")
    return lines


def proven(proof: Verification) -> str:
    """Return in words what was proven, and how."""
    text = (
        f"verified: {proof.values:,} output values on {proof.shapes} input shapes equal those of "
        f"the reference model (removed channels zeroed), to {proof.deviation:.0e}"
    )
    if proof.discontinuous:
        text += f"; compared in front of {_some(proof.discontinuous)} and behind, not across"
    return text + random_numbers(proof.random)


def random_numbers(names: tuple[str, ...]) -> str:
    """Return what is to be said of nodes that draw random numbers; nothing where there are none."""
    return f"; the random numbers of {_some(names)} were the same for both" if names else ""


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(", ".join(names[:3])) + more


def fidelity_text(proof: Verification) -> Lines:
    """Return the nearness to the original, and the proof."""
    near = proof.fidelity
    lines = [f"fidelity on {near.samples} {near.inputs}: {nearness(near)}"]
    lines += [f"  {line}" for line in by_output(near)]
    return Lines("\n".join([*lines, proven(proof)]))


def prediction_lines(predicted: Prediction | None) -> list[str]:
    """Return what is predicted of real inputs, in one line; nothing where nothing is."""
    return [] if predicted is None else [str(predicted)]


def quantised_lines(quantised: Quantised | None) -> list[str]:
    """Return how a model was quantised, line by line; nothing where it was not."""
    if quantised is None:
        return []
    ranges = "ranges from the samples" if quantised.kind == "static" else "ranges of each run"
    bits = "" if quantised.bits == 8 else f", {quantised.bits} of them in the weights"
    lines = [
        f"quantised: {many(quantised.layers, 'layer')} in whole numbers of 8 bits{bits}, {ranges}; "
        "outputs are those of the reference that rounds in floating point, to "
        f"{quantised.deviation:.0e}"
    ]
    if quantised.cosine is not None:
        lines.append(f"cosine with the outputs before that: {quantised.cosine:.4f}")
    some = quantised.left[:LONGEST_LIST]
    return lines + [f"{printable(name)} stays in floating point: {why}" for name, why in some]


def nearby_lines(target: TargetReport) -> Iterator[str]:
    """Yield what one step less or more would have done, where that was measured."""
    what = "score" if target.kind == "min_score" else "fidelity"
    for step, near in (("less", target.less), ("more", target.more)):
        if near is not None:
            yield f"one step {step}: {near.macs:.0%} of the MACs at {what} {near.value:.3f}"


def factor_lines(factors: Sequence[FactorReport]) -> list[str]:
    """Return which layers became two, line by line; nothing where none did."""
    if not factors:
        return []
    lines = [f"factored: {many(len(factors), 'layer')} as two of lower rank, equal to the product"]
    return lines + [
        f"  {printable(short(x.name, LONGEST_GROUP))}: {x.outputs} outputs by rank {x.rank}, "
        f"{x.lost:.1%} of their variance lost"
        for x in factors[:LONGEST_LIST]
    ]


def groups_part(groups: tuple[GroupReport, ...]) -> Iterator[RenderableType]:
    """Yield the title and the table of the groups that were pruned."""
    removed = sum(g.channels - g.kept for g in groups)
    yield Text(f"\npruned {removed:,} channels in {many(len(groups), 'group')}", style="bold")
    # Groups that lose the same share need no column to say so.
    uneven = max((g.ratio for g in groups), default=0) - min((g.ratio for g in groups), default=0)
    shares = ("removed",) if uneven > EVEN else ()
    rows = tuple(
        (
            group_name(group.name),
            *(str(group.channels), str(group.kept)),
            *(f"{group.ratio:.0%}" for _ in shares),
            group.restored,
            names_text(group.consumers),
        )
        for group in groups
    )
    titles = ("producer", "channels", "kept", *shares, "restored by", "consumers")
    yield TextTable(titles, frozenset(("channels", "kept", "removed")), rows)


def refusals_part(refusals: tuple[Refusal, ...]) -> Iterator[RenderableType]:
    """Yield the title and the table of the groups that were skipped, where there are any."""
    if not refusals:
        return
    yield Text(f"\nskipped: {many(len(refusals), 'group')}", style="bold")
    rows = tuple((group_name(r.name), str(r.channels), _reason(r)) for r in refusals)
    yield TextTable(("producer", "channels", "reason"), frozenset(("channels",)), rows)


def _reason(refusal: Refusal) -> str:
    where = f" ({listed(refusal.nodes)})" if refusal.nodes else ""
    return printable(short(refusal.reason, LONGEST_GROUP) + where)


def names_text(names: Sequence[str]) -> str:
    """Return names with commas between, as harmless text."""
    return printable(listed(names))


def group_name(name: str) -> str:
    """Return the name of a group of layers, as harmless text."""
    return printable(short(name, LONGEST_GROUP))


def many(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
