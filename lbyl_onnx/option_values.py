"""What values options have, where a type checker is to know them, and all options as keywords."""

from __future__ import annotations

from typing import Literal, TypedDict

from lbyl_onnx.methods.registry import OptionValue
from lbyl_onnx.shapes import Given

Scope = Literal["inner", "all"]
ExternalData = Literal["auto", "always", "never"]
Hardware = Literal["host", "avx2", "avx512", "neon", "cuda", "tensorrt-fp16", "tensorrt-int8"]
Layout = Literal["auto", "nchw", "nhwc"]
Provider = Literal["auto", "cpu", "cuda"]
Allocation = Literal["uniform", "auto"]


class Options(TypedDict, total=False):
    """The options of `Config` as keywords, for type checkers."""

    ratio: float
    macs: str | float | None
    params: str | float | None
    size: str | float | None
    latency: str | float | None
    fidelity: float | None
    allocation: Allocation | None
    round_to: int | Literal["auto"]
    hardware: Hardware
    ratio_for: tuple[tuple[str, float], ...]
    keep_for: tuple[tuple[str, int], ...]
    min_channels: int
    method: str
    criterion: str
    method_options: tuple[tuple[str, OptionValue], ...]
    seed: int
    lambda1: float
    lambda2: float
    cosine_threshold: float
    cosine_weight: float
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    scope: Scope
    provider: Provider
    calibration: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Layout
    external_data: ExternalData
    input_shape: Given
