"""`lbyl-onnx compress`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from lbyl_onnx import __version__, pipeline
from lbyl_onnx.cli import common
from lbyl_onnx.cli.config_file import read_options
from lbyl_onnx.cli.help import SectionedCommand, command_line
from lbyl_onnx.cli.options import config_options, given_options, sections
from lbyl_onnx.config import HOW_MUCH, RUNNING, Config, combined
from lbyl_onnx.errors import OptionError
from lbyl_onnx.io.text_file import StagedText, staged_text
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import origin_of
from lbyl_onnx.report.terminal import print_result
from lbyl_onnx.results.compressed import CompressResult
from lbyl_onnx.results.layout import Lines
from lbyl_onnx.results.next_steps import next_step
from lbyl_onnx.target import GOALS

_OWN_SECTIONS = {
    HOW_MUCH: ("--config",),
    RUNNING: ("--dry-run", "--force", "--scheduler"),
    "Telling": ("--report", "--json", "--quiet", "--debug"),
}
_SECTIONS = {
    title: (*sections().get(title, ()), *_OWN_SECTIONS.get(title, ()))
    for title in {**sections(), **_OWN_SECTIONS}
}
_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx out.onnx
  lbyl-onnx compress in.onnx out.onnx --ratio 0.3
  lbyl-onnx compress in.onnx out.onnx --macs 50%
  lbyl-onnx compress in.onnx out.onnx --report out.html --json out.json
  lbyl-onnx compress in.onnx --dry-run --exclude '*stem*'

\b
Exit codes: 0 done, 1 error, 2 usage, 3 verification failed, 4 nothing pruned.
"""


@click.command("compress", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("model", metavar="IN.onnx", type=common.PATH)
@click.argument("output", metavar="OUT.onnx", type=common.PATH, required=False)
@config_options()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Options from a TOML or JSON file, by these names; those of the command line come first.",
)
@click.option("--dry-run", is_flag=True, help="Do and verify everything, write nothing.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="A Dask scheduler, on whose workers the groups of channels are fitted.",
)
@common.quiet_option
@click.option(
    "--report",
    "report_path",
    type=common.PATH,
    metavar="FILE.html",
    help="Write a page with pictures: layers, latency, fidelity, what was skipped.",
)
@common.json_option
@common.debug_option
@click.pass_context
def compress(
    context: click.Context,
    /,
    model: str,
    output: str | None,
    config_path: Path | None,
    dry_run: bool,
    force: bool,
    scheduler: str | None,
    quiet: bool,
    report_path: str | None,
    json_path: str | None,
    debug: bool,
    **_options: object,
) -> None:
    """Prune the channels of IN.onnx, restore what they carried, verify, write OUT.onnx."""
    if output is None and not dry_run:
        raise click.UsageError("give OUT.onnx, or --dry-run to write nothing")
    with common.errors_in_one_line(debug, model, None if dry_run else output):
        config = _config(context, config_path)
        model = common.model_path(model)
        common.check_json_path(json_path, model, output, report_path)
        common.check_page_path(report_path, model, output)
        origin = origin_of(model, command_line())
        with ExitStack() as stack:
            page, document = (_staged(path, stack) for path in (report_path, json_path))

            def tell(result: CompressResult) -> None:
                """Write before the output is: a disk that is full then leaves all as it was."""
                if page is not None:
                    page.write(as_html(result, origin))
                if document is not None:
                    document.write(as_json(result, origin, __version__))

            with common.shown_progress(quiet) as progress:
                result = pipeline.compress(
                    model,
                    output,
                    config=config,
                    dry_run=dry_run,
                    force=force,
                    progress=progress,
                    detailed=report_path is not None,
                    before_writing=tell,
                    scheduler=scheduler,
                )
            for staged in (page, document):
                if staged is not None:
                    with common.failures_as_warnings():
                        staged.put()
        with common.failures_as_warnings():
            if not quiet:
                console = common.console_for(json_path)
                print_result(result, model, console)
                console.print(Lines(f"\n{next_step(result, model)}"), crop=False)
            if json_path == "-":
                common.write_json_to(as_json(result, origin, __version__), json_path)


def _staged(path: str | None, stack: ExitStack) -> StagedText | None:
    """A report's file until the end of `stack`; None for none, and for standard output."""
    return None if path in (None, "-") else stack.enter_context(staged_text(Path(str(path))))


def _config(context: click.Context, path: Path | None) -> Config:
    """Options of the command line, then those of the file, then the defaults."""
    read = read_options(path) if path is not None else {}
    if len(read.keys() & set(GOALS)) > 1:
        raise OptionError(f"{path} gives more than one target; give one")
    return combined(read, given_options(context))
