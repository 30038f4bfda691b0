"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbyl_onnx.channels.groups import Refusal
from lbyl_onnx.data.source import InputRange
from lbyl_onnx.evaluate.compare import Comparison
from lbyl_onnx.evaluate.metrics import Fidelity, OutputFidelity
from lbyl_onnx.evaluate.verify import Verification
from lbyl_onnx.inspection import Inspection
from lbyl_onnx.pipeline import CompressResult, GroupReport
from lbyl_onnx.runtime.timing import PairedLatency
from lbyl_onnx.target import amount
from lbyl_onnx.text import (
    LONGEST_GROUP,
    count,
    listed,
    milliseconds,
    printable,
    share,
    short,
    shortened,
    size,
)

# A list in the terminal stops here; the JSON has them all.
LONGEST_LIST = 40
# Shares that differ by more than whole channels make them.
EVEN = 0.15


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
    proof = result.verification
    target = "(dry run: nothing written)" if result.output is None else str(result.output)
    console.print(Text(f"{printable(source)} -> {printable(target)}", style="bold"))
    console.print(described(result))
    for found in result.input_ranges:
        console.print(Text(printable(told(found))))
    console.print(_costs(result))
    for warning in result.warnings:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"))
    console.print(_fidelity(proof))
    _print_groups(result.groups, console)
    _print_refusals(result.refusals, console)


def _target(result: CompressResult) -> str:
    """What was wanted, and what was reached."""
    target = result.target
    text = target.text
    if target.kind != "ratio":
        text += f": reached {amount(target.kind, target.reached)}"
        if target.kind == "fidelity":
            text += " on the samples"
        elif target.wanted:
            text += f" of {amount(target.kind, target.wanted)}"
    if target.latency is not None:
        after = target.latency.after
        text += f" ({after.low:.3g} to {after.high:.3g} in {after.runs} runs)"
    if target.allocation != ("uniform" if target.kind == "ratio" else "auto"):
        text += f", allocation {target.allocation}"
    return text if target.round_to == 1 else f"{text}, {_rounding(result)}"


def _rounding(result: CompressResult) -> str:
    """What the numbers of channels are multiples of, and why."""
    config, step = result.config, result.target.round_to
    text = f"channels in steps of {step}"
    if config.round_to != "auto":
        return text
    machine = "this machine" if config.hardware == "host" else config.hardware
    return f"{text} ({machine})"


def described(result: CompressResult) -> str:
    """Return in one line how a model was compressed."""
    config = result.config
    return (
        f"{_target(result)}, method {config.method}, criterion {config.chosen_by}; "
        f"ran on {result.verification.provider}"
    )


def told(found: InputRange) -> str:
    """Return in one line what the graph tells of an input, for the samples made for it."""
    nodes = ", ".join(found.nodes)
    return f"samples for {found.name}: pixels of {found.low:g} to {found.high:g}, as {nodes} tell"


