"""How many parameters of transformers and gated nets go, beside half of what could go.

Run from the root of the repository: ``python -m benchmarks.attention_reach``. Each export of
`tests/support/exports` that holds attention or gates is compressed at ``ratio`` 0.5 and the default
scope, with the method `none`. Its parameters that are gone stand beside those that half of all
hidden, value, query and key channels makes, which is counted from the network's sizes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks.tables import describe_machine, markdown_table, write_pair
from lbyl_onnx import Config, NothingToPruneError, __version__, compress, inspect
from lbyl_onnx.guard.effort import Effort
from tests.support import one_node
from tests.support.exported import load

CONFIG = Config(ratio=0.5, method="none", round_to=1, min_channels=1, provider="cpu")
WITHIN = 0.9  # of the half


def attention(width: int = 64, inner: int = 64, keys: int | None = None, biases: int = 3) -> int:
    """Count the parameters on query, key and value channels.

    Parameters
    ----------
    width
        Of the stream.
    inner
        Channels of all heads' queries; as many values reach the output projection.
    keys
        Channels of all heads' keys, and likewise of the values; as many as queries without.
    biases
        How many of the three projections have one.
    """
    keys = inner if keys is None else keys
    return width * (inner + 2 * keys + inner) + biases * inner


def feed_forward(
    width: int = 64, hidden: int = 256, matrices: int = 2, out: int | None = None, bias: bool = True
) -> int:
    """Count the parameters on hidden channels; of three matrices one is the gate's."""
    last = width if out is None else out
    return hidden * ((matrices - 1) * (width + bias) + last)


@dataclass(frozen=True)
class Subject:
    """A family: its exports, the parameters on channels that could go, and the aim.

    Parameters
    ----------
    family
        Under which name it stands in the table.
    exports
        Names of its files; the model in memory where there is none.
    inner
        Parameters on its hidden, value, query and key channels; None where convolutions lie
        between two of these.
    aim
        Share of the parameters that is to go.
    """

    family: str
    exports: tuple[str, ...]
    inner: int | None
    aim: float | None = None


# What the two attention-only nets have at their end.
SMALL_HEAD = feed_forward(hidden=8, out=10)
BERT_LAYERS = 2 * (attention() + feed_forward())
WHISPER = 2 * (attention(biases=2) + feed_forward()) + 64 * (3 * 16 + 1 + 3 * 64)
SUBJECTS = (
    Subject(
        "LLaMA-like",
        ("llama_dynamo_23", "llama_eager_dynamo_18", "llama_eager_legacy_17_static"),
        2 * (attention(keys=32, biases=0) + feed_forward(hidden=160, matrices=3, bias=False)),
        0.40,
    ),
    Subject(
        "Qwen3-like",
        ("qwen3_eager_dynamo_18",),
        2 * (attention(keys=32, biases=0) + feed_forward(hidden=160, matrices=3, bias=False)),
        0.40,
    ),
    Subject(
        "T5 encoder",
        ("t5_dynamo_18", "t5_eager_legacy_17_static"),
        2 * (attention(biases=0) + feed_forward(hidden=192, matrices=3, bias=False)),
        0.40,
    ),
    Subject(
        "ViT, fused",
        ("vit_unbind_eager_dynamo_18", "vit_unbind_legacy_17_static"),
        BERT_LAYERS,
        0.35,
    ),
    Subject("ViT, split", ("vit_split_dynamo_20_as_traced",), BERT_LAYERS, 0.35),
    Subject("encoder layers", ("encoder_layers_dynamo_18",), BERT_LAYERS, 0.46),
    Subject("BERT", ("bert_dynamo_23", "bert_eager_legacy_11"), BERT_LAYERS),
    Subject(
        "nn.MultiheadAttention",
        ("multihead_dynamo_18", "multihead_legacy_17_static"),
        2 * attention() + SMALL_HEAD,
        0.36,
    ),
    Subject("Whisper encoder", ("whisper_eager_legacy_13_as_trained",), WHISPER, 0.46),
    Subject(
        "DETR decoder",
        ("detr_dynamo_18", "detr_legacy_11"),
        2 * (2 * attention() + feed_forward(hidden=128)),
        0.40,
    ),
    Subject("Einsum", ("einsum_legacy_13_as_trained",), 2 * attention(biases=1) + SMALL_HEAD),
    Subject("normalised q and k", ("qk_norm_dynamo_23",), 2 * attention() + SMALL_HEAD + 4 * 16),
    Subject(
        "SwiGLU and GeGLU",
        ("gated_dynamo_18",),
        feed_forward(hidden=128, matrices=3, bias=False) + feed_forward(hidden=128, matrices=3),
    ),
    Subject("one node, com.microsoft", (), BERT_LAYERS),
    Subject("MobileNetV3, with SE", ("mobilenet_v3_dynamo_20_as_traced",), None),
    Subject("EfficientNet, with SE", ("efficientnet_legacy_11",), None),
)


