"""Restoration methods: how the kept channels stand in for the removed ones.

Every method takes float64 arrays and returns a `Delivery`; this package knows NumPy and SciPy and
nothing of ONNX. Call a method through its module: ``lbyl.deliver(rows, kept)``.
"""

from lbyl_onnx.methods import lbyl, lbyl_plus, neuron_merging, none, reduced_rank
from lbyl_onnx.methods.types import Delivery, FoldedRows, Moments

__all__ = [
    "Delivery",
    "FoldedRows",
    "Moments",
    "lbyl",
    "lbyl_plus",
    "neuron_merging",
    "none",
    "reduced_rank",
]
