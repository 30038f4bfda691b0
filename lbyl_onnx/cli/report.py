"""`lbyl-onnx report`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from lbyl_onnx.cli import common
from lbyl_onnx.cli.help import SectionedCommand
from lbyl_onnx.io.text_file import write_whole
from lbyl_onnx.report.origin import now
from lbyl_onnx.report.overview import as_overview
from lbyl_onnx.report.recorded import read_result
from lbyl_onnx.results.rendering import many
from lbyl_onnx.text import printable

# More results than this make no table that anybody reads.
MOST = 200
_SECTIONS = {"Telling": ("--out", "--quiet", "--debug")}
_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx small.onnx --ratio 0.3 --json small.json
  lbyl-onnx compress in.onnx tiny.onnx --ratio 0.6 --json tiny.json
  lbyl-onnx report small.json tiny.json --out both.html
"""


@click.command("report", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("files", metavar="RESULT.json...", type=common.PATH, nargs=-1, required=True)
@click.option(
    "--out", "page", type=common.PATH, required=True, metavar="FILE.html", help="The page."
)
@common.quiet_option
@common.debug_option
def report(files: tuple[str, ...], page: str, quiet: bool, debug: bool) -> None:
    """Show what `compress --json` wrote, several results on one page, with a picture of them."""
    if len(files) > MOST:
        raise click.UsageError(f"give at most {MOST} results")
    with common.errors_in_one_line(debug, None):
        common.check_page_path(page, *files, option="--out")
        results = [read_result(Path(file)) for file in files]
        write_whole(as_overview(results, now()), Path(page))
        if not quiet:
            with common.failures_as_warnings():
                message = f"wrote {printable(page)}: {many(len(results), 'result')}"
                common.console_for(None).print(Text(message))
