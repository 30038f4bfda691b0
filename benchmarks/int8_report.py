"""The page of `benchmarks.int8`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables import markdown_table

_HEADER = ("model", "file", "accuracy", "as written", "of before", "1 - cosine", "bytes", "time")


def markdown(document: Mapping[str, Any], ratios: Mapping[str, float], encoder: str) -> str:
    """Return the tables for people.

    Parameters
    ----------
    document
        What is on record.
    ratios
        Share of the channels that is pruned, by model.
    encoder
        Name of the model without classes.
    """
    setting = document["setting"]
    lines = ["# int8", "", "`python -m benchmarks.int8`", ""]
    lines += [f"{setting['machine']}, {setting['versions']}", ""]
    images = {name: rows for name, rows in document["models"].items() if name != encoder}
    if images:
        lines += [
            "Top-1 in percent, of this machine's kernels and of the file as it is written (rounded "
            "in floating point; where they differ by more than an image or two, the kernels "
            "overflow); the share of the accuracy before that the file keeps as written; the mean "
            "of 1 - cosine of the centred "
            "logits with those before; bytes and time of one sample as shares of the original's. "
            "The rival is `quantize_static` (per channel, min-max, QInt8) on the same synthetic "
            "samples; the time is of a machine with much other work.",
            "",
            markdown_table(
                _HEADER,
                [
                    [name, _title(title, ratios[name], row), *_cells(row, rows["original"])]
                    for name, rows in images.items()
                    for title, row in rows.items()
                ],
                left_columns=2,
            ),
            "",
        ]
    for name, rows in document["ablations"].items():
        lines += [
            f"`--ratio 0 --quantize int8` of {name} without one of its choices, accuracy in "
            "percent as written:",
            "",
            markdown_table(
                ("", "as written", "1 - cosine"),
                [
                    [title, f"{100 * row['written']:.1f}", f"{row['distance']:.2g}"]
                    for title, row in rows.items()
                ],
                left_columns=1,
            ),
            "",
        ]
    if encoder in document["models"]:
        rows = document["models"][encoder]
        lines += [
            f"{encoder}, dynamic, 7 bits: cosine of the embeddings of 100 sentences with those "
            "before, share of nearest neighbours that stay. The rival is `quantize_dynamic` "
            "(per channel, reduced range, its default operators).",
            "",
            markdown_table(
                ("", "cosine", "neighbours", "bytes", "time"),
                [
                    [
                        title,
                        f"{row['cosine']:.4f}",
                        f"{row['neighbour']:.0%}",
                        f"{row['size']:.1%}",
                        f"{row['time']:.2f}",
                    ]
                    for title, row in rows.items()
                ],
                left_columns=1,
            ),
            "",
        ]
    return "\n".join(lines)


def _title(title: str, ratio: float, row: Mapping[str, float]) -> str:
    left = f" ({row['left']} left)" if row["left"] else ""
    return title.replace("pruned", f"pruned {ratio:.0%}") + left


def _cells(row: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    return [
        f"{100 * row['accuracy']:.1f}",
        f"{100 * row['written']:.1f}",
        f"{row['written'] / before['written']:.3f}",
        f"{row['distance']:.2g}",
        f"{row['size']:.1%}",
        f"{row['time']:.2f}",
    ]
