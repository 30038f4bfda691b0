"""Files that appear whole or not at all, whatever kills the run that writes them.

A run works in folders of its own and holds a lock on each. The kernel drops the lock when the run
ends, however it ends, so that the next run can tell what is left over from what is in use. Only
the standard library is imported here: the parent process of the command line needs it, too.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lbyl_onnx.errors import OutputError
from lbyl_onnx.guard import breadcrumbs

if os.name == "posix":
    import fcntl


# Of the folders that runs work in, wherever they lie.
PREFIX, SUFFIX = "lbyl-onnx-", ".tmp"
# Hexadecimal digits of the hash in the name of a data file, as earlier versions named it.
DIGITS = 16
# Seconds to wait for a lock: those of this tool are held for moments only.
PATIENCE = 10.0
# Seconds in which what this run has killed lets go of its files.
LINGER = 2.0
# In a staging folder: the data files beside the output that may turn out to belong to no model.
_JOURNAL = "data-files"


def data_name(model: str) -> str:
    """Return the name of the data file of a model: what other exporters call it, too."""
    return f"{model}_data"


def _interim_name(model: str) -> str:
    """The name of a data file while another takes its place, as long as the other name."""
    return f"{model}~data"


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder for temporary files; take away those that killed runs have left."""
    parent = Path(tempfile.gettempdir())
    for folder in _abandoned(parent, PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
    with _claimed(parent, PREFIX) as folder:
        yield folder


def _remove(folder: Path) -> None:
    """Remove a folder; processes that are being killed may still write into it for a moment."""
    end = time.monotonic() + LINGER
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > end:
            return
        time.sleep(0.02)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a place for a new file in a folder of its own beside `path`; it goes in the end.

    Raises
    ------
    OutputError
        When the folder cannot be made.
    """
    clear(path)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_claimed(path.parent, _prefix(path)))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        yield folder / path.name


def clear(path: Path) -> None:
    """Take away what killed runs have left of an output: staging folders, data of no model."""
    for folder in _abandoned(path.parent, _prefix(path)):
        with contextlib.suppress(OSError):
            _drop_unnamed(path, (folder / _JOURNAL).read_text(encoding="utf-8").splitlines())
        shutil.rmtree(folder, ignore_errors=True)


def check_data(path: Path, force: bool) -> None:
    """Refuse an output whose data file would take the place of a file that is not its own.

    Raises
    ------
    OutputError
        When another model in the folder names it; when no model does, and `force` is False.
    """
    data = path.with_name(data_name(path.name))
    if not data.exists():
        return
    for model in _siblings(path):
        if _holds(model, data.name):
            raise OutputError(f"{data} holds weights of {model.name}; give another output")
    if not force and not _holds(path, data.name):
        raise OutputError(f"{data}, for the output's weights, exists; give --force to overwrite it")


def publish(staged: Path, path: Path, patience: float = PATIENCE) -> None:
    """Move a staged model to its place: its data first, itself in one step.

    Where data of the same name is in use by the model that is there already, the new model comes
    first under an interim name of its data, so that at any time a whole model is in place. Two runs
    that publish at once do so one after the other, if the first is done within so many seconds.

    Raises
    ------
    OutputError
        When a move fails, the disk refuses what was written, or the data of another model would be
        lost.
    """
    files = [file.name for file in staged.parent.iterdir() if file != staged]
    new = [name for name in files if _holds(staged, name)]
    fixed, interim = data_name(path.name), _interim_name(path.name)
    try:
        for name in [staged.name, *new]:
            _settle(staged.with_name(name))
        with _locked(path.parent, patience):
            doubtful = [*new, interim, *_data_files(path)]
            (staged.parent / _JOURNAL).write_text("\n".join(doubtful), encoding="utf-8")
            if fixed in new:
                check_data(path, force=True)
            if fixed in new and path.with_name(fixed).exists() and _holds(path, fixed):
                _exchange(staged, path)
                new.remove(fixed)
            for name in new:
                staged.with_name(name).replace(path.with_name(name))
            _put(staged, path)
            _drop_unnamed(path, doubtful)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def _exchange(staged: Path, path: Path) -> None:
    """Put a model in place that names its data by the interim name, then its data by its own."""
    fixed, interim = data_name(path.name), _interim_name(path.name)
    # Both names are of one length, so that the message stays one.
    content = staged.read_bytes().replace(fixed.encode(), interim.encode())
    model, link = staged.with_name("interim"), staged.with_name("link")
    model.write_bytes(content)
    _settle(model)
    staged.with_name(fixed).replace(path.with_name(interim))
    _put(model, path)
    try:
        os.link(path.with_name(interim), link)
    except OSError:  # a file system without links
        shutil.copyfile(path.with_name(interim), link)
        _settle(link)
    link.replace(path.with_name(fixed))


def _put(staged: Path, path: Path) -> None:
    """Put a model in its place in one step, and note that it is this run's."""
    breadcrumbs.note(published=_identity(staged))
    staged.replace(path)


def _identity(file: Path) -> str:
    status = file.stat()
    return f"{status.st_dev}:{status.st_ino}"


def is_published(notes: Mapping[str, str]) -> bool:
    """Whether the output of a run that has ended is the one that its notes name."""
    try:
        return _identity(Path(notes["output"])) == notes["published"]
    except (KeyError, OSError):
        return False


def _settle(file: Path) -> None:
    """Flush a file from the cache to the disk, so that a crash cannot lose it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _data_files(path: Path) -> list[str]:
    """Names of the files beside a model that are data of its own."""
    if not path.is_file():
        return []
    names = (file.name for file in path.parent.iterdir() if _is_data_of(path, file.name))
    return sorted(name for name in names if _holds(path, name))


def _is_data_of(path: Path, name: str) -> bool:
    if name in (data_name(path.name), _interim_name(path.name)):
        return True
    pattern = rf"{re.escape(path.name)}\.[0-9a-f]{{{DIGITS}}}\.data"
    return re.fullmatch(pattern, name) is not None


def _drop_unnamed(path: Path, names: Iterable[str]) -> None:
    """Remove those data files of a model that no model in its folder names."""
    models = [path, *_siblings(path)]
    for name in names:
        # A journal that another wrote may name anything.
        if not _is_data_of(path, name):
            continue
        file = path.with_name(name)
        # What is not there need not be looked for in all models of the folder.
        if os.path.lexists(file) and not any(_holds(model, name) for model in models):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _siblings(path: Path) -> list[Path]:
    """The other models of a folder."""
    return [file for file in sorted(path.parent.glob("*.onnx")) if file.name != path.name]


def _holds(model: Path, text: str) -> bool:
    """Whether a file holds a text; also where it cannot be read, for what it names must stay.

    The text as the end of the name of the file's own data does not count: `layout.onnx_data` is not
    `out.onnx_data`.
    """
    own = data_name(model.name)
    before = own.removesuffix(text) if own.endswith(text) and own != text else ""
    pattern = re.escape(text.encode())
    if before:
        pattern = b"(?<!" + re.escape(before.encode()) + b")" + pattern
    try:
        if not model.exists() or not model.stat().st_size:
            return False
        with (
            model.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return re.search(pattern, content) is not None
    except (OSError, ValueError):
        return True


@contextmanager
def _claimed(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder and hold its lock; remove it in the end."""
    while True:
        folder = Path(tempfile.mkdtemp(SUFFIX, prefix, parent))
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_locked(folder))
            except FileNotFoundError:
                continue
            # Until it was locked another run may have taken it for abandoned.
            if not folder.exists():
                continue
            try:
                yield folder
            finally:
                _remove(folder)
            return


def _abandoned(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield the folders of runs that are no more, each locked while it is looked at."""
    if os.name != "posix":  # without locks that die with their owner nothing can be told
        return
    # What `tempfile.mkdtemp` puts between prefix and suffix.
    pattern = re.compile(rf"{re.escape(prefix)}[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
    for folder in [file for file in parent.iterdir() if pattern.fullmatch(file.name)]:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, another user's, or no folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # in use, or on a file system without locks
        else:
            if os.fstat(descriptor).st_uid == os.getuid():
                yield folder
        finally:
            os.close(descriptor)


@contextmanager
def _locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a folder's lock, if its file system has locks and it is to be had in time."""
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + patience
        while not _try_lock(descriptor) and time.monotonic() < end:
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock; False where another holds the lock, True where there are no locks to wait for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
