"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lbyl_onnx.evaluate.compare import Comparison
from lbyl_onnx.inspection import GroupView, Inspection
from lbyl_onnx.results import rendering
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.text import count, milliseconds, printable, share


def print_result(result: CompressResult, source: str, console: Console) -> None:
    """Print what was done to a model.

    Parameters
    ----------
    result
        The result.
    source
        The input, as the user named it.
    console
        Where to.
    """
    output = "(dry run: nothing written)" if result.output is None else str(result.output)
    console.print(Text(f"{printable(source)} -> {printable(output)}", style="bold"))
    console.print(result)


def print_inspection(inspection: Inspection, source: str, console: Console) -> None:
    """Print what could be pruned in a model.

    Parameters
    ----------
    inspection
        The inspection.
    source
        The model, as the user named it.
    console
        Where to.
    """
    costs = inspection.costs
    console.print(Text(printable(source), style="bold"))
    console.print(f"{count(costs.parameters)} parameters, {count(costs.macs)} MACs")
    console.print(
        f"within reach: {inspection.reach.parameters:.1%} of parameters, "
        f"{inspection.reach.macs:.1%} of MACs "
        "(each group at one channel)"
    )
    for entry in inspection.inputs:
        console.print(Text(printable(entry.description)))
    console.print(f"\n{rendering.many(len(inspection.groups), 'channel group')}", style="bold")
    if inspection.groups:
        console.print(_group_table(inspection))
        _print(console, rendering.rest(len(inspection.groups)))
    if any(group.predicted for group in inspection.groups):
        _print_predicted(inspection, console)
    _print(console, rendering.refusals_part(inspection.refusals))


def _group_table(inspection: Inspection) -> Table:
    costs = inspection.costs
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Where there is no attention, all channels are hidden ones, each by itself.
    attends = any(group.role != "hidden" or group.blocks > 1 for group in inspection.groups)
    titles = ("producers", "channels", *("role",) * attends)
    for title in (*titles, "parameters", "MACs", "followers", "consumers"):
        numeric = title in ("channels", "parameters", "MACs")
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for group in inspection.groups[: rendering.LONGEST_LIST]:
        table.add_row(
            rendering.listed_text(group.producers),
            str(group.channels),
            *(_role_text(group),) * attends,
            share(group.parameters, costs.parameters),
            share(group.macs, costs.macs),
            rendering.listed_text(group.followers),
            rendering.listed_text(group.consumers),
        )
    return table


def _role_text(group: GroupView) -> str:
    """What channels are, and of how many heads or other blocks."""
    if group.blocks == 1:
        return group.role
    what = "blocks" if group.role == "hidden" else "heads"
    return f"{group.role}, {group.blocks} {what} of {group.per_block}"


def _print_predicted(inspection: Inspection, console: Console) -> None:
    """Print what pruning one group alone is predicted to do, group by group."""
    title = "predicted error of the outputs, where one group loses this share of its channels"
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("producers", overflow="fold")
    shares = next(group.predicted for group in inspection.groups if group.predicted)
    for entry in shares:
        table.add_column(f"{entry.removed:.0%}", justify="right", no_wrap=True)
    for group in inspection.groups[: rendering.LONGEST_LIST]:
        cells = [f"{entry.output_error:.1%}" for entry in group.predicted]
        table.add_row(rendering.listed_text(group.producers), *cells)
    console.print(table)
    _print(console, rendering.rest(len(inspection.groups)))


def print_comparison(
    comparison: Comparison, original: str, compressed: str, console: Console
) -> None:
    """Print how two models compare.

    Parameters
    ----------
    comparison
        The comparison.
    original, compressed
        The models, as the user named them.
    console
        Where to.
    """
    console.print(
        Text(f"{printable(original)} and {printable(compressed)}", style="bold"), soft_wrap=True
    )
    inputs = (
        "synthetic samples"
        if comparison.inputs is None
        else f"inputs of {printable(comparison.inputs)}"
    )
    near = comparison.fidelity
    console.print(Text(f"fidelity on {near.samples} {inputs}: {rendering.nearness(near)}"))
    for line in rendering.by_output(near):
        console.print(Text(f"  {line}"))
    for line in rendering.prediction_lines(comparison.prediction):
        console.print(Text(line))
    if comparison.random:
        console.print(Text(rendering.random_numbers(comparison.random).removeprefix("; ")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "original", "compressed", "ratio"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    accuracy, before, after = (
        comparison.accuracy,
        comparison.original_top1,
        comparison.compressed_top1,
    )
    if accuracy is not None and before is not None and after is not None:
        kept = after / before if before else 0.0
        table.add_row("top-1", f"{before:.2%}", f"{after:.2%}", f"{kept:.1%}")
        likely = (accuracy.original, accuracy.compressed)
        table.add_row("95 % interval", *(f"{low:.1%} to {high:.1%}" for low, high in likely), "")
    if comparison.scores is not None:
        first, second = comparison.scores
        part = f"{second / first:.1%}" if first > 0.0 else "-"
        table.add_row("score", f"{first:.6g}", f"{second:.6g}", part)
    old, new = comparison.latency.before, comparison.latency.after
    sides = (milliseconds(old.median), milliseconds(new.median))
    table.add_row(
        "time", *sides, str(comparison.latency), style=rendering.style_of(comparison.latency)
    )
    console.print(table)
    if accuracy is not None:
        console.print(Text(rendering.difference(accuracy)))


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    for part in parts:
        console.print(part)
