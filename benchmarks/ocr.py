"""A page read by rapidocr-onnxruntime before and after its three models are compressed.

Run from the root of the repository: ``python -m benchmarks.ocr [--ratios 0.05 0.1]``. It needs the
extra ``bench`` and the package ``rapidocr-onnxruntime``, whose wheel brings the three models: a
text detector, a classifier of upside-down lines and a text recogniser. The page is drawn here, with
the font inside Pillow. Every method runs at its defaults; the page is used to score, never to
choose anything.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.ocr_report import CHOICES, TOGETHER, Cell, Reading, Setting, document, markdown
from benchmarks.tables import write_pair
from lbyl_onnx import Config, VerificationError, __version__, compress
from lbyl_onnx.graph.costs import Costs
from lbyl_onnx.methods.registry import method_names

PACKAGE = "rapidocr_onnxruntime"
STAGES = {
    "det": "ch_PP-OCRv4_det_infer.onnx",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "rec": "ch_PP-OCRv4_rec_infer.onnx",
}
RATIOS = (0.05, 0.1)
METHODS = method_names()
BASE = Config(scope="inner", round_to=1, provider="cpu", ratio=0.3)

WIDTH, HEIGHT, MARGIN, FONT_SIZE = 1000, 1400, 80, 34  # pixels
LINE_STEP, PARAGRAPH_STEP = 64, 40  # pixels
PAGE = """\
Harbour notes, 14 March 1987

The ferry left the north pier at 6:45, a quarter
of an hour late, with 212 passengers, 37 cars and
one very patient horse. Fog lay over the bay; the
captain kept to 8 knots and rang the bell twice.

Below deck a vendor sold coffee (80 cents), tea
(65 cents) and buttered rolls. "Only six left," she
said, "and the next boat is at 10:30!" We bought
two, and shared them with a boy called Quentin.

Is it far to Zeeburg? About 19 miles by sea, or 54
by road. On a clear day you can just make out its
lighthouse: white, square, with a green lantern.

By 9:20 the fog had thinned. Gulls wheeled over
the wake; someone played a waltz on an accordion.
Nobody hurried. Ticket no. 40953 is still in my
jacket, folded between pages 118 and 119.
"""
TRUTH = "\n".join(line for line in PAGE.splitlines() if line)

Pixels = NDArray[np.uint8]


class PackageMissingError(Exception):
    """The package under test is not installed, or lacks a model."""


@dataclass(frozen=True)
class Page:
    """A rendered page.

    Parameters
    ----------
    pixels
        uint8, [height, width, 3].
    lines
        The same, cut at each line of text.
    """

    pixels: Pixels
    lines: tuple[Pixels, ...]


@dataclass(frozen=True)
class Compressed:
    """A compressed model's file, and what it costs against the original."""

    path: Path
    before: Costs
    after: Costs


def render_page() -> Page:
    """Draw the page: black on white, the same pixels for the same Pillow."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE)
    top, spans = MARGIN, []
    for line in PAGE.splitlines():
        if line:
            draw.text((MARGIN, top), line, fill="black", font=font)
            right = MARGIN + int(draw.textlength(line, font=font))
            spans.append((top - 4, right + 4))
        top += LINE_STEP if line else PARAGRAPH_STEP
    pixels = np.asarray(image)
    tall = FONT_SIZE + 14  # the letters with their descenders, and 4 pixels of white around
    lines = (pixels[y : y + tall, MARGIN - 4 : right] for y, right in spans)
    return Page(pixels, tuple(np.ascontiguousarray(line) for line in lines))


class Engine:
    """RapidOCR with some of its models replaced.

    Parameters
    ----------
    models
        Model file of each replaced stage (``det``, ``cls``, ``rec``).
    """

    def __init__(self, models: Mapping[str, Path]) -> None:
        paths = {f"{stage}_model_path": str(path) for stage, path in models.items()}
        self._ocr: Callable[..., tuple[Any, Any]] = importlib.import_module(PACKAGE).RapidOCR(
            **paths
        )

    def read(self, page: Page) -> str:
        """Return the page's text, line by line from the top."""
        lines, _ = self._ocr(page.pixels)
        return in_reading_order([(np.asarray(box), text) for box, text, _ in lines or ()])

    def work(self, page: Page) -> None:
        """Do what a perfect reading would: detect on the page, then read each true line."""
        self._ocr(page.pixels, use_det=True, use_cls=False, use_rec=False)
        for line in page.lines:
            self._ocr(line, use_det=False, use_cls=True, use_rec=True)


def in_reading_order(boxes: Sequence[tuple[NDArray[np.float64], str]]) -> str:
    """Join texts by position: rows from the top, in a row from the left.

    Parameters
    ----------
    boxes
        Corners [4, 2] (x, y) of each text, and the text.
    """
    rows: list[list[tuple[float, str]]] = []
    lowest = -np.inf
    for box, text in sorted(boxes, key=lambda entry: float(entry[0][:, 1].mean())):
        left, middle = float(box[:, 0].min()), float(box[:, 1].mean())
        if middle > lowest:
            rows.append([])
            lowest = middle + float(np.ptp(box[:, 1])) / 2.0
        rows[-1].append((left, text))
    return "\n".join(" ".join(text for _, text in sorted(row)) for row in rows)


