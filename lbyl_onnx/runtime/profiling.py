"""How long each layer takes, by ONNX Runtime's own profile of the model as it is deployed."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from lbyl_onnx.errors import OutputError
from lbyl_onnx.graph.source import stored_bytes
from lbyl_onnx.guard.bounds import bounded, late_after, seconds_for
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.runtime.session import Feeds, timed

# Runs that are profiled: at most so many, for at most about so many seconds.
RUNS, SECONDS = 50, 1.0
# Runs before them that do not count.
WARM_UP = 2
# What ONNX Runtime's optimisations put around the name of a node or of its output; after the last
# of these there is a number.
_BEFORE = re.compile(r"(?:fused )+")
_AFTER, _COUNTED = ("_nchwc", "_nhwc"), "_token_"
_KERNEL = "_kernel_time"


def kernel_times(
    path: Path, provider: str, feeds: Feeds, optimise: bool = True
) -> dict[str, float]:
    """Profile a model.

    Parameters
    ----------
    path
        The model's file; ONNX Runtime is known to run it.
    provider
        An execution provider's name.
    feeds
        One input.
    optimise
        Whether ONNX Runtime may optimise the graph, as where the model is deployed.

    Returns
    -------
    dict of str to float
        Median milliseconds of each kernel, by the name that ONNX Runtime gives it.

    Raises
    ------
    OutputError
        When there is no room for the profile.
    """
    with tempfile.TemporaryDirectory(prefix="lbyl-onnx-") as folder:
        settings = timed()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        if not optimise:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = list(dict.fromkeys([provider, "CPUExecutionProvider"]))
        what, seconds = f"profiling {path.name}", late_after(seconds_for(stored_bytes(path)))
        with bounded(what, seconds):
            session = ort.InferenceSession(str(path), settings, providers)
        end = time.perf_counter() + SECONDS
        for run in range(RUNS + WARM_UP):
            with bounded(what, seconds):
                session.run(None, dict(feeds))
            if run >= WARM_UP and time.perf_counter() > end:
                break
        try:
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except ValueError as error:  # ONNX Runtime does not look whether it could write
            raise OutputError(
                f"ONNX Runtime's profile in {folder} is cut short: no room on the disk"
            ) from error
    return _medians(events)


def _medians(events: Sequence[Mapping[str, object]]) -> dict[str, float]:
    durations: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        name, duration = str(event.get("name", "")), event.get("dur")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and isinstance(duration, int):
            durations[name.removesuffix(_KERNEL)].append(duration / 1000.0)
    return {name: statistics.median(times[WARM_UP:] or times) for name, times in durations.items()}


def layer_times(
    model: onnx.ModelProto, layers: Sequence[int], kernels: Mapping[str, float]
) -> tuple[dict[int, float], float]:
    """Hand each kernel's time to the layer that it runs.

    ONNX Runtime joins a layer with what follows it and names the kernel after the last of these
    nodes, or after its output: each kernel is given to the nearest layer before that, in the order
    of the graph, that has no kernel yet.

    Parameters
    ----------
    model
        The model that was profiled.
    layers
        Indices of the layers among its nodes.
    kernels
        Milliseconds by the kernel's name.

    Returns
    -------
    times
        Milliseconds by layer; a layer whose kernel is not known is left out.
    others
        Milliseconds of all kernels that are no layer's.
    """
    nodes, layer_nodes = model.graph.node, set(layers)
    by_name = {node.name: index for index, node in enumerate(nodes) if node.name}
    by_output = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    node_of: dict[str, int] = {}
    for kernel in kernels:
        bare = _bare(kernel)
        node_of[kernel] = by_name.get(bare, by_output.get(bare, -1))
    times: dict[int, float] = {}
    # Kernels that bear a layer's own name come first; the others take what those leave.
    for kernel in sorted(kernels, key=lambda k: (node_of[k] not in layer_nodes, node_of[k])):
        layer = _nearest(nodes, node_of[kernel], layer_nodes, by_output, times)
        if layer is not None:
            times[layer] = kernels[kernel]
    return times, max(0.0, sum(kernels.values()) - sum(times.values()))


def _bare(kernel: str) -> str:
    """Take away the decorations, in one walk: a name may consist of thousands."""
    before = _BEFORE.match(kernel)
    start, end = before.end() if before else 0, len(kernel)
    while (shorter := _without_one(kernel, start, end)) != end:
        end = shorter
    return kernel[start:end]


def _without_one(kernel: str, start: int, end: int) -> int:
    """Return where the name ends without its last decoration."""
    for suffix in _AFTER:
        if kernel.endswith(suffix, start, end):
            return end - len(suffix)
    number = end
    while number > start and kernel[number - 1].isdecimal():
        number -= 1
    counted = number < end and kernel.endswith(_COUNTED, start, number)
    return number - len(_COUNTED) if counted else end


def _nearest(
    nodes: Sequence[onnx.NodeProto],
    start: int,
    layers: set[int],
    by_output: Mapping[str, int],
    taken: Mapping[int, float],
) -> int | None:
    """Return the last layer before `start` from which only joinable nodes lead to it."""
    candidates: list[int] = []
    visited: set[int] = set()
    frontier = [start] if start >= 0 else []
    while frontier:
        index = frontier.pop()
        if index in visited:
            continue
        visited.add(index)
        if index in layers:
            candidates.append(index)
        elif nodes[index].op_type in JOINED:
            frontier += [by_output[name] for name in nodes[index].input if name in by_output]
    return max((index for index in candidates if index not in taken), default=None)


# Operators that ONNX Runtime joins with the layer before them.
JOINED = frozenset(
    "Add BatchNormalization Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mul Pad Relu Selu "
    "Sigmoid Softplus Tanh".split()
)
