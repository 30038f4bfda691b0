"""What was done to one channel group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupReport:
    """What was done to one channel group.

    Parameters
    ----------
    name
        Names of the producing nodes.
    channels, kept
        How many there were, and how many stay.
    ratio
        The share that went.
    consumers
        Names of the nodes that read them.
    restored
        How they were restored.
    predicted_error
        Share of what the consumers read that the kept channels cannot give, in [0, 1]; None where
        it is not known.
    """

    name: str
    channels: int
    kept: int
    ratio: float
    consumers: tuple[str, ...]
    restored: str
    predicted_error: float | None = None
