"""Sessions of ONNX Runtime: opened, run, and stopped at a time limit."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lbyl_onnx.errors import ModelError, TooSlowError, first_line
from lbyl_onnx.graph.source import stored_bytes
from lbyl_onnx.guard.bounds import bounded, late_after, seconds_for
from lbyl_onnx.guard.memory import allow_mapped
from lbyl_onnx.runtime.installed import ort, ort_errors
from lbyl_onnx.types import Array


class Alarm:
    """A timer thread shared by all runs: one for each would take longer than most runs."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._wakes = 0.0  # when the thread looks next by itself
        threading.Thread(target=self._watch, name="lbyl-onnx alarm", daemon=True).start()

    @contextmanager
    def after(self, seconds: float, call: Callable[[], None]) -> Iterator[None]:
        """Call something once the block takes longer than so many seconds."""
        number, end = next(self._numbers), time.monotonic() + seconds
        with self._changed:
            self._due[number] = (end, call)
            if end < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(number, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for number in [n for n, (end, _) in self._due.items() if end <= now]:
                    self._due.pop(number)[1]()
                # Where nothing is due it looks now and then, so that most runs need not wake it.
                self._wakes = min([end for end, _ in self._due.values()], default=now + 1.0)
                self._changed.wait(max(0.0, self._wakes - now))


@cache
def alarm() -> Alarm:
    """Return the alarm of this process."""
    return Alarm()


Feeds = Mapping[str, Array]
CPU = "CPUExecutionProvider"
RUN_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@dataclass(frozen=True)
class Signature:
    """Name, type and declared shape of each input and output of a model.

    `overridable` are the inputs that have a default, which are fed where a caller wants another.
    """

    inputs: tuple[tuple[str, str, tuple[object, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[object, ...]], ...]
    overridable: tuple[tuple[str, str, tuple[object, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Session:
    """A model that ONNX Runtime has loaded.

    Parameters
    ----------
    path
        Its file.
    loaded
        ONNX Runtime's own session.
    seconds
        What it has for a run of one sample: a graph may hold a loop without end.
    """

    path: Path
    loaded: ort.InferenceSession
    seconds: float

    @staticmethod
    def of(path: Path, provider: str, settings: ort.SessionOptions | None = None) -> Session:
        """Load a model.

        Raises
        ------
        ModelError
            When ONNX Runtime does not load it.
        """
        providers = list(dict.fromkeys([provider, CPU]))
        size = stored_bytes(path)
        seconds = seconds_for(size)
        allow_mapped(size)
        try:
            # It computes what is constant while it loads, however long that takes.
            with bounded(f"loading {path.name} in ONNX Runtime", seconds):
                loaded = ort.InferenceSession(str(path), settings or options(), providers)
        except RUN_ERRORS as error:
            raise ModelError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
        return Session(path, loaded, seconds)

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

        def describe(values: Sequence[Any]) -> tuple[tuple[str, str, tuple[object, ...]], ...]:
            return tuple((v.name, v.type, tuple(v.shape or ())) for v in values)

        return Signature(
            describe(self.loaded.get_inputs()),
            describe(self.loaded.get_outputs()),
            describe(self.loaded.get_overridable_initializers()),
        )

    def run(self, feeds: Feeds, samples: int = 1) -> tuple[Array, ...]:
        """Run it on a batch of so many samples, whose number is the time that it has.

        The outputs are the caller's own: of what `lend` gives, copies.

        Raises
        ------
        TooSlowError
            When that time is over.
        ModelError
            When ONNX Runtime does not run it.
        """
        return tuple(map(np.array, self.lend(feeds, samples)))

    def lend(self, feeds: Feeds, samples: int = 1) -> tuple[Array, ...]:
        """Run it as `run` does, for outputs that are let go of before the next run.

        They lie in ONNX Runtime's own memory, all of which is held as long as one of them is.
        Raises what `run` does.
        """
        try:
            with self._bounded(samples) as run_options:
                outputs = self.loaded.run(None, dict(feeds), run_options)
        except (*RUN_ERRORS, ValueError) as error:  # ValueError where an input is not fed
            raise ModelError(f"ONNX Runtime cannot run {self.path}: {first_line(error)}") from error
        return tuple(_as_array(output) for output in outputs)

    @contextmanager
    def _bounded(self, samples: int) -> Iterator[ort.RunOptions]:
        """Options for a run that is stopped, between two nodes, when its time is over.

        Where one node alone takes longer, the process is.
        """
        seconds = samples * self.seconds
        run_options, begun = ort.RunOptions(), time.monotonic()

        def stop() -> None:
            run_options.terminate = True

        what = f"running {self.path.name} once in ONNX Runtime"
        try:
            with alarm().after(seconds, stop), bounded(what, late_after(seconds)):
                yield run_options
        except RUN_ERRORS as error:
            if time.monotonic() - begun >= seconds:
                raise TooSlowError(
                    f"ONNX Runtime took more than {seconds:.0f} seconds to run {self.path} once"
                ) from error
            raise


def options() -> ort.SessionOptions:
    """Return the options of a session that optimises the graph."""
    settings = _quiet()
    # A thread that spins until the next node takes a core from what else runs meanwhile.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def timed() -> ort.SessionOptions:
    """Return the options of a session that runs as it is deployed, to be timed.

    Its threads spin within a run, as they do by default, and not between runs: they would take
    the cores of the model that is timed next.
    """
    settings = _quiet()
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _quiet() -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # failures are raised; what else it says is not for the user
    return settings


def as_written() -> ort.SessionOptions:
    """Return the options of a session that runs the graph node by node and keeps no weights.

    What a node takes is given back behind it: memory is that of the largest layer.
    """
    settings = options()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.disable_prepacking", "1")
    # An arena keeps what a node took, as a weight in another type, until the session is gone.
    settings.enable_cpu_mem_arena = False
    return _one_by_one(settings)


def as_needed() -> ort.SessionOptions:
    """Return the options of a session that holds little more memory than one run needs."""
    return _one_by_one(options())


def _one_by_one(settings: ort.SessionOptions) -> ort.SessionOptions:
    """Let go what one layer takes before the next one runs."""
    # A plan of all of a run's memory would be held beside what the first run took without it.
    settings.enable_mem_pattern = False
    # In the order of the file. By its own order ONNX Runtime would hold what is measured of every
    # layer, and every weight that is read in another type, until the last one is there.
    settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return settings


def _as_array(output: object) -> Array:
    """Return an output as an array; a sequence of maps, as classifiers give, by its values.

    Of a sequence of tensors that differ in shape, all values in a row.
    """
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.asarray([list(entry.values()) for entry in output])
    if isinstance(output, list) and len({np.shape(part) for part in output}) > 1:
        return np.concatenate([np.ravel(part) for part in output])
    return np.asarray(output)
