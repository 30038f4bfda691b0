"""A model's file exchanged for another while it is read, and put back: noticed, or of no effect."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lbyl_onnx import Config, ModelError, compare_models, compress
from lbyl_onnx.graph.source import check_source
from lbyl_onnx.io.external_data import TensorReader
from tests.support.architectures import chain

QUICK = Config(round_to=1, ratio=0.5, provider="cpu", method="none", external_data="never")
FOREIGN = np.float32(0.4142)


@pytest.fixture(params=["w.bin", "in.onnx"])
def exchanged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of a model in.onnx, and beside it one of the same size with foreign weights."""
    model, foreign = chain(), chain()
    for tensor in foreign.graph.initializer:
        filled = np.full(tuple(tensor.dims), FOREIGN)
        tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    outside = request.param == "w.bin"
    for name, proto in (("in.onnx", model), ("other.onnx", foreign)):
        data = {"w.bin": "w.bin", "in.onnx": name}[request.param]
        target = tmp_path / name if name == "in.onnx" else tmp_path / "other" / name
        target.parent.mkdir(exist_ok=True)
        onnx.save(proto, target, save_as_external_data=outside, location=data, size_threshold=0)
    path = tmp_path / str(request.param)
    other = "other/w.bin" if outside else "other/other.onnx"
    (tmp_path / other).rename(tmp_path / "foreign")
    assert (tmp_path / "foreign").stat().st_size == path.stat().st_size
    return path


class Renamed:
    """Another file in its place, and the first one back."""

    def __init__(self, file: Path) -> None:
        self.file, self.foreign = file, file.with_name("foreign")

    def there(self) -> None:
        self.file.rename(self.file.with_name("kept"))
        self.foreign.rename(self.file)

    def back(self) -> None:
        self.file.rename(self.foreign)
        self.file.with_name("kept").rename(self.file)


class Overwritten(Renamed):
    """Other bytes in it, and the first ones back, with their time."""

    def there(self) -> None:
        shutil.copy2(self.file, self.file.with_name("kept"))
        self._write(self.foreign)

    def back(self) -> None:
        self._write(self.file.with_name("kept"))

    def _write(self, source: Path) -> None:
        before = self.file.stat()
        self.file.write_bytes(source.read_bytes())
        os.utime(self.file, ns=(before.st_atime_ns, before.st_mtime_ns))


WHEN = [
    ("finding channel groups", "verifying"),
    ("rewriting", "verifying"),
    ("verifying", None),
]


@pytest.mark.parametrize("way", [Renamed, Overwritten])
@pytest.mark.parametrize("when", WHEN)
def test_compress(
    way: Callable[[Path], Renamed], when: tuple[str, str | None], exchanged: Path
) -> None:
    swap, stages = way(exchanged), list[str]()

    def at(stage: str, done: int, total: int) -> None:
        if stage in stages:
            return
        stages.append(stage)
        if stage == when[0]:
            swap.there()
        elif stage == when[1]:
            swap.back()

    folder = exchanged.parent
    with pytest.raises(ModelError, match=f"{exchanged.name} changed while it was read"):
        compress(folder / "in.onnx", folder / "out.onnx", config=QUICK, progress=at)
    assert when[0] in stages
    assert not (folder / "out.onnx").exists()


def test_verify(exchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, swap = exchanged.parent, Renamed(exchanged)
    shutil.copytree(folder, folder / "same")
    from lbyl_onnx.evaluate import compare as comparison

    run = comparison._outputs

    def outputs(*arguments: object) -> object:
        swap.there()
        outputs_found = run(*arguments)  # type: ignore[arg-type]
        swap.back()
        return outputs_found

    monkeypatch.setattr(comparison, "_outputs", outputs)
    with pytest.raises(ModelError, match="changed while it was read"):
        compare_models(folder / "in.onnx", folder / "same" / "in.onnx", provider="cpu")


def test_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(chain(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    source = check_source(path)
    tensor = source.load().graph.initializer[0]
    assert source.reader(tensor).shape == tuple(tensor.dims)
    os.truncate(tmp_path / "w.bin", 4)
    with pytest.raises(ModelError, match=r"w\.bin changed while it was read"):
        source.reader(tensor)
    with pytest.raises(ModelError, match="ends behind the end"):
        TensorReader(path)(tensor)


def test_a_data_file_that_leads_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(chain(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(ModelError, match=r"location 'w\.bin', a link that leads to itself"):
        check_source(path)
