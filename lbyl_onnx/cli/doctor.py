"""`lbyl-onnx doctor`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from lbyl_onnx.cli import common
from lbyl_onnx.cli.help import SectionedCommand
from lbyl_onnx.report.origin import this_machine
from lbyl_onnx.report.versions import versions
from lbyl_onnx.results.layout import Lines, TextTable
from lbyl_onnx.runtime.distributions import clash, runtimes
from lbyl_onnx.runtime.installed import ort
from lbyl_onnx.runtime.providers import (
    ProviderState,
    channel_block,
    provider_name,
    provider_states,
)

_SECTIONS = {"Telling": ("--json", "--quiet", "--debug")}
_EXAMPLES = """\b
Examples:
  lbyl-onnx doctor
  lbyl-onnx doctor --json -

\b
Exit codes: 0 all is well, 1 something clashes.
"""
# What tells libraries how many threads to take.
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Diagnosis:
    """What an installation is, and what is wrong with it.

    Parameters
    ----------
    versions
        Of the tool, of Python and of what computes.
    runtime
        Version of the ONNX Runtime that is imported.
    providers
        The execution providers that it was built with.
    automatic
        The one that `--provider auto` takes.
    channel_block
        Channels that its kernels take at once.
    processors, allowed
        Of the machine, and those that this process may use.
    threads
        Variables of the environment that bound threads.
    problems
        What clashes, a line each.
    """

    versions: dict[str, str]
    runtime: str
    providers: tuple[ProviderState, ...]
    automatic: str
    channel_block: int
    processors: int
    allowed: int
    threads: dict[str, str]
    problems: tuple[str, ...]


@click.command("doctor", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@common.quiet_option
@common.json_option
@common.debug_option
def doctor(quiet: bool, json_path: str | None, debug: bool) -> None:
    """Show what is installed here, which providers really work, and what clashes."""
    with common.errors_in_one_line(debug, None):
        common.check_json_path(json_path)
        diagnosis = examine()
        common.write_json_to(_as_json(diagnosis), json_path)
        if not quiet:
            _print(diagnosis, common.console_for(json_path))
    if diagnosis.problems:
        sys.exit(1)


def examine() -> Diagnosis:
    """Return what this installation is, and what is wrong with it."""
    automatic = provider_name("auto")
    machine = this_machine()
    return Diagnosis(
        versions(),
        ort.__version__,
        provider_states(),
        automatic,
        channel_block("host", automatic),
        machine.processors,
        machine.allowed,
        {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        problems(ort.__version__),
    )


def problems(imported: str) -> tuple[str, ...]:
    """Return what clashes in this installation, a line each.

    Parameters
    ----------
    imported
        Version of the ONNX Runtime that Python imports.
    """
    several = clash()
    versions = set(runtimes().values())
    lines = [] if several is None else [several]
    if versions and not any(imported.startswith(version) for version in versions):
        listed = ", ".join(f"{name} {version}" for name, version in runtimes().items())
        lines.append(
            f"onnxruntime {imported} is imported where {listed} is installed: another copy comes "
            f"first, from {os.path.dirname(ort.__file__)}"  # noqa: PTH120 - it is a text
        )
    return tuple(lines)


def _as_json(diagnosis: Diagnosis) -> str:
    document: dict[str, Any] = {
        **vars(diagnosis),
        "providers": {state.name: state.problem or "works" for state in diagnosis.providers},
    }
    return json.dumps(document, indent=2) + "\n"


def _print(diagnosis: Diagnosis, console: Console) -> None:
    for name, version in diagnosis.versions.items():
        console.print(Text(f"{name} {version}"))
    rows = tuple((state.name, state.problem or "works") for state in diagnosis.providers)
    console.print()
    console.print(TextTable(("provider", "state"), frozenset(), rows), crop=False)
    bounds = "".join(f", {name} {value}" for name, value in diagnosis.threads.items())
    lines = [
        f"\n--provider auto takes {diagnosis.automatic}; its kernels take channels in blocks of "
        f"{diagnosis.channel_block}",
        f"threads: {diagnosis.allowed} of {diagnosis.processors} processors may be used{bounds}",
        *(f"problem: {problem}" for problem in diagnosis.problems or ()),
        *(("nothing clashes",) if not diagnosis.problems else ()),
    ]
    console.print(Lines("\n".join(lines)), crop=False)
