"""What the user says of inputs replaces what the graph seems to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper

from lbyl_onnx import Config, InputKind, compress, inspect
from lbyl_onnx.cli import main
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.graph.model_graph import to_graph
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.inputs.choices import kinds_of
from tests.support.net import Dims, Net
from tests.support.oracle import input_shapes

IMAGE: Dims = ("N", 3, 16, 16)


def image_model(shape: Dims = IMAGE) -> ModelProto:
    net = Net(shape)
    x = net.relu(net.conv("x", (3, 8)))
    return net.model(net.head(net.relu(net.conv(x, (8, 8))), 8))


def text_model(rows: int = 40) -> ModelProto:
    net = Net(("N", "T"))
    net.inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ("N", "T"))]
    x = net.node("Gather", [net.weight("table", rows, 8), "ids"])
    x = net.relu(net.node("MatMul", [x, net.weight("w1", 8, 16)]))
    return net.declared(net.node("MatMul", [x, net.weight("w2", 16, 4)]), "N", "T", 4)


def kind_of(model: ModelProto, *said: str, folder: Path | None = None, **options: Any) -> InputKind:
    config = Config(**{"input": said, **options})
    tensor_info = TensorInfo(model, input_shapes(model, 1, 16), input_shapes(model, 2, 16))
    where = (folder or Path("nowhere")) / "model.onnx"
    return next(iter(kinds_of(to_graph(model), tensor_info, config, where).values()))


@pytest.mark.parametrize("name", ["", "x="])
def test_the_kind_is_the_users(name: str) -> None:
    kind = kind_of(image_model(), f"{name}document")
    assert (kind.name, kind.sure, kind.pixels) == ("document", "stated", None)


@pytest.mark.parametrize(
    ("said", "options", "low", "high", "mean", "spread"),
    [
        ("photo,range=0..255", {}, 0, 255, 127.5, 63.75),
        # (pixel - mean) / std with pixels in [0, 1]: photographs have a quarter of the range.
        ("photo,mean=0.5,std=0.5", {}, -1, 1, 0, 0.5),
        ("photo", {"mean": (0.5,), "std": (0.5,)}, -1, 1, 0, 0.5),
        # Means and deviations that photographs may have are believed to be theirs.
        ("photo,mean=0.45,std=0.25", {}, -1.8, 2.2, 0, 1),
        ("photo,range=0..255,mean=127,std=128", {}, -127 / 128, 1, 0, 63.75 / 128),
    ],
)
def test_the_range_is_that_of_normalised_pixels(
    said: str, options: dict[str, Any], low: float, high: float, mean: float, spread: float
) -> None:
    pixels = kind_of(image_model(), said, **options).pixels
    assert pixels is not None
    found = (pixels.low, pixels.high, *pixels.mean, *pixels.spread)
    np.testing.assert_allclose(found, [low, high, *[mean] * 3, *[spread] * 3], atol=1e-12)


def test_mean_and_std_alone_are_of_every_image() -> None:
    kind = kind_of(image_model(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert kind.name == "image"
    assert kind.pixels is not None
    assert (kind.pixels.low, kind.pixels.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("said", "mean", "spread", "low", "high"),
    [
        ("vector,mean=2,std=3", 2, 3, None, None),
        ("vector,range=0..8", 4, 2, 0, 8),
        ("waveform,range=-32768..32768", 0, 32768, -32768, 32768),
    ],
)
def test_other_values(
    said: str, mean: float, spread: float, low: float | None, high: float | None
) -> None:
    net = Net(("N", 16))
    kind = kind_of(net.model(net.gemm("x", 16, 4)), said)
    assert (kind.mean, kind.spread, kind.low, kind.high) == (mean, spread, low, high)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("y=photo", "there is no input y; the model has x"),
        ("photo,mean=0.5,0.5,std=1", "2 means or deviations for 3 channels"),
        ("x=tokens", "give vocab=N"),
    ],
)
def test_what_cannot_be_of_the_input(said: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        kind_of(image_model(), said)


@pytest.mark.parametrize("said", ["photo", "spectrogram"])
def test_a_vector_is_no_image(said: str) -> None:
    net = Net(("N", 16))
    with pytest.raises(OptionError, match=r"shape \(1, 16\), which is that of no"):
        kind_of(net.model(net.gemm("x", 16, 4)), said)


def test_means_need_an_image() -> None:
    with pytest.raises(OptionError, match="no input of images"):
        kind_of(text_model(), mean=(0.5,))


def test_a_vocabulary_is_the_users_or_the_tables() -> None:
    for said, size in (((), 40), (("ids=tokens,vocab=30",), 30)):
        vocabulary = kind_of(text_model(), *said).vocabulary
        assert vocabulary is not None
        assert vocabulary.size == size


TOKENIZER = {
    "added_tokens": [
        {"id": 0, "content": "[PAD]", "special": True},
        {"id": 1, "content": "[CLS]", "special": True},
        {"id": 2, "content": "[SEP]", "special": True},
        {"id": 9, "content": "word", "special": False},
    ],
    "model": {"vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "b": 8}},
}
ENDS = [
    {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        ],
        "special_tokens": {"[CLS]": {"ids": [1]}, "[SEP]": {"ids": [2]}},
    },
    {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
]


class TestTokenizer:
    """A tokenizer.json beside the model tells the special tokens."""

    @pytest.mark.parametrize("processor", [*ENDS, {"processors": ENDS}], ids=["A", "B", "C"])
    def test_ends_of_a_text(self, processor: dict[str, Any], tmp_path: Path) -> None:
        document = {**TOKENIZER, "post_processor": processor}
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        vocabulary = kind_of(text_model(), folder=tmp_path).vocabulary
        assert vocabulary is not None
        assert (vocabulary.size, vocabulary.special) == (10, (0, 1, 2))
        assert (vocabulary.first, vocabulary.last, vocabulary.padding) == (1, 2, 0)

    def test_a_list_of_pieces_is_a_vocabulary(self, tmp_path: Path) -> None:
        document = {"added_tokens": [], "model": {"vocab": [["a", -1.0], ["b", -2.0]]}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        vocabulary = kind_of(text_model(), folder=tmp_path).vocabulary
        assert vocabulary is not None
        assert (vocabulary.size, vocabulary.first) == (2, None)

    def test_it_may_lie_beside_the_folder_of_the_export(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        (tmp_path / "onnx").mkdir()
        vocabulary = kind_of(text_model(), folder=tmp_path / "onnx").vocabulary
        assert vocabulary is not None
        assert vocabulary.special == (0, 1, 2)

    def test_that_of_another_model_is_left_aside(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        vocabulary = kind_of(text_model(rows=2 + 1 - 1), folder=tmp_path).vocabulary
        assert vocabulary is not None
        assert vocabulary.special == ()

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", '{"added_tokens": 3}', "\ud800"[:0] + "x"]
    )
    def test_what_is_none_is_told(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(CalibrationError, match="is no tokenizer"):
            kind_of(text_model(), folder=tmp_path)

    def test_images_need_none(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{")
        assert kind_of(image_model(), folder=tmp_path).name == "image"


class TestSize:
    """A size that the user gives is that at which the model is measured."""

    def test_it_is(self) -> None:
        model = image_model(("N", 3, "H", "W"))
        found = inspect(model, input=("x=document,size=24x40",), provider="cpu")
        assert found.inputs[0].shape[1:] == (3, 24, 40)
        assert "documents" in found.inputs[0].description

    def test_that_of_a_text(self) -> None:
        found = inspect(text_model(), input=("tokens,size=9",), provider="cpu")
        assert found.inputs[0].shape[1:] == (9,)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ("photo,size=24x40", "the model runs at 1,3,16,16"),
            ("photo,size=2x3x4x5", "size has 4 sides, but the input has 3 axes"),
        ],
    )
    def test_what_does_not_fit(self, said: str, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            inspect(image_model(), input=(said,), provider="cpu")


class TestTold:
    """The first lines say what each input was taken for; a guess is a warning."""

    def run(self, folder: Path, model: ModelProto, *options: str) -> tuple[str, dict[str, Any]]:
        onnx.save(model, folder / "m.onnx")
        report = folder / "report.json"
        arguments = [
            "compress",
            "--ratio=0.3",
            str(folder / "m.onnx"),
            "--dry-run",
            "--json",
            str(report),
        ]
        result = CliRunner().invoke(main, [*arguments, *options])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split()), json.loads(report.read_text())

    def test_an_image_of_one_channel_is_a_guess(self, tmp_path: Path) -> None:
        net = Net(("N", 1, 16, 16))
        x = net.relu(net.conv("x", (1, 8)))
        model = net.model(net.head(net.relu(net.conv(x, (8, 8))), 8))
        output, report = self.run(tmp_path, model, "--round-to", "1")
        assert "input x: 1 x 16 x 16, images (photographs and documents) (a guess: 1" in output
        assert any("--input x=KIND" in warning for warning in report["warnings"])
        assert any("no BatchNormalization" in warning for warning in report["warnings"])
        assert report["inputs"][0]["kind"]["sure"] == "guessed"

    def test_what_batch_normalisation_tells_is_none(self, tmp_path: Path, sample: Path) -> None:
        output, report = self.run(tmp_path, onnx.load(sample))
        assert "input input: 1 x 8 x 8, images" in output
        assert "32 filters tells it" in output
        assert not any("--input" in warning for warning in report["warnings"])

    def test_inspect_says_the_same(self, tmp_path: Path, sample: Path) -> None:
        output, _ = self.run(tmp_path, onnx.load(sample))
        shown = CliRunner().invoke(main, ["inspect", str(sample)]).output
        line = " ".join(shown[shown.index("input input:") :].split("\n\n")[0].split())
        assert "32 filters tells it" in line
        assert line in output

    def test_what_the_user_says_is_none(self, tmp_path: Path, sample: Path) -> None:
        output, report = self.run(tmp_path, onnx.load(sample), "--input", "photo,range=0..1")
        assert "photographs of 0 to 1" in output
        assert not any("--input" in warning for warning in report["warnings"])

    def test_wrong_words_list_the_right_ones(self, tmp_path: Path, sample: Path) -> None:
        command = [
            "compress",
            "--ratio=0.3",
            str(sample),
            str(tmp_path / "o.onnx"),
            "--input",
            "pictures",
        ]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2
        assert "the kinds are image, photo, document" in " ".join(result.output.split())

    def test_methods_without_statistics_need_no_guess(self, tmp_path: Path, sample: Path) -> None:
        _, report = self.run(tmp_path, onnx.load(sample), "--method", "none")
        assert not any("--input" in warning for warning in report["warnings"])


@pytest.mark.parametrize("where", ["a file", "memory"])
def test_the_users_own_samples_need_no_guess(where: str, tmp_path: Path) -> None:
    net = Net(("N", 1, 16, 16))
    x = net.relu(net.conv("x", (1, 8)))
    model = net.model(net.head(net.relu(net.conv(x, (8, 8))), 8))
    own = np.random.default_rng(0).standard_normal((40, 1, 16, 16)).astype(np.float32)
    if where == "memory":
        result = compress(model, ratio=0.5, provider="cpu", round_to=1, samples=own)
    else:
        np.save(tmp_path / "own.npy", own)
        path = str(tmp_path / "own.npy")
        result = compress(model, ratio=0.5, provider="cpu", round_to=1, calibration=path)
    assert [entry.description for entry in result.inputs] == [
        "input x: 1 x 16 x 16, samples of the user's own"
    ]
    assert not any("--calibration" in warning for warning in result.warnings)


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, two = (
        compress(text_model(), ratio=0.5, provider="cpu", round_to=1, input="tokens,vocab=30").model
        for _ in range(2)
    )
    assert one is not None
    assert two is not None
    assert one.SerializeToString() == two.SerializeToString()
