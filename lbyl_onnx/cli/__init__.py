"""The command line: parse, call, print, exit code; nothing else. A file for each command."""

from __future__ import annotations

import click

from lbyl_onnx.cli.common import say
from lbyl_onnx.cli.compress import compress
from lbyl_onnx.cli.doctor import doctor
from lbyl_onnx.cli.help import WordKeepingGroup
from lbyl_onnx.cli.inspect import inspect
from lbyl_onnx.cli.report import report
from lbyl_onnx.cli.sweep import sweep
from lbyl_onnx.cli.verify import verify
from lbyl_onnx.report.versions import versions
from lbyl_onnx.runtime.distributions import clash

_EXAMPLES = """\b
Examples:
  lbyl-onnx compress in.onnx out.onnx --ratio 0.3
  lbyl-onnx inspect in.onnx
  lbyl-onnx sweep in.onnx --out curve
  lbyl-onnx compress --help
"""


def _print_versions(context: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested and not context.resilient_parsing:
        for name, version in versions().items():
            click.echo(f"{name} {version}")
        context.exit()


@click.group(
    cls=WordKeepingGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show the versions of this tool and of what it computes with.",
)
def main() -> None:
    """Prune channels from any ONNX model and repair it in closed form, without data."""
    problem = clash()
    if problem is not None:
        say(f"warning: {problem}")


for command in (compress, doctor, inspect, report, sweep, verify):
    main.add_command(command)
