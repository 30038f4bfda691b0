"""Texts as samples: encoded by a tokenizer, given to the inputs that take them, cut and padded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import DTypeLike
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lbyl_onnx.data.calibration import FrontEnd, read_calibration
from lbyl_onnx.data.files import text_files
from lbyl_onnx.data.files.text_files import token_kinds
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.types import Array

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat"]
PAD, UNKNOWN, CLS, SEP, THE, CAT, SAT, ON, MAT = range(len(WORDS))


def tokenizer(folder: Path, special: bool = False, cut: int | None = None, pad: str = "") -> Path:
    """One number for each word; with special tokens around them if wanted."""
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    if cut is not None:
        made.enable_truncation(cut)
    if pad:
        made.enable_padding(direction=pad, pad_id=MAT, pad_token="mat")
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def takes(name: str, length: int | None = None, dtype: DTypeLike = np.int64) -> Input:
    return Input(name, np.dtype(dtype), (None, length))


IDS, MASK, TYPES = takes("input_ids"), takes("attention_mask"), takes("token_type_ids")
TEXTS = "the cat sat\n\n  on the mat  \nthe dog\n"
ENCODED = [[THE, CAT, SAT], [ON, THE, MAT], [THE, UNKNOWN]]


def written(folder: Path, texts: str = TEXTS, name: str = "x.txt") -> Path:
    (folder / name).write_text(texts, "utf-8")
    return folder / name


def opened(
    path: Path | Sequence[Path],
    *inputs: Input,
    front: FrontEnd | None = None,
    limit: int = 512,
) -> Samples:
    return read_calibration(path, inputs or (IDS,), front=front or FrontEnd(), limit=limit)


def rows(samples: Samples, name: str = "input_ids") -> list[list[int]]:
    """Each sample on its own, in the order of the samples."""
    return [samples.source.read(row[None])[name][0].tolist() for row in samples.rows]


# --- kinds of inputs ---


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["input_ids", "attention_mask", "token_type_ids"], "tokens mask segments"),
        (["input_ids", "token_type_ids", "attention_mask"], "tokens segments mask"),
        (["input_word_ids", "input_mask", "input_type_ids"], "tokens mask segments"),
        (["ids", "segment_ids", "position_ids"], "tokens segments positions"),
        (["x"], "tokens"),
        (["a", "b", "c"], "tokens mask segments"),
        (["a", "the_mask", "c"], "tokens mask segments"),
    ],
)
def test_kinds_follow_from_the_names_then_the_order(names: list[str], kinds: str) -> None:
    found = token_kinds([takes(name) for name in names])
    assert found == dict(zip(names, kinds.split(), strict=True))


def test_what_the_graph_tells_comes_before_the_names() -> None:
    kinds = {"a": "mask", "mask": "tokens", "input_ids": "segments", "positions": "flags"}
    inputs = [replace(takes(name), kind=kind) for name, kind in kinds.items()]
    assert token_kinds(inputs) == kinds | {"positions": "positions"}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([Input("pixels", np.dtype("f4"), (None, 3, 8, 8))], "input pixels has rank 4"),
        ([takes("ids", dtype=np.float32)], "input ids takes float32"),
        ([takes("ids"), takes("decoder_ids")], r"2 of its inputs \(ids, decoder_ids\) take tokens"),
        ([takes("mask")], "0 of its inputs"),
    ],
)
def test_models_that_take_no_texts(tmp_path: Path, inputs: list[Input], says: str) -> None:
    tokenizer(tmp_path)
    with pytest.raises(CalibrationError, match=rf"x\.txt is no \.npz.*{says}"):
        opened(written(tmp_path), *inputs)


# --- encoded ---


def test_each_line_is_a_sample_and_an_empty_one_is_none(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    samples = opened(written(tmp_path))
    assert rows(samples) == ENCODED
    assert [batch["input_ids"].tolist() for batch in samples.batches(4)] == [
        *(ENCODED[:2], ENCODED[2:]),
    ]
    assert samples.most_frequent == {"input_ids": (3,)}


def test_all_inputs_get_what_they_take(tmp_path: Path) -> None:
    tokenizer(tmp_path, special=True)
    mask, positions = takes("attention_mask", dtype=np.float32), takes("position_ids", dtype="i4")
    samples = opened(written(tmp_path, "the cat"), IDS, mask, TYPES, positions)
    (batch,) = samples.batches(1)
    wanted = {
        "input_ids": np.array([[CLS, THE, CAT, SEP]]),
        "attention_mask": np.ones((1, 4), np.float32),
        "token_type_ids": np.zeros((1, 4), np.int64),
        "position_ids": np.arange(4, dtype=np.int32)[None],
    }
    assert batch.keys() == wanted.keys()
    for name, array in wanted.items():
        assert batch[name].dtype == array.dtype
        assert np.array_equal(batch[name], array)


@pytest.mark.parametrize("pad", ["", "right", "left"])
def test_a_fixed_length_is_filled_or_cut(tmp_path: Path, pad: str) -> None:
    """Special tokens are not cut; the filler and its side are the tokenizer's."""
    tokenizer(tmp_path, special=True, pad=pad)
    path = written(tmp_path, "the\nthe cat sat on the mat")
    samples = opened(path, takes("input_ids", 5), takes("attention_mask", 5))
    filler = [MAT if pad else PAD] * 2
    first, mask = [CLS, THE, SEP], [1, 1, 1]
    left = pad == "left"
    assert rows(samples) == [
        filler + first if left else first + filler,
        [CLS, THE, CAT, SAT, SEP],
    ]
    assert rows(samples, "attention_mask") == [
        [0, 0, *mask] if left else [*mask, 0, 0],
        [1] * 5,
    ]


