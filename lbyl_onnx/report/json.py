"""Results as JSON documents."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from lbyl_onnx.evaluate.compare import Comparison
from lbyl_onnx.inspection import Inspection
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.runtime.timing import Latency
from lbyl_onnx.text import LONGEST_GROUP, short, shortened

# What `as_json` writes; another number where a reader of the last would misread it.
FORMAT = 1


def inspection_as_json(inspection: Inspection, source: str, version: str) -> str:
    """Return an inspection as JSON, keys in a fixed order."""
    document = {"lbyl_onnx": version, "input": source, **_bounded(asdict(inspection))}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def comparison_as_json(comparison: Comparison, original: str, compressed: str, version: str) -> str:
    """Return a comparison as JSON, keys in a fixed order."""
    document = {"lbyl_onnx": version, "models": [original, compressed], **asdict(comparison)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_json(result: CompressResult, origin: Origin, version: str) -> str:
    """Return the whole result as JSON, keys in a fixed order.

    Parameters
    ----------
    result
        The result.
    origin
        The input, as the user named it, the date and the machine.
    version
        The tool's version.
    """
    proof, times = result.verification, result.latency
    document: dict[str, Any] = {
        "lbyl_onnx": version,
        "format": FORMAT,
        "date": origin.date,
        "machine": None if origin.machine is None else asdict(origin.machine),
        "input": origin.source,
        "output": None if result.output is None else str(result.output),
        "options": asdict(result.config),
        "target": asdict(result.target),
        "before": _side(result.before.parameters, result.before.macs, result.size_before,
                        times.before),
        "after": _side(result.after.parameters, result.after.macs, result.size_after, times.after),
        "time_ratio": {"median": times.ratio, "low": times.low, "high": times.high},
        "verification": {
            "provider": proof.provider,
            "deviation": proof.deviation,
            "values": proof.values,
            "input_shapes": proof.shapes,
            "discontinuous": list(proof.discontinuous),
            "random": list(proof.random),
            "fidelity": asdict(proof.fidelity),
        },
        "prediction": None if result.prediction is None else asdict(result.prediction),
        "quantised": None if result.quantised is None else _bounded(asdict(result.quantised)),
        "factors": [_bounded(asdict(factor)) for factor in result.factors],
        "inputs": [_bounded(asdict(entry)) for entry in result.inputs],
        "groups": [_bounded(asdict(group)) for group in result.groups],
        "refusals": [_bounded(asdict(refusal)) for refusal in result.refusals],
        "warnings": list(result.warnings),
    }  # fmt: skip
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _side(parameters: int, macs: int, size: int, latency: Latency) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "macs": macs,
        "file_size": size,
        "latency_ms": asdict(latency),
    }


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
