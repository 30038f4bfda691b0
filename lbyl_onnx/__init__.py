"""Prune channels from any ONNX model and repair it in closed form, without data."""

import sys

# `python -m lbyl_onnx` would look for every module in the current folder first, and a model's
# folder may hold a stranger's `typing.py`. So nothing is imported in this file before, nor a
# future. While Python looks for the module to run, `-m` stands in place of its path.
_AS_MODULE = sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in (
    *("lbyl_onnx", "-mlbyl_onnx"),
    *("lbyl_onnx.__main__", "-mlbyl_onnx.__main__"),
)
if _AS_MODULE and not sys.flags.safe_path:
    sys.path.pop(0)

TYPE_CHECKING = False  # to type checkers it is True
if TYPE_CHECKING:
    from lbyl_onnx.budget.solve import TargetReport
    from lbyl_onnx.channels.groups import Refusal
    from lbyl_onnx.channels.operators import register_operator
    from lbyl_onnx.config import Config, Options
    from lbyl_onnx.data.input_kind import InputKind, InputRange, Vocabulary
    from lbyl_onnx.errors import (
        CalibrationError,
        CompensationError,
        InstallationError,
        LbylOnnxError,
        ModelError,
        NothingToPruneError,
        OptionError,
        OutputError,
        TargetError,
        TooSlowError,
        VerificationError,
    )
    from lbyl_onnx.evaluate.compare import Comparison, compare_models
    from lbyl_onnx.evaluate.layers import Details, LayerComparison
    from lbyl_onnx.evaluate.metrics import Fidelity, OutputFidelity
    from lbyl_onnx.evaluate.verify import Verification
    from lbyl_onnx.graph.costs import Costs
    from lbyl_onnx.graph.source import FileHash
    from lbyl_onnx.inspection import GroupView, Inspection, Predicted, Reach, inspect
    from lbyl_onnx.methods.registry import (
        Criterion,
        Method,
        MethodOption,
        register_criterion,
        register_method,
    )
    from lbyl_onnx.methods.types import (
        BatchNorm,
        ConsumerLoss,
        Delivery,
        Evidence,
        FoldedRows,
        Moments,
        Ranking,
    )
    from lbyl_onnx.pipeline import compress
    from lbyl_onnx.results.compressed import CompressResult
    from lbyl_onnx.results.groups import GroupReport
    from lbyl_onnx.runtime.timing import Latency, PairedLatency

__version__ = "0.1.0"

__all__ = [
    "BatchNorm",
    "CalibrationError",
    "Comparison",
    "CompensationError",
    "CompressResult",
    "Config",
    "ConsumerLoss",
    "Costs",
    "Criterion",
    "Delivery",
    "Details",
    "Evidence",
    "Fidelity",
    "FileHash",
    "FoldedRows",
    "GroupReport",
    "GroupView",
    "InputChoice",
    "InputKind",
    "InputRange",
    "InputReport",
    "Inspection",
    "InstallationError",
    "Latency",
    "LayerComparison",
    "LbylOnnxError",
    "Method",
    "MethodOption",
    "ModelError",
    "Moments",
    "NothingToPruneError",
    "OptionError",
    "Options",
    "OutputError",
    "OutputFidelity",
    "PairedLatency",
    "Predicted",
    "Ranking",
    "Reach",
    "Refusal",
    "TargetError",
    "TargetReport",
    "TooSlowError",
    "Verification",
    "VerificationError",
    "Vocabulary",
    "__version__",
    "compare_models",
    "compress",
    "inspect",
    "register_criterion",
    "register_method",
    "register_operator",
]

# Where each public name is, once it is asked for: the parent process of the command line is up
# before NumPy and ONNX Runtime could be imported.
_HOMES = {
    "budget.solve": ("TargetReport",),
    "channels.groups": ("Refusal",),
    "config": ("Config", "Options"),
    "data.input_kind": ("InputKind", "InputRange", "Vocabulary"),
    "input_choices": ("InputChoice",),
    "results.inputs": ("InputReport",),
    "channels.operators": ("register_operator",),
    "errors": (
        "CalibrationError",
        "CompensationError",
        "InstallationError",
        "LbylOnnxError",
        "ModelError",
        "NothingToPruneError",
        "OptionError",
        "OutputError",
        "TargetError",
        "TooSlowError",
        "VerificationError",
    ),
    "methods.registry": (
        "Criterion",
        "Method",
        "MethodOption",
        "register_criterion",
        "register_method",
    ),
    "methods.types": (
        "BatchNorm",
        "ConsumerLoss",
        "Delivery",
        "Evidence",
        "FoldedRows",
        "Moments",
        "Ranking",
    ),
    "evaluate.compare": ("Comparison", "compare_models"),
    "evaluate.layers": ("Details", "LayerComparison"),
    "evaluate.metrics": ("Fidelity", "OutputFidelity"),
    "evaluate.verify": ("Verification",),
    "graph.costs": ("Costs",),
    "graph.source": ("FileHash",),
    "inspection": ("GroupView", "Inspection", "Predicted", "Reach", "inspect"),
    "pipeline": ("compress",),
    "results.compressed": ("CompressResult",),
    "results.groups": ("GroupReport",),
    "runtime.timing": ("Latency", "PairedLatency"),
}


def __getattr__(name: str) -> object:
    """Import a public name where it is first used."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
