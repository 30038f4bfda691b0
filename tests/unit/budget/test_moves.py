"""Which way to a target is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lbyl_onnx.budget.moves import Attempt, Moved, Moves
from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError, TargetError
from lbyl_onnx.option_types import Move


@dataclass(frozen=True)
class Scripted(Moves):
    """Attempts that write their name, and have a nearness and a cost; None is one that fails."""

    script: Sequence[tuple[Move, float | None, int]] = ()
    made: list[str] = field(default_factory=list)

    def attempts(self) -> Iterator[Attempt]:
        for move, nearness, macs in self.script:
            yield Attempt((move,), partial(self._make, move, nearness, macs), {})

    def _make(self, move: str, nearness: float | None, macs: int) -> Moved | None:
        self.made.append(move)
        if nearness is None:
            raise TargetError("it cannot be reached")
        reached: Any = SimpleNamespace(costs=SimpleNamespace(macs=macs))
        return Moved(self.prepared, reached, (), nearness, Path(move), Path("reference"))

    def _publish(self, best: Moved) -> None:
        self.made.append(f"{best.path} published")


def scripted(config: Config, *script: tuple[Move, float | None, int]) -> Scripted:
    prepared: Any = SimpleNamespace(config=config)
    nothing: Any = None
    files = (Path("a"), Path("b"))
    return Scripted(prepared, nothing, nothing, files, nothing, nothing, script=script)


MACS = Config(macs="50%")


def test_the_nearest_is_taken_and_published() -> None:
    moves = scripted(MACS, ("prune", 0.98, 5), ("factor", 0.9, 4))
    assert moves.best().nearness == 0.98
    assert moves.made == ["prune", "factor", "prune published"]


def test_of_equals_the_first() -> None:
    moves = scripted(MACS, ("prune", 0.9, 5), ("factor", 0.9, 4))
    assert moves.best().path == Path("prune")


def test_a_fidelity_takes_the_fewest_multiply_accumulates() -> None:
    moves = scripted(Config(fidelity=0.9), ("prune", 0.98, 5), ("factor", 0.9, 4))
    assert moves.best().reached.costs.macs == 4


def test_what_fails_is_left_out() -> None:
    moves = scripted(MACS, ("prune", 0.8, 5), ("factor", None, 4))
    assert moves.best().nearness == 0.8
    assert moves.made == ["prune", "factor", "prune published"]


@pytest.mark.parametrize(
    ("config", "prune", "factor", "part"),
    [
        (MACS, (0.9, 5), (0.9, 5), 0.5),
        (MACS, (0.81, 5), (0.9, 5), 2 / 3),  # twice the damage by pruning
        (MACS, (0.5, 5), (0.99, 5), 0.8),
        (Config(fidelity=0.9), (0.9, 5), (0.9, 5), 0.5),
        (Config(fidelity=0.9), (0.9, 50), (0.9, 25), 0.8),  # twice the way by factors
    ],
)
def test_both_moves_go_as_far_as_they_do_the_least_damage(
    config: Config, prune: tuple[float, int], factor: tuple[float, int], part: float
) -> None:
    moves = scripted(config)
    costs: Any = SimpleNamespace(costs=SimpleNamespace(macs=100))
    made = {name: moves._make(name, *done) for name, done in (("prune", prune), ("factor", factor))}
    alone: Any = {name: moved for name, moved in made.items() if moved is not None}
    assert replace(moves, before=costs)._part(alone) == pytest.approx(part)
    assert replace(moves, before=costs)._part({}) == 0.5


def test_no_way_at_all() -> None:
    with pytest.raises(TargetError, match="it cannot be reached"):
        scripted(MACS, ("prune", None, 5), ("factor", None, 4)).best()


class TestOptions:
    def test_names_with_commas_in_one_order(self) -> None:
        assert Config(macs="50%", moves="factor, prune").moves == ("prune", "factor")  # type: ignore[arg-type]

    def test_int8_is_the_option_quantize(self) -> None:
        config = Config(macs="50%", moves=("prune", "int8"))
        assert config.quantize == "int8"
        assert Config(macs="50%", moves=("prune",), quantize="int8").moves == ("prune", "int8")
        assert replace(config, seed=1) == Config(macs="50%", moves=("prune", "int8"), seed=1)

    def test_what_is_allowed_without_the_option(self) -> None:
        assert Config().prunes
        assert not Config().factors
        assert not Config(min_score=0.9, metric="mine:score").factors
        assert Config(fidelity=0.9).factors
        assert not Config(macs="50%", moves=("prune",)).factors
        assert not Config(macs="50%", method="none").factors
        assert Config(macs="50%").factors
        assert not Config(macs="50%", moves=("factor",)).prunes
        assert Config(macs="50%", moves=("factor",)).factors

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"ratio": 0.3, "moves": ("factor",)}, "moves has factor, but a ratio is of channels"),
            ({"macs": "50%", "moves": ("int8",)}, "moves has int8 alone, which macs does not"),
            ({"moves": "cut"}, "moves is 'cut'; give moves of prune, factor, int8"),
            ({"moves": 3}, "moves is 3; give names of moves with commas between"),
        ],
    )
    def test_what_makes_no_sense(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(OptionError) as caught:
            Config(**options)
        assert says in str(caught.value)
