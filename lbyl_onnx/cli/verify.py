"""`lbyl-onnx verify`."""

from __future__ import annotations

import click

from lbyl_onnx import __version__
from lbyl_onnx.cli import common
from lbyl_onnx.cli.help import SectionedCommand
from lbyl_onnx.cli.options import config_options, read_share
from lbyl_onnx.errors import VerificationError
from lbyl_onnx.evaluate.compare import Comparison, compare_models
from lbyl_onnx.evaluate.metrics import EMPTY
from lbyl_onnx.input_options.shapes import SuppliedShapes
from lbyl_onnx.option_types import Provider
from lbyl_onnx.report.json import comparison_as_json
from lbyl_onnx.report.terminal import print_comparison

_SECTIONS = {
    "What it is held against": (
        *("--inputs", "--labels", "--min-agreement"),
        *("--score", "--min-score"),
    ),
    "Running": ("--provider", "--input-shape"),
    "Telling": ("--json", "--quiet", "--debug"),
}
_EXAMPLES = """\b
Examples:
  lbyl-onnx verify in.onnx out.onnx
  lbyl-onnx verify in.onnx out.onnx --inputs data.npz --labels y --min-agreement 0.95
"""


@click.command("verify", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("original", metavar="ORIGINAL.onnx", type=common.PATH)
@click.argument("compressed", metavar="COMPRESSED.onnx", type=common.PATH)
@click.option(
    "--inputs",
    type=click.Path(dir_okay=False),
    metavar="DATA.npz",
    help="An array for each input, samples first; else synthetic samples.",
)
@click.option("--labels", metavar="KEY", help="Class numbers in that file: shows top-1 of both.")
@click.option(
    "--min-agreement",
    callback=read_share,
    metavar="X",
    help="Exit with 3 where an output has less: equal classes or whole numbers, else cosine.",
)
@click.option(
    "--score",
    metavar="FILE.py:NAME",
    help="Function of your own that scores the path of a model: file.py:name or module:name.",
)
@click.option(
    "--min-score",
    "least_score",
    type=float,
    metavar="X",
    help="Exit with 3 where COMPRESSED scores less.",
)
@config_options(["provider", "input_shape"])
@common.quiet_option
@common.json_option
@common.debug_option
def verify(
    original: str,
    compressed: str,
    inputs: str | None,
    labels: str | None,
    min_agreement: float | None,
    score: str | None,
    least_score: float | None,
    provider: Provider,
    input_shape: SuppliedShapes,
    quiet: bool,
    json_path: str | None,
    debug: bool,
) -> None:
    """Run both models on the same inputs: how near the outputs are, and how fast each is."""
    if least_score is not None and score is None:
        raise click.UsageError("--min-score is of --score; give both")
    with common.errors_in_one_line(debug, compressed):
        original, compressed = map(common.model_path, (original, compressed))
        common.check_json_path(json_path, original, compressed)
        with common.shown_progress(quiet) as progress:
            progress("comparing", 0, 1)
            comparison = compare_models(
                original,
                compressed,
                inputs=inputs,
                labels=labels,
                provider=provider,
                input_shape=input_shape,
                score=score,
            )
        common.write_json_to(
            comparison_as_json(comparison, original, compressed, __version__), json_path
        )
        if not quiet:
            print_comparison(comparison, original, compressed, common.console_for(json_path))
        if min_agreement is not None:
            _hold(comparison, min_agreement)
        if least_score is not None and comparison.scores and comparison.scores[1] < least_score:
            after = comparison.scores[1]
            raise VerificationError(f"the score is {after:.6g}, below {least_score:g}")


def _hold(comparison: Comparison, least: float) -> None:
    """Raise unless every output agrees well enough, and could be compared."""
    differing = {n: why for n, why in comparison.fidelity.not_compared.items() if why != EMPTY}
    if differing:
        name, reason = next(iter(differing.items()))
        raise VerificationError(f"output {name} cannot be held against {least:g}: {reason}")
    for output in comparison.fidelity.outputs:
        if output.agreement is not None and not output.agreement >= least:
            raise VerificationError(
                f"the agreement of output {output.name} is {output.agreement:.4f}, below {least:g}"
            )
