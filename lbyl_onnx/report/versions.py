"""The versions that a result depends on."""

from __future__ import annotations

import platform

from lbyl_onnx.runtime.distributions import DISTRIBUTIONS, version

# Of the distributions of ONNX Runtime one is installed as a rule; those that are not are left out.
_PACKAGES = ("lbyl-onnx", "onnx", *DISTRIBUTIONS, "onnx-graphsurgeon", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Return the version of the tool, of Python and of what computes, by name.

    Examples
    --------
    >>> list(versions())[:2]
    ['lbyl-onnx', 'Python']
    """
    installed = {name: text for name in _PACKAGES if (text := version(name)) is not None}
    tool = {name: installed.pop(name) for name in ("lbyl-onnx",) if name in installed}
    return {
        **tool,
        "Python": platform.python_version(),
        **installed,
        "platform": platform.platform(),
    }
