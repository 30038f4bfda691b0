"""What each input of a model was taken for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lbyl_onnx.data.input_kind import InputKind
from lbyl_onnx.input_options.shapes import Shapes


@dataclass(frozen=True)
class InputReport:
    """What one input was taken for, and at which size the model was measured.

    Parameters
    ----------
    name
        Of the input.
    shape
        Of one batch.
    kind
        What it takes, why that is believed, and how sure it is.
    calibrated
        Whether the statistics are of the user's own samples.
    """

    name: str
    shape: tuple[int, ...]
    kind: InputKind
    calibrated: bool

    @property
    def description(self) -> str:
        """One line for the user."""
        sides = " x ".join(map(str, self.shape[1:])) or "one number"
        if self.calibrated:
            return f"input {self.name}: {sides}, samples of the user's own"
        sure = {"guessed": "a guess: ", "likely": "likely: "}.get(self.kind.sure, "")
        return f"input {self.name}: {sides}, {self.kind.description} ({sure}{self.kind.reason})"


def input_reports(
    kinds: Mapping[str, InputKind], shapes: Shapes, calibrated: bool
) -> tuple[InputReport, ...]:
    """Return what is told of each input.

    Parameters
    ----------
    kinds
        What the inputs take, by name.
    shapes
        At which the model was measured.
    calibrated
        Whether the statistics are of the user's own samples.
    """
    return tuple(InputReport(n, shapes[n], kind, calibrated) for n, kind in kinds.items())


# How models are exported with BatchNormalization in its own nodes.
KEPT = (
    "PyTorch: torch.onnx.export(.., dynamo=True, optimize=False); Keras: tf2onnx without its "
    "back_to_back_optimizer; Paddle: paddle2onnx --optimize_tool None"
)


def input_warnings(inputs: Sequence[InputReport], folded: bool) -> Iterator[str]:
    """Yield what makes statistics of synthetic samples doubtful.

    Parameters
    ----------
    inputs
        What each was taken for.
    folded
        Whether the model's convolutions have no normalisation behind them.
    """
    yield from _guessed(inputs)
    if folded and not any(entry.calibrated for entry in inputs):
        yield (
            "no BatchNormalization stands behind the convolutions, so that nothing corrects what "
            f"synthetic samples cause: export the model with it kept ({KEPT}), or give "
            "--calibration; 100 images do"
        )


def _guessed(inputs: Sequence[InputReport]) -> Iterator[str]:
    """Yield a warning of the inputs whose kind is a guess."""
    guessed = [i for i in inputs if i.kind.sure == "guessed" and not i.calibrated]
    if not guessed:
        return
    one = guessed[0]
    others = f", and likewise {len(guessed) - 1} more," if len(guessed) > 1 else ""
    yield (
        f"what input {one.name}{others} takes is a guess: say it with --input {one.name}=KIND, or "
        "give --calibration"
    )
