"""`lbyl-onnx sweep`."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lbyl_onnx import __version__
from lbyl_onnx.cli import common
from lbyl_onnx.cli.help import SectionedCommand
from lbyl_onnx.cli.options import config_options
from lbyl_onnx.config import OPTIONS, Config
from lbyl_onnx.evaluate.prediction.predict import Prediction
from lbyl_onnx.input_options.kinds import Choices
from lbyl_onnx.input_options.shapes import SuppliedShapes
from lbyl_onnx.methods.registry import method_names
from lbyl_onnx.option_types import Attention, Hardware, Move, Provider, Quantize, Scope, number_of
from lbyl_onnx.sweeps import run
from lbyl_onnx.sweeps.types import Failure, Outcome, Sweep
from lbyl_onnx.text import milliseconds, printable, share

# The options that every cell of a sweep has in common.
_SHARED = (
    "criterion",
    "moves",
    "method_options",
    "scope",
    "attention",
    "round_to",
    "hardware",
    "seed",
)
# The word for results that are not quantised.
_NONE = "none"
# More ratios than this are a slip of the pen.
_MOST_RATIOS = 200
_SECTIONS = {
    "What": (
        "--ratios",
        "--macs",
        "--methods",
        "--quantize",
        *(OPTIONS[name].flag for name in _SHARED),
    ),
    "Scoring": ("--inputs", "--labels", "--score"),
    "Where it runs": ("--workers", "--scheduler", "--provider", "--input", "--input-shape"),
    "Telling": ("--out", "--json", "--quiet", "--debug"),
}
_EXAMPLES = """\b
Examples:
  lbyl-onnx sweep model.onnx --out curve
  lbyl-onnx sweep a.onnx b.onnx --ratios 0.1:0.7:0.2 --methods nm,lbyl+ --out curve
  lbyl-onnx sweep model.onnx --ratios 0:0.5:0.1 --quantize none,int8 --out curve
  lbyl-onnx sweep model.onnx --inputs test.npz --labels labels --out curve
  lbyl-onnx sweep model.onnx --scheduler tcp://10.0.0.1:8786 --out /shared/curve

