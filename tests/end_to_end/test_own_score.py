"""A score of the user's own, as a target and as a bound."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from lbyl_onnx import Config, OptionError, TargetError, compare_models, compress, sweep
from lbyl_onnx.cli import main
from tests.support.architectures import chain

# Scores a model by how many weights it has: a stand-in that needs no data.
COUNTED = """
import onnx, numpy

def weights(path):
    return float(sum(numpy.prod(t.dims) for t in onnx.load(path).graph.initializer))

def broken(path):
    raise KeyError("no such class")

def text(path):
    return "good"

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(COUNTED, "utf-8")
    return tmp_path / "mine.py"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(chain(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def weights(path: Path) -> float:
    return float(sum(onnx.numpy_helper.to_array(t).size for t in onnx.load(path).graph.initializer))


def test_the_smallest_model_with_the_score_is_taken(file: Path, model: Path) -> None:
    least = 0.6 * weights(model)
    out = model.with_name("out.onnx")
    result = compress(
        model, out, min_score=least, metric=f"{file}:weights", provider="cpu", round_to=1
    )
    assert least <= weights(out) < weights(model)
    assert result.target.reached == weights(out)
    assert f"min score {least:g}: reached" in result.summary(width=200)


def test_a_score_that_the_original_has_not_cannot_be_reached(file: Path, model: Path) -> None:
    most = weights(model)
    with pytest.raises(TargetError, match=f"cannot be reached: the most is {most:.4g}"):
        compress(model, min_score=2.0 * most, metric=f"{file}:weights", provider="cpu")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("{file}:broken", r"raised KeyError on in.onnx: \'no such class\'"),
        ("{file}:text", "returned 'good'; return a finite number"),
        ("{file}:missing", "cannot be imported: AttributeError"),
        ("{file}:number", "is no function"),
        ("no_such_module:weights", "cannot be imported: ModuleNotFoundError"),
        ("weights", "give module:function or file.py:function"),
    ],
)
def test_a_function_that_gives_no_score_is_refused(
    file: Path, model: Path, name: str, reason: str
) -> None:
    with pytest.raises(OptionError, match=reason):
        compare_models(model, model, provider="cpu", score=name.format(file=file))


def test_a_module_in_the_current_folder_is_found(
    file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    scores = compare_models(model, model, provider="cpu", score="mine:weights").scores
    assert scores == (weights(model), weights(model))


@pytest.mark.parametrize(("least", "code"), [(1.0, 0), (1e9, 3)])
def test_verify_holds_it_against_a_bound(file: Path, model: Path, least: float, code: int) -> None:
    arguments = ["verify", str(model), str(model), "--score", f"{file}:weights"]
    shown = CliRunner().invoke(main, [*arguments, "--min-score", str(least)])
    assert shown.exit_code == code
    assert "score" in shown.output


@pytest.mark.parametrize("given", [{"min_score": 0.5}, {"metric": "a:b"}])
def test_target_and_function_go_together(given: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="metric and min_score go together; give both"):
        compress(chain(), **given)  # type: ignore[arg-type]


def test_a_sweep_draws_it(file: Path, model: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "curve", Config(provider="cpu", round_to=1)
    curve = sweep(
        model, out, ratios=[0.3, 0.6], methods="none", score=f"{file}:weights", config=config
    )
    assert [outcome.metric for outcome in curve.outcomes] == ["score", "score"]
    before, after = curve.outcomes[0].before, [o.after.score for o in curve.outcomes]
    assert before.score > after[0] > after[1]
    assert curve.outcomes[0].interval(before) is None
    assert "score" in (out / "sweep.svg").read_text()
    again = sweep(
        model, out, ratios=[0.3, 0.6], methods="none", score=f"{file}:weights", config=config
    )
    assert (again.reused, again.outcomes) == (2, curve.outcomes)


def test_a_sweep_scores_by_one_thing(file: Path, model: Path) -> None:
    with pytest.raises(OptionError, match="score and inputs are given"):
        sweep(model, score=f"{file}:weights", inputs="samples.npz")
