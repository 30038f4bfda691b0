"""Where the command prints and reports to: encodings, closed descriptors, full disks, links."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from lbyl_onnx.cli import main
from lbyl_onnx.errors import OutputError
from lbyl_onnx.io.text_file import StagedText, write_whole
from tests.hostile.command import COMMAND, OPTIONS, contents, environment
from tests.support.architectures import chain

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors and limits are POSIX")

QUICK = ("--method", "none", "--force", *OPTIONS)
COMMANDS = {
    "compress": ("compress", "--ratio=0.3", "in.onnx", "out.onnx", *QUICK),
    "inspect": ("inspect", "in.onnx"),
    "verify": ("verify", "in.onnx", "in.onnx", *OPTIONS),
    "sweep": ("sweep", "in.onnx", "--methods", "none", "--ratios", "0.4", "--out", "curve",
              *OPTIONS),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a model lies whose nodes' names no Latin alphabet can spell."""
    (tmp_path / "scratch").mkdir()
    inner = tmp_path / "models"
    inner.mkdir()
    model = chain()
    for node in model.graph.node:
        node.name = f"層é {node.name}"
    onnx.save(model, inner / "in.onnx")
    return inner


def shell(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of the shell in which LBYL stands for the command."""
    env = {**environment(folder.parent / "scratch"), **variables}
    line = line.replace("LBYL", " ".join(COMMAND))
    return subprocess.run(["sh", "-c", line], cwd=folder, env=env, capture_output=True, check=False)


def assert_reported(done: subprocess.CompletedProcess[bytes], code: int, *says: str) -> None:
    """The exit code, and on stderr one line that says so, or nothing."""
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert error.count("\n") == bool(says), error
    assert all(word in error for word in says), error
    assert "internal error" not in error


ENCODINGS: dict[str, dict[str, str]] = {
    "the C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ASCII, strictly": {"PYTHONIOENCODING": "ascii:strict"},
}


@pytest.mark.parametrize(
    ("command", "encoding"),
    [*(("compress", name) for name in ENCODINGS), *((name, "cp1252") for name in COMMANDS)],
)
def test_names_that_the_terminal_cannot_spell(folder: Path, command: str, encoding: str) -> None:
    line = " ".join(("LBYL", *COMMANDS[command], "--json", "r.json"))
    done = shell(folder, line, **ENCODINGS[encoding])
    assert done.returncode == 0, done.stderr  # where the tables go, beside JSON
    assert b"warning" not in done.stderr
    assert (folder / "r.json").stat().st_size > 0
    assert (folder / "out.onnx").exists() == (command == "compress")


def test_a_name_is_spelled_out_where_it_must_be(folder: Path) -> None:
    done = shell(folder, "LBYL inspect in.onnx", COLUMNS="400", PYTHONIOENCODING="ascii:strict")
    assert b"\\u5c64\\xe9" in done.stdout


@pytest.mark.parametrize(
    "words",
    ["compress '\xff.onnx' out.onnx", "compress in.onnx 'out\xff.onnx'", "inspect '\xff.onnx'"],
)
def test_a_file_name_that_is_no_text(folder: Path, words: str) -> None:
    """Bytes that are no UTF-8: Python has a way to spell them, onnx has none."""
    line = words.replace("\xff", "\udcff")
    if "'\xff" in words:
        (folder / "\udcff.onnx").write_bytes((folder / "in.onnx").read_bytes())
    before = contents(folder)
    done = shell(folder, f"LBYL {line}", LC_ALL="C.UTF-8")
    assert_reported(done, 1, "error: ", r"\udcff", "not UTF-8")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("command", "closed"),
    [("compress", "2>&-"), ("compress", ">&-"), *((name, "<&- >&- 2>&-") for name in COMMANDS)],
)
def test_closed_descriptors(folder: Path, command: str, closed: str) -> None:
    """The next file to be opened must not take their numbers: all that is printed goes there."""
    done = shell(folder, " ".join(("LBYL", *COMMANDS[command], closed)))
    assert_reported(done, 0)
    if command == "compress":
        onnx.checker.check_model(folder / "out.onnx")


@pytest.mark.parametrize(
    ("command", "more"), [("compress", ""), ("compress", "--quiet --json -"), ("sweep", "")]
)
def test_what_cannot_be_printed_does_not_undo_the_work(
    folder: Path, command: str, more: str
) -> None:
    done = shell(folder, " ".join(("LBYL", *COMMANDS[command], more, "> /dev/full")))
    assert_reported(done, 0, "warning: the work is done, but", "No space left")
    assert (folder / ("out.onnx" if command == "compress" else "curve/sweep.csv")).exists()
    done = shell(folder, " ".join(("LBYL", *COMMANDS[command], more, "> /dev/full 2> /dev/full")))
    assert done.returncode == 0
    done = shell(folder, " ".join(("{ LBYL", *COMMANDS[command], more, "; echo $? >&2; } | :")))
    assert done.stderr == b"0\n"


@pytest.mark.parametrize(
    "line", ["--help", "--version", "compress --help", "inspect in.onnx", "verify in.onnx in.onnx"]
)
def test_output_that_is_all_there_is_and_cannot_be_written(folder: Path, line: str) -> None:
    assert_reported(shell(folder, f"LBYL {line} > /dev/full"), 1, "error: ", "No space left")


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_disk_too_full_for_a_report_leaves_the_output_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Reports are written first."""

    def fail(self: StagedText, text: str) -> None:
        raise OutputError(f"{self.path} cannot be written: No space left on device")

    monkeypatch.setattr(StagedText, "write", fail)
    monkeypatch.chdir(folder)
    (folder / "out.onnx").write_bytes(b"what was there before")
    before = contents(folder)
    done = CliRunner().invoke(main, [*COMMANDS["compress"], option, "report"])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "report cannot be written" in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("limit", [100, 4_000, 40_000])
def test_a_disk_that_is_full_at_any_moment(folder: Path, limit: int) -> None:
    """By the size of a file: of the models, of temporary files, of what ONNX Runtime writes."""
    (folder / "out.onnx").write_bytes(b"what was there before")
    before = contents(folder)
    done = subprocess.run(
        [*COMMAND, *COMMANDS["compress"], "--report", "r.html"], cwd=folder,
        env=environment(folder.parent / "scratch"), capture_output=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert_reported(done, 1, "in.onnx")
    assert contents(folder) == before


def test_a_report_that_cannot_be_put_in_its_place_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is in its place already."""

    def fail(self: StagedText) -> None:
        raise OutputError("r.json cannot be written: Is a directory")

    monkeypatch.setattr(StagedText, "put", fail)
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, [*COMMANDS["compress"], "--quiet", "--json", "r.json"])
    assert done.exit_code == 0
    assert "warning" in done.stderr
    assert "r.json cannot be written" in done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["in.onnx", "out.onnx"]


def test_a_report_follows_no_link(tmp_path: Path) -> None:
    """Whoever knows how a temporary file will be called can lay a link there."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    laid = [f".r.json.{os.getpid()}.tmp", ".r.json.tmp", "r.json.tmp", "r.json"]
    for name in laid:
        (folder / name).symlink_to(victim)
    write_whole("told", folder / "r.json")
    assert victim.read_text() == "precious"
    assert (folder / "r.json").read_text() == "told"
    assert sorted(file.name for file in folder.iterdir()) == sorted(laid)


LIMITS = {
    "no file": ("ulimit -f 0", "cannot be started here"),
    "no address space": ("ulimit -v 150000", "the libraries cannot be loaded"),
    "few descriptors": ("ulimit -n 12", ""),
}


@pytest.mark.parametrize(
    ("command", "limit"),
    [*(("inspect", name) for name in LIMITS), *((name, "no address space") for name in COMMANDS)],
)
def test_limits_of_the_shell_are_one_line(folder: Path, command: str, limit: str) -> None:
    line, says = LIMITS[limit]
    before = contents(folder)
    done = shell(folder, " ".join((f"{line};", "LBYL", *COMMANDS[command])))
    if done.returncode == 0 and limit == "few descriptors":
        return  # they are enough
    assert_reported(done, 1, "error: ", says)
    left = {name: what for name, what in contents(folder).items() if "curve" not in name}
    assert left == before
