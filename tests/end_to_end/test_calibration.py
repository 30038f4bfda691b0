"""Samples as people have them, through the whole of `compress`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

from lbyl_onnx import (
    CalibrationError,
    CompressResult,
    Config,
    ModelError,
    OptionError,
    compress,
)
from lbyl_onnx.cli import main
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.types import Array
from tests.support.net import Dims, Net

HEIGHT, WIDTH = 12, 40
IMAGES = np.random.default_rng(0).standard_normal((6, 3, HEIGHT, WIDTH)).astype(np.float32)


def convolutions(shape: Dims = ("N", 3, HEIGHT, "W")) -> ModelProto:
    """Two convolutions, then a mean: any width."""
    net = Net(shape)
    return net.model(net.head(net.relu(net.conv(net.block("x", (3, 8)), (8, 8))), 8))


def unpadded() -> ModelProto:
    """Two convolutions without pads: no image below 5 x 5."""
    net = Net(("N", 3, "H", "W"))
    x = net.node("Conv", ["x", net.weight("w0", 8, 3, 3, 3)])
    x = net.relu(net.node("Conv", [net.relu(x), net.weight("w1", 8, 8, 3, 3)]))
    return net.model(net.head(x, 8))


def pruned(model: ModelProto | Path, calibration: Path, **options: object) -> CompressResult:
    config = Config(ratio=0.3, provider="cpu")
    return compress(model, calibration=str(calibration), config=config, **options)  # type: ignore[arg-type]


def saved(folder: Path, name: str, array: Array) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / name, array)
    return folder / name


class TestAnySize:
    def test_the_model_is_counted_at_the_size_of_the_samples(self, tmp_path: Path) -> None:
        """Not at a size of the tool's own choice: each position has its multiplications."""
        found = pruned(convolutions(), saved(tmp_path, "x.npy", IMAGES))
        fixed = compress(convolutions((1, 3, HEIGHT, WIDTH)), provider="cpu", ratio=0.3)
        assert found.before.macs == fixed.before.macs

    def test_a_shape_that_is_given_comes_before_that_of_the_samples(self, tmp_path: Path) -> None:
        given = (("x", (1, 3, HEIGHT, 20)),)
        found = pruned(convolutions(), saved(tmp_path, "x.npy", IMAGES), input_shape=given)
        fixed = compress(convolutions((1, 3, HEIGHT, 20)), provider="cpu", ratio=0.3)
        assert found.before.macs == fixed.before.macs

    def test_a_fixed_axis_takes_no_other_size(self, tmp_path: Path) -> None:
        with pytest.raises(CalibrationError, match=r"takes \(samples, 3, 13, any\)"):
            pruned(convolutions(("N", 3, 13, "W")), saved(tmp_path, "x.npy", IMAGES))

    def test_channels_that_weights_prescribe_are_fixed(self, tmp_path: Path) -> None:
        with pytest.raises(CalibrationError, match=r"takes \(samples, 3, any, any\)"):
            pruned(convolutions(("N", "C", "H", "W")), saved(tmp_path, "x.npy", IMAGES[:, :2]))

    def test_a_size_at_which_the_model_does_not_run_is_said(self, tmp_path: Path) -> None:
        net = Net(("N", 8, "W"))  # its second layer reads 40 columns, which a Reshape hides
        rows = net.node("Reshape", ["x", net.ints(0, 320)])
        model = net.model(net.gemm(net.relu(net.gemm(rows, 320, 16)), 16, 4))
        wrong = np.zeros((4, 8, 41), np.float32)
        with pytest.raises(ModelError, match=r"size of the calibration samples, x:\?,8,41: give"):
            pruned(model, saved(tmp_path, "x.npy", wrong))
        right = np.random.default_rng(0).standard_normal((4, 8, 40)).astype(np.float32)
        assert pruned(model, saved(tmp_path, "x.npy", right)).verification.values > 0

    def test_samples_on_which_the_model_does_not_run_are_named(self, tmp_path: Path) -> None:
        """It runs at the size that most have: an image of 2 x 2 has no place for a window."""
        images = [IMAGES[:2, :, :, :20], IMAGES[:1, :, :2, :2]]
        with pytest.raises(ModelError, match=r"on calibration samples x:1,3,2,2: leave them out"):
            compress(unpadded(), samples=images, provider="cpu", ratio=0.3)

    def test_tokens_that_the_model_does_not_know_are_told(self) -> None:
        """As of another model's tokenizer."""
        feeds = {name: np.full((4, 5), 1) for name in ("input_ids", "attention_mask")}
        feeds["input_ids"][:, 2] = VOCABULARY
        with pytest.raises(ModelError, match=r"out of data bounds.* on calibration samples input_"):
            compress(encoder(), samples=feeds, provider="cpu", ratio=0.3)

    def test_a_declared_batch_is_kept_where_the_graph_holds_it(self, tmp_path: Path) -> None:
        """Samples that fill no batch of 4 are left out."""
        net = Net((4, 6))
        x = net.node("Reshape", [net.relu(net.gemm("x", 6, 16)), net.ints(4, 16)])
        model = net.model(net.gemm(x, 16, 4))
        samples = np.random.default_rng(0).standard_normal((10, 6)).astype(np.float32)
        found = pruned(model, saved(tmp_path, "x.npy", samples))
        assert found.verification.fidelity.samples == 8


