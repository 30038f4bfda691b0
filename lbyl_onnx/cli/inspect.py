"""`lbyl-onnx inspect`."""

from __future__ import annotations

import shlex

import click

from lbyl_onnx import __version__, inspection
from lbyl_onnx.cli import common
from lbyl_onnx.cli.help import SectionedCommand
from lbyl_onnx.cli.options import config_options
from lbyl_onnx.input_options.kinds import Choices
from lbyl_onnx.input_options.shapes import SuppliedShapes
from lbyl_onnx.option_types import Attention, Scope
from lbyl_onnx.report.json import inspection_as_json
from lbyl_onnx.report.terminal import print_inspection
from lbyl_onnx.results.layout import Lines
from lbyl_onnx.text import printable

_SECTIONS = {
    "Which channels": ("--scope", "--attention", "--sensitivity"),
    "Samples": ("--input", "--input-shape"),
    "Telling": ("--json", "--quiet", "--debug"),
}
_EXAMPLES = """\b
Examples:
  lbyl-onnx inspect model.onnx
  lbyl-onnx inspect model.onnx --scope all --json groups.json
"""


@click.command("inspect", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("model", metavar="MODEL.onnx", type=common.PATH)
@config_options(["scope", "attention"])
@click.option(
    "--sensitivity", is_flag=True, help="Predict what pruning 10 to 70 % of each group does."
)
@config_options(["input", "input_shape"])
@common.quiet_option
@common.json_option
@common.debug_option
def inspect(
    model: str,
    scope: Scope,
    attention: Attention,
    sensitivity: bool,
    input: Choices,
    input_shape: SuppliedShapes,
    quiet: bool,
    json_path: str | None,
    debug: bool,
) -> None:
    """Show the channel groups of MODEL.onnx, and what cannot be pruned and why."""
    with common.errors_in_one_line(debug, model):
        model = common.model_path(model)
        common.check_json_path(json_path, model)
        with common.shown_progress(quiet) as progress:
            progress("inspecting", 0, 1)
            result = inspection.inspect(
                model,
                scope=scope,
                attention=attention,
                sensitivity=sensitivity,
                input_shape=input_shape,
                input=input,
            )
        common.write_json_to(inspection_as_json(result, model, __version__), json_path)
        if quiet:
            return
        console = common.console_for(json_path)
        print_inspection(result, model, console)
        step = shlex.join(["lbyl-onnx", "compress", model, "OUT.onnx"])
        console.print(Lines(f"\nnext: {printable(step)}"), crop=False)
