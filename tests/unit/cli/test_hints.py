"""What is said where a command was likely meant to be another."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from lbyl_onnx.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("in.onnx out.onnx", "write a command in front of the model: "
         "lbyl-onnx compress in.onnx out.onnx"),
        ("in.onnx 'my out.onnx' --ratio 0.3", "lbyl-onnx compress in.onnx 'my out.onnx' --ratio"),
        ("in.onnx", "lbyl-onnx inspect in.onnx"),
        ("--ratio 0.3 in.onnx out.onnx", "lbyl-onnx compress --ratio 0.3 in.onnx out.onnx"),
        ("compres in.onnx", "did you mean compress?"),
        ("anything", "No such command 'anything'"),
        ("--anything", "No such option"),
    ],
)  # fmt: skip
def test_words_that_are_no_command(words: str, says: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("Error: ") == 1
