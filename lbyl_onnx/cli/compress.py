"""`lbyl-onnx compress`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import get_args

import click
from click.core import ParameterSource

from lbyl_onnx import __version__, pipeline
from lbyl_onnx.cli.common import (
    check_json_path,
    check_page_path,
    console_for,
    debug_option,
    errors_in_one_line,
    failures_as_warnings,
    hardware_option,
    input_shape_option,
    json_option,
    method_option_option,
    numbers,
    pairs,
    round_option,
    say,
    scope_option,
    shown_progress,
    whole_pairs,
    write_json_to,
)
from lbyl_onnx.cli.config_file import read_options
from lbyl_onnx.cli.help import SectionedCommand, command_line
from lbyl_onnx.config import Allocation, Config, ExternalData, Layout, Provider
from lbyl_onnx.errors import OptionError
from lbyl_onnx.io.text_file import StagedText, staged_text
from lbyl_onnx.methods.registry import (
    CRITERIA,
    METHODS,
    criterion_names,
    method_names,
    summaries,
)
from lbyl_onnx.report.html import Origin, as_html
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.terminal import print_result
from lbyl_onnx.report.versions import versions
from lbyl_onnx.runtime.providers import both_distributions
from lbyl_onnx.target import Kind

_DEFAULT = Config()
_SECTIONS = {
    "How much, and how": (
        "--ratio", "--method", "--criterion", "--lambda1", "--lambda2", "--method-option", "--seed",
        "--config",
    ),
    "Targets in place of a ratio": ("--macs", "--params", "--size", "--latency", "--fidelity"),
    "Which channels": (
        "--include", "--exclude", "--scope", "--allocation", "--round-to", "--ratio-for",
        "--keep-for", "--min-channels", "--hardware",
    ),
    "Samples": ("--calibration", "--mean", "--std", "--layout", "--input-shape"),
    "Running and writing": ("--provider", "--external-data", "--dry-run", "--force"),
    "Telling": ("--report", "--json", "--quiet", "--debug"),
}  # fmt: skip
_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx out.onnx --ratio 0.3
  lbyl-onnx compress in.onnx out.onnx --macs 50%
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
@click.option("--macs", metavar="50%|N", help="Most multiply-accumulates, in place of a ratio.")
@click.option("--params", metavar="50%|N", help="Most parameters.")
@click.option("--size", metavar="50%|5MB", help="Largest file.")
@click.option("--latency", metavar="60%|20ms", help="Longest median time in ONNX Runtime.")
@click.option(
    "--fidelity", type=float, metavar="X", help="Smallest model of this cosine with the original."
)
@click.option(
    "--allocation",
    type=click.Choice(get_args(Allocation)),
    help="The same share of every group, or by predicted damage (auto: for targets).",
)
@round_option
@hardware_option
@click.option(
    "--ratio-for", multiple=True, callback=pairs, metavar="GLOB=R", help="Ratio of these producers."
)
@click.option(
    "--keep-for",
    multiple=True,
    callback=whole_pairs,
    metavar="GLOB=N",
    help="Channels that these producers keep.",
)
@click.option(
    "--min-channels",
    type=int,
    default=_DEFAULT.min_channels,
    show_default=True,
    help="Least that a group keeps.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Options from a TOML or JSON file; those of the command line come first.",
)
@click.option(
    "--method",
    type=click.Choice(method_names()),
    default=_DEFAULT.method,
    show_default=True,
    help=f"How the removed channels are restored. {summaries(METHODS.values())}.",
)
@click.option(
    "--criterion",
    type=click.Choice(("auto", *criterion_names())),
    default=_DEFAULT.criterion,
    show_default=True,
    help=f"Which channels are kept. auto: as the method asks; {summaries(CRITERIA.values())}.",
)
@method_option_option
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
@input_shape_option
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
@click.pass_context
def compress(
    context: click.Context,
    /,
    model: str,
    output: str | None,
    config_path: Path | None,
    dry_run: bool,
    force: bool,
    quiet: bool,
    report_path: str | None,
    json_path: str | None,
    debug: bool,
    **_options: object,
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
        config = _config(context, config_path)
        with ExitStack() as stack:
            page, document = (_staged(path, stack) for path in (report_path, json_path))

            def tell(result: pipeline.CompressResult) -> None:
                """Write before the output is: a disk that is full then leaves all as it was."""
                if page is not None:
                    page.write(as_html(result, Origin(model, command_line(), versions())))
                if document is not None:
                    document.write(as_json(result, model, __version__))

            with shown_progress(quiet) as progress:
                result = pipeline.compress(
                    model,
                    output,
                    config=config,
                    dry_run=dry_run,
                    force=force,
                    progress=progress,
                    detailed=report_path is not None,
                    before_writing=tell,
                )
            for staged in (page, document):
                if staged is not None:
                    with failures_as_warnings():
                        staged.put()
        with failures_as_warnings():
            if not quiet:
                print_result(result, model, console_for(json_path))
            if json_path == "-":
                write_json_to(as_json(result, model, __version__), json_path)


def _staged(path: str | None, stack: ExitStack) -> StagedText | None:
    """A report's file until the end of `stack`; None for none, and for standard output."""
    return None if path in (None, "-") else stack.enter_context(staged_text(Path(str(path))))


def _config(context: click.Context, path: Path | None) -> Config:
    """Options of the command line, then those of the file, then the defaults."""
    names = {field.name for field in fields(Config)}
    given = {
        name: value
        for name, value in context.params.items()
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    targets = given.keys() & set(get_args(Kind))
    if len(targets) > 1:
        raise OptionError(f"{' and '.join(sorted(targets))} are given; give one target")
    read = read_options(path) if path is not None else {}
    if len(read.keys() & set(get_args(Kind))) > 1:
        raise OptionError(f"{path} gives more than one target; give one")
    if targets:
        read = {name: value for name, value in read.items() if name not in get_args(Kind)}
    return Config(**(read | given))
