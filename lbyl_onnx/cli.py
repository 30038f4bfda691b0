"""The command line: parse, call, print, exit code; nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lbyl_onnx import __version__, inspection, pipeline
from lbyl_onnx.channels import Scope
from lbyl_onnx.config import Choice, Config, Method
from lbyl_onnx.draft import ExternalData
from lbyl_onnx.errors import LbylOnnxError, OutputError
from lbyl_onnx.images import Layout
from lbyl_onnx.report import (
    as_json,
    inspection_as_json,
    print_inspection,
    print_result,
    printable,
    write_json,
)
from lbyl_onnx.runtime import Provider, both_distributions

_DEFAULT = Config()
_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx out.onnx --ratio 0.3
  lbyl-onnx compress in.onnx --dry-run --exclude '*stem*'

\b
Exit codes: 0 done, 1 error, 2 usage, 3 verification failed, 4 nothing pruned.
"""
_INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...]:
    """Read numbers that commas part."""
    try:
        return tuple(float(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter("give numbers with commas between, as 0.5,0.5,0.5") from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lbyl-onnx")
def main() -> None:
    """Prune channels from any ONNX model and repair it in closed form, without data."""


@main.command(epilog=_EXAMPLES)
@click.argument("model", metavar="IN.onnx")
@click.argument("output", metavar="OUT.onnx", required=False)
@click.option(
    "--ratio",
    type=float,
    default=_DEFAULT.ratio,
    show_default=True,
    help="Share of each group's channels to remove.",
)
@click.option(
    "--method",
    type=click.Choice(get_args(Method)),
    default=_DEFAULT.method,
    show_default=True,
    help="How the removed channels are restored.",
)
@click.option(
    "--criterion",
    type=click.Choice(get_args(Choice)),
    default=_DEFAULT.criterion,
    show_default=True,
    help="Which channels are kept: by what their loss changes (obs), by norm, by distance (gm).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is random.")
@click.option(
    "--lambda1",
    type=float,
    default=_DEFAULT.lambda1,
    show_default=True,
    help="lbyl: weight of the BatchNorm error.",
)
@click.option(
    "--lambda2",
    type=float,
    default=_DEFAULT.lambda2,
    show_default=True,
    help="lbyl: weight of the activation error.",
)
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default=_DEFAULT.scope,
    show_default=True,
    help="all: residual streams and other coupled channels, too.",
)
@click.option(
    "--calibration",
    type=click.Path(),
    metavar="PATH",
    help="Unlabelled samples: .npz, .npy or a folder of images; else synthetic ones.",
)
@click.option("--mean", callback=_numbers, metavar="M,..", help="Of the folder's images, [0, 1].")
@click.option("--std", callback=_numbers, metavar="S,..", help="Likewise.")
@click.option(
    "--layout",
    type=click.Choice(get_args(Layout)),
    default=_DEFAULT.layout,
    show_default=True,
    help="Where images have their channels.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Prune only these producers.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these producers alone.")
@click.option(
    "--provider",
    type=click.Choice(get_args(Provider)),
    default=_DEFAULT.provider,
    show_default=True,
    help="Where ONNX Runtime verifies; auto takes CUDA where it really works.",
)
@click.option(
    "--external-data",
    type=click.Choice(get_args(ExternalData)),
    default=_DEFAULT.external_data,
    show_default=True,
    help="Whether weights lie in a file beside OUT.onnx; auto: as those of IN.onnx.",
)
@click.option("--dry-run", is_flag=True, help="Do and verify everything, write nothing.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE|-",
    help="Write the report as JSON; tables then go to stderr.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def compress(
    model: str,
    output: str | None,
    ratio: float,
    method: Method,
    criterion: Choice,
    seed: int,
    lambda1: float,
    lambda2: float,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    scope: Scope,
    provider: Provider,
    external_data: ExternalData,
    calibration: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    layout: Layout,
    dry_run: bool,
    force: bool,
    quiet: bool,
    json_path: str | None,
    debug: bool,
) -> None:
    """Prune the channels of IN.onnx, restore what they carried, verify, write OUT.onnx."""
    if output is None and not dry_run:
        raise click.UsageError("give OUT.onnx, or --dry-run to write nothing")
    with _errors_in_one_line(debug):
        if both_distributions():
            _say(
                "warning: onnxruntime and onnxruntime-gpu are both installed and overwrite each "
                "other; uninstall both, then install the one you want"
            )
        _check_json_path(json_path)
        config = Config(
            ratio=ratio,
            method=method,
            criterion=criterion,
            seed=seed,
            lambda1=lambda1,
            lambda2=lambda2,
            include=include,
            exclude=exclude,
            scope=scope,
            provider=provider,
            external_data=external_data,
            calibration=calibration,
            mean=mean,
            std=std,
            layout=layout,
        )
        with _progress(quiet) as progress:
            result = pipeline.compress(
                model, output, config=config, dry_run=dry_run, force=force, progress=progress
            )
        if not quiet:
            print_result(result, model, Console(stderr=json_path is not None, highlight=False))
        _write_json(as_json(result, model, __version__), json_path)


@main.command()
@click.argument("model", metavar="MODEL.onnx")
@click.option(
    "--scope",
    type=click.Choice(get_args(Scope)),
    default=_DEFAULT.scope,
    show_default=True,
    help="all: residual streams and other coupled channels, too.",
)
@click.option(
    "--json", "json_path", metavar="FILE|-", help="Write it as JSON; tables then go to stderr."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def inspect(model: str, scope: Scope, json_path: str | None, debug: bool) -> None:
    """Show the channel groups of MODEL.onnx, and what cannot be pruned and why."""
    with _errors_in_one_line(debug):
        _check_json_path(json_path)
        found = inspection.inspect(model, scope=scope)
        print_inspection(found, model, Console(stderr=json_path is not None, highlight=False))
        _write_json(inspection_as_json(found, model, __version__), json_path)


def _write_json(text: str, json_path: str | None) -> None:
    if json_path == "-":
        click.echo(text, nl=False)
    elif json_path is not None:
        write_json(text, Path(json_path))


def _check_json_path(json_path: str | None) -> None:
    if json_path in (None, "-"):
        return
    path = Path(str(json_path))
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(f"--json {path} cannot be written; give a file in an existing folder")


def _say(message: str) -> None:
    click.echo(f"lbyl-onnx: {printable(message)}", err=True)


@contextmanager
def _errors_in_one_line(debug: bool) -> Iterator[None]:
    """Give an error its line on stderr and its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted; nothing was written")
        sys.exit(_INTERRUPTED)
    except LbylOnnxError as error:
        if debug:
            raise
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        # The last resort of a command line: a fault of ours is told in one line too.
        if debug:
            raise
        kind = type(error).__name__
        _say(f"internal error: {kind}: {error}; run with --debug and report what it shows")
        sys.exit(1)


@contextmanager
def _progress(quiet: bool) -> Iterator[pipeline.Progress | None]:
    """Show a bar while the work lasts, on a terminal only."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int) -> None:
            # A stage that is not counted pulses.
            bar.update(task, description=stage, completed=done, total=total if total > 1 else None)

        yield show


if __name__ == "__main__":
    main()
