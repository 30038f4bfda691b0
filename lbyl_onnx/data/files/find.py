"""Which files samples are in, and of which kind they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lbyl_onnx.data.image_files import SUFFIXES as IMAGE_SUFFIXES
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.text import listed

Kind = Literal["images", "arrays", "sounds", "texts"]
SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "images": IMAGE_SUFFIXES,
    "arrays": (".npy", ".npz"),
    "sounds": (".flac", ".ogg", ".wav"),
    "texts": (".txt",),
}
"""Suffixes of the files of each kind; a folder that holds several kinds is of the first."""

_ALL = listed([suffix for suffixes in SUFFIXES.values() for suffix in suffixes], 99)


@dataclass(frozen=True)
class SampleFiles:
    """Files that hold samples.

    Parameters
    ----------
    kind
        What all of them are.
    files
        Where they lie, in the order of the samples.
    name
        What errors call them together.
    """

    kind: Kind
    files: tuple[Path, ...]
    name: str


def find_samples(paths: Sequence[Path]) -> SampleFiles:
    """Find files of samples.

    Parameters
    ----------
    paths
        Files of one kind, or folders that are searched to any depth, sorted by path; what is hidden
        is left out.

    Raises
    ------
    CalibrationError
        When a path does not exist or holds no samples, or they are of several kinds.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        file = next(path for path in paths if not path.is_dir())
        raise CalibrationError(
            f"calibration is the folder {folders[0]} and the file {file}; give folders or files, "
            "not both"
        )
    sets = [_in_folder(path) if path.is_dir() else _file(path) for path in paths]
    kinds = [kind for kind, _ in sets]
    if len(set(kinds)) > 1:
        other = next(at for at, kind in enumerate(kinds) if kind != kinds[0])
        raise CalibrationError(
            f"{paths[0]} holds {kinds[0]}, but {paths[other]} {kinds[other]}; give samples of one "
            "kind"
        )
    return SampleFiles(kinds[0], tuple(file for _, files in sets for file in files), name)


def _file(path: Path) -> tuple[Kind, tuple[Path, ...]]:
    if not path.exists():
        raise CalibrationError(f"{path} does not exist; give an .npz, an .npy or a folder")
    kind = _kind_of(path)
    if kind is None or not path.is_file():
        raise CalibrationError(
            f"{path} is no .npz, .npy or folder of images, nor sound or text; give {_ALL}"
        )
    return kind, (path,)


def _in_folder(folder: Path) -> tuple[Kind, tuple[Path, ...]]:
    held: dict[Kind, list[Path]] = {kind: [] for kind in SUFFIXES}
    for file in folder.rglob("*"):
        kind = _kind_of(file)
        if kind is None or any(p.startswith(".") for p in file.relative_to(folder).parts):
            continue
        if file.is_file():
            held[kind].append(file)
    for kind, files in held.items():
        if files:
            return kind, tuple(sorted(files))
    each = ", ".join(f"{kind} ({listed(suffixes)})" for kind, suffixes in SUFFIXES.items())
    raise CalibrationError(f"{folder} holds no {each}; give some")


def _kind_of(path: Path) -> Kind | None:
    suffix = path.suffix.lower()
    return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), None)
