"""Texts as calibration samples: one on each line, encoded by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lbyl_onnx.data.samples import Input, Samples, SampleShapes, choose
from lbyl_onnx.data.tokenizer import LARGEST, NAME, first_tokenizer
from lbyl_onnx.errors import CalibrationError, LbylOnnxError, first_line
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.text import listed
from lbyl_onnx.types import Array

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

TokenKind = Literal["tokens", "mask", "segments", "positions"]
"""What an input of a model of texts takes."""
# Bytes of a file of texts.
LARGEST_TEXTS = 1 << 26
# Tokens of one text where the model takes more: attention takes memory by their square.
MOST_TOKENS = 4096
# Texts that name a kind of input, in the order in which they are looked for.
_NAMES: tuple[tuple[TokenKind, tuple[str, ...]], ...] = (
    ("mask", ("mask",)),
    ("segments", ("type", "segment")),
    ("positions", ("position",)),
    ("tokens", ("ids", "token", "word", "input")),
)
_BY_ORDER: tuple[TokenKind, ...] = ("tokens", "mask", "segments")


@dataclass(frozen=True)
class _Texts:
    """Texts that are encoded: the ids of the tokens and their segments, one array for each."""

    ids: Sequence[NDArray[np.int64]]
    segments: Sequence[NDArray[np.int64]]
    kinds: Mapping[str, TokenKind]
    inputs: Sequence[Input]
    pad: int
    left: bool

    def read(self, rows: NDArray[np.intp]) -> dict[str, Array]:
        each = [self._one(int(row)) for row in rows]
        return {
            i.name: np.stack([one[self.kinds[i.name]] for one in each]).astype(i.dtype)
            for i in self.inputs
        }

    def _one(self, row: int) -> dict[TokenKind, NDArray[np.int64]]:
        """What each kind of input gets, padded where the length is fixed."""
        ids, segments = self.ids[row], self.segments[row]
        fixed = fixed_length(self.inputs)
        missing = 0 if fixed is None else fixed - len(ids)
        sides = (missing, 0) if self.left else (0, missing)
        return {
            "tokens": np.pad(ids, sides, constant_values=self.pad),
            "mask": np.pad(np.ones_like(ids), sides),
            "segments": np.pad(segments, sides),
            "positions": np.arange(len(ids) + missing),
        }


def token_kinds(inputs: Sequence[Input]) -> dict[str, TokenKind] | str:
    """Tell what each input of a model of texts takes, or why it takes none.

    By what reads it in the graph; where that tells nothing by its name, and where neither does by
    its place among those: tokens, mask, segments.

    Parameters
    ----------
    inputs
        What the model takes.
    """
    kinds: dict[str, TokenKind] = {}
    for i in inputs:
        if len(i.shape) != 2:
            return f"input {i.name} has rank {len(i.shape)}"
        name = i.name.lower()
        by_graph = [kind for kind, _ in _NAMES if kind == i.kind]
        named = by_graph or [kind for kind, words in _NAMES if any(word in name for word in words)]
        rest = [kind for kind in _BY_ORDER if kind not in kinds.values()]
        kind = named[0] if named else rest[0] if rest else "tokens"
        if i.dtype.kind not in ("iufb" if kind == "mask" else "iu"):
            return f"input {i.name} takes {i.dtype}"
        kinds[i.name] = kind
    names = list(kinds.values())
    if names.count("tokens") != 1:
        return f"{names.count('tokens')} of its inputs ({listed([*kinds])}) take tokens, not one"
    return kinds


def fixed_length(inputs: Sequence[Input]) -> int | None:
    """Return the number of tokens that a model takes; None where it takes any."""
    return next((i.shape[1] for i in inputs if i.shape[1] is not None), None)


def open_texts(
    files: Sequence[Path],
    name: str,
    inputs: Sequence[Input],
    candidates: Sequence[Path],
    accepts: Callable[[Shapes], bool] | None,
    limit: int,
    seed: int,
    most_tokens: int = MOST_TOKENS,
) -> Samples:
    """Encode texts for a model, one on each line; empty lines are none.

    A text that is longer than the model takes is cut: at its fixed length, at the tokenizer's own
    limit, at `most_tokens`, or at the greatest length at which the model runs. Where the length is
    fixed shorter ones are padded, which the mask tells.

    Parameters
    ----------
    files
        Of UTF-8.
    name
        What errors call them together.
    inputs
        What the model takes.
    candidates
        The tokenizer's file, or folders where it may lie, in this order.
    accepts
        Tells whether the model runs on inputs of these shapes; None where that is not known.
    limit, seed
        As for `read_calibration`.
    most_tokens
        Tokens of one text, whatever the model takes.

    Raises
    ------
    CalibrationError
        When the model takes no texts, there is no tokenizer, or a text cannot be read or encoded.
    """
    kinds = token_kinds(inputs)
    if isinstance(kinds, str):
        raise CalibrationError(
            f"{name} is no .npz, .npy or folder of images, and texts are for models of tokens, but "
            f"{kinds}; give one of these"
        )
    lines = [line for file in files for line in _lines(file)]
    chosen = [lines[row] for row in choose(name, len(lines), inputs, limit, seed)]
    tokenizer = _tokenizer(_tokenizer_file(candidates, name))
    longest, padding = fixed_length(inputs), tokenizer.padding or {}
    most = min(longest or most_tokens, _own_limit(tokenizer.truncation, most_tokens))
    encoded = list(_encoded(tokenizer, chosen, most))
    most = max(len(encoding.ids) for encoding in encoded)
    if longest is None and accepts is not None:
        taken = _longest_taken(accepts, inputs, most)
        if taken < most:
            encoded = list(_encoded(tokenizer, chosen, taken))
    texts = _Texts(
        [np.asarray(encoding.ids, np.int64) for encoding in encoded],
        [np.asarray(encoding.type_ids, np.int64) for encoding in encoded],
        kinds,
        inputs,
        int(padding.get("pad_id", 0)),
        padding.get("direction") == "left",
    )
    lengths = [longest or len(ids) for ids in texts.ids]
    shapes = SampleShapes.of([{i.name: (length,) for i in inputs} for length in lengths])
    return Samples(np.arange(len(lengths)), texts, shapes)


@dataclass(frozen=True)
class _Line:
    """One text, and where it stands."""

    text: str
    place: str


def _lines(file: Path) -> Iterator[_Line]:
    try:
        text = read_bounded(file, LARGEST_TEXTS).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{file} is no text in UTF-8; save it as that") from error
    except OSError as error:
        raise CalibrationError(f"{file} cannot be read: {error.strerror}; mend it") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _Line(line.strip(), f"line {number} of {file}")


def _tokenizer_file(candidates: Sequence[Path], name: str) -> Path:
    """Return the first tokenizer of these places."""
    if len(candidates) == 1 and not candidates[0].exists():
        raise CalibrationError(f"{candidates[0]} does not exist; give a {NAME} as --tokenizer")
    file = first_tokenizer(candidates)
    if file is not None:
        return file
    looked = ", ".join(dict.fromkeys(map(str, candidates)))
    raise CalibrationError(
        f"{name} holds texts, but there is no {NAME} in {looked}; give it as --tokenizer"
    )


def _tokenizer(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise CalibrationError(
            "tokenizers, which encodes texts, is not installed; pip install 'lbyl-onnx[text]'"
        ) from error
    mend = f"give a {NAME} of the library tokenizers"
    with _explained(f"{file} is no tokenizer", mend):
        stored = read_bounded(file, LARGEST).decode("utf-8")
        tokenizer: Tokenizer = Tokenizer.from_str(stored)
    return tokenizer


@contextmanager
def _explained(what: str, mend: str) -> Iterator[None]:
    """Turn what the library raises into one clear error: Exception itself, or a panic of Rust's."""
    try:
        yield
    except (LbylOnnxError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CalibrationError(f"{what}: {reason}; {mend}") from error


def _own_limit(truncation: Mapping[str, object] | None, most_tokens: int) -> int:
    """The number of tokens at which a tokenizer itself cuts; the most where it does not."""
    most = None if truncation is None else truncation.get("max_length")
    return most if isinstance(most, int) and most > 0 else most_tokens


def _encoded(tokenizer: Tokenizer, lines: Sequence[_Line], most: int) -> Iterator[Encoding]:
    """Encode each text to so many tokens at most."""
    own = tokenizer.truncation or {}
    tokenizer.no_padding()
    for line in lines:
        what = f"{line.place} cannot be encoded in {most} tokens"
        with _explained(what, "mend it or leave it out"):
            tokenizer.enable_truncation(most, direction=str(own.get("direction", "right")))
            encoding = tokenizer.encode(line.text)
        if not encoding.ids:
            raise CalibrationError(f"{line.place} has no tokens; leave it out")
        if len(encoding.ids) > most:
            raise CalibrationError(
                f"{line.place} has {len(encoding.ids)} tokens when it is cut, of {most} that the "
                "model takes: the special tokens alone are more; give a tokenizer that fits it"
            )
        yield encoding


def _longest_taken(accepts: Callable[[Shapes], bool], inputs: Sequence[Input], most: int) -> int:
    """The greatest length up to `most` at which a model runs; `most` where it runs at none.

    From below: what is too long for a table of positions may be far too long for memory.
    """

    def runs(length: int) -> bool:
        return accepts({i.name: (1, length) for i in inputs})

    good, bad = 0, 1
    while bad < most and runs(bad):
        good, bad = bad, 2 * bad
    if bad >= most:
        if runs(most):
            return most
        bad = most
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if runs(middle) else (good, middle)
    return good or most
