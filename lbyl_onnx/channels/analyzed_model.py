"""A model in all the forms that its analysis gives it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from lbyl_onnx.channels.affine import Response, respond
from lbyl_onnx.channels.analysis import find_channels
from lbyl_onnx.channels.groups import ChannelGroup, ChannelMap, GroupBinding, Selection
from lbyl_onnx.channels.heads.products import Factor, factors_of
from lbyl_onnx.channels.heads.terms import Terms, terms_of
from lbyl_onnx.channels.paths import Activation, activation_between
from lbyl_onnx.channels.refusals import refuse_quantised
from lbyl_onnx.channels.rules.view import SharedNorm
from lbyl_onnx.graph.costs import Costs, count_costs
from lbyl_onnx.graph.layers import linear_layer
from lbyl_onnx.graph.model_graph import Graph, to_graph
from lbyl_onnx.graph.norms.parts import NormParts, parts_of
from lbyl_onnx.graph.sharing import Sharing
from lbyl_onnx.graph.source import Source
from lbyl_onnx.graph.tensor_info import TensorInfo
from lbyl_onnx.input_options.shapes import Shapes
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft


@dataclass(frozen=True)
class AnalyzedModel:
    """A model in the forms that the stages have given it so far."""

    model: onnx.ModelProto
    read: TensorReader
    graph: Graph
    tensor_info: TensorInfo
    channels: ChannelMap

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle all but the graph, which is connected, and follows from the model."""
        return _with_graph, (self.model, self.read, self.tensor_info, self.channels)

    @classmethod
    def open(
        cls, files: Source, shapes: Sequence[Shapes], selection: Selection | None = None
    ) -> AnalyzedModel:
        """Read a model and find its channel groups.

        Parameters
        ----------
        files
            Of the model.
        shapes
            Sets of input shapes at which it runs, two or more: costs are counted at the first.
        selection
            Which groups may be pruned; all of scope `inner` without.

        Raises
        ------
        ModelError
            When a file is no longer what was read at first.
        NothingToPruneError
            When the model is quantised.
        OptionError
            When a glob of the selection matches no producer.
        """
        model, read = files.load(), files.reader
        tensor_info = TensorInfo(model, shapes[0], shapes[1], read, shapes[2:])
        graph = to_graph(model)
        refuse_quantised(graph)
        channels = find_channels(graph, tensor_info, selection or Selection())
        return cls(model, read, graph, tensor_info, channels)

    def selected(self, selection: Selection) -> AnalyzedModel:
        """Return the same model with the channels that another selection gives it."""
        return replace(self, channels=find_channels(self.graph, self.tensor_info, selection))

    @property
    def costs(self) -> Costs:
        """Its parameters and multiply-accumulates."""
        return count_costs(self.model, self.tensor_info)

    @property
    def largest_activation(self) -> int:
        """Elements of the largest output of a node, at the first input shapes."""
        names = [name for node in self.model.graph.node for name in node.output if name]
        shapes = [self.tensor_info.shape(name) or () for name in names]
        return max((math.prod(d or 0 for d in shape) for shape in shapes), default=1)

    @property
    def draft(self) -> ModelDraft:
        """The model as what an instrumented model is made of."""
        return ModelDraft.of(self.model)

    def layers(self, group: ChannelGroup) -> tuple[Layer, ...]:
        """Return a group's consumers by the weight that they read."""
        return layers(self.graph, self.tensor_info, self.channels.sharing, group)

    def respond(self, group: ChannelGroup, consumer: GroupBinding) -> Response | None:
        """How a group's channels reach a consumer."""
        return respond(self.model, self.graph, self.tensor_info, self.channels, group, consumer)

    def factors(self, group: ChannelGroup) -> tuple[Factor, Factor] | None:
        """Return the factors of a group's product, where their channels can be mixed."""
        return factors_of(self.graph, self.tensor_info, self.channels, group)

    def terms(self, group: ChannelGroup) -> tuple[Terms, ...]:
        """Return the terms of each of a group's products, where they can be told apart."""
        return terms_of(self.graph, self.tensor_info, self.channels, group)

    def norm_parts(self, norm: SharedNorm) -> NormParts | None:
        """Return the constants of a layer or RMS normalisation; None of any other."""
        node = self.graph.nodes[norm.node]
        return parts_of(node, norm.labels.shape[-1], self.tensor_info)

    def activation(self, group: ChannelGroup, consumer: GroupBinding) -> Activation | None:
        """Return what lies between a group and a consumer, where it is an activation alone."""
        return activation_between(
            self.model, self.graph, self.tensor_info, self.channels, group, consumer
        )


def _with_graph(
    model: onnx.ModelProto, read: TensorReader, tensor_info: TensorInfo, channels: ChannelMap
) -> AnalyzedModel:
    return AnalyzedModel(model, read, to_graph(model), tensor_info, channels)


@dataclass(frozen=True)
class Layer:
    """The consumers of a group that read one weight.

    Parameters
    ----------
    consumers
        Their indices among the group's consumers.
    biases
        What each adds to its outputs: equal where it is one constant.
    """

    consumers: tuple[int, ...]
    biases: tuple[str, ...]


def layers(
    graph: Graph, tensor_info: TensorInfo, sharing: Sharing, group: ChannelGroup
) -> tuple[Layer, ...]:
    """Gather the consumers of a group by the weight that they read, in their order."""
    numbers_by_layer: dict[tuple[str | int, int], list[int]] = defaultdict(list)
    for number, place in enumerate(group.consumers):
        numbers_by_layer[place.binding.layer].append(number)
    nodes = [place.binding.node for place in group.consumers]
    return tuple(
        Layer(
            tuple(numbers),
            tuple(bias_of(graph, tensor_info, sharing, nodes[i]) for i in numbers),
        )
        for numbers in numbers_by_layer.values()
    )


def bias_of(graph: Graph, tensor_info: TensorInfo, sharing: Sharing, node: int) -> str:
    """Return the name of the constant behind a layer's bias; "" where it has none."""
    layer = linear_layer(tensor_info, graph.nodes[node])
    if layer is None or layer.bias_operand is None or not layer.has_bias:
        return ""
    use = sharing.uses.get((node, layer.bias_operand))
    return layer.node.inputs[layer.bias_operand] if use is None else use.base