def _costs(result: CompressResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "before", "after", "ratio"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    rows = [
        ("parameters", result.before.parameters, result.after.parameters, count),
        ("MACs", result.before.macs, result.after.macs, count),
        ("file size", result.size_before, result.size_after, size),
    ]
    for title, before, after, form in rows:
        ratio = f"{after / before:.1%}" if before else "-"
        table.add_row(title, form(before), form(after), ratio)
    times = result.latency
    name = "time" if result.verification.optimised else "time, not optimised"
    sides = (milliseconds(times.before.median), milliseconds(times.after.median))
    table.add_row(name, *sides, str(times), style=_style(times))
    return table


def _style(times: PairedLatency) -> str:
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


def by_output(near: Fidelity) -> list[str]:
    """Return a line for each output, where there are several or one was not compared."""
    if len(near.outputs) < 2 and not near.not_compared:
        return []
    lines = []
    for output in near.outputs[:LONGEST_LIST]:
        told = [nearness(output)] if output.values else []
        told += [] if output.not_compared is None else [f"not compared: {output.not_compared}"]
        lines.append(f"{printable(output.name)}: {'; '.join(told)}")
    if len(near.outputs) > LONGEST_LIST:
        lines.append(f"... and {len(near.outputs) - LONGEST_LIST} more; --json lists them all")
    return lines


def proven(proof: Verification) -> str:
    """Return in words what was proven, and how."""
    text = (
        f"verified: {proof.values:,} output values on {proof.shapes} input shapes are those of "
        f"the uncut model with the removed channels silenced, to {proof.deviation:.0e}"
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


def _fidelity(proof: Verification) -> Text:
    near = proof.fidelity
    lines = [f"fidelity on {near.samples} {near.inputs}: {nearness(near)}"]
    lines += [f"  {line}" for line in by_output(near)]
    return Text("\n".join([*lines, proven(proof)]))


def _print_groups(groups: tuple[GroupReport, ...], console: Console) -> None:
    removed = sum(g.channels - g.kept for g in groups)
    console.print(f"\npruned {removed:,} channels in {_many(len(groups), 'group')}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("producer", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("kept", justify="right")
    # Groups that lose the same share need no column to say so.
    uneven = max((g.ratio for g in groups), default=0) - min((g.ratio for g in groups), default=0)
    if uneven > EVEN:
        table.add_column("removed", justify="right")
    table.add_column("restored by", overflow="fold")
    table.add_column("consumers", overflow="fold")
    for group in groups[:LONGEST_LIST]:
        consumers = _listed(group.consumers)
        name = _group_name(group.name)
        ratio = (f"{group.ratio:.0%}",) if uneven > EVEN else ()
        numbers = (str(group.channels), str(group.kept), *ratio)
        table.add_row(name, *numbers, Text(group.restored), consumers)
    console.print(table)
    _print_rest(len(groups), console)


def _print_refusals(refusals: tuple[Refusal, ...], console: Console) -> None:
    if not refusals:
        return
    console.print(f"\nleft alone: {_many(len(refusals), 'group')}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("producer", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("reason", overflow="fold")
    for refusal in refusals[:LONGEST_LIST]:
        where = f" ({listed(refusal.nodes)})" if refusal.nodes else ""
        reason = short(refusal.reason, LONGEST_GROUP) + where
        name = _group_name(refusal.name)
        table.add_row(name, str(refusal.channels), Text(printable(reason)))
    console.print(table)
    _print_rest(len(refusals), console)


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
    console.print(f"\n{_many(len(found.groups), 'channel group')}", style="bold")
    if found.groups:
        console.print(_group_table(found))
        _print_rest(len(found.groups), console)
    if any(group.predicted for group in found.groups):
        _print_predicted(found, console)
    _print_refusals(found.refusals, console)


def _group_table(found: Inspection) -> Table:
    costs = found.costs
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("producers", "channels", "parameters", "MACs", "followers", "consumers"):
        numeric = title in ("channels", "parameters", "MACs")
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for group in found.groups[:LONGEST_LIST]:
        table.add_row(
            _listed(group.producers),
            str(group.channels),
            share(group.parameters, costs.parameters),
            share(group.macs, costs.macs),
            _listed(group.followers),
            _listed(group.consumers),
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
    for group in found.groups[:LONGEST_LIST]:
        cells = [f"{entry.output_error:.1%}" for entry in group.predicted]
        table.add_row(_listed(group.producers), *cells)
    console.print(table)
    _print_rest(len(found.groups), console)


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
    console.print(Text(f"fidelity on {near.samples} {inputs}: {nearness(near)}"))
    for line in by_output(near):
        console.print(Text(f"  {line}"))
    if found.random:
        console.print(Text(random_numbers(found.random).removeprefix("; ")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "original", "compressed", "ratio"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    if found.original_top1 is not None and found.compressed_top1 is not None:
        kept = found.compressed_top1 / found.original_top1 if found.original_top1 else 0.0
        shares = (f"{found.original_top1:.2%}", f"{found.compressed_top1:.2%}", f"{kept:.1%}")
        table.add_row("top-1", *shares)
    old, new = found.latency.before, found.latency.after
    sides = (milliseconds(old.median), milliseconds(new.median))
    table.add_row("time", *sides, str(found.latency), style=_style(found.latency))
    console.print(table)


def _listed(names: Sequence[str]) -> Text:
    return Text(printable(listed(names)))


def _group_name(name: str) -> Text:
    return Text(printable(short(name, LONGEST_GROUP)))


def _bounded(value: Any) -> Any:
    """Return what goes into JSON with names and lists of them no longer than in the table."""
    if isinstance(value, str):
        return short(value, LONGEST_GROUP)
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return list(shortened(value))
        return [_bounded(item) for item in value]
    return value


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _print_rest(count: int, console: Console) -> None:
    if count > LONGEST_LIST:
        console.print(f"... and {count - LONGEST_LIST} more; --json lists them all")
