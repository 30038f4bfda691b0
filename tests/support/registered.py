"""Operators that are registered for one test alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lbyl_onnx.channels.rules import RULES
from lbyl_onnx.graph.inference import INFERENCE
from lbyl_onnx.graph.layers import LAYERS
from lbyl_onnx.types import OperatorKey


@contextmanager
def tables_restored() -> Iterator[None]:
    """Take away afterwards what is registered inside."""
    before = {*RULES}, {*LAYERS}, {*INFERENCE}
    try:
        yield
    finally:
        tables: tuple[dict[OperatorKey, Any], ...] = RULES, LAYERS, INFERENCE
        for table, keys in zip(tables, before, strict=True):
            for key in table.keys() - keys:
                del table[key]
