"""Mutants of models through the whole pipeline: an error of ours, or a verified output."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.hostile.command import OPTIONS, run
from tests.hostile.fuzz import bytes_of, hunt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals are POSIX")

MUTANTS = 2000


@pytest.mark.corpus
def test_two_thousand_mutants(tmp_path: Path) -> None:
    """A native crash is allowed here, where the command then tells it in one line."""
    outcome = hunt(MUTANTS)
    print(dict(outcome.ends))
    assert outcome.bad == {}
    assert sum(outcome.ends.values()) == MUTANTS
    # The mutants must not all die at the door.
    assert outcome.ends["passed"] > MUTANTS // 20
    for number in outcome.deaths:
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "in.onnx").write_bytes(bytes_of(number))
        ran = run(["compress", "--ratio=0.3", "in.onnx", "out.onnx", *OPTIONS], tmp_path / "models")
        assert 1 <= ran.code <= 4
        assert re.fullmatch(r"lbyl-onnx: [^\n]*\bin\.onnx\b[^\n]*\n", ran.stderr)


def test_a_mutant_is_the_same_every_time() -> None:
    assert [bytes_of(number) for number in range(20)] == [bytes_of(number) for number in range(20)]
