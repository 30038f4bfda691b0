"""What the commands share: options, one line for an error, a progress bar, JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lbyl_onnx import types
from lbyl_onnx.errors import LbylOnnxError, first_line
from lbyl_onnx.guard.breadcrumbs import note
from lbyl_onnx.io.locate import find_model
from lbyl_onnx.io.text_file import check_writable, discard, write_whole
from lbyl_onnx.text import printable, short

_INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended
_LONGEST_LINE = 1800  # characters; names in an error are the model's
_NO_WIDTH = 1_000_000  # cells, more than any line has
# Shells complete the paths of what has this type.
PATH = click.Path()
json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(allow_dash=True),
    metavar="FILE|-",
    help="Write the report as JSON; tables then go to stderr.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def model_path(path: str) -> str:
    """Return the path of the model that a word of the command line means.

    Raises
    ------
    ModelError
        See `find_model`.
    """
    return str(find_model(Path(path)))


def write_json_to(text: str, json_path: str | None) -> None:
    """Write to a file, to standard output for "-", nowhere for None.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    if json_path == "-":
        click.echo(text, nl=False)
    elif json_path is not None:
        write_whole(text, Path(json_path))


def check_json_path(json_path: str | None, *others: str | None) -> None:
    """Raise OutputError for a path that JSON cannot be written to, before any work is done."""
    _check("--json", None if json_path == "-" else json_path, others, b"{[")


def check_page_path(path: str | None, *others: str | None, option: str = "--report") -> None:
    """Raise OutputError for a path that a page cannot be written to, likewise."""
    _check(option, path, others, b"<")


def _check(option: str, path: str | None, others: Sequence[str | None], opening: bytes) -> None:
    if path is not None:
        files = tuple(Path(other) for other in others if other is not None)
        check_writable(option, Path(path), files, opening)


def console_for(json_path: str | None) -> Console:
    """Return where tables go: stderr where JSON takes stdout; plain text where it is piped.

    What is piped has no width: each row is a line, for `grep` and the like.
    """
    console = Console(stderr=json_path is not None, highlight=False)
    if not console.is_terminal:
        console.width = _NO_WIDTH
    return console


def say(message: str) -> None:
    """Tell the user one line, on stderr, without its middle where a name in it is too long."""
    text = short(printable(short(message, _LONGEST_LINE)), _LONGEST_LINE)
    with suppress(OSError):  # nobody can be told
        click.echo(f"lbyl-onnx: {text}", err=True)


@contextmanager
def errors_in_one_line(debug: bool, model: str | None, output: str | None = None) -> Iterator[None]:
    """Give an error its line on stderr, which names the model, and its exit code.

    Parameters
    ----------
    debug
        Raise instead, for the traceback.
    model, output
        What is worked on; noted for the parent process, should this one not live to tell. None
        where there are several models: the errors of each name it themselves.
    """
    paths = {"model": model, "output": output}
    note(**{name: path for name, path in paths.items() if path is not None})
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; no output was left half written")
        sys.exit(_INTERRUPTED)
    except LbylOnnxError as error:
        if debug:
            raise
        say(f"error: {_named(model, str(error))}")
        sys.exit(error.exit_code)
    except MemoryError:
        if debug:
            raise
        say(f"error: {_named(model, 'it takes more memory than there is')}")
        sys.exit(1)
    except BrokenPipeError:
        # Who read the tables has gone; Python would complain once more as it flushes them.
        discard(sys.stdout)
        sys.exit(1)
    except OSError as error:
        # The disk is full, a temporary file cannot be written: no fault of ours.
        if debug:
            raise
        file = "" if error.filename is None else f" ({error.filename})"
        say(f"error: {_named(model, f'{error.strerror or error}{file}')}")
        sys.exit(1)
    except Exception as error:
        # The last resort of a command line: a fault of ours is told in one line too.
        if debug:
            raise
        if "start new thread" in str(error):
            say(f"error: {_named(model, 'no more threads can be started; allow more processes')}")
            sys.exit(1)
        what = f"internal error: {type(error).__name__}: {first_line(error)}"
        say(f"{_named(model, what)}; run with --debug and report what it shows")
        sys.exit(1)


@contextmanager
def failures_as_warnings() -> Iterator[None]:
    """Report as a warning what fails after the work is done."""
    try:
        yield
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # who read the tables has gone; rich would exit for that
        discard(sys.stdout)
    except OSError as error:
        say(f"warning: the work is done, but its report is incomplete: {error.strerror or error}")
        discard(sys.stdout)
    except Exception as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        say(f"warning: the work is done, but its report is incomplete: {what}")


def _named(model: str | None, text: str) -> str:
    """One line that names the model."""
    line = " ".join(text.split())
    return line if model is None or model in line else f"{model}: {line}"


@contextmanager
def shown_progress(quiet: bool) -> Iterator[types.Progress]:
    """Note what is being done; show a bar while it lasts, on a terminal only."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda stage, done, total: note(doing=stage)
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}")),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None, amount="")
        current = ""

        def show(stage: str, done: int, total: int) -> None:
            nonlocal current
            note(doing=stage)
            place = f"{stage.number}/{stage.of} " if isinstance(stage, types.Stage) else ""
            # A stage that is not counted pulses; the time left is that of the stage alone.
            counted = total if total > 1 else None
            if stage != current:
                current = str(stage)
                bar.reset(task, description=place + stage, total=counted, amount="")
            amount = f"{done} of {total}" if counted is not None else str(done or "")
            bar.update(task, completed=done, total=counted, amount=amount)

        yield show
