"""Families of networks x exporters: what is pruned, what is refused, and whether all holds.

Run as ``python -m benchmarks.families [--families NAME ..]``, with the extra `families`. Each
export is compressed at 10, 25 and 50 %, by every method, at both scopes. The tool verifies each
result in ONNX Runtime; beyond that it must have fewer parameters and multiply-accumulates, and
with `none` equal the original whose consumers read zeros (`tests/support/oracle.py`).
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.tables import describe_machine, markdown_table, write_pair
from benchmarks.torch_families import EXPORTERS, FAMILIES, export
from benchmarks.torch_transformers import WORDS
from lbyl_onnx import Config, compress
from lbyl_onnx.channels.analyzed_model import AnalyzedModel
from lbyl_onnx.channels.groups import ChannelMap, Selection
from lbyl_onnx.errors import LbylOnnxError, ModelError
from lbyl_onnx.graph import source
from lbyl_onnx.guard.effort import Effort
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.option_types import Scope
from lbyl_onnx.runtime import baseline
from tests.support.oracle import Feeds, Interpreted, deviation, masked, run

RATIOS = (0.1, 0.25, 0.5)
SCOPES: tuple[Scope, ...] = get_args(Scope)
# As the corpus tests: the same sums in another order, tens of layers deep.
TOLERANCE = 1e-4
Json = dict[str, object]


@dataclass(frozen=True)
class Coverage:
    """What of an export can be pruned at a scope; MACs left, by ratio."""

    groups: int
    channels: int
    refused: Mapping[str, int]
    macs_left: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of one export.

    Parameters
    ----------
    family, exporter
        Of what and how.
    unavailable
        Why PyTorch could not export it; empty where it could.
    opset, nodes
        Of the export.
    scopes
        Coverage by scope.
    runs
        Compressions made.
    deviation
        Largest of `none` from the masked original, relative to the largest output.
    failures
        What did not hold.
    """

    family: str
    exporter: str
    unavailable: str = ""
    opset: int = 0
    nodes: int = 0
    scopes: Mapping[str, Coverage] | None = None
    runs: int = 0
    deviation: float = 0.0
    failures: tuple[str, ...] = ()


def measure(family: str, exporter: str, path: Path) -> Outcome:
    """Export one family's model and compress it in every way."""
    try:
        model = export(family, EXPORTERS[exporter])
    except torch.onnx.errors.OnnxExporterError as error:
        return Outcome(family, exporter, unavailable=str(error).partition(". ")[0])
    onnx.save(model, path)
    gc.freeze()  # the tool collects garbage after each stage; PyTorch's objects are not its own
    try:
        shapes = baseline.input_shapes(path, "CPUExecutionProvider")
    except ModelError as error:  # T5 at opset 11: Min of integers
        return Outcome(family, exporter, unavailable=str(error))
    files = source.check_source(path)
    failures: list[str] = []
    worst = [0.0]
    scopes: dict[str, Coverage] = {}
    for scope in SCOPES:
        analyzed = AnalyzedModel.open(files, shapes, Selection(scope=scope))
        channels = analyzed.channels
        analysis = Interpreted(analyzed.model, analyzed.tensor_info, channels)
        macs: dict[str, float] = {}
        if channels.groups:
            for ratio, method in product(RATIOS, method_names()):
                case = f"{ratio} {method} {scope}"
                config = Config(ratio=ratio, method=method, scope=scope, round_to=1, provider="cpu")
                said, left, off = _compress(path, analysis, config, shapes[0])
                failures += [f"{case}: {text}" for text in said]
                macs[str(ratio)] = left
                worst.append(off)
        scopes[scope] = _coverage(channels, macs)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    runs = sum(len(RATIOS) * len(method_names()) for c in scopes.values() if c.groups)
    return Outcome(
        family, exporter, "", opset, len(model.graph.node), scopes, runs, max(worst),
        tuple(failures),
    )  # fmt: skip


def _coverage(channels: ChannelMap, macs: Mapping[str, float]) -> Coverage:
    refused: Counter[str] = Counter()
    for refusal in channels.refusals:
        refused[refusal.reason] += refusal.channels
    kept = sum(group.size for group in channels.groups)
    return Coverage(len(channels.groups), kept, dict(refused), macs)


