"""Give memory back between stages, so that each starts from what it really needs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def new_objects_only() -> Iterator[None]:
    """Leave the objects that are there already out of the collections of `release`.

    The libraries alone have hundreds of thousands: to look at them again at each stage takes most
    of the time that a small model takes. A caller who keeps objects out by `gc.freeze`, too, has
    them kept out still.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release() -> None:
    """Free what only cycles hold, and return what the C allocator keeps for later.

    A connected graph is full of cycles, and its tensors hold the weights. glibc keeps the large
    blocks that ONNX Runtime frees; without this each stage would stand on the peak of the one
    before. Elsewhere than on glibc only the cycles are freed.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
