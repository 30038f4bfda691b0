from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lbyl_onnx import Config, Effort, ModelError, OutputError, compress
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft
from lbyl_onnx.option_types import ExternalData
from tests.support.oracle import run

CPU = Config(round_to=1, ratio=0.25, provider="cpu")


@pytest.fixture
def external(sample: Path, tmp_path: Path) -> Path:
    """The sample with its weights in a file beside it."""
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(onnx.load(sample), path, save_as_external_data=True, location="weights.bin")
    return path


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"input": rng.standard_normal((2, 1, 8, 8)).astype(np.float32)}


def test_the_same_model_comes_out_wherever_the_weights_lie(
    sample: Path, external: Path, tmp_path: Path
) -> None:
    compress(sample, tmp_path / "inline.onnx", config=CPU)
    compress(external, tmp_path / "outside.onnx", config=CPU)
    inline, outside = (onnx.load(tmp_path / f"{n}.onnx") for n in ("inline", "outside"))
    for one, two in zip(run(inline, feeds()), run(outside, feeds()), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("source", "external_data", "files"),
    [
        ("sample", "auto", 1),
        ("sample", "always", 2),
        ("sample", "never", 1),
        ("external", "auto", 2),
        ("external", "always", 2),
        ("external", "never", 1),
    ],
)
def test_where_the_weights_of_the_output_lie(
    source: str,
    external_data: ExternalData,
    files: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    config = Config(round_to=1, ratio=0.25, provider="cpu", external_data=external_data)
    result = compress(request.getfixturevalue(source), folder / "out.onnx", config=config)
    written = list(folder.iterdir())
    assert len(written) == files
    assert result.size_after == sum(file.stat().st_size for file in written)
    onnx.checker.check_model(folder / "out.onnx", full_check=True)


def test_the_size_before_counts_the_data_file(external: Path) -> None:
    result = compress(external, config=CPU)
    assert result.size_before == sum(f.stat().st_size for f in external.parent.iterdir())


def test_overwriting_leaves_no_data_file_behind(external: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    for ratio in (0.25, 0.5, 0.5):
        compress(
            external, output, config=Config(round_to=1, ratio=ratio, provider="cpu"), force=True
        )
    assert len(list(tmp_path.glob("out.onnx*"))) == 2
    assert run(onnx.load(output), feeds())[0].shape == (2, 10)


def test_a_model_hub_cache_of_links_is_read(external: Path, tmp_path: Path) -> None:
    """snapshots/abc/model.onnx -> ../../blobs/1, its data likewise, as ONNX Runtime accepts."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("model.onnx", "weights.bin")):
        external.with_name(name).rename(blobs / str(number))
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    assert compress(snapshot / "model.onnx", config=CPU).groups


def with_entry(path: Path, key: str, value: str) -> Path:
    """Change an entry of the first external tensor."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    entry = next((e for e in tensor.external_data if e.key == key), None)
    entry = entry or tensor.external_data.add(key=key)
    entry.value = value
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("location", "../secret.bin", "leads out of its folder"),
        ("location", "a/../../secret.bin", "leads out of its folder"),
        ("location", "/etc/passwd", "no relative path"),
        ("location", "C:\\weights.bin", "no relative path"),
        ("location", "", "no relative path"),
        ("location", "absent.bin", "is no file"),
        ("location", ".", "is no file"),
        ("offset", "-4096", "no number"),
        ("offset", "1e3", "no number"),
        ("offset", str(2**60), "ends behind the end"),
        ("length", "-1", "no number"),
        ("length", str(2**60), "where its shape takes"),
        ("length", "4", "where its shape takes"),
    ],
)
def test_data_that_may_not_be_read_is_one_clear_error(
    external: Path, tmp_path: Path, key: str, value: str, says: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 10**6)
    with pytest.raises(ModelError, match=says):
        compress(with_entry(external, key, value), tmp_path / "out.onnx", config=CPU)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_out_of_the_folder_is_not_followed(external: Path, tmp_path: Path) -> None:
    data = external.with_name("weights.bin")
    data.rename(tmp_path / "elsewhere.bin")
    data.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelError, match="leads out of its folder"):
        compress(external, config=CPU)


def test_shapes_whose_product_overflows_are_refused(external: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    tensor.dims[:] = [2**32, 2**32]
    external.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="where its shape takes"):
        compress(external, config=CPU)


def test_external_tensors_are_mapped_not_copied(external: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    value = TensorReader(external)(tensor)
    assert isinstance(value, np.memmap)
    stored = onnx.load(external).graph.initializer
    whole = next(t for t in stored if t.name == tensor.name)
    np.testing.assert_array_equal(value, numpy_helper.to_array(whole))


def test_more_than_one_message_holds_needs_a_data_file(sample: Path, tmp_path: Path) -> None:
    model, read, path = onnx.load(sample), TensorReader(sample), tmp_path / "out.onnx"
    draft = ModelDraft.of(model)
    with pytest.raises(OutputError, match="give --external-data auto or always"):
        write_draft(draft, path, read, "never", most=10_000)
    assert list(tmp_path.iterdir()) == []
    write_draft(draft, path, read, "auto", most=10_000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.onnx", "out.onnx_data"]
    np.testing.assert_array_equal(run(onnx.load(path), feeds())[0], run(model, feeds())[0])


@pytest.mark.parametrize("source", ["sample", "external"])
def test_weights_computed_while_they_are_written_are_the_same(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What is done for large weights, done for all."""
    path = request.getfixturevalue(source)
    compress(path, tmp_path / "kept.onnx", config=CPU)
    compress(path, tmp_path / "deferred.onnx", config=CPU, effort=Effort(held_weight=64))
    kept, deferred = (run(onnx.load(tmp_path / f"{n}.onnx"), feeds()) for n in ("kept", "deferred"))
    for one, two in zip(kept, deferred, strict=True):
        np.testing.assert_array_equal(one, two)
    if source == "sample":
        assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "deferred.onnx").read_bytes()


@pytest.mark.parametrize("values", [b"", b"\0" * 4, b"\0" * 12, b"\0" * 7])
def test_a_stored_tensor_that_is_not_what_its_shape_says_is_one_clear_error(
    sample: Path, values: bytes
) -> None:
    tensor = onnx.TensorProto(name="t", data_type=1, dims=[2], raw_data=values)
    with pytest.raises(ModelError, match="tensor t does not hold what its shape and type say"):
        TensorReader(sample)(tensor)
