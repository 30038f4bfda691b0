"""Tests that need more than the tool does: skipped where it is missing, unless it was asked for."""

from __future__ import annotations

import importlib.util
import os

import pytest


def need(module: str) -> None:
    """Skip where a module is not installed; fail where LBYL_ONNX_EXTRAS says that it must be."""
    if importlib.util.find_spec(module) is None:
        missing(f"{module} is not installed")


def missing(what: str) -> None:
    """Skip for something that is not there; fail where it must be."""
    if os.environ.get("LBYL_ONNX_EXTRAS"):
        pytest.fail(what)
    pytest.skip(what)
