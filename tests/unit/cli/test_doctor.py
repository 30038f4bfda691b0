"""What the doctor says of an installation."""

from __future__ import annotations

import json
import sys
from typing import Any

import onnxruntime as ort
import pytest
from click.testing import CliRunner

from lbyl_onnx.cli import main
from lbyl_onnx.cli.doctor import problems
from lbyl_onnx.runtime import distributions
from lbyl_onnx.runtime.providers import ProviderState, provider_states


def test_it_tells_versions_providers_blocks_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert f"Python {sys.version.split()[0]}" in result.stdout
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    assert ["CPUExecutionProvider", "works"] in [[line[0], line[-1].strip()] for line in lines]
    assert "channels in blocks of " in result.stdout
    assert "OMP_NUM_THREADS 3" in result.stdout
    assert "nothing clashes" in result.stdout
    assert result.stderr == ""


def test_json() -> None:
    document = json.loads(CliRunner().invoke(main, ["doctor", "--json", "-", "--quiet"]).stdout)
    assert document["providers"]["CPUExecutionProvider"] == "works"
    assert document["runtime"] == ort.__version__
    assert document["problems"] == []
    assert document["channel_block"] > 0


def test_what_clashes_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": ort.__version__, "onnxruntime-gpu": "1.2.3"}
    monkeypatch.setattr(distributions, "runtimes", lambda: both)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "problem: onnxruntime and onnxruntime-gpu are both installed" in result.stdout


def test_another_copy_that_comes_first_is_a_problem() -> None:
    assert problems(ort.__version__) == ()
    (line,) = problems("0.0.1")
    assert "onnxruntime 0.0.1 is imported where onnxruntime" in line


class TestProviders:
    def states(self, monkeypatch: pytest.MonkeyPatch, session: Any) -> tuple[ProviderState, ...]:
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["Odd"])
        monkeypatch.setattr(ort, "InferenceSession", session)
        return provider_states()

    def test_one_that_falls_back_does_not_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Session:
            def __init__(self, *_: object, **__: object) -> None:
                pass

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"]

        (state,) = self.states(monkeypatch, Session)
        assert "does not initialise" in str(state.problem)

    def test_nor_one_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def session(*_: object, **__: object) -> None:
            raise RuntimeError("/src/a.cc:729 void f::g(A&, const B&) Please install it.\nstack")

        (state,) = self.states(monkeypatch, session)
        assert state.problem == "Please install it."

    def test_nor_one_that_computes_something_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Session:
            def __init__(self, *_: object, **__: object) -> None:
                pass

            def get_providers(self) -> list[str]:
                return ["Odd"]

            def run(self, names: object, feeds: dict[str, Any]) -> list[Any]:
                return [feeds["x"]]

        assert [s.problem for s in self.states(monkeypatch, Session)] == ["computes a wrong sum"]