\b
The same command again runs only what is not finished.
"""


def _ratios(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """Read FIRST:LAST:STEP, both ends included, or numbers separated by commas."""
    try:
        if ":" not in value:
            return tuple(map(number_of, value.split(",")))
        first, last, step = map(number_of, value.split(":"))
        count = math.floor((last - first) / step + 1e-9) + 1
        if not 1 <= count <= _MOST_RATIOS or step <= 0:
            raise ValueError
        return tuple(round(first + number * step, 10) for number in range(count))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise click.BadParameter("give FIRST:LAST:STEP, as 0.1:0.7:0.1, or 10%,30%") from error


def _methods(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    methods = tuple(dict.fromkeys(value.split(",")))
    if not set(methods) <= set(method_names()):
        raise click.BadParameter(f"give some of {','.join(method_names())}")
    return methods


def _quantizations(
    context: click.Context, parameter: click.Parameter, value: str
) -> tuple[Quantize | None, ...]:
    """Read names of quantisations separated by commas; `none` is none."""
    named: dict[str, Quantize | None] = {_NONE: None, **{name: name for name in get_args(Quantize)}}
    parts = tuple(dict.fromkeys(value.split(",")))
    if not set(parts) <= named.keys():
        raise click.BadParameter(f"give some of {','.join(named)}")
    return tuple(named[part] for part in parts)


@click.command("sweep", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("models", metavar="MODEL.onnx...", type=common.PATH, nargs=-1, required=True)
@click.option(
    "--ratios",
    callback=_ratios,
    default="0.1:0.7:0.1",
    show_default=True,
    metavar="FIRST:LAST:STEP|R,..",
    help="Shares of each group's channels to remove.",
)
@click.option(
    "--macs",
    "amounts",
    metavar="50%|200M,..",
    help="Multiply-accumulates to reach in place of the ratios, by what --moves allows.",
)
@click.option(
    "--methods",
    callback=_methods,
    default=",".join(method_names()),
    show_default=True,
    metavar="M,..",
    help="How the removed channels are restored.",
)
@click.option(
    "--quantize",
    "quantizations",
    callback=_quantizations,
    default=_NONE,
    show_default=True,
    metavar="Q,..",
    help="How the results are quantised: not (`none`), to `int8`, or both beside each other; of a "
    "ratio of 0 only what is quantised is measured.",
)
@config_options(_SHARED)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Samples to score on: .npz or .npy of what the models are fed; else synthetic ones.",
)
@click.option(
    "--labels",
    type=common.PATH,
    metavar="NAME|FILE.npy",
    help="Classes of the samples: an array in --inputs, or a file; gives the accuracy. "
    "Without it: the agreement with the original.",
)
@click.option(
    "--score",
    metavar="FILE.py:NAME",
    help="Function of your own that scores the path of a model: file.py:name or module:name; in "
    "place of --inputs.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes at a time; with more than one the latencies disturb each other.",
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="A Dask scheduler; its workers must see the files under the same paths.",
)
@config_options(["provider", "input", "input_shape"])
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Where sweep.csv, sweep.svg and the finished cells lie.",
)
@common.quiet_option
@common.json_option
@common.debug_option
def sweep(
    models: tuple[str, ...],
    ratios: tuple[float, ...],
    amounts: str | None,
    methods: tuple[str, ...],
    quantizations: tuple[Quantize | None, ...],
    criterion: str,
    moves: tuple[Move, ...],
    method_options: tuple[tuple[str, str], ...],
    scope: Scope,
    attention: Attention,
    round_to: int | Literal["auto"],
    hardware: Hardware,
    seed: int,
    inputs: Path | None,
    labels: str | None,
    score: str | None,
    workers: int,
    scheduler: str | None,
    provider: Provider,
    input: Choices,
    input_shape: SuppliedShapes,
    folder: Path,
    quiet: bool,
    json_path: str | None,
    debug: bool,
) -> None:
    """Draw the compression curve of MODEL.onnx: score against MACs, parameters and latency."""
    if labels is not None and inputs is None:
        raise click.UsageError("--labels are of --inputs; give both")
    if amounts is not None and _is_given("ratios"):
        raise click.UsageError("--ratios and --macs are given; give one of them")
    with common.errors_in_one_line(debug, models[0] if len(models) == 1 else None):
        common.check_json_path(json_path, *models)
        config = Config(
            criterion=criterion,
            moves=moves,
            scope=scope,
            attention=attention,
            round_to=round_to,
            hardware=hardware,
            seed=seed,
            provider=provider,
            input=input,
            input_shape=input_shape,
        )
        with common.shown_progress(quiet) as progress:
            result = run.sweep(
                models,
                folder,
                ratios=ratios,
                macs=None if amounts is None else amounts.split(","),
                methods=methods,
                quantize=quantizations,
                method_options=method_options,
                inputs=inputs,
                labels=labels,
                score=score,
                config=config,
                workers=workers,
                scheduler=scheduler,
                progress=progress,
            )
        _write(result, folder, quiet, json_path)
    if result.failures:
        sys.exit(result.failures[0].exit_code)


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not ParameterSource.DEFAULT


def _write(result: Sweep, folder: Path, quiet: bool, json_path: str | None) -> None:
    document = {"lbyl_onnx": __version__, **asdict(result)}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if json_path != "-":
        common.write_json_to(text, json_path)
    with common.failures_as_warnings():
        if not quiet:
            _print(result, folder, common.console_for(json_path))
        if json_path == "-":
            common.write_json_to(text, json_path)
    for failure in result.failures:
        common.say(f"error: {_cell_name(failure)}: {failure.reason}")


def _cell_name(cell: Outcome | Failure) -> str:
    return f"{cell.model}, {cell.series} at {cell.aim}"


def _measured_on(outcome: Outcome) -> str:
    if outcome.metric == "score":
        return "score by a function of your own"
    return f"{outcome.metric} on {outcome.samples:,} samples"


def _print(result: Sweep, folder: Path, console: Console) -> None:
    for model in dict.fromkeys(outcome.model for outcome in result.outcomes):
        outcomes = [outcome for outcome in result.outcomes if outcome.model == model]
        first = outcomes[0]
        console.print(Text(printable(model), style="bold"))
        console.print(f"{_measured_on(first)}, before {first.before.score:.4f}")
        console.print(_table(outcomes))
    if result.outcomes:
        rest = f"; {result.reused} of {len(result.outcomes)} cells were there already"
        where = printable(f"{folder / 'sweep.csv'}, {folder / 'sweep.svg'}")
        console.print(Text(f"wrote {where}{rest if result.reused else ''}"))


def _predicted(prediction: Prediction | None) -> str:
    """The interval that is predicted for real inputs; a dash where there is none."""
    if prediction is None or prediction.low is None or prediction.high is None:
        return "-"
    return f"{prediction.low:.2f} to {prediction.high:.2f}"


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method")
    titles = ("aim", "MACs", "parameters", "file size", "latency", outcomes[0].metric)
    for title in (*titles, "predicted"):
        table.add_column(title, justify="right", no_wrap=True)
    for outcome in outcomes:
        before, after = outcome.before, outcome.after
        table.add_row(
            outcome.series,
            outcome.aim,
            share(after.macs, before.macs),
            share(after.parameters, before.parameters),
            share(after.file_size, before.file_size),
            "-" if after.latency is None else milliseconds(after.latency),
            f"{after.score:.4f}",
            _predicted(outcome.prediction),
        )
    return table