class TestSeveralFiles:
    def test_they_give_the_model_of_one(self, tmp_path: Path) -> None:
        """On the command line, in a folder and from a file of options."""
        onnx.save(convolutions(), tmp_path / "m.onnx")
        parts = [saved(tmp_path / "parts", f"{n}.npy", IMAGES[3 * n : 3 * n + 3]) for n in (0, 1)]
        (tmp_path / "o.toml").write_text(f"calibration = {[str(part) for part in parts]}")
        one = ("--calibration", str(saved(tmp_path, "x.npy", IMAGES)))
        outputs = [
            written(tmp_path, *options)
            for options in (
                one,
                ("--calibration", str(parts[0]), "--calibration", str(parts[1])),
                ("--calibration", str(tmp_path / "parts")),
                ("--config", str(tmp_path / "o.toml")),
            )
        ]
        assert outputs == [outputs[0]] * 4

    def test_samples_of_several_widths(self, tmp_path: Path) -> None:
        for number, width in enumerate((40, 40, 24)):
            saved(tmp_path / "parts", f"{number}.npy", IMAGES[:2, :, :, :width])
        found = pruned(convolutions(), tmp_path / "parts")
        assert found.verification.fidelity.samples == 6
        fixed = compress(convolutions((1, 3, HEIGHT, WIDTH)), provider="cpu", ratio=0.3)
        assert found.before.macs == fixed.before.macs


def written(folder: Path, *options: str) -> bytes:
    arguments = ["compress", str(folder / "m.onnx"), str(folder / "out.onnx"), "--force"]
    result = CliRunner().invoke(main, [*arguments, "--ratio=0.3", "--provider=cpu", *options])
    assert result.exit_code == 0, result.output
    return (folder / "out.onnx").read_bytes()


def encoder(length: int | str = "T", positions: int | None = None) -> ModelProto:
    """Tokens, a layer and another, and a mean over the positions that the mask leaves.

    With a table of so many positions it takes no longer texts.
    """
    net = Net(("N", length))
    net.inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", length])
        for name in ("input_ids", "attention_mask")
    ]
    x = net.node("Gather", [net.weight("table", VOCABULARY, 6), "input_ids"])
    if positions is not None:
        ends = net.node("Shape", ["input_ids"], {"start": 1, "end": 2})
        table = net.weight("positions", positions, 6)
        x = net.node("Add", [x, net.node("Slice", [table, net.ints(0), ends, net.ints(0)])])
    x = net.relu(net.node("MatMul", [x, net.weight("w0", 6, 16)]))
    x = net.node("MatMul", [x, net.weight("w1", 16, 4)])
    mask = net.node("Cast", ["attention_mask"], {"to": TensorProto.FLOAT})
    column = net.node("Unsqueeze", [mask, net.ints(2)])
    total = net.node("ReduceSum", [net.node("Mul", [x, column]), net.ints(1)], {"keepdims": 0})
    count = net.node("ReduceSum", [mask, net.ints(1)], {"keepdims": 1})
    least = net.constant("least", np.float32(1.0))  # of a mask of zeros
    return net.model(net.node("Div", [total, net.node("Max", [count, least])]))


