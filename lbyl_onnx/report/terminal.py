"""Results as text for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lbyl_onnx.evaluate.compare import Comparison
from lbyl_onnx.inspection import GroupView, Inspection
from lbyl_onnx.results import rendering
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.results.layout import Lines, TextTable
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
    console.print(Lines(f"{printable(source)} -> {printable(output)}", "bold"), crop=False)
    console.print(result, crop=False)


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
    console.print(Lines(printable(source), "bold"), crop=False)
    console.print(f"{count(costs.parameters)} parameters, {count(costs.macs)} MACs")
    reach = inspection.reach
    console.print(
        Lines(
            f"within reach: {reach.parameters:.1%} of parameters, {reach.macs:.1%} of MACs "
            "(each group at one channel)"
        )
    )
    for entry in inspection.inputs:
        console.print(Lines(printable(entry.description)), crop=False)
    console.print(f"\n{rendering.many(len(inspection.groups), 'channel group')}", style="bold")
    if inspection.groups:
        console.print(_group_table(inspection), crop=False)
    if any(group.predicted for group in inspection.groups):
        _print_predicted(inspection, console)
    for part in rendering.refusals_part(inspection.refusals):
        console.print(part, crop=False)


def _group_table(inspection: Inspection) -> TextTable:
    costs = inspection.costs
    # Where there is no attention, all channels are hidden ones, each by itself.
    attends = any(group.role != "hidden" or group.blocks > 1 for group in inspection.groups)
    titles = ("producers", "channels", *("role",) * attends)
    rows = tuple(
        (
            rendering.names_text(group.producers),
            str(group.channels),
            *(_role_text(group),) * attends,
            share(group.parameters, costs.parameters),
            share(group.macs, costs.macs),
            rendering.names_text(group.followers),
            rendering.names_text(group.consumers),
        )
        for group in inspection.groups
    )
    titles = (*titles, "parameters", "MACs", "followers", "consumers")
    return TextTable(titles, frozenset(("channels", "parameters", "MACs")), rows)


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
    shares = next(group.predicted for group in inspection.groups if group.predicted)
    titles = tuple(f"{entry.removed:.0%}" for entry in shares)
    rows = tuple(
        (rendering.names_text(group.producers), *_errors(group, len(shares)))
        for group in inspection.groups
    )
    console.print(TextTable(("producers", *titles), frozenset(titles), rows), crop=False)


def _errors(group: GroupView, shares: int) -> tuple[str, ...]:
    """The predicted errors of the outputs; dashes for a group that nothing is predicted of."""
    return tuple(f"{entry.output_error:.1%}" for entry in group.predicted) or ("-",) * shares


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
    title = f"{printable(original)} and {printable(compressed)}"
    console.print(Lines(title, "bold"), crop=False)
    inputs = (
        "synthetic samples"
        if comparison.inputs is None
        else f"inputs of {printable(comparison.inputs)}"
    )
    near = comparison.fidelity
    lines = [f"fidelity on {near.samples} {inputs}: {rendering.nearness(near)}"]
    lines += [f"  {line}" for line in rendering.by_output(near)]
    lines += rendering.prediction_lines(comparison.prediction)
    if comparison.random:
        lines.append(rendering.random_numbers(comparison.random).removeprefix("; "))
    console.print(Lines("\n".join(lines)), crop=False)
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
        console.print(Lines(rendering.difference(accuracy)))
