"""ONNX Runtime as it is installed, or one error that says how to fix it.

Its distributions hold the same modules: installed beside each other they overwrite one another, and
when one is uninstalled the other lacks files. Python then imports what is left, and the first use
of it fails.
"""

from __future__ import annotations

from lbyl_onnx.errors import InstallationError
from lbyl_onnx.runtime.distributions import DISTRIBUTIONS, mend

__all__ = ["ort", "ort_errors"]
# What the other modules use of it.
_NEEDED = (
    "ExecutionOrder",
    "GraphOptimizationLevel",
    "InferenceSession",
    "RunOptions",
    "SessionOptions",
    "get_available_providers",
)


try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":
        raise InstallationError(f"onnxruntime cannot be imported ({error}); {mend()}") from error
    some = ", ".join(DISTRIBUTIONS[:4])
    raise InstallationError(
        f"onnxruntime is not installed; pip install one of {some}, whichever fits the machine"
    ) from error
except Exception as error:  # whatever half a package raises: it is what is wrong with it
    lines = str(error).splitlines() or [type(error).__name__]
    if any(words in lines[0] for words in ("failed to map", "annot allocate")):
        raise MemoryError(lines[0]) from error  # it is whole, and there is no room for it
    raise InstallationError(f"onnxruntime cannot be imported ({lines[0]}); {mend()}") from error


_missing = [name for name in _NEEDED if not hasattr(ort, name)]


if _missing:
    raise InstallationError(f"onnxruntime is broken, it has no {_missing[0]}; {mend()}")
