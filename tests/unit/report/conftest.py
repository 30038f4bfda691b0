"""One result of the sample, for all tests of the reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from lbyl_onnx import CompressResult, Config, compress


@pytest.fixture(scope="package")
def result(sample: Path) -> CompressResult:
    return compress(sample, config=Config(round_to=1, ratio=0.25, provider="cpu"), detailed=True)
