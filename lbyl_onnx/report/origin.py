"""Where a result comes from: the command, the versions, the date and the machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lbyl_onnx.io.files import read_bounded
from lbyl_onnx.report.versions import versions
from lbyl_onnx.results.rendering import many
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.text import short

# Bytes of what Linux tells of its processors, some thousand of each.
_LARGEST_CPUINFO = 1 << 24


@dataclass(frozen=True)
class Machine:
    """What a result was measured on.

    Parameters
    ----------
    processor
        Its name, where the system tells it; else its architecture.
    processors, allowed
        How many the machine has, and how many this process may use.
    system
        The operating system.
    runtime
        Version of ONNX Runtime.
    """

    processor: str
    processors: int
    allowed: int
    system: str
    runtime: str

    def __str__(self) -> str:
        """Return it in one line.

        Examples
        --------
        >>> print(Machine("Neoverse-N1", 64, 2, "Linux", "1.23.2"))
        Neoverse-N1, 2 of 64 processors, Linux, ONNX Runtime 1.23.2
        """
        some = "" if self.allowed == self.processors else f"{self.allowed} of "
        cores = f"{some}{many(self.processors, 'processor')}"
        return f"{self.processor}, {cores}, {self.system}, ONNX Runtime {self.runtime}"


@dataclass(frozen=True)
class Origin:
    """Where a result comes from.

    Parameters
    ----------
    source
        The input, as the user named it.
    command
        The command line, word by word.
    versions
        Of what computed, by name.
    date
        When it was made; empty where that is not told.
    machine
        What it was measured on; None where that is not told.
    """

    source: str
    command: str
    versions: Mapping[str, str]
    date: str = ""
    machine: Machine | None = None


def origin_of(source: str, command: str) -> Origin:
    """Return the origin of a result that is made here and now.

    Parameters
    ----------
    source
        The input, as the user named it.
    command
        The command line, word by word.
    """
    return Origin(source, command, versions(), now(), this_machine())


def now() -> str:
    """Return the date and the time of day, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def this_machine() -> Machine:
    """Return what this process runs on."""
    count = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else count
    return Machine(short(_processor()), count, allowed, platform.system(), ort.__version__)


def _processor() -> str:
    """Return the processor's own name where the system tells it."""
    try:
        text = read_bounded(Path("/proc/cpuinfo"), _LARGEST_CPUINFO).decode(errors="replace")
    except OSError:
        text = ""
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return next(iter(names), "").strip() or platform.processor() or platform.machine()
