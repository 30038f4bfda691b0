"""Results read back: what was written comes back, and anything else is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbyl_onnx import CompressResult
from lbyl_onnx.errors import ReportError
from lbyl_onnx.report.json import FORMAT, as_json
from lbyl_onnx.report.origin import Machine, Origin
from lbyl_onnx.report.recorded import read_result

MACHINE = Machine("A fast one", 64, 2, "Linux", "1.23.2")
ORIGIN = Origin("digits.onnx", "lbyl-onnx", {}, "2026-01-02 03:04 UTC", MACHINE)


@pytest.fixture(scope="module")
def document(result: CompressResult) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(as_json(result, ORIGIN, "1.2.3"))
    return loaded


def test_what_was_written_comes_back(result: CompressResult, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(as_json(result, ORIGIN, "1.2.3"))
    read = read_result(path)
    assert (read.lbyl_onnx, read.date, read.machine) == ("1.2.3", ORIGIN.date, MACHINE)
    assert (read.input, read.output) == ("digits.onnx", None)
    assert read.times == result.latency
    assert read.groups == result.groups
    assert read.refusals == result.refusals
    assert read.warnings == result.warnings
    assert read.verification.fidelity == result.verification.fidelity
    assert (read.before.macs, read.after.macs) == (result.before.macs, result.after.macs)
    assert (read.before.file_size, read.after.file_size) == (result.size_before, result.size_after)
    assert (read.target.text, read.options.method) == (result.target.text, "lbyl+")


def without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}


def with_ratio(document: dict[str, Any], value: object) -> dict[str, Any]:
    return document | {"time_ratio": document["time_ratio"] | {"low": value}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: without(d, "format"), "is no result of this version's"),
        (lambda d: [d], "is no result of this version's"),
        (lambda d: d | {"format": FORMAT + 1}, "is of format 2, by lbyl-onnx 1.2.3; this version"),
        (lambda d: d | {"format": True}, "is of format True"),
        (lambda d: without(d, "time_ratio"), "is damaged: time_ratio is missing"),
        (lambda d: d | {"groups": {}}, "is damaged: groups is no list"),
        (lambda d: d | {"groups": [3]}, r"is damaged: groups\[0\] is no object"),
        (lambda d: with_ratio(d, "1"), "is damaged: time_ratio.low is '1'"),
        (lambda d: with_ratio(d, True), "is damaged: time_ratio.low is True"),
        (lambda d: with_ratio(d, 10**400), r"is damaged: time_ratio.low is 1000+\.\.\.0"),
        (lambda d: d | {"input": None}, "is damaged: input is None"),
        (lambda d: d | {"before": d["before"] | {"macs": -1}}, "before.macs is -1"),
        (lambda d: d | {"before": d["before"] | {"macs": 1.5}}, "before.macs is 1.5"),
    ],
)
def test_what_is_no_such_file_is_refused(
    document: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(change(document)))
    with pytest.raises(ReportError, match=says) as error:
        read_result(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfe", "is no JSON"),
        (b'{"format": 1, ', "is no JSON"),
        (b'{"format": NaN}', "is no JSON: NaN is no number"),
        (b"[" * 100_000, "is no JSON: it is nested too deeply"),
        (b'{"format": ' + b"1" * 5000 + b"}", "is no JSON"),
        (b"", "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(ReportError, match=says):
        read_result(path)


def test_a_number_beyond_all_floats_is_damage(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(with_ratio(document, 123456.5)).replace("123456.5", "1e999"))
    with pytest.raises(ReportError, match=r"time_ratio\.low is inf"):
        read_result(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "directory|regular"), (tmp_path / "no.json", "No such file")):
        with pytest.raises(ReportError, match=says):
            read_result(path)
    (tmp_path / "r.json").write_text("[" + "0," * 50 + "0]")
    with pytest.raises(ReportError, match="more than 100 bytes"):
        read_result(tmp_path / "r.json", largest=100)
