"""What a process tells of the work that it has begun, and what its parent makes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbyl_onnx.guard import bounds, breadcrumbs
from lbyl_onnx.guard.bounds import Overdue, Watch, bounded


class Clock:
    """A clock that goes where it is put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lbyl_onnx.guard.bounds.time.monotonic", clock)
    return clock


@pytest.fixture
def watch(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A watch on this very process."""
    monkeypatch.setenv(breadcrumbs.VARIABLE, str(tmp_path / "notes"))
    bounds._table.cache_clear()
    yield Watch(tmp_path / "notes")
    bounds._table.cache_clear()


def look_for(watch: Watch, clock: Clock, seconds: float) -> Overdue | None:
    """Look every half second."""
    for _ in range(int(2 * seconds)):
        clock.now += 0.5
        if (late := watch.overdue()) is not None:
            return late
    return None


def test_what_lasts_too_long_is_told_with_its_name(watch: Watch, clock: Clock) -> None:
    with bounded("loading m.onnx", 20.0):
        assert watch.overdue() is None
        assert look_for(watch, clock, 20.0) is None
        late = look_for(watch, clock, 1.0)
    assert str(late) == "loading m.onnx took more than 20 seconds"


def test_what_has_ended_is_not_late(watch: Watch, clock: Clock) -> None:
    for _ in range(10):
        with bounded("a run", 2.0):
            assert look_for(watch, clock, 1.5) is None
    assert look_for(watch, clock, 10.0) is None


def test_work_within_work_is_bounded_by_both(watch: Watch, clock: Clock) -> None:
    with bounded("the whole", 4.0):
        with bounded("a part", 2.0):
            late = look_for(watch, clock, 4.0)
        assert late is not None
        assert late.what == "a part"
        late = look_for(watch, clock, 4.0)
        assert late is not None
        assert late.what == "the whole"


def test_more_work_at_once_than_there_are_records_goes_on(watch: Watch, clock: Clock) -> None:
    begun, ends = threading.Barrier(101), threading.Event()

    def work() -> None:
        with bounded("work", 2.0):
            begun.wait()
            ends.wait()

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert look_for(watch, clock, 4.0) == Overdue("work", 2.0)
    ends.set()
    for thread in threads:
        thread.join()
    assert look_for(watch, clock, 4.0) is None


def test_the_time_in_which_the_parent_was_stopped_does_not_count(
    watch: Watch, clock: Clock
) -> None:
    """As by Ctrl-Z, which stops both."""
    with bounded("a run", 20.0):
        watch.overdue()
        clock.now += 3600.0
        assert watch.overdue() is None
        assert look_for(watch, clock, 18.0) is None
        assert look_for(watch, clock, 4.0) is not None


def test_a_process_that_waits_for_a_processor_has_more_time(watch: Watch, clock: Clock) -> None:
    """A tenth of a processor, or none; several count as one."""
    for share, least in ((0.1, 8.0), (0.0, 8.0), (0.5, 4.0), (1.0, 2.0), (4.0, 2.0)):
        spent = begun = clock.now
        watch.overdue(spent)
        with bounded("a run", 2.0):
            watch.overdue(spent)
            late = None
            while late is None:
                clock.now, spent = clock.now + 0.5, spent + 0.5 * share
                late = watch.overdue(spent)
        assert clock.now - begun == pytest.approx(least, abs=2.1)
        assert clock.now - begun > least
        clock.now, spent = 2 * clock.now, 2 * clock.now
        watch.overdue(spent)


def test_names_that_are_long_or_no_text_are_told_in_part(watch: Watch, clock: Clock) -> None:
    with bounded("\udcff" + "é" * 10_000, 1.0):
        late = look_for(watch, clock, 4.0)
    assert late is not None
    assert late.what.startswith("?éé")
    assert len(late.what) < 500


def test_a_process_that_ends_by_itself_tells(watch: Watch) -> None:
    assert not watch.has_ended()
    bounds.end()
    assert watch.has_ended()


def test_without_room_nothing_is_watched_and_nothing_fails(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "absent" / "notes"
    monkeypatch.setenv(breadcrumbs.VARIABLE, str(file))
    bounds._table.cache_clear()
    watch = Watch(file)
    with bounded("a run", 1.0):
        assert look_for(watch, clock, 4.0) is None
    assert watch.has_ended()
    bounds._table.cache_clear()


def test_from_python_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(breadcrumbs.VARIABLE, raising=False)
    bounds._table.cache_clear()
    with bounded("a run", 0.0):
        pass


def test_a_larger_model_has_more_time() -> None:
    assert bounds.seconds_for(0) == 20.0
    assert bounds.seconds_for(3 << 30) == 80.0
