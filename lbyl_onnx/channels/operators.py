"""Operators that users add to those that this package knows."""

from __future__ import annotations

from lbyl_onnx.channels.rules import RULES
from lbyl_onnx.channels.rules.view import Rule
from lbyl_onnx.channels.rules.weights import linear
from lbyl_onnx.errors import OptionError
from lbyl_onnx.graph.inference import INFERENCE, Infer
from lbyl_onnx.graph.layers import LAYERS, Describe
from lbyl_onnx.types import operator_key


def register_operator(
    op_type: str,
    *,
    rule: Rule | None = None,
    layer: Describe | None = None,
    infer: Infer | None = None,
    domain: str = "",
) -> None:
    """Let channels pass through an operator that this package does not know.

    The registration holds for this process.

    Parameters
    ----------
    op_type, domain
        Name of the operator, and its domain; that of ONNX's own operators is "".
    rule
        How channel labels cross it, as for the rows of `lbyl_onnx.channels.rules.RULES`. For a
        layer it may be left out: the description tells it.
    layer
        For an operator with a constant weight, its description as a linear layer, or the reason
        why a node is none.
    infer
        Types and shapes of its outputs. Operators of other domains than ONNX's have no other: their
        channels must stay without it. `like_first_input` is one.

    Raises
    ------
    OptionError
        When the operator is known already, or neither a rule nor a layer is given.
    """
    key = operator_key(domain, op_type)
    name = f"{domain}::{op_type}" if domain else op_type
    if rule is None and layer is None:
        raise OptionError(f"operator {name} needs a rule or a layer to be registered")
    if key in RULES or key in LAYERS:
        raise OptionError(f"operator {name} is registered already")
    RULES[key] = linear if rule is None else rule
    if layer is not None:
        LAYERS[key] = layer
    if infer is not None:
        INFERENCE[key] = infer
