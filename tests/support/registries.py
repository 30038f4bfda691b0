"""What a test registers is gone after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from lbyl_onnx.methods import registry


@contextmanager
def restored_registries() -> Iterator[None]:
    """Leave the methods and criteria as they were before."""
    with patch.dict(registry.METHODS), patch.dict(registry.CRITERIA):
        yield
