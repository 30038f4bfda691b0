"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lbyl_onnx.evaluate.compare import Comparison
from lbyl_onnx.inspection import Inspection
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
    target = "(dry run: nothing written)" if result.output is None else str(result.output)
    console.print(Text(f"{printable(source)} -> {printable(target)}", style="bold"))
    console.print(result)


def print_inspection(found: Inspection, source: str, console: Console) -> None:
    """Print what could be pruned in a model.

    Parameters
    ----------
    found
        The inspection.
    source
        The model, as the user named it.
    console
        Where to.
    """
    costs = found.costs
    console.print(Text(printable(source), style="bold"))
    console.print(f"{count(costs.parameters)} parameters, {count(costs.macs)} MACs")
    console.print(
        f"within reach: {found.reach.parameters:.1%} of parameters, {found.reach.macs:.1%} of MACs "
        "(each group at one channel)"
    )
    for entry in found.inputs:
        console.print(Text(printable(entry.description)))
    console.print(f"\n{rendering.many(len(found.groups), 'channel group')}", style="bold")
    if found.groups:
        console.print(_group_table(found))
        _print(console, rendering.rest(len(found.groups)))
    if any(group.predicted for group in found.groups):
        _print_predicted(found, console)
    _print(console, rendering.refusals_part(found.refusals))


def _group_table(found: Inspection) -> Table:
    costs = found.costs
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("producers", "channels", "parameters", "MACs", "followers", "consumers"):
        numeric = title in ("channels", "parameters", "MACs")
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for group in found.groups[: rendering.LONGEST_LIST]:
        table.add_row(
            rendering.listed_text(group.producers),
            str(group.channels),
            share(group.parameters, costs.parameters),
            share(group.macs, costs.macs),
            rendering.listed_text(group.followers),
            rendering.listed_text(group.consumers),
        )
    return table


def _print_predicted(found: Inspection, console: Console) -> None:
    """Print what pruning one group alone is predicted to do, group by group."""
    title = "predicted error of the outputs, where one group loses this share of its channels"
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("producers", overflow="fold")
    shares = next(group.predicted for group in found.groups if group.predicted)
    for entry in shares:
        table.add_column(f"{entry.removed:.0%}", justify="right", no_wrap=True)
    for group in found.groups[: rendering.LONGEST_LIST]:
        cells = [f"{entry.output_error:.1%}" for entry in group.predicted]
        table.add_row(rendering.listed_text(group.producers), *cells)
    console.print(table)
    _print(console, rendering.rest(len(found.groups)))


def print_comparison(found: Comparison, original: str, compressed: str, console: Console) -> None:
    """Print how two models compare.

    Parameters
    ----------
    found
        The comparison.
    original, compressed
        The models, as the user named them.
    console
        Where to.
    """
    console.print(
        Text(f"{printable(original)} and {printable(compressed)}", style="bold"), soft_wrap=True
    )
    inputs = "random inputs" if found.inputs is None else f"inputs of {printable(found.inputs)}"
    near = found.fidelity
    console.print(Text(f"fidelity on {near.samples} {inputs}: {rendering.nearness(near)}"))
    for line in rendering.by_output(near):
        console.print(Text(f"  {line}"))
    if found.random:
        console.print(Text(rendering.random_numbers(found.random).removeprefix("; ")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "original", "compressed", "ratio"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    if found.original_top1 is not None and found.compressed_top1 is not None:
        kept = found.compressed_top1 / found.original_top1 if found.original_top1 else 0.0
        shares = (f"{found.original_top1:.2%}", f"{found.compressed_top1:.2%}", f"{kept:.1%}")
        table.add_row("top-1", *shares)
    old, new = found.latency.before, found.latency.after
    sides = (milliseconds(old.median), milliseconds(new.median))
    table.add_row("time", *sides, str(found.latency), style=rendering.style_of(found.latency))
    console.print(table)


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    for part in parts:
        console.print(part)
