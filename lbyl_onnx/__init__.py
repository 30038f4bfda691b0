"""Prune channels from any ONNX model and repair it in closed form, without data."""

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
from lbyl_onnx.inspection import GroupView, Inspection, inspect
from lbyl_onnx.pipeline import CompressResult, GroupReport, compress
from lbyl_onnx.reaching import TargetReport
from lbyl_onnx.verify import Fidelity, Verification

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
