"""The report, the sweep's picture and the pages in a real browser, on a desk and on a phone.

With LBYL_ONNX_SCREENSHOTS=FOLDER the screenshots are kept for the user to look at.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks.structures import RESNET_101, resnet
from lbyl_onnx import Config, compress
from lbyl_onnx.evaluate.score import ScoringData
from lbyl_onnx.report.html import as_html
from lbyl_onnx.report.json import as_json
from lbyl_onnx.report.origin import Origin
from lbyl_onnx.report.overview import as_overview
from lbyl_onnx.report.recorded import read_result
from lbyl_onnx.sweeps.cells import plan_cells, run_cell
from lbyl_onnx.sweeps.output import as_svg
from lbyl_onnx.sweeps.types import Outcome, Sweep
from tests.conftest import ROOT
from tests.support.extras import missing, need
from tests.support.nasty import NASTY
from tests.support.pages import PAGES

# What is made for the browser is made once, for all that look at it.
pytestmark = [pytest.mark.extras, pytest.mark.xdist_group("browser")]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run"
).split()
ORIGIN = Origin("digits.onnx", "lbyl-onnx compress digits.onnx small.onnx", {"lbyl-onnx": "1"})
WIDTHS = pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (390, "dark")], ids=["desk", "phone"]
)
# The page of a test: opened at a width and in a colour scheme, watched while it is looked at.
Open = Callable[[str, int, str], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need("playwright")
    if not CHROMIUM.exists():
        missing(f"{CHROMIUM} is not there")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, request: pytest.FixtureRequest) -> Open:
    @contextmanager
    def open_page(address: str, width: int, scheme: str) -> Iterator[Any]:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        wrong: list[str] = []
        here = address.split("/", 3)[:3]
        page.on("console", lambda m: wrong.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))

        def note(sent: Any) -> None:
            if not sent.url.startswith("data:") and sent.url.split("/", 3)[:3] != here:
                wrong.append(f"asks another place: {sent.url}")

        page.on("request", note)
        page.goto(address, wait_until="networkidle")
        yield page
        if folder := os.environ.get("LBYL_ONNX_SCREENSHOTS"):
            name = request.node.name.replace("/", "-")
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
        context.close()
        assert wrong == []

    return open_page


def is_wide(page: Any) -> bool:
    """Whether a page is wider than its window, so that a phone would have to scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def widths(page: Any, selector: str) -> list[float]:
    """The width of each element on the screen."""
    script = "all => all.map(e => e.getBoundingClientRect().width)"
    result: list[float] = page.locator(selector).evaluate_all(script)
    return result


