from __future__ import annotations

import compileall
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

# Tests run side by side: threads of each would only get in the way of the others'.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from lbyl_onnx.data.synthetic.images import images
from lbyl_onnx.guard.effort import USUAL, Effort
from lbyl_onnx.runtime import session, timing
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.runtime.session import Feeds
from lbyl_onnx.runtime.timing import PairedLatency
from tests.support.images_once import made_once

ROOT = Path(__file__).resolve().parent.parent


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for commands, and these rest between runs."""
    return (os.cpu_count() or 1) + 1


def _one_thread(options: Callable[[], ort.SessionOptions]) -> Callable[[], ort.SessionOptions]:
    """Options of sessions without threads of their own: these spin, beside other tests' work."""

    def made() -> ort.SessionOptions:
        settings = options()
        settings.intra_op_num_threads = 1
        return settings

    return made


def _over_few_rounds(paired: Callable[..., PairedLatency]) -> Callable[..., PairedLatency]:
    """Time in turns as `paired` does, but over two rounds without rest."""

    def made(
        original: Path,
        other: Path,
        provider: str,
        feeds: Feeds,
        optimise: bool = True,
        effort: Effort = USUAL,
        step: Callable[[int, int], None] = lambda done, total: None,
    ) -> PairedLatency:
        few = replace(effort, rounds=2, fewest_rounds=2, loaded_rounds=2)
        return paired(original, other, provider, feeds, optimise, few, step)

    return made


@pytest.fixture(scope="session", autouse=True)
def _quick() -> Iterator[None]:
    """Time the hundreds of compressions here over few runs, and compile the package once.

    An argument of each would not do: many are made by the command, by a sweep or by examples of the
    pages, which have none. The commands that tests start in processes of their own write no
    bytecode: each would compile all of it again. Models of one input size take the same images.
    """
    compileall.compile_dir(ROOT / "lbyl_onnx", quiet=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "paired", _over_few_rounds(timing.paired))
        patch.setattr(session, "options", _one_thread(session.options))
        once = made_once(images)
        patch.setattr("lbyl_onnx.data.synthetic.feeds.images", once)
        patch.setattr("lbyl_onnx.inputs.image_fit.images", once)
        yield


@pytest.fixture(scope="session")
def sample() -> Path:
    return ROOT / "samples" / "digits.onnx"
