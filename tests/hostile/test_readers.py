"""The real commands on data as a stranger could send it: arrays, options, cells, names."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.hostile.command import OPTIONS, SECONDS, Ran, contents, run
from tests.hostile.sample_files import bare_pickle, device, lying_archive, pickled, pipe, zip_bomb
from tests.support.architectures import chain
from tests.support.archives import ARCHIVES, HEADERS
from tests.support.fan import fan

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(os.name != "posix", reason="memory is measured on POSIX"),
]
GIB = 1 << 30
Make = Callable[[Path], str]
QUICK = ("--ratios", "0.5", "--methods", "none", "--out", "curve", *OPTIONS)
DRY = ("--dry-run", "--method", "none", *OPTIONS)


@pytest.fixture
def folder(sample: Path, tmp_path: Path) -> Path:
    """Where the sample lies as in.onnx; beside it the commands' temporary files."""
    (tmp_path / "scratch").mkdir()
    inner = tmp_path / "models"
    inner.mkdir()
    (inner / "in.onnx").write_bytes(sample.read_bytes())
    return inner


def commands_on(model: str) -> dict[str, tuple[str, ...]]:
    """Every command on a model."""
    return {
        "compress": ("compress", "--ratio=0.3", model, "out.onnx", *OPTIONS),
        "inspect": ("inspect", model),
        "verify": ("verify", model, "in.onnx", *OPTIONS),
        "verify, the other one": ("verify", "in.onnx", model, *OPTIONS),
        "sweep": ("sweep", model, *QUICK),
    }


def refused(ran: Ran, before: dict[str, str], folder: Path, code: int = 1) -> None:
    """One line of error, in bounded time and memory, and nothing touched."""
    assert (ran.code, ran.stdout) == (code, "")
    assert re.fullmatch(r"lbyl-onnx: error: [^\n]+\n", ran.stderr), ran.stderr
    assert "internal error" not in ran.stderr
    assert len(ran.stderr) < 2000
    after = contents(folder.parent)
    made = {str(folder / "curve"), str(folder / "curve" / "cells")}  # what --out asks for
    assert {path: kind for path, kind in after.items() if path not in made} == before
    assert ran.peak < GIB
    assert ran.seconds < SECONDS


def header(name: str, suffix: str) -> Make:
    def make(folder: Path) -> str:
        if suffix == ".npy":
            (folder / "a.npy").write_bytes(HEADERS[name])
        else:
            with zipfile.ZipFile(folder / "a.npz", "w") as file:
                file.writestr("x.npy", HEADERS[name])
        return f"a{suffix}"

    return make


ARRAYS: dict[str, Make] = {
    "a negative side": header("a negative side", ".npy"),
    "a side of 2^70": header("a side of 2^70", ".npz"),
    "a side that is True": header("a side that is True", ".npy"),
    "sides that overflow": header("sides that overflow", ".npy"),
    "signs without end": header("signs without end", ".npz"),
    "encrypted": lambda folder: ARCHIVES["encrypted"][0](folder).name,
    "an unknown method": lambda folder: ARCHIVES["an unknown method"][0](folder).name,
    "an empty member": lambda folder: ARCHIVES["an empty member"][0](folder).name,
    "pickled objects": pickled("a.npz"),
    "a pickle": bare_pickle("a.npy"),
    "a zip bomb": zip_bomb,
    "an archive that lies": lying_archive,
    "a pipe": pipe,
    "a device": device,
}
READING = {
    "compress": ("compress", "--ratio=0.3", "in.onnx", "--dry-run", *OPTIONS, "--calibration"),
    "verify": ("verify", "in.onnx", "in.onnx", *OPTIONS, "--inputs"),
    "sweep": ("sweep", "in.onnx", *QUICK, "--inputs"),
}


# `compress` meets the last ones in test_samples.py; all commands share one reader.
SEVERAL = [("compress", name) for name in [*ARRAYS][:8]]
SEVERAL += [("verify", name) for name in [*ARRAYS][3:]]
SEVERAL += [("sweep", name) for name in ("an empty member", "a zip bomb", "a pipe", "a device")]


