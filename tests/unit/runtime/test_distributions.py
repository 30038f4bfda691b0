"""Any distribution of ONNX Runtime is enough; of two the user is told."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from lbyl_onnx.report.versions import versions
from lbyl_onnx.runtime.distributions import DISTRIBUTIONS, clash, mend, runtimes
from tests.conftest import ROOT


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **by_name: str) -> None:
    """Let these distributions, and no others, be what is installed."""
    for name, version in by_name.items():
        place = folder / f"{name}-{version}.dist-info"
        place.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        (place / "METADATA").write_text(text)
    monkeypatch.setattr(sys, "path", [str(folder)])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_any_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, **{name.replace("-", "_"): "1.20.1"})
    assert runtimes() == {name: "1.20.1"}
    assert versions()[name] == "1.20.1"
    assert clash() is None


def test_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    assert (runtimes(), clash()) == ({}, None)
    assert mend().startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install")


def test_of_several_it_is_said_how_to_be_rid_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, onnxruntime_gpu="1.20", onnxruntime_openvino="1.21")
    assert str(clash()).startswith(
        "onnxruntime-gpu and onnxruntime-openvino are both installed and overwrite each other"
    )
    assert "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino, then" in str(clash())
    install(tmp_path, monkeypatch, onnxruntime="1.20")
    assert "and onnxruntime-openvino are all installed" in str(clash())


def test_the_page_lists_what_else_is_needed() -> None:
    """The command without dependencies names each of them but ONNX Runtime itself."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    names = {re.split(r"[^\w-]", entry)[0] for entry in needed}
    page = (ROOT / "docs" / "installing.md").read_text()
    lines = re.findall(r"^pip install (.*)$", page, re.MULTILINE)
    (others,) = [line.split() for line in lines if "scipy" in line]
    assert set(others) == names - set(DISTRIBUTIONS)
    excluded = re.findall(r'^(\S+) ; sys_platform == "never"$', page, re.MULTILINE)
    assert set(excluded) == names & set(DISTRIBUTIONS)
