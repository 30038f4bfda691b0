"""The command line: parse, call, print, exit code; nothing else. A file for each command."""

from __future__ import annotations

import click

from lbyl_onnx import __version__
from lbyl_onnx.cli.compressing import compress
from lbyl_onnx.cli.inspecting import inspect
from lbyl_onnx.cli.verifying import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lbyl-onnx")
def main() -> None:
    """Prune channels from any ONNX model and repair it in closed form, without data."""


for command in (compress, inspect, verify):
    main.add_command(command)
