"""Restoration methods and importance criteria: arrays in, arrays out.

Every method takes float64 arrays and returns a `Delivery`, every criterion returns a `Ranking`;
this package knows NumPy and SciPy and nothing of ONNX. `registry` finds them by their names.
"""

# isort: off
# Each registers itself as it is imported, and is listed to users in this order.
from lbyl_onnx.methods import obs, importance
from lbyl_onnx.methods import none, neuron_merging, lbyl, lbyl_plus

__all__ = ["importance", "lbyl", "lbyl_plus", "neuron_merging", "none", "obs", "reduced_rank"]
