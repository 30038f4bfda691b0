"""Whatever kills the command or refuses its writes: the old file or the new one, whole."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest

from lbyl_onnx import Config, ModelError, OutputError, compress
from lbyl_onnx.io import atomic
from lbyl_onnx.io.external_data import all_tensors, is_external
from tests.hostile.command import COMMAND, OPTIONS, contents, environment, run
from tests.support.architectures import chain
from tests.support.models import MODELS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX")

KILLS, WORKERS = 60, 2
QUICK = ("--method", "none", *OPTIONS)


def whole(folder: Path) -> dict[str, bytes]:
    """The output and the data files that it names, by name.

    While data of the same name are exchanged, the model in place names them otherwise.

    Raises
    ------
    FileNotFoundError
        When one of them is not there.
    """
    output = folder / "out.onnx"
    model = onnx.load(output, load_external_data=False)
    names = {
        entry.value
        for tensor in all_tensors(model)
        if is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = {name: (folder / name).read_bytes() for name in sorted({"out.onnx", *names})}
    if "out.onnx~data" in files:
        files["out.onnx_data"] = files.pop("out.onnx~data")
        files["out.onnx"] = files["out.onnx"].replace(b"out.onnx~data", b"out.onnx_data")
    return files


@dataclass
class Workspace:
    """A folder with an input, what the outputs of two ratios are there, and how long a run takes.

    The last run that ended tells: what else the machine does changes meanwhile.
    """

    folder: Path
    outputs: dict[str, dict[str, bytes]]
    seconds: float

    def command(self, ratio: str) -> list[str]:
        options = ("--ratio", ratio, "--force", "--external-data", "always", *QUICK)
        return [*COMMAND, "compress", "--ratio=0.3", "in.onnx", "out.onnx", *options]

    def run(self, ratio: str) -> None:
        env, begun = environment(self.folder.parent / "scratch"), time.monotonic()
        done = subprocess.run(
            self.command(ratio), cwd=self.folder, env=env, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.seconds = time.monotonic() - begun

    def leftovers(self) -> list[str]:
        """What lies about beside the input and the output, here and among temporary files."""
        existing = {"in.onnx", *whole(self.folder)}
        here = [file.name for file in self.folder.iterdir() if file.name not in existing]
        return here + [file.name for file in (self.folder.parent / "scratch").iterdir()]


def prepared(folder: Path) -> Workspace:
    folder.mkdir(parents=True)
    (folder / "in.onnx").write_bytes(MODELS["residual"]().SerializeToString())
    workspace = Workspace(folder, {}, 0.0)
    for ratio in ("0.5", "0.25"):
        workspace.run(ratio)
        workspace.outputs[ratio] = whole(folder)
    assert workspace.outputs["0.5"] != workspace.outputs["0.25"]
    assert workspace.leftovers() == []
    return workspace


def kill_often(folder: Path, count: int, seed: int) -> int:
    """Kill `count` runs, each at a random moment; return how many had not ended before."""
    workspace, rng, killed = prepared(folder), np.random.default_rng(seed), 0
    for number in range(count):
        ratio, begun = ("0.5", "0.25")[number % 2], time.monotonic()
        process = subprocess.Popen(
            workspace.command(ratio),
            cwd=folder,
            env=environment(folder.parent / "scratch"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # The imports take the first half. Moments in each part of the rest: few are enough.
        moment = workspace.seconds * (0.3 + 0.8 * (number + rng.uniform()) / count)
        try:
            process.wait(moment)
            workspace.seconds = time.monotonic() - begun
        except subprocess.TimeoutExpired:
            killed += 1
        kill(process, ("parent", "child", "both")[number % 3])
        assert whole(folder) in workspace.outputs.values()
        if number % 10 == 9:
            workspace.run(ratio)
            assert whole(folder) == workspace.outputs[ratio]
            assert workspace.leftovers() == []
    return killed


def kill(process: subprocess.Popen[bytes], whom: str) -> None:
    """Kill the parent, its child, or both, and wait until both are gone."""
    if process.poll() is None and whom == "child":
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in listed.read_text().split() if listed.exists() else []:
            os.kill(int(child), signal.SIGKILL)
    elif process.poll() is None and whom == "parent":
        process.kill()
    elif process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10.0
    while alive(process.pid) and time.monotonic() < end:
        time.sleep(0.005)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.corpus
@pytest.mark.skipif(sys.platform != "linux", reason="finds the child in /proc")
def test_killed_at_60_moments_all_over_the_run(tmp_path: Path) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = [
            pool.submit(kill_often, tmp_path / str(n) / "models", KILLS // WORKERS, n)
            for n in range(WORKERS)
        ]
        killed = sum(job.result() for job in jobs)
    assert killed > KILLS // 2


# Ends the process at the n-th change that publishing makes to the disk.
_NEW = "out.onnx." + "2" * 16 + ".data"
_PUBLISH = """
import os, sys
from pathlib import Path
from tempfile import mkdtemp
from lbyl_onnx.io import atomic
left = int(sys.argv[1])

