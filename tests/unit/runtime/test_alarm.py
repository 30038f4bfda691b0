"""Runs whose time is over are stopped, the others are not."""

from __future__ import annotations

import threading
import time

from lbyl_onnx.runtime.session import Alarm

# Seconds; a busy machine may be late, but never early.
SOON, LATE = 0.05, 30.0


def test_what_takes_too_long_is_told_so() -> None:
    fired = threading.Event()
    begun = time.monotonic()
    with Alarm().after(SOON, fired.set):
        assert fired.wait(LATE)
    assert time.monotonic() - begun >= SOON


def test_what_is_done_in_time_is_left_alone() -> None:
    fired, other = threading.Event(), threading.Event()
    alarm = Alarm()
    with alarm.after(SOON, fired.set):
        pass
    with alarm.after(4 * SOON, other.set):
        assert other.wait(LATE)
    assert not fired.is_set()


def test_an_earlier_end_is_not_missed_for_a_later_one() -> None:
    fired, never = threading.Event(), threading.Event()
    alarm = Alarm()
    with alarm.after(10 * LATE, never.set):
        time.sleep(SOON)  # the thread now waits for the later one
        with alarm.after(SOON, fired.set):
            assert fired.wait(LATE)
    assert not never.is_set()
