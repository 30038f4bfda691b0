"""`lbyl-onnx compress`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from lbyl_onnx import __version__, pipeline
from lbyl_onnx.channels import Scope
from lbyl_onnx.cli.common import (
    check_json_path,
    check_page_path,
    console_for,
    debug_option,
    errors_in_one_line,
    json_option,
    numbers,
    say,
    scope_option,
    shown_progress,
    write_json_to,
)
from lbyl_onnx.cli.sections import SectionedCommand, command_line
from lbyl_onnx.config import Choice, Config, Method
from lbyl_onnx.draft import ExternalData
from lbyl_onnx.html_report import Origin, as_html
from lbyl_onnx.images import Layout
from lbyl_onnx.report import as_json, print_result
from lbyl_onnx.runtime import Provider, both_distributions
from lbyl_onnx.text import write_whole
from lbyl_onnx.versions import versions

_DEFAULT = Config()
_SECTIONS = {
    "How much, and how": (
        "--ratio", "--method", "--criterion", "--lambda1", "--lambda2", "--seed",
    ),
    "Which channels": ("--include", "--exclude", "--scope"),
    "Samples": ("--calibration", "--mean", "--std", "--layout"),
    "Running and writing": ("--provider", "--external-data", "--dry-run", "--force"),
    "Telling": ("--report", "--json", "--quiet", "--debug"),
}  # fmt: skip
_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx out.onnx --ratio 0.3
  lbyl-onnx compress in.onnx out.onnx --report out.html --json out.json
  lbyl-onnx compress in.onnx --dry-run --exclude '*stem*'

\b
Exit codes: 0 done, 1 error, 2 usage, 3 verification failed, 4 nothing pruned.
"""


@click.command("compress", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
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
@scope_option
@click.option(
    "--calibration",
    type=click.Path(),
    metavar="PATH",
    help="Unlabelled samples: .npz, .npy or a folder of images; else synthetic ones.",
)
@click.option("--mean", callback=numbers, metavar="M,..", help="Of the folder's images, [0, 1].")
@click.option("--std", callback=numbers, metavar="S,..", help="Likewise.")
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
    "--report",
    "report_path",
    metavar="FILE.html",
    help="Write a page with pictures: layers, latency, fidelity, what was left alone.",
)
@json_option
@debug_option
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
    report_path: str | None,
    json_path: str | None,
    debug: bool,
) -> None:
    """Prune the channels of IN.onnx, restore what they carried, verify, write OUT.onnx."""
    if output is None and not dry_run:
        raise click.UsageError("give OUT.onnx, or --dry-run to write nothing")
    with errors_in_one_line(debug, model, None if dry_run else output):
        if both_distributions():
            say(
                "warning: onnxruntime and onnxruntime-gpu are both installed and overwrite each "
                "other; uninstall both, then install the one you want"
            )
        check_json_path(json_path, model, output, report_path)
        check_page_path(report_path, model, output)
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
        with shown_progress(quiet) as progress:
            result = pipeline.compress(
                model,
                output,
                config=config,
                dry_run=dry_run,
                force=force,
                progress=progress,
                detailed=report_path is not None,
            )
        if report_path is not None:
            page = as_html(result, Origin(model, command_line(), versions()))
            write_whole(page, Path(report_path))
        if not quiet:
            print_result(result, model, console_for(json_path))
        write_json_to(as_json(result, model, __version__), json_path)
