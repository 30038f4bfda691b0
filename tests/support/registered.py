"""Operators that are registered for one test alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lbyl_onnx.channels.rules import RULES
from lbyl_onnx.graph.inference import INFERENCE
from lbyl_onnx.graph.layers import LAYERS


@contextmanager
def tables_restored() -> Iterator[None]:
    """Take away afterwards what is registered inside."""
    before = RULES.copy(), LAYERS.copy(), INFERENCE.copy()
    try:
        yield
    finally:
        for table, rows in zip((RULES, LAYERS, INFERENCE), before, strict=True):
            table.clear()
            table.update(rows)  # type: ignore[arg-type]
