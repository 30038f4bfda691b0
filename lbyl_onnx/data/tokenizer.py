"""The vocabulary of the tokenizer that lies beside a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lbyl_onnx.data.input_kind import Vocabulary
from lbyl_onnx.errors import CalibrationError
from lbyl_onnx.io.files import read_bounded

NAME = "tokenizer.json"
# Bytes of such a file; those of vocabularies of 256,000 tokens are half of it.
LARGEST = 1 << 26
# What tokenizers call the token behind the end of a text.
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")


def tokenizer_candidates(model: Path | None, supplied: Path | None = None) -> list[Path]:
    """Return where the tokenizer of a model may lie, the likeliest first.

    Parameters
    ----------
    model
        The model's own file; None for one in memory.
    supplied
        The tokenizer.json that the user gave, or its folder: then it is the only one.
    """
    if supplied is not None:
        return [supplied]
    if model is None:
        return []
    folder = model.parent
    # Exports lie in a folder onnx/ beside what they were exported from.
    above = [folder.absolute().parent] if folder.absolute().name == "onnx" else []
    return [folder, *above]


def first_tokenizer(candidates: Iterable[Path]) -> Path | None:
    """Return the first tokenizer.json of some files and folders; None where there is none."""
    files = (path / NAME if path.is_dir() else path for path in candidates)
    return next((file for file in files if file.is_file()), None)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read how many tokens a tokenizer has, and which of them are special.

    Parameters
    ----------
    path
        A tokenizer.json, as Hugging Face's `tokenizers` writes it.

    Raises
    ------
    CalibrationError
        When it cannot be read.
    """
    try:
        document = json.loads(read_bounded(path, LARGEST).decode("utf-8"))
        tokens = {str(token["content"]): int(token["id"]) for token in document["added_tokens"]}
        special = {int(token["id"]) for token in document["added_tokens"] if token["special"]}
        vocab = document["model"]["vocab"]
        numbers = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        size = 1 + max([*map(int, numbers), *tokens.values()])
        first, last = _ends(document.get("post_processor") or {})
        padding = document.get("padding") or {}
        named = next((tokens[name] for name in _PADDING if name in tokens), 0)
        pad = int(padding.get("pad_id", named))
    except (OSError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CalibrationError(
            f"{path} is no tokenizer that Hugging Face's tokenizers could have written; take it "
            "away, or put the right one there"
        ) from error
    return Vocabulary(size, tuple(sorted(special)), first, last, pad)


def _ends(processor: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The special tokens that stand before and behind one text."""
    for inner in processor.get("processors", ()):
        ends = _ends(inner)
        if ends != (None, None):
            return ends
    if "cls" in processor and "sep" in processor:  # of Bert and Roberta: [token, number]
        return int(processor["cls"][1]), int(processor["sep"][1])
    pieces = processor.get("single", ())
    numbers = {name: entry["ids"] for name, entry in processor.get("special_tokens", {}).items()}
    numbers_of_ends: list[int | None] = [
        int(numbers[piece["SpecialToken"]["id"]][0]) if "SpecialToken" in piece else None
        for piece in (pieces[:1] and [pieces[0], pieces[-1]])
    ]
    return (numbers_of_ends[0], numbers_of_ends[1]) if len(pieces) > 1 else (None, None)