def _compress(
    path: Path, analysis: Interpreted, config: Config, shapes: Shapes
) -> tuple[list[str], float, float]:
    """Compress once; return what did not hold, the share of MACs left, and the deviation."""
    try:
        # How fast it is is not asked here.
        result = compress(path, config=config, effort=Effort(rounds=2, fewest_rounds=2))
    except LbylOnnxError as error:
        return [f"{type(error).__name__}: {error}"], 1.0, 0.0
    assert result.model is not None
    said = []
    if result.after.parameters >= result.before.parameters:
        said.append("no fewer parameters")
    if result.after.macs >= result.before.macs:
        said.append("no fewer multiply-accumulates")
    off = 0.0
    if config.method == "none":
        inputs = _feeds(analysis.model, shapes)
        reference = masked(analysis.model, analysis.plan(config.requested_ratio), analysis)
        pairs = zip(run(result.model, inputs), run(reference, inputs), strict=True)
        off = max(deviation(new, want) for new, want in pairs)
        if off > TOLERANCE:
            said.append(f"differs from the masked original by {off:.1e}")
    return said, result.after.macs / result.before.macs, off


def _feeds(model: onnx.ModelProto, shapes: Shapes) -> Feeds:
    """Draw other inputs than verification: uniform numbers, or words."""
    rng = np.random.default_rng(7)
    types = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    return {
        name: rng.integers(0, WORDS, shape)
        if types[name] == onnx.TensorProto.INT64
        else rng.uniform(-1.0, 1.0, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def markdown(outcomes: Sequence[Outcome], invocation: str) -> str:
    """Return the tables: one row per export, then the refusals by reason."""
    done = [o for o in outcomes if not o.unavailable]
    failed = sum(bool(o.failures) for o in done)
    runs = sum(o.runs for o in done)
    worst = max((o.deviation for o in done), default=0.0)
    header = ("family", "exporter", "nodes", "pruned inner", "pruned all", "MACs 25 %")
    lines = [
        "# Families of networks, as PyTorch exports them",
        "",
        f"`{invocation}`; torch {torch.__version__}, onnx {onnx.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, {describe_machine()['cores']} cores.",
        "",
        f"{len(done)} exports of {len({o.family for o in done})} families, {runs:,} compressions: "
        f"{len(done) - failed} exports without a failure, {failed} with one. With `none` the "
        f"largest deviation from the masked original is {worst:.1e}.",
        "",
        "*pruned*: groups, and channels of all that have labels; *MACs*: left at scope all.",
        "",
        markdown_table((*header, "MACs 50 %", "result"), [_row(o) for o in outcomes], 2),
        "",
        "## What is left alone at scope all, and why",
        "",
        markdown_table(("reason", "channels", "families"), list(_reasons(done)), 1),
        "",
        *(f"- {o.family}, {o.exporter}: {text}" for o in done for text in o.failures),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.scopes is None:
        return (outcome.family, outcome.exporter, *[""] * 5, "not exported by PyTorch")
    inner, every = outcome.scopes["inner"], outcome.scopes["all"]
    left = [f"{every.macs_left[str(r)]:.0%}" if every.macs_left else "" for r in (0.25, 0.5)]
    return (
        outcome.family,
        outcome.exporter,
        str(outcome.nodes),
        *(
            f"{c.groups}: {c.channels} of {c.channels + sum(c.refused.values())}"
            for c in (inner, every)
        ),
        *left,
        "failed" if outcome.failures else "ok",
    )


def _reasons(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str, str]]:
    channels: Counter[str] = Counter()
    families: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        for reason, count in (outcome.scopes or {})["all"].refused.items():
            channels[reason] += count
            families.setdefault(reason, {})[outcome.family] = None
    for reason, count in channels.most_common():
        names = ", ".join(families[reason])
        everywhere = len(families[reason]) > len(FAMILIES) // 2
        yield reason, str(count), f"{len(families[reason])} families" if everywhere else names


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for family, exporter in product(options.families, EXPORTERS):
            outcomes.append(measure(family, exporter, Path(folder) / "model.onnx"))
            print(*_row(outcomes[-1]), *outcomes[-1].failures, sep=" | ", flush=True)
    document: Json = {"machine": describe_machine(), "outcomes": [asdict(o) for o in outcomes]}
    text = markdown(outcomes, "python -m benchmarks.families")
    write_pair(options.output_dir, "families", document, text)


if __name__ == "__main__":
    main()
