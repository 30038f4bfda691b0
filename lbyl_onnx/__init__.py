"""Prune channels from any ONNX model and repair it in closed form, without data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbyl_onnx.channels import Refusal
    from lbyl_onnx.comparison import Comparison, compare_models
    from lbyl_onnx.config import Config
    from lbyl_onnx.errors import (
        CompensationError,
        LbylOnnxError,
        ModelError,
        NothingToPruneError,
        OptionError,
        OutputError,
        TargetError,
        VerificationError,
    )
    from lbyl_onnx.fidelity import Fidelity, OutputFidelity
    from lbyl_onnx.inspection import GroupView, Inspection, inspect
    from lbyl_onnx.pipeline import CompressResult, GroupReport, compress
    from lbyl_onnx.reaching import TargetReport
    from lbyl_onnx.verify import Verification

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "CompensationError",
    "CompressResult",
    "Config",
    "Fidelity",
    "GroupReport",
    "GroupView",
    "Inspection",
    "LbylOnnxError",
    "ModelError",
    "NothingToPruneError",
    "OptionError",
    "OutputError",
    "OutputFidelity",
    "Refusal",
    "TargetError",
    "TargetReport",
    "Verification",
    "VerificationError",
    "__version__",
    "compare_models",
    "compress",
    "inspect",
]

# Where each public name is, once it is asked for: the parent process of the command line is up
# before NumPy and ONNX Runtime could be imported.
_HOMES = {
    "channels": ("Refusal",),
    "comparison": ("Comparison", "compare_models"),
    "config": ("Config",),
    "errors": (
        "CompensationError",
        "LbylOnnxError",
        "ModelError",
        "NothingToPruneError",
        "OptionError",
        "OutputError",
        "TargetError",
        "VerificationError",
    ),
    "inspection": ("GroupView", "Inspection", "inspect"),
    "pipeline": ("CompressResult", "GroupReport", "compress"),
    "reaching": ("TargetReport",),
    "fidelity": ("Fidelity", "OutputFidelity"),
    "verify": ("Verification",),
}


def __getattr__(name: str) -> object:
    """Import a public name where it is first used."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