@pytest.fixture(scope="module")
def report(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    result = compress(
        sample, config=Config(round_to=1, method="lbyl", provider="cpu", ratio=0.3), detailed=True
    )
    path.write_text(as_html(result, ORIGIN), encoding="utf-8")
    return path


@WIDTHS
class TestReport:
    def test_its_charts_are_there(
        self, report: Path, opened: Open, width: int, scheme: str
    ) -> None:
        with opened(report.as_uri(), width, scheme) as page:
            assert not is_wide(page)
            bars = widths(page, "#layers .bar")
            assert len(bars) == 7
            assert min(bars) > 100
            kept, gone = widths(page, "#layers .kept"), widths(page, "#layers .gone")
            # The first layer keeps 22 of its 32 channels.
            assert kept[0] / (kept[0] + gone[0]) == pytest.approx(22 / 32, abs=0.02)
            assert widths(page, "#fidelity .dots")[0] > 100
            assert len(widths(page, "#headline .tile")) == 4

    def test_ink_and_paper_follow_the_scheme(
        self, report: Path, opened: Open, width: int, scheme: str
    ) -> None:
        light = """e => { const [r, g, b] = getComputedStyle(document.body)[e]
            .match(/\\d+/g).map(Number); return (r + g + b) / 765 }"""
        with opened(report.as_uri(), width, scheme) as page:
            paper, ink = (page.evaluate(light, name) for name in ("backgroundColor", "color"))
            assert (paper > 0.9 and ink < 0.3) if scheme == "light" else (paper < 0.2 and ink > 0.8)

    def test_names_from_the_model_do_nothing(
        self, sample: Path, tmp_path: Path, opened: Open, width: int, scheme: str
    ) -> None:
        model = onnx.load(sample)
        for number, node in enumerate(model.graph.node):
            node.name = f"{number}{NASTY * 4}"
        result = compress(
            model,
            config=Config(round_to=1, method="none", provider="cpu", ratio=0.3),
            detailed=True,
        )
        path = tmp_path / "report.html"
        path.write_text(as_html(result, ORIGIN), encoding="utf-8")
        with opened(path.as_uri(), width, scheme) as page:
            assert not is_wide(page)
            assert "<script>alert(1)</script>" in page.locator("#groups .name").first.inner_text()

    def test_a_deep_network_stays_small(
        self, deep_report: Path, opened: Open, width: int, scheme: str
    ) -> None:
        assert deep_report.stat().st_size < 2_000_000
        with opened(deep_report.as_uri(), width, scheme) as page:
            assert not is_wide(page)
            # 1 + 33 blocks of 3 + 4 shortcuts + 1
            assert page.locator("#layers .bar").count() == 105


@pytest.fixture(scope="module")
def overview(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overview")
    results = []
    for ratio in (0.2, 0.5):
        config = Config(round_to=1, ratio=ratio, method="none", provider="cpu")
        document = folder / f"{ratio}.json"
        document.write_text(as_json(compress(sample, config=config), ORIGIN, "1"))
        results.append(read_result(document))
    path = folder / "overview.html"
    path.write_text(as_overview(results, "2026-01-02"), encoding="utf-8")
    return path


@WIDTHS
def test_several_results(overview: Path, opened: Open, width: int, scheme: str) -> None:
    with opened(overview.as_uri(), width, scheme) as page:
        assert not is_wide(page)
        charts = widths(page, "#pareto svg")
        assert len(charts) == 3
        assert min(charts) > 250
        assert page.locator("#pareto path").count() == 6
        assert not page.locator("#result-1 details table").first.is_visible()
        page.locator("#result-1 summary").first.click()
        assert page.locator("#result-1 details table").first.is_visible()
        assert not is_wide(page)


@pytest.fixture(scope="module")
def deep_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deep") / "report.html"
    model = resnet(RESNET_101, image_size=32, narrowest=8)
    result = compress(
        model, config=Config(round_to=1, method="none", provider="cpu", ratio=0.3), detailed=True
    )
    path.write_text(as_html(result, ORIGIN), encoding="utf-8")
    return path


def test_the_report_prints(report: Path, browser: Any) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"  # no ink for the night
    assert page.pdf().count(b"/Type /Page\n") in (2, 3, 4)
    page.close()


@WIDTHS
def test_the_sweep_s_picture_is_shown_as_an_image(
    sample: Path, tmp_path: Path, opened: Open, width: int, scheme: str
) -> None:
    configs = [
        Config(round_to=1, ratio=ratio, method="none", provider="cpu") for ratio in (0.2, 0.5)
    ]
    done = [run_cell(cell) for cell in plan_cells([sample], configs, ScoringData(), "1")]
    outcomes = tuple(outcome for outcome in done if isinstance(outcome, Outcome))
    (tmp_path / "sweep.svg").write_text(as_svg(Sweep(outcomes, (), 0)), encoding="utf-8")
    page_text = '<!doctype html><link rel="icon" href="data:,"><style>img{max-width:100%}</style>'
    (tmp_path / "page.html").write_text(f'{page_text}<img src="sweep.svg">')
    with opened((tmp_path / "page.html").as_uri(), width, scheme) as page:
        assert page.evaluate("document.images[0].naturalWidth") >= 1000
        assert not is_wide(page)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pages, served on loopback."""
    need("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@WIDTHS
@pytest.mark.parametrize("page_path", PAGES)
def test_a_page_of_the_docs(
    page_path: str, site: str, opened: Open, width: int, scheme: str
) -> None:
    name = Path(page_path).relative_to("docs").with_suffix("")
    address = f"{site}/" if name.name == "index" else f"{site}/{name.as_posix()}/"
    source = (ROOT / page_path).read_text()
    with opened(address, width, scheme) as page:
        assert not is_wide(page)
        assert page.locator("h1").count() == 1
        images = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert len(images) == source.count("![")
        assert all(images)
        formulas = widths(page, "math")
        assert bool(formulas) == bool(re.search(r"\$[a-zA-Z\\$]", source))
        assert all(formulas)
