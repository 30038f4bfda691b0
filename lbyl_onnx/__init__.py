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
    from lbyl_onnx.config import Config
    from lbyl_onnx.errors import (
        CompensationError,
        InstallationError,
        LbylOnnxError,
        ModelError,
        NothingToPruneError,
        OptionError,
        OutputError,
        TargetError,
        VerificationError,
    )
    from lbyl_onnx.evaluate.compare import Comparison, compare_models
    from lbyl_onnx.evaluate.metrics import Fidelity, OutputFidelity
    from lbyl_onnx.evaluate.verify import Verification
    from lbyl_onnx.inspection import GroupView, Inspection, inspect
    from lbyl_onnx.pipeline import CompressResult, GroupReport, compress

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
    "InstallationError",
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
    "register_operator",
]

# Where each public name is, once it is asked for: the parent process of the command line is up
# before NumPy and ONNX Runtime could be imported.
_HOMES = {
    "channels.groups": ("Refusal",),
    "channels.operators": ("register_operator",),
    "evaluate.compare": ("Comparison", "compare_models"),
    "config": ("Config",),
    "errors": (
        "CompensationError",
        "InstallationError",
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
    "budget.solve": ("TargetReport",),
    "evaluate.metrics": ("Fidelity", "OutputFidelity"),
    "evaluate.verify": ("Verification",),
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