@pytest.mark.parametrize(("command", "name"), SEVERAL)
def test_arrays(command: str, name: str, folder: Path) -> None:
    argument = ARRAYS[name](folder)
    before = contents(folder.parent)
    ran = run([*READING[command], argument], folder)
    refused(ran, before, folder)
    assert argument in ran.stderr


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a megabyte with eight samples, and a GB of zeros that no input reads."""
    path = tmp_path_factory.mktemp("bombs") / "b.npz"
    samples = np.random.default_rng(0).random((8, 1, 8, 8), dtype=np.float32)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("input.npy", "w") as file:
            np.lib.format.write_array(file, samples)
        for number in range(2):
            with archive.open(f"unused{number}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (GIB // 2,)}
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(32):
                    file.write(bytes(1 << 24))
    return path


@pytest.mark.parametrize("command", READING)
def test_arrays_that_no_input_reads_stay_packed(command: str, bombs: Path, folder: Path) -> None:
    (folder / "b.npz").write_bytes(bombs.read_bytes())
    ran = run([*READING[command], "b.npz"], folder)
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.peak < GIB // 2
    assert ran.seconds < SECONDS


@pytest.mark.parametrize("command", ["verify", "sweep"])
def test_labels_that_are_a_bomb(command: str, bombs: Path, folder: Path) -> None:
    (folder / "b.npz").write_bytes(bombs.read_bytes())
    before = contents(folder.parent)
    ran = run([*READING[command], "b.npz", "--labels", "unused0"], folder)
    refused(ran, before, folder)
    assert ran.peak < GIB // 2


OPTION_FILES = {
    "brackets in JSON": ("a.json", "[" * 10**5 + "]" * 10**5),
    "brackets in TOML": ("a.toml", "x=" + "[" * 10**5 + "]" * 10**5),
    "fewer brackets": ("a.toml", "x=" + "[" * 30_000 + "]" * 30_000),
    "a number of 400 digits in JSON": ("a.json", '{"ratio": 1' + "0" * 400 + "}"),
    "a number of 400 digits": ("a.toml", "ratio = 1" + "0" * 400),
    "a number of 5,000 digits": ("a.toml", "seed = 1" + "0" * 5000),
    "a key of 50,000 parts": ("a.toml", "a" + ".a" * 50_000 + "=1"),
    "a key of 30,000 parts": ("a.toml", "a" + ".a" * 30_000 + "=1"),
    "NaN": ("a.json", '{"keep_for": {"*": NaN}}'),
    "no text": ("a.toml", "\0"),
}


@pytest.mark.parametrize("name", OPTION_FILES)
def test_files_of_options(name: str, folder: Path) -> None:
    file, text = OPTION_FILES[name]
    (folder / file).write_text(text)
    before = contents(folder.parent)
    refused(
        run(["compress", "in.onnx", *DRY, "--config", file], folder),
        before,
        folder,
        2,
    )


@pytest.mark.parametrize("make", [pipe, device])
def test_files_of_options_that_are_none(make: Make, folder: Path) -> None:
    argument = make(folder)
    before = contents(folder.parent)
    refused(
        run(["compress", "in.onnx", *DRY, "--config", argument], folder),
        before,
        folder,
        2,
    )


@pytest.mark.parametrize("option", ["--keep-for", "--ratio-for"])
@pytest.mark.parametrize("number", ["inf", "nan", "1e999"])
def test_numbers_that_are_none(option: str, number: str, folder: Path) -> None:
    ran = run(["compress", "--ratio=0.3", "in.onnx", *DRY, option, f"*={number}"], folder)
    assert ran.code == 2
    assert "Traceback" not in ran.stderr
    assert "finite" in ran.stderr


def test_cells_of_a_sweep(folder: Path) -> None:
    """Each kind of cell that no run has written, in turn; the sweep runs it again."""
    command = ["sweep", "in.onnx", *QUICK, "--quiet"]
    assert run(command, folder).code == 0
    (path,) = (folder / "curve" / "cells").iterdir()
    good, held = path.read_text(), json.loads(path.read_text())
    for kind in ("fifo", "zero", "deep", "metric", "nan"):
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "deep":
            path.write_text("[" * 10**5)
        else:
            after = {**held["after"], "score": float("nan") if kind == "nan" else 0.5}
            path.write_text(json.dumps({**held, "metric": "foo", "after": after}))
        ran = run(command, folder)
        assert (ran.code, ran.stdout, ran.stderr) == (0, "", ""), kind
        assert ran.seconds < SECONDS
        cell = json.loads(path.read_text())
        assert {**cell["after"], "latency": 0} == {**held["after"], "latency": 0}
    assert path.is_file()
    assert cell["key"] == json.loads(good)["key"]


def not_utf8(folder: Path) -> str:
    name = os.fsdecode(b"m\xff.onnx")
    (folder / name).write_bytes((folder / "in.onnx").read_bytes())
    return name


def leads_to_itself(folder: Path) -> str:
    """External data in a file that is a link to itself."""
    path = folder / "loop.onnx"
    onnx.save(chain(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("w.bin")
    return path.name


@pytest.mark.parametrize("command", commands_on(""))
@pytest.mark.parametrize("make", [not_utf8, leads_to_itself])
def test_odd_files(make: Make, command: str, folder: Path) -> None:
    try:
        model = make(folder)
    except OSError:
        pytest.skip("the file system takes no such name")
    before = contents(folder.parent)
    refused(run(commands_on(model)[command], folder), before, folder)


def test_an_output_whose_name_is_not_utf8(folder: Path) -> None:
    before = contents(folder.parent)
    output = os.fsdecode(b"out\xff.onnx")
    refused(run(["compress", "--ratio=0.3", "in.onnx", output, *OPTIONS], folder), before, folder)


def test_weights_that_numpy_warns_of(folder: Path) -> None:
    """A variance of zero and no epsilon: the output is not finite, and only that is said."""
    model = chain()
    normal = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    epsilon = next((a for a in normal.attribute if a.name == "epsilon"), None)
    if epsilon is None:
        epsilon = normal.attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT)
    epsilon.f = 0.0
    for tensor in model.graph.initializer:
        if tensor.name == normal.input[4]:
            tensor.CopyFrom(
                numpy_helper.from_array(np.zeros(tensor.dims[0], np.float32), tensor.name)
            )
    onnx.save(model, folder / "bn.onnx")
    before = contents(folder.parent)
    refused(
        run(["compress", "--ratio=0.3", "bn.onnx", "out.onnx", *OPTIONS], folder), before, folder, 3
    )


@pytest.mark.parametrize("command", ["compress", "inspect"])
def test_names_that_are_repeated_often(command: str, folder: Path) -> None:
    """300 layers read by one whose name is a megabyte: reports of a few hundred kilobytes."""
    onnx.save(fan(300, 1, "n" * 10**6), folder / "names.onnx")
    more = {
        "compress": ("out.onnx", "--ratio=0.3", "--method", "none", "--report", "r.html", *OPTIONS),
        "inspect": (),
    }[command]
    ran = run([command, "names.onnx", "--json", "r.json", *more], folder)
    assert (ran.code, ran.stdout) == (0, "")
    assert len(ran.stderr) < 10**5
    sizes = [(folder / name).stat().st_size for name in ("r.json", "r.html")[: 1 + bool(more)]]
    assert max(sizes) < 10**6
    assert ran.seconds < SECONDS
