"""How much a compression spends on what it measures: samples, rounds, seconds, bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Of models with more bytes ONNX Runtime does not optimise the graph: it would copy the weights.
LARGE = 1 << 30
# Runs of each kind that remain, however large a model is: one alone says nothing of the spread.
FEWEST = 2
# Fields of `Effort` that count runs of a whole model.
_RUNS = (
    "random_inputs",
    "loaded_rounds",
    "fewest_compared",
    "most_compared",
    "most_unmeasured",
    "most_predicted",
)


@dataclass(frozen=True)
class Effort:
    """Limits of the work behind one result; they are no options of the command.

    Parameters
    ----------
    rounds, fewest_rounds
        Rounds in which two models are timed in turns: at most, and of slow models at least.
    narrow_rounds
        Rounds after which they are enough if the interval of the ratio is narrow.
    random_inputs
        Random inputs at the first input shapes on which the result is proven.
    loaded_rounds
        Rounds of models too large to be held both at once: they are loaded anew for each turn.
    pass_macs
        Multiply-accumulates that one pass over samples may take, if the fewest samples allow.
    drawn_values
        Values of all synthetic samples together, if `enough_samples` of them allow: drawing one
        takes as long as hundreds of multiply-accumulates.
    fewest_samples, most_samples
        Synthetic samples of the statistics, whatever such a pass takes.
    enough_samples
        Samples to take even where fewer give enough rows.
    largest_batch
        Samples in a mini-batch, at most.
    compared_macs
        Multiply-accumulates that the original may take on the samples on which the result is
        compared with it, if the fewest allow; about as many go to each other comparison.
    fewest_compared, most_compared
        Samples on which the result is compared with the original.
    most_unmeasured
        The same, at most, where no statistics are taken, and drawing samples takes longer than all
        the rest.
    most_predicted
        Samples of another family, at most, on which it is compared to predict how near it is on
        real inputs.
    slowest_run
        Seconds that a run at a larger input shape is expected to take at most.
    held_weight
        Bytes of a new weight, at most, that is kept; larger ones are computed when they are
        written.
    held_moments
        Bytes of covariances that are held at a time; groups beyond wait for another pass.
    """

    rounds: int = 15
    fewest_rounds: int = 9
    narrow_rounds: int = 5
    random_inputs: int = 8
    loaded_rounds: int = 5
    pass_macs: int = 100 * 10**9
    drawn_values: int = 1 << 22
    compared_macs: int = 25 * 10**9
    fewest_samples: int = 64
    most_samples: int = 4096
    enough_samples: int = 256
    largest_batch: int = 128
    fewest_compared: int = 16
    most_compared: int = 128
    most_unmeasured: int = 64
    most_predicted: int = 64
    slowest_run: float = 2.0
    held_weight: int = 16 << 20
    held_moments: int = 1 << 30

    def at(self, size: int) -> Effort:
        """Return the effort for a model of so many bytes.

        Weights of more than `LARGE` are read from the file in each run: of larger models there are
        so many fewer runs, and at least `FEWEST` of each kind.
        """
        if size <= LARGE:
            return self
        usual = {name: int(getattr(self, name)) for name in _RUNS}
        fewer = {n: min(v, max(FEWEST, v * LARGE // size)) for n, v in usual.items()}
        return replace(self, **fewer)


USUAL = Effort()
