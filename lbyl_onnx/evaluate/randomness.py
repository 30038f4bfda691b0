"""Operators that draw random numbers: taken out, so that two models can be compared.

ONNX Runtime seeds an operator that has no seed anew in each session, so that a model differs from
itself. In temporary copies each one gets a seed of its own, the same in all models: run on the
same inputs in the same order they draw the same numbers. Dropout in training mode is switched off,
as the channels that it drops may not be there in the other model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, helper

from lbyl_onnx.graph import source
from lbyl_onnx.graph.model_graph import subgraphs
from lbyl_onnx.graph.tensor_info import DRAWING
from lbyl_onnx.guard.memory import release
from lbyl_onnx.io.external_data import TensorReader
from lbyl_onnx.io.writer import ModelDraft, write_draft


@contextmanager
def same_randomness(*paths: Path) -> Iterator[tuple[tuple[Path, ...], tuple[str, ...]]]:
    """Give models that draw the same random numbers, and the names of the nodes that draw them.

    Parameters
    ----------
    paths
        Files of models with the same random operators, or none; files without are given as they
        are.

    Yields
    ------
    paths, names
        Files to run, the copies gone when it ends, and the nodes of the first that draws any.
    """
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        outputs = [Path(folder) / f"{number}.onnx" for number in range(len(paths))]
        settled = [_settled_copy(*pair) for pair in zip(paths, outputs, strict=True)]
        release()
        chosen = zip(paths, outputs, settled, strict=True)
        run = tuple(output if names else path for path, output, names in chosen)
        yield run, next((names for names in settled if names), ())


def _settled_copy(path: Path, output: Path) -> tuple[str, ...]:
    """Write a copy of a model that draws random numbers; nothing for another."""
    model, _ = source.load_model(path)
    names = settle(model)
    if names:
        write_draft(ModelDraft.of(model), output, TensorReader(path), "auto")
    return names


def settle(model: onnx.ModelProto) -> tuple[str, ...]:
    """Give a model's random operators seeds, in their order; return the names of the nodes."""
    names: list[str] = []
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or not _settled(node, len(names) + 1):
                continue
            names.append(node.name or f"{node.op_type}({node.output[0]})")
    return tuple(names)


def _settled(node: NodeProto, number: int) -> bool:
    """Settle what a node draws; False where it draws nothing."""
    if node.op_type == "Dropout":
        if len(node.input) < 3 or not node.input[2]:
            return False
        node.input[2] = ""
        return True
    if node.op_type not in DRAWING:
        return False
    if not any(attribute.name == "seed" for attribute in node.attribute):
        node.attribute.append(helper.make_attribute("seed", float(number)))
    return True


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the bodies of its nodes."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from _graphs(body)
