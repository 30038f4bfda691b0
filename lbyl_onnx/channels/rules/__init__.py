"""One row per operator: how channel labels cross it. `RULES` is the table.

A rule reads the labels of a node's inputs and returns those of its outputs; on the way it tells
the `LabelFlow` which constants carry labels (bindings), which numbers count channels (sizes), which
labels are coupled, which must stay. Semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from lbyl_onnx.channels.labels import Labels
from lbyl_onnx.channels.rules import attention, elementwise, mixing, moves, weights
from lbyl_onnx.channels.rules.view import NodeView, Rule
from lbyl_onnx.types import DEFAULT_DOMAINS, OperatorKey


def reads_shape(view: NodeView) -> list[Labels | None]:
    """Shape, Size: no channel's value is read."""
    return []


def no_rule(view: NodeView) -> list[Labels | None]:
    """Freeze everything: an operator the table does not know.

    For the report, what a constant of another domain's operator holds is listed, too.
    """
    domain = view.node.domain
    name = f"{domain}::{view.op_type}" if domain else view.op_type
    reason = f"operator {name} has no rule"
    if (domain or "") not in DEFAULT_DOMAINS:
        weights.unfollowed(view, reason)
    return view.freeze_inputs(reason)


ELEMENTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul "
    "Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
).split()
POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool".split()
REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare"
).split()
_ONNX: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(("Cast", "CastLike", "Dropout", "Identity"), elementwise.passes_first),
    **dict.fromkeys(POOLS, mixing.pool),
    **dict.fromkeys(REDUCTIONS, mixing.reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), mixing.arg_reduce),
    **dict.fromkeys(mixing.ALONG_AXIS, mixing.along_axis),
    **dict.fromkeys(mixing.TO_THE_END, mixing.normalisation),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moves.reshape),
    **dict.fromkeys(("Resize", "Upsample"), moves.resize),
    **dict.fromkeys(("Shape", "Size"), reads_shape),
    "Attention": attention.attention,
    "BatchNormalization": mixing.batch_normalization,
    "Concat": moves.concat,
    "Conv": weights.conv,
    "ConvTranspose": weights.conv,
    "DepthToSpace": moves.depth_to_space,
    "Einsum": weights.matmul,
    "Expand": moves.expand_,
    "Gather": moves.gather,
    "Gemm": weights.linear,
    "GroupNormalization": mixing.group_normalization,
    "InstanceNormalization": mixing.instance_normalization,
    "MatMul": weights.matmul,
    "MeanVarianceNormalization": mixing.mean_variance,
    "Pad": moves.pad,
    "SequenceAt": moves.sequence_at,
    "Slice": moves.slice_,
    "SpaceToDepth": moves.space_to_depth,
    "Split": moves.split,
    "SplitToSequence": moves.split_to_sequence,
    "Tile": moves.tile,
    "Transpose": moves.transpose,
}
# Operators of which channels may lie along an axis of any length, which repeats them.
_FREE = (
    "Cast CastLike Dropout Einsum Flatten Identity MatMul Reshape Shape Squeeze Transpose".split()
)
AT_ANY_LENGTH = frozenset(("", n) for n in (*ELEMENTWISE, *mixing.SOFTMAXES, *_FREE, "Unsqueeze"))
RULES: dict[OperatorKey, Rule] = {("", name): rule for name, rule in _ONNX.items()}
RULES["com.microsoft", "MultiHeadAttention"] = attention.multi_head_attention
