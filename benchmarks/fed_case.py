"""What the subjects of `benchmarks.fed` have in common: a model, its samples and its score."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Samples = Mapping[str, NDArray[Any]]
Pixels = NDArray[np.uint8]


class SubjectMissingError(Exception):
    """What a subject needs is not installed or not there."""


@dataclass(frozen=True)
class Case:
    """A model that a client uses.

    Parameters
    ----------
    name
        Of the model.
    path
        Its file before compression.
    ratios
        Shares of the channels that are removed where the command line names none.
    samples
        What the client feeds the model, by input, samples first; none of them is scored.
    score
        The figures of a model file; most compare with what the original gives.
    """

    name: str
    path: Path
    ratios: tuple[float, ...]
    samples: Samples
    score: Callable[[Path], Mapping[str, float]]


def installed(module: str, package: str) -> Any:
    """Import a module of a client.

    Raises
    ------
    SubjectMissingError
        When its package, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SubjectMissingError(
            f"{error.name} is not installed: pip install --no-deps {package}"
        ) from error


def folder_of(module: str, package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises
    ------
    SubjectMissingError
        When it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SubjectMissingError(f"{module} is not installed: pip install --no-deps {package}")
    return Path(spec.origin).parent


def session_of(path: Path) -> ort.InferenceSession:
    """Open a model on the processor; its threads do not wait in loops, which a busy one feels."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def input_of(path: Path) -> str:
    """Return the name of a model's only input."""
    (only,) = session_of(path).get_inputs()
    return str(only.name)


def share_equal(before: list[str], after: list[str]) -> float:
    """Return the share of texts that are the same."""
    return sum(one == other for one, other in zip(before, after, strict=True)) / len(before)
