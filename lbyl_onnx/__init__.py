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

__version__ = "0.1.0"

# Where each public name is, once it is asked for: the parent process of the command line is up
# before NumPy and ONNX Runtime could be imported.
_HOMES = {
    "budget.reached": "Nearby TargetReport",
    "channels.groups": "Refusal",
    "channels.operators": "register_operator",
    "config": "Config",
    "data.image_statistics": "ImageStatistics",
    "data.input_kind": "InputKind InputRange Vocabulary",
    "errors": "CalibrationError CompensationError InstallationError LbylOnnxError ModelError "
    "NothingSafeError NothingToPruneError OptionError OutputError QuantisationError ReportError "
    "TargetError TooSlowError VerificationError",
    "evaluate.compare": "Comparison compare_models",
    "evaluate.doubt": "PairedAccuracy",
    "evaluate.layers": "Details LayerComparison",
    "evaluate.metrics": "Fidelity OutputFidelity",
    "evaluate.prediction.predict": "Prediction",
    "evaluate.verify": "Verification",
    "factor.stage": "FactorReport",
    "graph.costs": "Costs",
    "graph.source": "FileHash",
    "guard.effort": "Effort",
    "input_options.kinds": "InputChoice",
    "inspection": "GroupView Inspection Predicted Reach inspect",
    "methods.registry": "Criterion Method MethodOption register_criterion register_method",
    "methods.types": "BatchNorm ConsumerLoss Delivery Evidence FoldedRows Moments Ranking",
    "option_types": "Options",
    "pipeline": "compress",
    "quantise.int8": "Quantised",
    "results.compressed": "CompressResult",
    "results.groups": "GroupReport",
    "results.inputs": "InputReport",
    "runtime.timing": "Latency PairedLatency",
    "sweeps.run": "sweep",
    "sweeps.types": "Failure Measures Outcome Sweep",
    "types": "Stage",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted((*_HOME_OF, "__version__"))

TYPE_CHECKING = False  # to type checkers it is True: for them the same names once more
if TYPE_CHECKING:
    # isort: off
    # It would give each name a statement of its own.
    from lbyl_onnx.budget.reached import Nearby as Nearby
    from lbyl_onnx.budget.reached import TargetReport as TargetReport
    from lbyl_onnx.channels.groups import Refusal as Refusal
    from lbyl_onnx.channels.operators import register_operator as register_operator
    from lbyl_onnx.config import Config as Config
    from lbyl_onnx.data.image_statistics import ImageStatistics as ImageStatistics
    from lbyl_onnx.data.input_kind import (
        InputKind as InputKind,
        InputRange as InputRange,
        Vocabulary as Vocabulary,
    )
    from lbyl_onnx.errors import (
        CalibrationError as CalibrationError,
        CompensationError as CompensationError,
        InstallationError as InstallationError,
        LbylOnnxError as LbylOnnxError,
        ModelError as ModelError,
        NothingSafeError as NothingSafeError,
        NothingToPruneError as NothingToPruneError,
        OptionError as OptionError,
        OutputError as OutputError,
        QuantisationError as QuantisationError,
        ReportError as ReportError,
        TargetError as TargetError,
        TooSlowError as TooSlowError,
        VerificationError as VerificationError,
    )
    from lbyl_onnx.evaluate.compare import (
        Comparison as Comparison,
        compare_models as compare_models,
    )
    from lbyl_onnx.evaluate.doubt import PairedAccuracy as PairedAccuracy
    from lbyl_onnx.evaluate.layers import Details as Details, LayerComparison as LayerComparison
    from lbyl_onnx.evaluate.metrics import Fidelity as Fidelity, OutputFidelity as OutputFidelity
    from lbyl_onnx.evaluate.prediction.predict import Prediction as Prediction
    from lbyl_onnx.evaluate.verify import Verification as Verification
    from lbyl_onnx.factor.stage import FactorReport as FactorReport
    from lbyl_onnx.graph.costs import Costs as Costs
    from lbyl_onnx.graph.source import FileHash as FileHash
    from lbyl_onnx.guard.effort import Effort as Effort
    from lbyl_onnx.input_options.kinds import InputChoice as InputChoice
    from lbyl_onnx.inspection import (
        GroupView as GroupView,
        Inspection as Inspection,
        Predicted as Predicted,
        Reach as Reach,
        inspect as inspect,
    )
    from lbyl_onnx.methods.registry import (
        Criterion as Criterion,
        Method as Method,
        MethodOption as MethodOption,
        register_criterion as register_criterion,
        register_method as register_method,
    )
    from lbyl_onnx.methods.types import (
        BatchNorm as BatchNorm,
        ConsumerLoss as ConsumerLoss,
        Delivery as Delivery,
        Evidence as Evidence,
        FoldedRows as FoldedRows,
        Moments as Moments,
        Ranking as Ranking,
    )
    from lbyl_onnx.option_types import Options as Options
    from lbyl_onnx.pipeline import compress as compress
    from lbyl_onnx.quantise.int8 import Quantised as Quantised
    from lbyl_onnx.results.compressed import CompressResult as CompressResult
    from lbyl_onnx.results.groups import GroupReport as GroupReport
    from lbyl_onnx.results.inputs import InputReport as InputReport
    from lbyl_onnx.runtime.timing import Latency as Latency, PairedLatency as PairedLatency
    from lbyl_onnx.sweeps.run import sweep as sweep
    from lbyl_onnx.sweeps.types import (
        Failure as Failure,
        Measures as Measures,
        Outcome as Outcome,
        Sweep as Sweep,
    )
    from lbyl_onnx.types import Stage as Stage


def __getattr__(name: str) -> object:
    """Import a public name where it is first used."""
    from importlib import import_module

    if name in _HOME_OF:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