def cut_at(most: int) -> tuple[list[int], Callable[[Shapes], bool]]:
    asked: list[int] = []

    def accepts(shapes: Shapes) -> bool:
        asked.append(shapes["input_ids"][1])
        assert set(shapes.values()) == {(1, asked[-1])}
        return asked[-1] <= most

    return asked, accepts


@pytest.mark.parametrize("most", range(1, 12))
def test_a_text_is_cut_at_the_length_that_the_model_takes(tmp_path: Path, most: int) -> None:
    tokenizer(tmp_path)
    words = "the cat sat on the mat the cat sat".split()  # nine
    asked, accepts = cut_at(most)
    samples = opened(
        written(tmp_path, f"the\n{' '.join(words)}"), IDS, MASK, front=FrontEnd(accepts=accepts)
    )
    assert rows(samples)[1] == [WORDS.index(word) for word in words[:most]]
    assert max(asked) <= 9
    assert len(asked) <= 10


def test_a_model_that_runs_nowhere_says_so_itself(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    _, accepts = cut_at(0)
    assert rows(opened(written(tmp_path), front=FrontEnd(accepts=accepts))) == ENCODED


def test_a_tokenizers_own_limit_holds(tmp_path: Path) -> None:
    tokenizer(tmp_path, special=True, cut=4)
    assert rows(opened(written(tmp_path, "the cat sat"))) == [[CLS, THE, CAT, SEP]]


def test_there_is_a_limit_whatever_the_model_takes(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    files = [written(tmp_path)]
    texts = text_files.open_texts(files, "x", [IDS], [tmp_path], None, 99, 0, most_tokens=2)
    assert rows(texts) == [row[:2] for row in ENCODED]


def test_files_and_folders_of_texts(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    first, second = written(tmp_path, "cat", "b.txt"), written(tmp_path, "mat\nsat", "a.txt")
    assert rows(opened([first, second])) == [[CAT], [MAT], [SAT]]
    assert rows(opened(tmp_path)) == [[MAT], [SAT], [CAT]]
    (tmp_path / "a").mkdir()
    written(tmp_path / "a", "the")  # the tokenizer lies in the folder that is given
    assert rows(opened(tmp_path)) == [[THE], [MAT], [SAT], [CAT]]


def test_more_texts_than_the_limit_are_a_seeded_choice(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    lines = [" ".join(["the"] * n) for n in range(1, 41)]
    found = [len(row) for row in rows(opened(written(tmp_path, "\n".join(lines)), limit=5))]
    assert len(set(found)) == 5
    assert found == sorted(found)


# --- where the tokenizer lies ---


def test_it_may_lie_beside_the_model_above_an_export_or_be_given(tmp_path: Path) -> None:
    path = written(tmp_path)
    for where, front in (
        ("model", FrontEnd(model=tmp_path / "model" / "m.onnx")),
        ("hub", FrontEnd(model=tmp_path / "hub" / "onnx" / "m.onnx")),
        ("given", FrontEnd(tokenizer=tmp_path / "given")),
        ("given", FrontEnd(tokenizer=tmp_path / "given" / "tokenizer.json")),
    ):
        (tmp_path / where / "onnx").mkdir(parents=True, exist_ok=True)
        tokenizer(tmp_path / where)
        assert rows(opened(path, front=front)) == ENCODED


def test_the_models_own_comes_before_that_of_the_texts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tokenizer(tmp_path)
    tokenizer(tmp_path / "model", special=True)
    samples = opened(written(tmp_path, "cat"), front=FrontEnd(model=tmp_path / "model" / "m.onnx"))
    assert rows(samples) == [[CLS, CAT, SEP]]


# --- what is wrong ---


def no_tokenizer(folder: Path) -> Path:
    return written(folder)


def damaged(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    return written(folder)


def other_json(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text("[3]")
    return written(folder)


def not_utf8(folder: Path) -> Path:
    tokenizer(folder)
    (folder / "x.txt").write_bytes(b"caf\xe9")
    return folder / "x.txt"


def blank(folder: Path) -> Path:
    tokenizer(folder)
    return written(folder, "\n   \n")


def no_tokens(folder: Path) -> Path:
    made = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))  # it drops what it does not know
    made.save(str(folder / "tokenizer.json"))
    return written(folder, "a\nb\n")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_tokenizer, r"x\.txt holds texts, but there is no tokenizer\.json in .*--tokenizer"),
        (damaged, r"tokenizer\.json is no tokenizer: .*; give a tokenizer\.json of"),
        (other_json, r"tokenizer\.json is no tokenizer: "),
        (not_utf8, r"x\.txt is no text in UTF-8; save it"),
        (blank, r"x\.txt holds no samples"),
        (no_tokens, r"line 2 of .*x\.txt has no tokens; leave it out"),
    ],
)
def test_it_is_said_in_one_line(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(CalibrationError, match=says) as caught:
        opened(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_length_without_room_for_the_special_tokens(tmp_path: Path) -> None:
    tokenizer(tmp_path, special=True)
    with pytest.raises(CalibrationError, match=r"line 1 of .*x\.txt has 5 tokens.*of 1 that"):
        opened(written(tmp_path), takes("input_ids", 1))


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"other\.json does not exist; give a tokenizer"):
        opened(written(tmp_path), front=FrontEnd(tokenizer=tmp_path / "other.json"))


def test_the_library_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CalibrationError, match=r"pip install 'lbyl-onnx\[text\]'"):
        opened(written(tmp_path))


def test_a_tokenizer_has_no_use_for_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.int64))
    with pytest.raises(OptionError, match=r"tokenizer is for texts, but .*x\.npy holds arrays"):
        opened(tmp_path / "x.npy", front=FrontEnd(tokenizer=tmp_path))


def joined(samples: Samples) -> Array:
    return np.concatenate([batch["input_ids"].ravel() for batch in samples.batches(2)])


def test_a_byte_order_mark_is_no_token(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    (tmp_path / "x.txt").write_text("the cat\r\nmat", "utf-8-sig")
    assert joined(opened(tmp_path / "x.txt")).tolist() == [THE, CAT, MAT]
