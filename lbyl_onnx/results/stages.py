"""The stages of a compression, as the user is told of them."""

from __future__ import annotations

from lbyl_onnx.config import Config


def stages_of(config: Config) -> tuple[str, ...]:
    """Return the stages of one call, in order, without those that its options leave out."""
    searched = config.allotted == "auto" or config.target.kind not in ("ratio", "macs")
    stages = {
        "running the original": True,
        "finding channel groups": True,
        "weighing heads against dims": config.attention == "auto",
        "measuring factors": config.factors,
        "factoring": config.factors,
        "looking for what can go": searched,
        "measuring sensitivities": searched,
        "compensating": True,
        "rewriting": True,
        "repairing": config.needs_moments,
        "timing": config.target.kind == "latency",
        "verifying": True,
        "quantising": config.quantize is not None,
        "predicting": True,
    }
    return tuple(name for name, done in stages.items() if done)