def counted(change):
    def wrapper(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return change(*arguments, **options)
    return wrapper

for name in ("replace", "unlink", "write_text"):
    setattr(Path, name, counted(getattr(Path, name)))
os.link = counted(os.link)
path = Path("out.onnx")
with atomic.staged(path) as stage:
    stage.open("wb").write(b"new, see " + sys.argv[2].encode())
    stage.with_name(sys.argv[2]).open("wb").write(b"new data")
    atomic.publish(stage, path)
"""


def publish_and_die(folder: Path, after: int, data: str = _NEW) -> int:
    command = [sys.executable, "-c", _PUBLISH, str(after), data]
    return subprocess.run(command, cwd=folder, check=False, timeout=30).returncode


def test_killed_at_each_step_of_publishing(tmp_path: Path) -> None:
    one, two = (f"out.onnx.{digit * 16}.data" for digit in "12")
    old = {"out.onnx": f"old, see {one}", one: "old data"}
    new = {"out.onnx": f"new, see {two}", two: "new data"}
    step, code = 0, 9
    while code == 9:
        folder = tmp_path / str(step)
        folder.mkdir()
        for name, text in old.items():
            (folder / name).write_text(text)
        code = publish_and_die(folder, step)
        files = {f.name: f.read_text() for f in folder.iterdir() if f.is_file()}
        expected = new if files["out.onnx"] == new["out.onnx"] else old
        assert expected.items() <= files.items()
        atomic.clear(folder / "out.onnx")
        assert {f.name: f.read_text() for f in folder.iterdir()} == expected
        step += 1
    assert code == 0
    assert step > 4


@pytest.mark.parametrize("before", [None, "out.onnx_data", "out.onnx~data", _NEW])
def test_killed_at_each_step_of_exchanging_data(before: str | None, tmp_path: Path) -> None:
    """The data have one name before and after: at each moment a whole model is in place."""
    fixed, interim = "out.onnx_data", "out.onnx~data"
    old = {} if before is None else {"out.onnx": f"old, see {before}", before: "old data"}
    new = {"out.onnx": f"new, see {fixed}", fixed: "new data"}
    between = {"out.onnx": f"new, see {interim}", interim: "new data"}
    step, code, passed = 0, 9, []
    while code == 9:
        folder = tmp_path / str(step)
        folder.mkdir()
        for name, text in old.items():
            (folder / name).write_text(text)
        code = publish_and_die(folder, step, fixed)
        files = {f.name: f.read_text() for f in folder.iterdir() if f.is_file()}
        states = [state for state in (old, between, new) if state.items() <= files.items()]
        model = files.get("out.onnx", "")
        expected = next(state for state in states if state.get("out.onnx", "") == model)
        passed.append(expected)
        atomic.clear(folder / "out.onnx")
        assert {f.name: f.read_text() for f in folder.iterdir()} == expected
        step += 1
    assert code == 0
    assert passed[-1] == new
    assert (between in passed) == (before == fixed)


def test_data_of_that_name_that_are_not_the_outputs_stay(tmp_path: Path) -> None:
    output, data = tmp_path / "out.onnx", tmp_path / "out.onnx_data"
    data.write_text("weights")
    with pytest.raises(OutputError, match=r"out\.onnx_data, for the output's weights, exists"):
        atomic.check_data(output, force=False)
    atomic.check_data(output, force=True)
    (tmp_path / "layout.onnx").write_text("see layout.onnx_data")
    atomic.check_data(output, force=True)
    output.write_text("see out.onnx_data")
    atomic.check_data(output, force=False)
    (tmp_path / "best.onnx").write_text("see out.onnx_data")
    with pytest.raises(OutputError, match=r"holds weights of best\.onnx"):
        atomic.check_data(output, force=True)
    assert publish_and_die(tmp_path, 100, "out.onnx_data") == 1
    assert (output.read_text(), data.read_text()) == ("see out.onnx_data", "weights")


def test_data_that_another_model_names_stays(tmp_path: Path) -> None:
    """A copy of the old output, in the same folder, has the old output's weights."""
    one = f"out.onnx.{'1' * 16}.data"
    for name in ("out.onnx", "best.onnx"):
        (tmp_path / name).write_text(f"old, see {one}")
    (tmp_path / one).write_text("old data")
    assert publish_and_die(tmp_path, 100) == 0
    assert (tmp_path / one).read_text() == "old data"


def test_a_folder_in_use_is_not_taken_away(tmp_path: Path) -> None:
    with atomic.staged(tmp_path / "out.onnx") as staged:
        atomic.clear(tmp_path / "out.onnx")
        assert staged.parent.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_taken_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may take it for abandoned in between."""
    made: list[str] = []

    def make_folder(suffix: str, prefix: str, parent: Path) -> str:
        made.append(mkdtemp(suffix, prefix, parent))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr("lbyl_onnx.io.atomic.tempfile.mkdtemp", make_folder)
    with atomic.staged(tmp_path / "out.onnx") as staged:
        staged.write_bytes(b"whole")
        assert str(staged.parent) == made[1]


@pytest.mark.parametrize(
    "name",
    [".out.onnx.abcdefgh.tmp", ".out.onnx.abcdefgh.tmp.bak", ".other.onnx.abcdefgh.tmp", "x.tmp"],
)
def test_only_folders_of_this_output_are_taken_away(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    atomic.clear(tmp_path / "out.onnx")
    assert (tmp_path / name).exists() == (name != ".out.onnx.abcdefgh.tmp")


def test_a_link_in_place_of_a_staging_folder_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / ".out.onnx.abcdefgh.tmp").symlink_to(precious)
    atomic.clear(tmp_path / "out.onnx")
    assert (precious / "file").exists()


def test_a_journal_of_a_stranger_names_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "weights.data").touch()
    (tmp_path / "folder").mkdir()
    staged = tmp_path / "folder" / ".out.onnx.abcdefgh.tmp"
    staged.mkdir()
    (staged / "data-files").write_text("../weights.data\n/etc/passwd\nnotes.txt\n")
    (tmp_path / "folder" / "notes.txt").touch()
    atomic.clear(tmp_path / "folder" / "out.onnx")
    assert (tmp_path / "weights.data").exists()
    assert (tmp_path / "folder" / "notes.txt").exists()


def test_a_lock_that_is_never_given_back_does_not_hang(tmp_path: Path) -> None:
    holder = "import fcntl, os, sys, time; f = os.open('.', os.O_RDONLY); fcntl.flock(f, 2)"
    command = [sys.executable, "-c", f"{holder}; print('held', flush=True); time.sleep(60)"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert publish_and_die_here(tmp_path, 0.1) == b"new"
    finally:
        process.kill()
        process.communicate()


def publish_and_die_here(folder: Path, patience: float) -> bytes:
    with atomic.staged(folder / "out.onnx") as staged:
        staged.write_bytes(b"new")
        atomic.publish(staged, folder / "out.onnx", patience)
    return (folder / "out.onnx").read_bytes()


@pytest.mark.corpus
def test_two_at_once_leave_one_of_both(tmp_path: Path) -> None:
    workspace = prepared(tmp_path / "models")
    env = environment(tmp_path / "scratch")
    for _ in range(5):
        both = [
            subprocess.Popen(
                workspace.command(ratio),
                cwd=workspace.folder,
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for ratio in workspace.outputs
        ]
        for process in both:
            assert process.communicate(timeout=60)[1] == b""
            assert process.returncode == 0
        assert whole(workspace.folder) in workspace.outputs.values()
        assert workspace.leftovers() == []


def test_two_publish_at_once(tmp_path: Path) -> None:
    """Without the lock one run would drop the data that the other has just put there."""
    path = tmp_path / "out.onnx"

    def put(digit: str) -> None:
        for _ in range(50):
            with atomic.staged(path) as staged:
                name = f"out.onnx.{digit * 16}.data"
                staged.write_text(f"see {name}")
                staged.with_name(name).write_text(digit)
                atomic.publish(staged, path)

    threads = [threading.Thread(target=put, args=(digit,)) for digit in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = path.read_text().removeprefix("see ")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.onnx", name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    inner = tmp_path / "models"
    inner.mkdir()
    (inner / "in.onnx").write_bytes(chain().SerializeToString())
    return inner


@pytest.mark.parametrize("external", ["always", "never"])
@pytest.mark.parametrize("limit", [100, 4000])
def test_a_full_disk_by_file_size(folder: Path, external: str, limit: int) -> None:
    (folder / "out.onnx").write_bytes(b"what was there before")
    before = contents(folder)
    arguments = [
        "compress",
        "--ratio=0.3",
        "in.onnx",
        "out.onnx",
        "--force",
        "--external-data",
        external,
        *QUICK,
    ]
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(folder.parent / "scratch"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "in.onnx" in done.stderr
    assert "internal error" not in done.stderr
    assert contents(folder) == before
    assert list((folder.parent / "scratch").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("what", ["output", "temporary files"])
def test_a_full_disk(folder: Path, sample: Path, small_disk: Path, what: str) -> None:
    (folder / "in.onnx").write_bytes(sample.read_bytes())
    output = small_disk / "out.onnx" if what == "output" else folder / "out.onnx"
    output.write_bytes(b"what was there before")
    env = environment(folder.parent / "scratch" if what == "output" else small_disk)
    arguments = [
        "compress",
        "--ratio=0.3",
        "in.onnx",
        str(output),
        "--force",
        "--external-data",
        "never",
        *QUICK,
    ]
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "No space left on device" in done.stderr
    assert output.read_bytes() == b"what was there before"
    left = {file.name for file in (*small_disk.iterdir(), *folder.iterdir())}
    assert left == {"in.onnx", "out.onnx"}


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    locked = folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    if os.access(locked, os.W_OK):  # modes do not bind root; a kernel's own folder does
        locked = Path("/proc")
    ran = run(["compress", "--ratio=0.3", "in.onnx", str(locked / "out.onnx"), *QUICK], folder)
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "cannot be written" in ran.stderr


def test_outputs_that_are_no_place_for_a_file(folder: Path) -> None:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "same.onnx").symlink_to("in.onnx")
    (folder / "twin.onnx").hardlink_to(folder / "in.onnx")
    (folder / "null").symlink_to("/dev/null")
    before = contents(folder)
    for output in ("folder", "pipe", "same.onnx", "twin.onnx", "null", "/dev/null", "in.onnx",
                   "no/out.onnx", f"{'n' * 300}.onnx"):  # fmt: skip
        with pytest.raises(OutputError):
            compress(folder / "in.onnx", folder / output, config=CPU, force=True)
        assert contents(folder) == before


CPU = Config(ratio=0.25, provider="cpu", method="none")


def test_a_link_as_output_is_replaced_and_its_target_kept(folder: Path) -> None:
    (folder / "precious.onnx").write_bytes(b"precious")
    for name, target in (("out.onnx", "precious.onnx"), ("dangling.onnx", "absent.onnx")):
        (folder / name).symlink_to(target)
        compress(folder / "in.onnx", folder / name, config=CPU, force=True)
        assert not (folder / name).is_symlink()
        onnx.checker.check_model(folder / name)
    assert (folder / "precious.onnx").read_bytes() == b"precious"
    assert not (folder / "absent.onnx").exists()


def test_the_weights_of_the_input_are_not_overwritten(folder: Path) -> None:
    onnx.save(
        chain(), folder / "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    before = contents(folder)
    with pytest.raises(OutputError, match="holds weights"):
        compress(folder / "big.onnx", folder / "w.bin", config=CPU, force=True)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["in.onnx", "w.bin"])
@pytest.mark.parametrize("change", ["rewritten", "replaced", "removed"])
def test_an_input_that_changes_is_told(folder: Path, name: str, change: str) -> None:
    source = folder / "in.onnx"
    onnx.save(chain(), source, save_as_external_data=True, location="w.bin", size_threshold=0)
    file = folder / name

    def at(stage: str, done: int, total: int) -> None:
        if stage == "verifying" and change == "rewritten":
            os.utime(file, ns=(0, 0))
        elif stage == "verifying" and change == "replaced":
            copy = folder / "copy"
            copy.write_bytes(file.read_bytes())
            os.utime(copy, ns=(0, file.stat().st_mtime_ns))
            copy.replace(file)
        elif stage == "verifying":
            file.unlink()

    with pytest.raises(ModelError, match=r"changed while it was read"):
        compress(source, folder / "out.onnx", config=CPU, progress=at)
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("victim", ["in.onnx", "out.onnx", "w.bin"])
def test_a_report_takes_no_model_s_place(folder: Path, victim: str) -> None:
    source = folder / "in.onnx"
    onnx.save(chain(), source, save_as_external_data=True, location="w.bin", size_threshold=0)
    before = contents(folder)
    ran = run(["compress", "--ratio=0.3", "in.onnx", "out.onnx", "--json", victim, *QUICK], folder)
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert contents(folder) == before


def test_a_report_goes_to_no_device(folder: Path) -> None:
    ran = run(
        ["compress", "--ratio=0.3", "in.onnx", "out.onnx", "--json", "/dev/full", *QUICK], folder
    )
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert not (folder / "out.onnx").exists()
