"""A callback that raises stops the work wherever it is, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from lbyl_onnx import CompressResult, Stage, compress
from lbyl_onnx.types import numbered
from tests.support.architectures import chain


class StoppedError(Exception):
    pass


def test_stages_know_their_place() -> None:
    stages: list[Stage] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert isinstance(stage, Stage)
        stages.append(stage)

    compress(chain(), progress=progress, provider="cpu", round_to=1, method="none", ratio=0.3)
    places = {str(stage): (stage.number, stage.of) for stage in stages}
    assert places == {
        "running the original": (1, 6),
        "finding channel groups": (2, 6),
        "choosing samples": (2, 6),  # a part of it
        "compensating": (3, 6),
        "rewriting": (4, 6),
        "verifying": (5, 6),
        "predicting": (6, 6),
        "comparing outputs": (6, 6),
        "timing both models": (6, 6),
    }


def test_a_stage_that_is_not_foreseen_is_part_of_the_one_before() -> None:
    calls: list[tuple[str, int, int]] = []
    progress = numbered(
        lambda stage, done, total: calls.append((stage, getattr(stage, "number", 0), done)),
        ("one", "two", "three"),
    )
    for name in ("two", "another", "one"):
        progress(name, 7, 9)
    assert calls == [("two", 2, 7), ("another", 2, 7), ("one", 1, 7)]


def counted(model: Path, output: Path, stop_at: int | None) -> list[tuple[str, int, int]]:
    """Compress; return the calls of the callback, which raises at one of them."""
    calls: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if len(calls) == stop_at:
            raise StoppedError
        calls.append((stage, done, total))

    compress(model, output, progress=progress, provider="cpu", round_to=1, method="lbyl", ratio=0.3)
    return calls


def test_at_each_stage(tmp_path: Path) -> None:
    model, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(chain(), model)
    calls = counted(model, output, None)
    assert {"running the original", "verifying"} <= {stage for stage, _, _ in calls}
    # Where there is no telling how many there are, the total is 0.
    assert all(0 <= done <= total or total == 0 for _, done, total in calls)
    first = {stage: number for number, (stage, _, _) in reversed([*enumerate(calls)])}
    for number in sorted({*first.values(), len(calls) - 1}):
        other = tmp_path / "other.onnx"
        with pytest.raises(StoppedError):
            counted(model, other, number)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.onnx"]


def test_before_it_is_written(tmp_path: Path) -> None:
    model = tmp_path / "in.onnx"
    onnx.save(chain(), model)

    def stop(result: CompressResult) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        compress(
            model,
            tmp_path / "out.onnx",
            method="none",
            provider="cpu",
            ratio=0.3,
            before_writing=stop,
        )
    assert list(tmp_path.iterdir()) == [model]
