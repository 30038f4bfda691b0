"""One result, told to a terminal or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbyl_onnx.channels import Refusal
from lbyl_onnx.inspection import Inspection
from lbyl_onnx.pipeline import CompressResult, GroupReport
from lbyl_onnx.runtime import Latency
from lbyl_onnx.text import count, milliseconds, printable, share, size
from lbyl_onnx.verify import Verification

# A list in the terminal stops here; the JSON has them all.
LONGEST_LIST = 40


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
    console.print(_costs(result))
    console.print(_fidelity(proof))
    _print_groups(result.groups, console)
    _print_refusals(result.refusals, console)


def described(result: CompressResult) -> str:
    """Return in one line how a model was compressed."""
    config = result.config
    return (
        f"ratio {config.ratio:g}, method {config.method}, criterion {config.chosen_by}; "
        f"ran on {result.verification.provider}"
    )


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
    old, new = result.verification.before, result.verification.after
    if old is not None and new is not None:
        ratio = f"{new.median / old.median:.1%}"
        how = "median" if result.verification.optimised else "median, not optimised"
        table.add_row(f"latency ({how})", milliseconds(old.median), milliseconds(new.median), ratio)
    return table


def _fidelity(proof: Verification) -> str:
    near = proof.fidelity
    parts = [f"relative error {near.relative_error:.3f}", f"cosine {near.cosine:.3f}"]
    if near.top1_agreement is not None:
        parts.append(f"top-1 agreement {near.top1_agreement:.1%}")
    return (
        f"fidelity on {near.samples} random inputs: {', '.join(parts)}\n"
        f"verified: {proof.values:,} output values on {proof.shapes} input shapes are those of "
        f"the uncut model with the removed channels silenced, to {proof.deviation:.0e}"
    )


def _print_groups(groups: tuple[GroupReport, ...], console: Console) -> None:
    removed = sum(g.channels - g.kept for g in groups)
    console.print(f"\npruned {removed:,} channels in {_many(len(groups), 'group')}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("producer", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("restored by", overflow="fold")
    table.add_column("consumers", overflow="fold")
    for group in groups[:LONGEST_LIST]:
        consumers = Text(printable(", ".join(group.consumers)))
        name = Text(printable(group.name))
        row = (str(group.channels), str(group.kept), Text(group.restored), consumers)
        table.add_row(name, *row)
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
        where = f" ({', '.join(refusal.nodes)})" if refusal.nodes else ""
        name = Text(printable(refusal.name))
        table.add_row(name, str(refusal.channels), Text(printable(refusal.reason + where)))
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
    console.print(f"\n{_many(len(found.groups), 'channel group')}", style="bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("producers", "channels", "parameters", "MACs", "followers", "consumers"):
        numeric = title in ("channels", "parameters", "MACs")
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for group in found.groups[:LONGEST_LIST]:
        table.add_row(
            Text(printable(", ".join(group.producers))),
            str(group.channels),
            share(group.parameters, costs.parameters),
            share(group.macs, costs.macs),
            Text(printable(", ".join(group.followers))),
            Text(printable(", ".join(group.consumers))),
        )
    console.print(table)
    _print_rest(len(found.groups), console)
    _print_refusals(found.refusals, console)


def inspection_as_json(found: Inspection, source: str, version: str) -> str:
    """Return an inspection as JSON, keys in a fixed order."""
    document = {"lbyl_onnx": version, "input": source, **asdict(found)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _print_rest(count: int, console: Console) -> None:
    if count > LONGEST_LIST:
        console.print(f"... and {count - LONGEST_LIST} more; --json lists them all")


def as_json(result: CompressResult, source: str, version: str) -> str:
    """Return the whole result as JSON, keys in a fixed order.

    Parameters
    ----------
    result
        The result.
    source
        The input, as the user named it.
    version
        The tool's version.
    """
    proof = result.verification
    document: dict[str, Any] = {
        "lbyl_onnx": version,
        "input": source,
        "output": None if result.output is None else str(result.output),
        "options": asdict(result.config),
        "before": _side(result.before.parameters, result.before.macs, result.size_before,
                        proof.before),
        "after": _side(result.after.parameters, result.after.macs, result.size_after, proof.after),
        "verification": {
            "provider": proof.provider,
            "deviation": proof.deviation,
            "values": proof.values,
            "input_shapes": proof.shapes,
            "fidelity": asdict(proof.fidelity),
        },
        "groups": [asdict(group) for group in result.groups],
        "refusals": [asdict(refusal) for refusal in result.refusals],
    }  # fmt: skip
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _side(parameters: int, macs: int, size: int, latency: Latency | None) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "macs": macs,
        "file_size": size,
        "latency_ms": None if latency is None else asdict(latency),
    }