VOCABULARY, LENGTHS = 20, (3, 5, 3, 8, 2, 3, 5, 1)


def sentences(longest: int, filler: int) -> dict[str, Array]:
    """Tokens of several lengths with a mask, padded to the longest with one token."""
    ids = np.full((len(LENGTHS), longest), filler)
    for row, length in zip(ids, LENGTHS, strict=True):
        row[:length] = np.random.default_rng(length).integers(0, VOCABULARY - 1, length)
    mask = np.arange(longest) < np.asarray(LENGTHS)[:, None]
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64)}


class TestPadding:
    def test_the_model_does_not_depend_on_it(self, tmp_path: Path) -> None:
        onnx.save(encoder(), tmp_path / "m.onnx")
        outputs = []
        for longest, filler in ((8, 0), (13, VOCABULARY - 1)):
            np.savez(tmp_path / "x.npz", **sentences(longest, filler))  # type: ignore[arg-type]
            outputs.append(written(tmp_path, "--calibration", str(tmp_path / "x.npz")))
        assert outputs[0] == outputs[1]

    def test_the_model_is_counted_at_the_length_that_most_have(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **sentences(8, 0))  # type: ignore[arg-type]  # by name
        found = pruned(encoder(), tmp_path / "x.npz")
        assert found.before.macs == compress(encoder(3), provider="cpu", ratio=0.3).before.macs

    def test_where_the_length_is_fixed_it_stays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", **sentences(8, 0))  # type: ignore[arg-type]  # by name
        found = pruned(encoder(8), tmp_path / "x.npz")
        assert found.verification.fidelity.samples == len(LENGTHS)


