"""Names of kernels, without what ONNX Runtime puts around those of nodes."""

from __future__ import annotations

import time

import pytest

from lbyl_onnx.runtime.profiling import _bare


@pytest.mark.parametrize(
    ("kernel", "node"),
    [
        ("conv", "conv"),
        ("fused fused conv", "conv"),
        ("conv_nchwc", "conv"),
        ("conv_token_12", "conv"),
        ("fused conv_nhwc_token_3_nchwc", "conv"),
        ("conv_token_", "conv_token_"),
        ("conv_12", "conv_12"),
        ("nchwc", "nchwc"),
        ("", ""),
    ],
)
def test_decorations_go(kernel: str, node: str) -> None:
    assert _bare(kernel) == node


@pytest.mark.parametrize("part", ["_nchwc", "_token_1", "_token_", "1", "fused "])
def test_a_name_of_a_megabyte_takes_no_time(part: str) -> None:
    """One decoration taken off a copy at a time would copy 10^11 letters."""
    begun = time.process_time()
    _bare("x" + part * (1_000_000 // len(part)))
    assert time.process_time() - begun < 5.0