@dataclass(frozen=True)
class Row:
    """One export.

    Parameters
    ----------
    family, export
        Of what.
    parameters
        Before.
    gone
        Share of them that goes.
    half
        Share of them that half of the inner channels makes.
    aim
        Share of them that is to go.
    macs_in_reach
        Share of the multiply-accumulates that go if each group keeps one channel.
    refusals
        How many channel groups are left alone, by reason.
    """

    family: str
    export: str
    parameters: int
    gone: float
    half: float | None
    aim: float | None
    macs_in_reach: float
    refusals: Mapping[str, int]


def measure(subject: Subject, name: str) -> Row:
    """Compress one export; the model of `one_node` where the name says so."""
    model = load(name) if name in subject.exports else one_node.encoder()
    seen = inspect(model, provider="cpu")
    before, after = seen.costs.parameters, seen.costs.parameters
    try:
        # How fast it is is not asked here.
        result = compress(model, config=CONFIG, effort=Effort(rounds=2, fewest_rounds=2))
        before, after = result.before.parameters, result.after.parameters
    except NothingToPruneError:
        pass
    return Row(
        subject.family,
        name,
        before,
        1.0 - after / before,
        None if subject.inner is None else 0.5 * subject.inner / before,
        subject.aim,
        seen.reach.macs,
        dict(Counter(refusal.reason for refusal in seen.refusals).most_common()),
    )


def _all() -> Iterator[tuple[Subject, str]]:
    for subject in SUBJECTS:
        yield from ((subject, name) for name in subject.exports or ("one_node",))


def markdown(tables: Mapping[str, Sequence[Row]], setting: Mapping[str, object]) -> str:
    """Return the tables: shares of parameters, then what is refused and why."""
    lines = ["# Reach in attention and gates", "", "`python -m benchmarks.attention_reach`", ""]
    lines += [f"{setting['machine']}, {setting['versions']}", ""]
    lines += ["*gone*: share of the parameters, at ratio 0.5; *half*: what half of all hidden,"]
    lines += ["value, query and key channels makes; *MACs*: share within reach.", ""]
    header = ["family", "export", "parameters", "gone", "half", "of it", "aim", "MACs"]
    for label, rows in tables.items():
        body = [_cells(row) for row in rows]
        reasons = [[row.export, reason, str(n)] for row in rows for reason, n in _merged(row)]
        lines += [f"## {label}", "", markdown_table(header, body, 2), ""]
        lines += [markdown_table(["export", "left alone, because", "groups"], reasons, 2), ""]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    share = "" if row.half is None else f"{row.gone / row.half:.2f}"
    if row.half is not None and row.gone >= WITHIN * row.half:
        share = f"**{share}**"
    half, aim = ("" if value is None else f"{value:.3f}" for value in (row.half, row.aim))
    cells = [row.family, row.export, f"{row.parameters:,}", f"{row.gone:.3f}", half, share, aim]
    return [*cells, f"{row.macs_in_reach:.2f}"]


def _merged(row: Row) -> Iterator[tuple[str, int]]:
    """Yield reasons with constants' names left out, each with its count."""
    short = [
        ("; ".join(dict.fromkeys(_unnamed(part) for part in reason.split("; "))), count)
        for reason, count in row.refusals.items()
    ]
    for reason, pairs in groupby(sorted(short), key=lambda pair: pair[0]):
        yield reason, sum(count for _, count in pairs)


def _unnamed(part: str) -> str:
    words = part.split(" ")
    return " ".join([*words[:2], "..", *words[3:]]) if part.startswith("the constant ") else part


def main() -> None:
    """Measure all, and write ``attention_reach.md`` and ``attention_reach.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--label", default="now", help="of this run's table; others are kept")
    families = [subject.family for subject in SUBJECTS]
    parser.add_argument("--families", nargs="+", choices=families, metavar="FAMILY")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    for subject, name in _all():
        if options.families is None or subject.family in options.families:
            rows.append(measure(subject, name))
            print(*_cells(rows[-1]), sep=" | ", flush=True)
    setting: dict[str, object] = {
        "machine": describe_machine(),
        "versions": {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ort": ort.__version__},
    }
    path = options.output_dir / "attention_reach.json"
    stored = json.loads(path.read_text())["tables"] if path.exists() else {}
    tables = {label: [Row(**row) for row in old] for label, old in stored.items()}
    by_name = {row.export: row for row in (*tables.get(options.label, ()), *rows)}
    tables[options.label] = [by_name[name] for _, name in _all() if name in by_name]
    written = {label: [asdict(row) for row in rows] for label, rows in tables.items()}
    document = {"setting": setting, "tables": written}
    write_pair(options.output_dir, "attention_reach", document, markdown(tables, setting))


if __name__ == "__main__":
    main()