def edit_distance(one: str, other: str) -> int:
    """Return the fewest insertions, deletions and substitutions between two texts."""
    letters = np.array([ord(c) for c in other], dtype=np.int64)
    steps = np.arange(len(other) + 1)
    row = steps
    for i, letter in enumerate(one, start=1):
        inner = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # An insertion costs 1 a step to the right: a running minimum once that slope is off.
        row = np.minimum.accumulate(np.concatenate([[i], inner]) - steps) + steps
    return int(row[-1])


def accuracy(text: str) -> float:
    """Return 1 - edit distance / length of the page's text."""
    return 1.0 - edit_distance(text, TRUTH) / len(TRUTH)


def model_paths() -> dict[str, Path]:
    """Return the installed package's own model files.

    Raises
    ------
    PackageMissingError
        When the package or a model in it is not there.
    """
    hint = (
        "install the extra `bench` and then `pip install --no-deps rapidocr-onnxruntime==1.4.4` "
        "(with its dependencies it would bring onnxruntime, which overwrites onnxruntime-gpu)"
    )
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PackageMissingError(f"{PACKAGE} is not installed; {hint}")
    folder = Path(spec.origin).parent / "models"
    paths = {stage: folder / name for stage, name in STAGES.items()}
    for path in paths.values():
        if not path.is_file():
            raise PackageMissingError(f"{path} is missing; {hint}")
    return paths


def compressed(source: Path, config: Config, folder: Path) -> Compressed | str:
    """Compress one model into a folder; the reason where its verification fails."""
    output = folder / f"{config.method}_{config.ratio:g}_{source.name}"
    try:
        result = compress(source, output, config=config)
    except VerificationError as error:
        return str(error)
    return Compressed(output, result.before, result.after)


def measure(
    page: Page, sources: Mapping[str, Path], config: Config, rounds: int, folder: Path
) -> list[Cell]:
    """Compress the three models one way, and read with all of them and with each alone."""
    outcomes = {stage: compressed(path, config, folder) for stage, path in sources.items()}
    original = Engine({})
    cells = []
    for stages in CHOICES:
        files = {s: c for s in stages if isinstance(c := outcomes[s], Compressed)}
        if len(files) < len(stages):
            failures = {s: c for s in stages if isinstance(c := outcomes[s], str)}
            why = "; ".join(f"{stage}: {reason}" for stage, reason in failures.items())
            cells.append(Cell(config, stages, None, None, why))
            continue
        engine = Engine({stage: file.path for stage, file in files.items()})
        text = engine.read(page)
        reading = Reading(text, accuracy(text))
        if stages == TOGETHER:
            reading = timed(reading, engine, original, page, rounds)
        before = [file.before for file in files.values()]
        after = [file.after for file in files.values()]
        parameters = sum(c.parameters for c in after) / sum(c.parameters for c in before)
        macs = sum(c.macs for c in after) / sum(c.macs for c in before)
        cells.append(Cell(config, stages, parameters, macs, reading))
        print(f"{config.ratio:.0%} {config.method} {stages}: {reading.accuracy:.4f}", flush=True)
    return cells


def timed(reading: Reading, engine: Engine, original: Engine, page: Page, rounds: int) -> Reading:
    """Add the time ratios: both engines in turn, after one round that warms them up."""
    page_ratios, work_ratios = [], []
    for _ in range(rounds + 1):
        page_ratios.append(_seconds(engine.read, page) / _seconds(original.read, page))
        work_ratios.append(_seconds(engine.work, page) / _seconds(original.work, page))
    return replace(reading, page_ratios=tuple(page_ratios[1:]), work_ratios=tuple(work_ratios[1:]))


def _seconds(task: Callable[[Page], object], page: Page) -> float:
    start = time.perf_counter()
    task(page)
    return time.perf_counter() - start


def versions() -> dict[str, str]:
    """Return the version of everything that shapes a figure."""
    own = {"lbyl-onnx": __version__, "onnx": onnx.__version__, "ONNX Runtime": ort.__version__}
    names = ("rapidocr-onnxruntime", "opencv-python-headless", "pillow", "numpy")
    # The engine runs with another build of OpenCV, too.
    installed = {d.name.lower(): d.version for d in distributions()}
    return own | {name: installed[name] for name in names if name in installed}


def main() -> None:
    """Read the page with every configuration and write ``ocr.md`` and ``ocr.json``."""
    parser = argparse.ArgumentParser(description="Read a page with compressed OCR models.")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS, metavar="RATIO")
    parser.add_argument("--rounds", type=int, default=3, help="of timing (default 3)")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        sources = model_paths()
    except PackageMissingError as error:
        parser.exit(1, f"error: {error}\n")
    page = render_page()
    text = Engine({}).read(page)
    uncompressed = Reading(text, accuracy(text))
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as folder:
        for ratio, method in product(sorted(options.ratios), METHODS):
            config = replace(BASE, ratio=ratio, method=method)
            cells += measure(page, sources, config, options.rounds, Path(folder))
    command = " ".join(["python -m benchmarks.ocr", *sys.argv[1:]])
    minutes = round((time.perf_counter() - start) / 60.0)
    setting = Setting(command, minutes, options.rounds, BASE, versions(), TRUTH)
    write_pair(
        options.output_dir,
        "ocr",
        document(setting, uncompressed, cells),
        markdown(setting, uncompressed, cells),
    )


if __name__ == "__main__":
    main()
