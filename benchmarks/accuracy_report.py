"""The report of `benchmarks.accuracy`: one document for programs, one for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import onnx
import onnxruntime as ort

from benchmarks import published
from benchmarks.grid import BASE, LBYL_GRID, METHODS, NM_GRID, Cell, SubjectResult, best
from benchmarks.tables import describe_machine, markdown_table
from lbyl_onnx import Config, __version__

DAGGER = "†"  # marks what was chosen on the images that score it


def document(setting: dict[str, object], results: Iterable[SubjectResult]) -> dict[str, object]:
    """Return everything measured, for ``accuracy.json``."""
    models = [
        {
            "model": result.subject.name,
            "images": result.images,
            "groups": result.groups,
            "uncompressed": result.uncompressed,
            "cells": [_cell_document(cell) for cell in result.cells],
            "nm_inverted_scale": [
                {**_config_document(config), "accuracy": accuracy}
                for config, accuracy in result.inverted_scale
            ],
        }
        for result in results
    ]
    tables = [asdict(table) for table in published.TABLES]
    return {**setting, "models": models, "published": tables}


def _config_document(config: Config) -> dict[str, object]:
    row: dict[str, object] = {
        "ratio": config.requested_ratio,
        "method": config.method,
        "criterion": config.criterion,
    }
    if config.method == "nm":
        row |= {"cosine_threshold": config.cosine_threshold, "cosine_weight": config.cosine_weight}
    if config.method == "lbyl":
        row |= {"lambda1": config.lambda1, "lambda2": config.lambda2}
    return row


def _cell_document(cell: Cell) -> dict[str, object]:
    measured = {"accuracy": cell.accuracy, "parameters": cell.parameters, "macs": cell.macs}
    return {**_config_document(cell.config), **measured}


def markdown(setting: dict[str, object], results: Sequence[SubjectResult]) -> str:
    """Return the report for people, ``accuracy.md``."""
    machine = describe_machine()
    lines = [
        "# Accuracy",
        "",
        f"`{setting['command']}` on {machine['processor']}, {machine['cores']} cores, "
        f"{setting['minutes']} min; lbyl-onnx {__version__}, Python {machine['python']}, "
        f"NumPy {machine['numpy']}, SciPy {machine['scipy']}, onnx {onnx.__version__}, ONNX "
        f"Runtime {ort.__version__} (CPU).",
        "",
        "Top-1 in percent, by the share of channels removed from every channel group. All methods "
        "keep the same channels. Options at their defaults: lbyl lambda1 "
        f"{BASE.lambda1:g} and lambda2 {BASE.lambda2:g}; nm t {BASE.cosine_threshold:g} and weight "
        f"{BASE.cosine_weight:g}. No image was used to compress.",
        "",
        f"{DAGGER} best of a grid, **chosen on the very images that score it**: it flatters its "
        "method, and nobody without labelled images can choose so. With l2 only. lbyl (lambda1, "
        f"lambda2): {_pairs(LBYL_GRID)}; nm (t, weight): {_pairs(NM_GRID)}. Without "
        "BatchNormalization lambda1 and the weight have no effect.",
        "",
        "The CIFAR-10 images are stored as JPEG, which costs accuracy; most of the Fashion-MNIST "
        "images were in the model's training set. So the figures compare methods on the same "
        "images; they do not stand against the literature.",
    ]
    for result in results:
        lines += ["", *_subject_section(result)]
    lines += ["", "## Published figures beside these", ""]
    lines += [line for table in published.TABLES for line in _published_section(table, results)]
    lines += [line for note in published.NOTES for line in (note, "")]
    lines += _scale_section(results)
    return "\n".join(lines).rstrip() + "\n"


def _pairs(pairs: Iterable[tuple[float, float]]) -> str:
    return ", ".join(f"({a:g}, {b:g})" for a, b in pairs)


def _ratios(result: SubjectResult) -> list[float]:
    return sorted({cell.config.requested_ratio for cell in result.cells})


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f}"


def _subject_section(result: SubjectResult) -> list[str]:
    """A heading, the table of accuracies, the options chosen."""
    subject, ratios = result.subject, _ratios(result)
    rows = []
    for criterion in subject.criteria:
        for method in METHODS:
            configs = [replace(BASE, ratio=r, method=method, criterion=criterion) for r in ratios]
            cells = [_percent(result.find(config).accuracy) for config in configs]
            rows.append([criterion, method, *cells])
            if subject.tuned and criterion == "l2" and method != "none":
                cells = [_percent(best(result, r, method).accuracy) for r in ratios]
                rows.append([criterion, f"{method} {DAGGER}", *cells])
    left = [result.find(replace(BASE, ratio=r)) for r in ratios]
    rows.append(["", "parameters left", *(_percent(cell.parameters) for cell in left)])
    rows.append(["", "MACs left", *(_percent(cell.macs) for cell in left)])
    header = ["criterion", "method", *(f"{100 * r:.0f} %" for r in ratios)]
    lines = [
        f"## {subject.name}",
        "",
        f"Uncompressed {_percent(result.uncompressed)} on {result.images} images; "
        f"{result.groups} channel groups pruned.",
        "",
        markdown_table(header, rows, left_columns=2),
    ]
    if subject.tuned:
        lines += ["", *_chosen(result, ratios)]
    return lines


def _chosen(result: SubjectResult, ratios: Sequence[float]) -> list[str]:
    nm = [best(result, r, "nm").config for r in ratios]
    lbyl = [best(result, r, "lbyl").config for r in ratios]
    if not result.subject.normalized:
        return [
            f"{DAGGER} at these ratios: nm t {', '.join(f'{c.cosine_threshold:g}' for c in nm)}; "
            f"lbyl lambda2 {', '.join(f'{c.lambda2:g}' for c in lbyl)}."
        ]
    return [
        f"{DAGGER} at these ratios: nm (t, weight) "
        f"{_pairs((c.cosine_threshold, c.cosine_weight) for c in nm)}; "
        f"lbyl (lambda1, lambda2) {_pairs((c.lambda1, c.lambda2) for c in lbyl)}."
    ]


def _published_section(
    table: published.PublishedTable, results: Sequence[SubjectResult]
) -> list[str]:
    """One published table, with what was measured here in the columns beside."""
    result = next((r for r in results if r.subject.name == table.subject), None)
    here = set() if result is None else {round(100 * ratio) for ratio in _ratios(result)}
    header, rows = ["removed"], [[f"{percent} %"] for percent in table.rows]
    for column, method in enumerate(table.methods):
        header.append(f"{method}, published")
        for row, percent in zip(rows, table.rows, strict=True):
            row.append(f"{table.rows[percent][column]:.2f}")
        if result is None:
            continue
        tuned = method != "none" and table.criterion == "l2"
        header += [f"{method}, here", *([f"{method} {DAGGER}, here"] if tuned else [])]
        for row, percent in zip(rows, table.rows, strict=True):
            config = replace(BASE, ratio=percent / 100, method=method, criterion=table.criterion)
            has_row = percent in here
            row.append(_percent(result.find(config).accuracy) if has_row else "")
            if tuned:
                row.append(
                    _percent(best(result, config.requested_ratio, method).accuracy)
                    if has_row
                    else ""
                )
    title = f"{table.setting}. Source: {table.source}."
    return [title, "", markdown_table(header, rows), ""]


def _scale_section(results: Sequence[SubjectResult]) -> list[str]:
    """Neuron Merging as derived and with the factors inverted."""
    rows = []
    for result in results:
        for ratio in sorted({config.requested_ratio for config, _ in result.inverted_scale}):
            default = replace(BASE, ratio=ratio, method="nm")
            theirs = [(c, a) for c, a in result.inverted_scale if c.ratio == ratio]
            rows.append(
                [
                    result.subject.name,
                    f"{100 * ratio:.0f} %",
                    _percent(result.find(replace(default, method="none")).accuracy),
                    _percent(result.find(default).accuracy),
                    _percent(dict(theirs)[default]),
                    _percent(best(result, ratio, "nm").accuracy),
                    _percent(max(accuracy for _, accuracy in theirs)),
                ]
            )
    if not rows:
        return []
    header = ["model", "removed", "none", "nm", "nm inverted", f"nm {DAGGER}"]
    header.append(f"nm inverted {DAGGER}")
    return [
        "## Neuron Merging: which way up the BatchNormalization factors go",
        "",
        "A removed channel j with `w_j = s w_k` is `s (gamma_j sigma_k) / (gamma_k sigma_j)` times "
        "the kept channel k, and that is what this project delivers (*nm*). The authors' code "
        "delivers `s (gamma_k sigma_j) / (gamma_j sigma_k)` and chooses k by a bias distance with "
        "the same factor (*nm inverted*). Both here with l2 and the standard deviation for sigma, "
        "where that code takes the variance; at the defaults and at the best of the grid.",
        "",
        markdown_table(header, rows, left_columns=1),
    ]
