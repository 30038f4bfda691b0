"""The model that a path means, and what is said of files in other formats."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from lbyl_onnx import ModelError, inspect
from lbyl_onnx.graph.source import open_source
from lbyl_onnx.io.locate import DEEPEST, LISTED, find_model
from lbyl_onnx.io.reader import on_disk
from tests.support.architectures import chain


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_a_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    assert find_model(touched(tmp_path, "model") / "model") == tmp_path / "model"


def test_the_only_model_of_a_folder_is_taken(tmp_path: Path) -> None:
    folder = touched(tmp_path, "config.json", "onnx/Model.ONNX", "model.onnx_data", ".git/a.onnx")
    assert find_model(folder) == tmp_path / "onnx" / "Model.ONNX"
    with on_disk(folder) as path:
        assert path == tmp_path / "onnx" / "Model.ONNX"


def test_several_are_listed(tmp_path: Path) -> None:
    folder = touched(tmp_path, "b.onnx", "onnx/a.onnx")
    with pytest.raises(ModelError, match=r"holds 2 models: b\.onnx, onnx.a\.onnx; give the path"):
        find_model(folder)
    touched(tmp_path, *(f"{number}.onnx" for number in range(100)))
    with pytest.raises(ModelError, match=f"and {102 - LISTED + 1} more"):
        find_model(folder)


def test_of_a_cached_repository_the_main_snapshot_is_taken(tmp_path: Path) -> None:
    touched(tmp_path, "snapshots/new/onnx/model.onnx", "snapshots/old/onnx/model.onnx", "refs/main")
    (tmp_path / "refs" / "main").write_text("new\n")
    assert find_model(tmp_path) == tmp_path / "snapshots" / "new" / "onnx" / "model.onnx"
    (tmp_path / "refs" / "main").write_text("../..")
    with pytest.raises(ModelError, match="holds 2 models"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "holds no .onnx file; give the path of one"),
        (("config.json", "pytorch_model.bin"), "holds no .onnx file; give the path of one"),
        (("config.json", "model.safetensors"), "model.safetensors: .*optimum-cli export onnx"),
        (("saved_model.pb",), "saved_model.pb: it is a TensorFlow model; .*tf2onnx"),
    ],
)
def test_a_folder_without_one(names: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        find_model(touched(tmp_path, *names))


def test_folders_are_looked_into_so_deep_and_no_deeper(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    deep = "/".join("d" * DEEPEST)
    assert find_model(touched(tmp_path, f"{deep}/m.onnx")) == tmp_path / deep / "m.onnx"
    (tmp_path / deep / "m.onnx").unlink()
    with pytest.raises(ModelError, match=r"holds no \.onnx file"):
        find_model(touched(tmp_path, f"{deep}/d/m.onnx"))


@pytest.mark.parametrize("name", ["nothing.onnx", "a\0b", "folder/none/m.onnx"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find_model(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.pt", b"PK\x03\x04", r"PyTorch file; .*torch\.onnx\.export"),
        ("m.tflite", b"\x1c\0\0\0TFL3", "tf2onnx.convert --tflite m.tflite"),
        ("m.pb", b"\0\0", "tf2onnx.convert --saved-model"),
        ("m.safetensors", b"\x40\0\0\0\0\0\0\0{}", "optimum-cli export onnx"),
        ("m.onnx.json", b'{"irVersion": "8"}', "written as text; .*onnx.load"),
        ("m.textproto", b"ir_version: 8", "written as text; .*onnx.load"),
        ("m.pt", b"", "PyTorch file"),
        ("m.txt", b"x", "its bytes cannot be parsed"),
    ],
)
def test_another_format(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_model_is_one_whatever_its_name_ends_with(tmp_path: Path) -> None:
    onnx.save(chain(), tmp_path / "model.pb")
    assert inspect(tmp_path / "model.pb", provider="cpu").groups
