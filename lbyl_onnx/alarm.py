"""Stop runs of ONNX Runtime whose time is over, by one thread for all of a process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache


class Alarm:
    """A thread that calls what is due; one thread for each run would take longer than most runs."""

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
