"""The model that a path leads to: a file, the only one of a folder; and files of other formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lbyl_onnx.errors import ModelError
from lbyl_onnx.text import listed

# Folders below the one that is given, and entries of all of them, that are looked at.
DEEPEST, MOST_ENTRIES = 4, 20_000
# Models of a folder that an error lists.
LISTED = 12
_TEXT = (
    "it is ONNX written as text; make it binary first: "
    "python -c \"import onnx; onnx.save(onnx.load('{name}'), 'model.onnx')\""
)
_HUGGING_FACE = (
    "it holds weights and no graph; export the model that it belongs to, for example with "
    "optimum-cli export onnx --model {folder} exported"
)
_EXPORTS = {
    ".safetensors .bin": _HUGGING_FACE,
    ".pt .pth .pt2 .ckpt": "it is a PyTorch file; export the model first: "
    "torch.onnx.export(model, inputs, 'model.onnx')",
    ".tflite": "it is a TensorFlow Lite model; convert it first: "
    "python -m tf2onnx.convert --tflite {name} --output model.onnx",
    ".pb .h5 .keras": "it is a TensorFlow model; convert it first: "
    "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    ".json .textproto .prototxt .pbtxt .onnxjson .onnxtxt": _TEXT,
}
# What to do first about a file of another format, by the end of its name.
_HINTS = {suffix: hint for suffixes, hint in _EXPORTS.items() for suffix in suffixes.split()}
# What else there may be in a folder without models tells nothing by these.
_UNTOLD = frozenset(suffix for suffix, hint in _HINTS.items() if hint is _TEXT) | {".bin"}


def export_hint(path: Path) -> str | None:
    """Return how to get an ONNX model from a file of another format; None for any other file."""
    hint = _HINTS.get(path.suffix.lower())
    return None if hint is None else hint.format(name=path.name, folder=path.parent)


def find_model(path: Path) -> Path:
    """Return the model's file that a path means: itself, or the only one that a folder holds.

    In a cached repository of Hugging Face the snapshot of the main branch is looked into.

    Raises
    ------
    ModelError
        When there is nothing there, or the folder holds no model, or several.
    """
    try:
        if not path.is_dir():
            if not path.exists():
                raise ModelError(f"{path} does not exist; give the path of an .onnx file")
            return path
        files = list(_files(_snapshot(path)))
    except (OSError, ValueError) as error:  # ValueError for a path with NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{path} cannot be read: {reason}") from error
    models = [file for file in files if file.suffix.lower() == ".onnx"]
    if len(models) == 1:
        return models[0]
    if models:
        names = listed([str(file.relative_to(path)) for file in models], LISTED)
        raise ModelError(f"{path} holds {len(models)} models: {names}; give the path of one")
    raise ModelError(f"{path} is a folder and holds no .onnx file{_what_else(files)}")


def _what_else(files: list[Path]) -> str:
    """What to do about the first file of a known format in a folder without models."""
    others = (f for f in files if f.suffix.lower() in _HINTS.keys() - _UNTOLD)
    file = next(others, None)
    return "; give the path of one" if file is None else f"; of {file.name}: {export_hint(file)}"


def _snapshot(folder: Path) -> Path:
    """The folder to look into: of a cached repository the snapshot of its main branch."""
    main, snapshots = folder / "refs" / "main", folder / "snapshots"
    if not (main.is_file() and main.stat().st_size < 100 and snapshots.is_dir()):
        return folder
    snapshot = snapshots / main.read_text(encoding="utf-8", errors="replace").strip()
    return snapshot if snapshot.parent == snapshots and snapshot.is_dir() else folder


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order, those of hidden folders left out."""
    entries = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = visible if depth < DEEPEST else []
        for name in sorted(names):
            entries += 1
            file = Path(place) / name
            if file.is_file():
                yield file
        if entries > MOST_ENTRIES:
            raise ModelError(f"{folder} holds too many files to look for a model; give its path")