class TestInMemory:
    def test_it_gives_the_model_of_the_file(self, tmp_path: Path) -> None:
        of_file = pruned(convolutions(), saved(tmp_path, "x.npy", IMAGES))
        for samples in (IMAGES, {"x": IMAGES}, [{"x": part} for part in np.split(IMAGES, 3)]):
            found = compress(convolutions(), samples=samples, provider="cpu", ratio=0.3)
            assert found.model == of_file.model
            assert found.before.macs == of_file.before.macs

    def test_the_report_says_where_they_are_from_and_holds_none(self) -> None:
        found = compress(convolutions(), samples=IMAGES, provider="cpu", ratio=0.3)
        assert found.verification.fidelity.inputs.startswith("samples from Python")
        document = json.loads(as_json(found, Origin("m.onnx", "lbyl-onnx", {}), "0"))
        assert document["options"]["calibration"] is None
        assert "samples from Python" in document["verification"]["fidelity"]["inputs"]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"calibration": "x.npy"}, "samples and calibration are given"),
            ({"method": "lbyl"}, "samples are given, but lbyl with l2 looks at no samples"),
        ],
    )
    def test_options_that_do_not_go_with_them(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(OptionError, match=says):
            compress(
                convolutions(), samples=IMAGES, provider="cpu", config=Config(ratio=0.3), **options
            )

    def test_an_array_is_no_path(self) -> None:
        wrong: dict[str, Any] = {"calibration": {"x": IMAGES}}
        with pytest.raises(OptionError, match="arrays are samples of compress"):
            compress(convolutions(), **wrong)

    def test_samples_of_which_no_two_have_one_size(self) -> None:
        """The sensitivity of the outputs is then that on synthetic samples."""
        each = [IMAGES[n : n + 1, :, :, n:] for n in range(6)]
        found = compress(convolutions(), samples=each, allocation="auto", provider="cpu", ratio=0.3)
        assert found.verification.fidelity.samples == 6


def texts(folder: Path, lengths: Sequence[int]) -> tuple[Path, list[list[int]]]:
    """Texts of so many words each, their numbers, and a tokenizer that knows them."""
    words = [f"w{n}" for n in range(VOCABULARY)]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    rows = [np.random.default_rng(n).integers(0, VOCABULARY, n).tolist() for n in lengths]
    lines = [" ".join(words[number] for number in row) for row in rows]
    (folder / "x.txt").write_text("\n".join(lines))
    return folder / "x.txt", rows


class TestTexts:
    def test_they_give_the_model_of_their_tokens(self, tmp_path: Path) -> None:
        """As arrays with a mask, which a person would have made of them."""
        onnx.save(encoder(), tmp_path / "m.onnx")
        path, rows = texts(tmp_path, LENGTHS)
        ids, mask = (np.zeros((len(rows), max(LENGTHS)), np.int64) for _ in range(2))
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        np.savez(tmp_path / "x.npz", input_ids=ids, attention_mask=mask)
        outputs = [
            written(tmp_path, "--calibration", str(given)) for given in (path, tmp_path / "x.npz")
        ]
        assert outputs[0] == outputs[1]

    def test_they_are_cut_at_the_table_of_positions(self, tmp_path: Path) -> None:
        onnx.save(encoder(positions=7), tmp_path / "m.onnx")
        path, _ = texts(tmp_path, (12, 9, 30, 3))
        found = pruned(tmp_path / "m.onnx", path)
        assert found.before.macs == compress(encoder(7, 7), provider="cpu", ratio=0.3).before.macs
        assert found.verification.fidelity.samples == 4

    def test_a_fixed_length(self, tmp_path: Path) -> None:
        onnx.save(encoder(6), tmp_path / "m.onnx")
        path, _ = texts(tmp_path, (12, 3))
        (tmp_path / "tokenizer.json").rename(tmp_path / "t.json")
        options = ("--calibration", str(path), "--tokenizer", str(tmp_path / "t.json"))
        assert written(tmp_path, *options)

    def test_a_tokenizer_without_texts_is_refused(self) -> None:
        with pytest.raises(OptionError, match="tokenizer is of calibration texts"):
            Config(tokenizer="tokenizer.json")


def listener(length: int | str = "T") -> ModelProto:
    """Two convolutions over a waveform (N, T), then a mean."""
    net = Net(("N", length))
    x = net.node("Unsqueeze", ["x", net.ints(1)])
    x = net.relu(net.conv(x, (1, 8), (9,)))
    x = net.relu(net.conv(x, (8, 8), (3,)))
    return net.model(net.head(x, 8))


class TestSounds:
    def test_they_give_the_model_of_their_values(self, tmp_path: Path) -> None:
        """As an array with one row for each window, which a person would have made of them."""
        onnx.save(listener(400), tmp_path / "m.onnx")
        whole = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, 2000) / (1 << 15)
        soundfile.write(tmp_path / "x.wav", whole, 8000)
        windows = saved(tmp_path, "x.npy", whole.reshape(5, 400).astype(np.float32))
        sound = ("--calibration", str(tmp_path / "x.wav"), "--sample-rate", "8000")
        outputs = [written(tmp_path, *sound), written(tmp_path, "--calibration", str(windows))]
        assert outputs[0] == outputs[1]

    def test_files_of_several_lengths(self, tmp_path: Path) -> None:
        (tmp_path / "sounds").mkdir()
        for number, frames in enumerate((600, 500, 600)):
            values = np.random.default_rng(number).uniform(-1, 1, frames)
            soundfile.write(tmp_path / "sounds" / f"{number}.flac", values, 16_000)
        found = pruned(listener(), tmp_path / "sounds")
        assert found.before.macs == compress(listener(600), provider="cpu", ratio=0.3).before.macs
        assert found.verification.fidelity.samples == 3

    def test_a_rate_without_sounds_is_refused(self) -> None:
        with pytest.raises(OptionError, match="sample_rate is of calibration sounds"):
            Config(sample_rate=8000)
