"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib import metadata

# Only one of the two is installed as a rule; the one that is not is left out.
_PACKAGES = "lbyl-onnx onnx onnxruntime onnxruntime-gpu onnx-graphsurgeon numpy scipy".split()


def versions() -> dict[str, str]:
    """Return the version of the tool, of Python and of what computes, by name.

    Examples
    --------
    >>> list(versions())[:2]
    ['lbyl-onnx', 'Python']
    """
    installed = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    tool = {name: installed.pop(name) for name in ("lbyl-onnx",) if name in installed}
    return {
        **tool,
        "Python": platform.python_version(),
        **installed,
        "platform": platform.platform(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
