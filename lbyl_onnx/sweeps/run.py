"""A sweep from its options: the cells, their folder, the table and the picture."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lbyl_onnx import __version__
from lbyl_onnx.config import Config
from lbyl_onnx.errors import OptionError
from lbyl_onnx.evaluate.score import ScoringData
from lbyl_onnx.io.locate import find_model
from lbyl_onnx.io.text_file import write_whole
from lbyl_onnx.methods.registry import OptionValue, find_method, method_names
from lbyl_onnx.option_types import NUMBER, Quantize, shown
from lbyl_onnx.sweeps import schedulers
from lbyl_onnx.sweeps.cells import make_folder, plan_cells, run_sweep
from lbyl_onnx.sweeps.identity import check_own, note, noting
from lbyl_onnx.sweeps.output import as_csv, as_svg
from lbyl_onnx.sweeps.types import Sweep
from lbyl_onnx.types import Progress

PathLike = str | os.PathLike[str]
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def sweep(
    models: PathLike | Sequence[PathLike],
    out: PathLike | None = None,
    *,
    ratios: Sequence[float | str] = RATIOS,
    macs: Sequence[str] | None = None,
    methods: str | Sequence[str] | None = None,
    quantize: Sequence[Quantize | None] = (None,),
    method_options: Sequence[tuple[str, OptionValue]] = (),
    inputs: PathLike | None = None,
    labels: str | None = None,
    score: str | None = None,
    config: Config | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Compress models by each method at each ratio, and score the results.

    Parameters
    ----------
    models : path or sequence of paths
        The models' files, or folders that hold one each.
    out : path, default=None
        Folder of ``sweep.csv``, ``sweep.svg`` and the finished cells: the same call again runs only
        what is missing. None to keep nothing.
    ratios : sequence of float, default=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        Shares of each group's channels to remove; texts may be in percent.
    macs : sequence of str, default=None
        Multiply-accumulates to reach in place of the ratios, ``["75%", "50%"]``, by what
        `Config.moves` allows.
    methods : str or sequence of str, default=None
        How the removed channels are restored; None for every method.
    quantize : sequence of {None, 'int8'}, default=(None,)
        How the results are quantised; beside each other, a ratio of 0 is measured quantised only.
    method_options : sequence of (name, value), default=()
        Options of registered methods; each method gets its own.
    inputs : path, default=None
        Samples to score on, an ``.npz`` or ``.npy``; None for synthetic ones.
    labels : str, default=None
        Classes of the samples: an array in `inputs`, or an ``.npy``. None for the agreement with
        the original.
    score : str, default=None
        A function of your own that is given the path of a model and returns its score,
        ``module:function`` or ``file.py:function``, in place of `inputs` and `labels`.
    config : Config, default=None
        All other options; its ratio, method and quantisation are replaced.
    workers : int, default=1
        Processes at a time; with more than one the latencies disturb each other.
    scheduler : str, default=None
        Address of a Dask scheduler, ``tcp://HOST:PORT``.
    progress : callable, default=None
        Called with what is done, how many cells are done, and how many there are. What it raises
        ends the sweep; cells that are done are kept.

    Returns
    -------
    Sweep
        The outcome of each cell, and the cells that failed.

    Raises
    ------
    OptionError
        For an option outside what it may be.
    ModelError
        When a model cannot be read.
    OutputError
        When the folder is that of another sweep, or cannot be written.

    Examples
    --------
    >>> from lbyl_onnx import sweep
    >>> curve = sweep("samples/digits.onnx", ratios=["30%"], methods="none")
    >>> [outcome.ratio for outcome in curve.outcomes]
    [0.3]
    """
    if labels is not None and inputs is None:
        raise OptionError("labels are of inputs; give both")
    if score is not None and inputs is not None:
        raise OptionError("score and inputs are given; give one of them")
    configs = _configs(
        config or Config(),
        [(ratio, None) for ratio in _numbers(ratios)] if macs is None else _amounts(macs),
        _names(methods),
        quantize,
        method_options,
    )
    shared = configs[0]
    place = None if inputs is None else Path(inputs)
    where = schedulers.local(workers) if scheduler is None else schedulers.dask(scheduler)
    files = [find_model(path) for path in _paths(models)]
    data = ScoringData(place, labels, shared.seed, shared.input_shape, shared.input, score)
    cells = plan_cells(list(dict.fromkeys(files)), configs, data, __version__)
    with ExitStack() as stack:
        kept = stack.enter_context(tempfile.TemporaryDirectory(prefix="lbyl-onnx-"))
        folder = Path(kept if out is None else out)
        make_folder(folder)
        if out is not None and cells:
            check_own(folder, cells)
            where = noting(where, folder, cells)
        tell = progress or (lambda stage, done, total: None)
        result = run_sweep(
            cells, folder, where, lambda done, total: tell("measuring cells", done, total)
        )
        if out is not None and result.outcomes:
            note(folder, cells)
            write_whole(as_csv(result), folder / "sweep.csv")
            write_whole(as_svg(result), folder / "sweep.svg")
    return result


def _paths(models: PathLike | Sequence[PathLike]) -> list[Path]:
    """The paths; a text is one, not its letters."""
    if isinstance(models, str | os.PathLike):
        return [Path(models)]
    return [Path(path) for path in models]


def _names(methods: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the methods, once each."""
    names = (
        method_names() if methods is None else (methods,) if isinstance(methods, str) else methods
    )
    return tuple(dict.fromkeys(names))


def _numbers(ratios: Sequence[float | str]) -> tuple[float, ...]:
    """The ratios; one that is alone is refused."""
    if isinstance(ratios, str) or not isinstance(ratios, Sequence) or not ratios:
        raise OptionError(f"ratios is {shown(ratios)}; give a list of numbers")
    try:
        return tuple(map(NUMBER.read, ratios))
    except TypeError as error:
        raise OptionError(f"ratios is {shown(ratios)}; give {error} for each") from error


def _amounts(macs: Sequence[str]) -> list[tuple[float | None, str | None]]:
    """Multiply-accumulates to reach, each beside no ratio; one that is alone is refused."""
    if isinstance(macs, str) or not macs:
        raise OptionError(f"macs is {shown(macs)}; give a list, as ['75%', '50%']")
    return [(None, amount) for amount in macs]


def _configs(
    config: Config,
    goals: Sequence[tuple[float | None, str | None]],
    methods: Sequence[str],
    quantize: Sequence[Quantize | None],
    method_options: Sequence[tuple[str, OptionValue]],
) -> list[Config]:
    """Return the options of each cell of one model."""
    if isinstance(quantize, str):
        raise OptionError(f"quantize is {shown(quantize)}; give a list, as [None, 'int8']")
    kinds = tuple(quantize)
    configs = [
        replace(
            config,
            ratio=ratio,
            macs=amount,
            method=method,
            quantize=kind,
            method_options=_options_of(method, methods, method_options),
        )
        for method in methods
        for kind in kinds
        for ratio, amount in goals
        if ratio != 0.0 or kind is not None or len(kinds) == 1
    ]
    if not configs:
        raise OptionError("no cell is left; give methods, and ratios above 0")
    return configs


def _options_of(
    method: str, methods: Sequence[str], supplied: Sequence[tuple[str, OptionValue]]
) -> tuple[tuple[str, OptionValue], ...]:
    """Return the options that a method has, with those that no method has: an error tells them."""
    option_names = {name: {option.name for option in find_method(name).options} for name in methods}
    others = set().union(*option_names.values()) - option_names[method]
    return tuple((name, value) for name, value in supplied if name not in others)
