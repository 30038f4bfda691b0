"""The distributions that ONNX Runtime comes in, and those of them that are installed.

All hold the modules of one name. Any of them is enough; of two, one has overwritten the other.
"""

from __future__ import annotations

from importlib import metadata

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-silicon",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "ort-nightly",
)
# Those that pyproject.toml asks for; pip passes over the ones that are not installed.
_DEFAULT = ("onnxruntime", "onnxruntime-gpu")


def runtimes() -> dict[str, str]:
    """Return the version of each installed distribution of ONNX Runtime, by name."""
    versions = {name: version(name) for name in DISTRIBUTIONS}
    return {name: text for name, text in versions.items() if text is not None}


def version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def clash() -> str | None:
    """Return what is wrong where several distributions are installed, and how to mend it."""
    names = list(runtimes())
    if len(names) < 2:
        return None
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{listed} are {'both' if len(names) == 2 else 'all'} installed and overwrite each other; "
        f"uninstall {'both' if len(names) == 2 else 'all'}, then install the one you want: {mend()}"
    )


def mend() -> str:
    """Return the commands that leave one whole distribution."""
    names = (*_DEFAULT, *(name for name in runtimes() if name not in _DEFAULT))
    return f"pip uninstall -y {' '.join(names)}, then pip install the one you want of them"
