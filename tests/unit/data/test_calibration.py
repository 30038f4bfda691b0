"""The user's own samples: arrays or images in, mini-batches out; one clear error if not."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike
from PIL import Image

from lbyl_onnx.data import image_files
from lbyl_onnx.data.array_samples import open_array_files
from lbyl_onnx.data.calibration import read_calibration
from lbyl_onnx.data.image_files import SUFFIXES, form_of, open_images
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError, LbylOnnxError, OptionError
from lbyl_onnx.option_types import Layout
from lbyl_onnx.types import Array

Values = np.ndarray[Any, np.dtype[Any]]
RNG = np.random.default_rng


def takes(*shape: int | None, name: str = "x", dtype: DTypeLike = np.float32) -> Input:
    return Input(name, np.dtype(dtype), shape)


VECTORS = takes(None, 4)
PHOTOS = takes(None, 3, 6, 8)


def normal(*shape: int, dtype: DTypeLike = np.float32) -> Values:
    return RNG(0).standard_normal(shape).astype(dtype)


def npz(folder: Path, **arrays: Values) -> Path:
    path = folder / "samples.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the rest as a bool
    return path


def npy(folder: Path, array: Values) -> Path:
    path = folder / "samples.npy"
    np.save(path, array)
    return path


def picture(path: Path, values: Values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def flat(height: int, width: int, colour: Sequence[int]) -> Values:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, len(colour))).copy()


def joined(samples: Samples, name: str = "x", size: int = 3) -> Values:
    return np.concatenate([batch[name] for batch in samples.batches(size)])


# --- arrays ---


def test_batches_hold_all_samples_in_order(tmp_path: Path) -> None:
    values = normal(7, 4)
    samples = read_calibration(npz(tmp_path, x=values), [VECTORS])
    assert samples.count == 7
    assert [len(batch["x"]) for batch in samples.batches(3)] == [3, 3, 1]
    assert np.array_equal(joined(samples), values)
    assert np.array_equal(joined(samples), values)  # a second time, too


def test_a_batch_has_a_size(tmp_path: Path) -> None:
    samples = read_calibration(npz(tmp_path, x=normal(7, 4)), [VECTORS])
    with pytest.raises(ValueError, match="at least 1"):
        next(samples.batches(0))


def test_one_input_takes_one_array_of_any_name(tmp_path: Path) -> None:
    values = normal(5, 4)
    for path in (npz(tmp_path, arr_0=values), npy(tmp_path, values)):
        assert np.array_equal(joined(read_calibration(path, [VECTORS])), values)


def test_labels_beside_the_samples_are_left_aside(tmp_path: Path) -> None:
    path = npz(tmp_path, labels=np.arange(5), x=normal(5, 4))
    assert [*next(read_calibration(path, [VECTORS]).batches(5))] == ["x"]


def test_several_inputs_go_together(tmp_path: Path) -> None:
    x, ids = normal(9, 4), np.arange(18).reshape(9, 2)
    inputs = [VECTORS, takes(None, 2, name="ids", dtype=np.int32)]
    samples = read_calibration(npz(tmp_path, x=x, ids=ids), inputs, limit=5, seed=1)
    batch = next(samples.batches(5))
    assert batch["ids"].dtype == np.int32
    rows = batch["ids"][:, 0] // 2
    assert np.array_equal(batch["ids"], ids[rows])
    assert np.array_equal(batch["x"], x[rows])


@pytest.mark.parametrize(
    ("dtype", "taken"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.float32, np.float16),
        (np.float32, np.float64),
        (np.int64, np.int32),
        (np.uint8, np.int64),
        (np.bool_, np.bool_),
    ],
)
@pytest.mark.parametrize("write", [npy, lambda folder, array: npz(folder, x=array)])
def test_types_that_hold_the_values_are_cast(
    tmp_path: Path,
    dtype: DTypeLike,
    taken: DTypeLike,
    write: Callable[[Path, Values], Path],
) -> None:
    values = np.abs(3 * normal(5, 4)).astype(dtype)
    read = joined(read_calibration(write(tmp_path, values), [takes(None, 4, dtype=taken)]))
    assert read.dtype == taken
    assert np.array_equal(read, values.astype(taken))


@pytest.mark.parametrize("write", [npy, lambda folder, array: npz(folder, x=array)])
def test_more_than_the_limit_is_a_seeded_choice(
    tmp_path: Path, write: Callable[[Path, Values], Path]
) -> None:
    path = write(tmp_path, np.arange(600.0).reshape(600, 1))
    first, again, other = (
        joined(read_calibration(path, [takes(None, 1)], limit=20, seed=seed)) for seed in (0, 0, 1)
    )
    assert len(np.unique(first)) == 20
    assert np.all(np.diff(first[:, 0]) > 0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert read_calibration(path, [takes(None, 1)]).count == 512


@pytest.mark.parametrize(("limit", "count"), [(512, 9), (7, 6), (2, 3)])
def test_a_fixed_batch_gets_whole_batches(tmp_path: Path, limit: int, count: int) -> None:
    path = npy(tmp_path, normal(10, 4))
    assert read_calibration(path, [takes(3, 4)], limit=limit).count == count


Make = Callable[[Path], Path]


def damaged(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b""
    path.write_bytes(data)
    return path


def written(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def header(old: bytes, new: bytes) -> Make:
    """Write an archive whose array's header is changed, its checksum with it."""

    def make(folder: Path) -> Path:
        data = npy(folder, normal(2, 4)).read_bytes()
        assert old in data
        with zipfile.ZipFile(folder / "header.npz", "w") as file:
            file.writestr("x.npy", data.replace(old, new))
        return folder / "header.npz"

    return make


def not_an_array(folder: Path) -> Path:
    path = folder / "text.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "not an array")
    return path


def objects(folder: Path, name: str) -> Path:
    array = np.array([{"a": 1}], dtype=object)
    path = folder / name
    (np.savez if name.endswith("z") else np.save)(path, array)
    return path


def one_bad(value: float) -> Values:
    array = normal(6, 4)
    array[4, 1] = value
    return array


WRONG_ARRAYS: dict[str, tuple[Make, Sequence[Input], str]] = {
    "missing": (lambda t: t / "none.npz", [VECTORS], "does not exist; give"),
    "other suffix": (written("x.csv", b"1,2"), [VECTORS], "is no .npz, .npy or folder"),
    "shape": (
        lambda t: npy(t, normal(6, 5)),
        [VECTORS],
        r"shape \(6, 5\) for input x, which takes \(samples, 4\)",
    ),
    "no batch axis": (lambda t: npy(t, normal(3, 6, 8)), [PHOTOS], r"takes \(samples, 3, 6, 8\)"),
    "dynamic": (lambda t: npy(t, normal(3, 6)), [takes(None, None, 2)], r"\(samples, any, 2\)"),
    "scalar": (lambda t: npy(t, normal(3)), [takes()], "is a scalar"),
    "bytes for floats": (
        lambda t: npz(t, x=np.zeros((2, 4), np.uint8)),
        [VECTORS],
        "holds uint8 for input x, which takes float32; normalise",
    ),
    "numbers for floats": (lambda t: npy(t, np.zeros((2, 4), int)), [VECTORS], "normalise"),
    "floats for numbers": (
        lambda t: npy(t, normal(2, 4)),
        [takes(None, 4, dtype=np.int64)],
        "holds float32 for input x, which takes int64; save it as int64",
    ),
    "complex": (lambda t: npy(t, np.zeros((2, 4), complex)), [VECTORS], "save it as float32"),
    "strings": (lambda t: npy(t, np.full((2, 4), "a")), [VECTORS], "save it as float32"),
    "nan": (lambda t: npy(t, one_bad(np.nan)), [VECTORS], "NaN.* in sample 4 for input x"),
    "infinity": (lambda t: npz(t, x=one_bad(-np.inf)), [VECTORS], "infinite.* in sample 4"),
    "float overflow": (
        lambda t: npz(t, x=one_bad(1e6)),
        [takes(None, 4, dtype=np.float16)],
        "too large for float16 in sample 4",
    ),
    "whole number overflow": (
        lambda t: npy(t, np.abs(one_bad(300.0)).astype(np.int64)),
        [takes(None, 4, dtype=np.uint8)],
        "do not fit uint8 in sample 4",
    ),
    "no samples": (lambda t: npz(t, x=np.zeros((0, 4), np.float32)), [VECTORS], "no samples"),
    "no samples in npy": (lambda t: npy(t, np.zeros((0, 4), np.float32)), [VECTORS], "no samples"),
    "no arrays": (lambda t: npz(t), [VECTORS], "holds no arrays"),
    "fewer than a batch": (lambda t: npy(t, normal(2, 4)), [takes(3, 4)], "takes 3 at a time"),
    "names": (
        lambda t: npz(t, y=normal(2, 4), z=normal(2, 4)),
        [VECTORS],
        "no array for x, but y, z",
    ),
    "one array for two inputs": (
        lambda t: npy(t, normal(2, 4)),
        [VECTORS, takes(None, 4, name="y")],
        "no array for x, y, but one array without a name",
    ),
    "counts": (
        lambda t: npz(t, x=normal(2, 4), y=normal(3, 4)),
        [VECTORS, takes(None, 4, name="y")],
        "unequal numbers of samples: 2 for x, 3 for y",
    ),
    "objects": (lambda t: objects(t, "o.npy"), [VECTORS], "not of Python objects"),
    "objects in an archive": (lambda t: objects(t, "o.npz"), [VECTORS], "not of Python objects"),
    "cut short": (lambda t: damaged(npy(t, normal(50, 4))), [VECTORS], "cannot be read"),
    "archive cut short": (lambda t: damaged(npz(t, x=normal(50, 4))), [VECTORS], "cannot be read"),
    "header": (header(b"}", b"("), [VECTORS], "cannot be read"),
    "endless header": (header(b"}", b" "), [VECTORS], "cannot be read"),
    "zeros": (header(b"(2, 4)", b"(04,4)"), [VECTORS], "cannot be read"),
    "beyond memory": (
        header(b"(2, 4), }" + 13 * b" ", b"(99999999999999, 4), }"),
        [VECTORS],
        "unpacks to",
    ),
    "empty file": (written("x.npy", b""), [VECTORS], "cannot be read"),
    "empty archive": (written("x.npz", b""), [VECTORS], "cannot be read"),
    "other bytes": (written("x.npz", b"\x80\x04 no archive"), [VECTORS], "cannot be read"),
    "no array in an archive": (not_an_array, [VECTORS], "holds no array, but other"),
}


@pytest.mark.parametrize(("make", "inputs", "says"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_what_is_wrong_with_arrays_is_said(
    tmp_path: Path, make: Make, inputs: Sequence[Input], says: str
) -> None:
    with pytest.raises(CalibrationError, match=says):
        read_calibration(make(tmp_path), inputs)


def test_samples_that_are_not_chosen_do_not_matter(tmp_path: Path) -> None:
    values = np.arange(40.0).reshape(40, 1)
    chosen = joined(read_calibration(npy(tmp_path, values), [takes(None, 1)], limit=5))
    values[~np.isin(values, chosen)] = np.nan
    kept = joined(read_calibration(npy(tmp_path, values), [takes(None, 1)], limit=5))
    assert np.array_equal(kept, chosen)


# --- folders of images ---


def test_images_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for number, name in enumerate(["b.png", "a/z.bmp", "a/deep/y.webp", "c.JPG"]):
        picture(tmp_path / name, flat(6, 8, [40 * number] * 3))
    (tmp_path / "labels.txt").write_text("ignored")
    picture(tmp_path / ".hidden" / "x.png", flat(6, 8, [255] * 3))
    picture(tmp_path / "._b.png", flat(6, 8, [255] * 3))
    batch = joined(read_calibration(tmp_path, [PHOTOS]))
    assert batch.shape == (4, 3, 6, 8)
    assert batch.dtype == np.float32
    # webp and jpg lose up to 2 of 255 on a plane of one colour
    assert 255 * batch.mean(axis=(1, 2, 3)) == pytest.approx([80, 40, 0, 120], abs=2.0)


@pytest.mark.parametrize(
    ("shape", "layout", "axis"),
    [
        ((None, 3, 6, 8), "auto", 1),
        ((None, 6, 8, 3), "auto", 3),
        ((None, None, 6, 8), "nchw", 1),
        ((None, 6, 8, None), "nhwc", 3),
    ],
)
def test_mean_and_std_are_of_values_between_0_and_1(
    tmp_path: Path, shape: tuple[int | None, ...], layout: Layout, axis: int
) -> None:
    picture(tmp_path / "a.png", flat(6, 8, [51, 102, 255]))
    mean, std = (0.1, 0.2, 0.5), (0.5, 0.25, 2.0)
    batch = joined(read_calibration(tmp_path, [takes(*shape)], mean, std, layout))
    expected = np.array([0.2, 0.8, 0.25], np.float32)
    assert batch.shape[axis] == 3
    # float32 arithmetic of three operations
    assert np.allclose(np.moveaxis(batch, axis, -1), expected, rtol=1e-6, atol=1e-7)


def test_one_mean_serves_all_channels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", flat(6, 8, [255] * 3))
    batch = joined(read_calibration(tmp_path, [PHOTOS], [0.5], [0.5]))
    assert np.array_equal(batch, np.ones((1, 3, 6, 8), np.float32))


def test_one_channel_takes_grey(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", flat(6, 8, [255, 0, 0]))
    batch = joined(read_calibration(tmp_path, [takes(None, 1, 6, 8)]))
    # ITU-R 601: 0.299 of red, rounded to a byte
    assert batch == pytest.approx(np.full((1, 1, 6, 8), 76 / 255), abs=1e-6)


def test_a_model_of_bytes_gets_bytes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", flat(6, 8, [1, 2, 255]))
    batch = joined(read_calibration(tmp_path, [takes(None, 6, 8, 3, dtype=np.uint8)]))
    assert batch.dtype == np.uint8
    assert np.array_equal(batch[0], flat(6, 8, [1, 2, 255]))


def test_images_are_scaled_and_cropped_about_the_centre(tmp_path: Path) -> None:
    wide = flat(12, 40, [0, 0, 0])
    wide[:, 12:28] = 255  # of 40 columns the middle 16 are what 6 x 8 takes of 12 rows
    picture(tmp_path / "wide.png", wide)
    stripes = flat(60, 80, [0, 0, 0])
    stripes[:, ::2] = 255  # finer than a pixel of the result: antialiased, they are grey
    picture(tmp_path / "stripes.png", stripes)
    read = joined(read_calibration(tmp_path, [PHOTOS]))
    assert read[0][:, :, 1:-1] == pytest.approx(np.full((3, 6, 6), 0.5), abs=0.05)
    assert np.array_equal(read[1][:, :, 1:-1], np.ones((3, 6, 6)))


def test_images_are_turned_upright(tmp_path: Path) -> None:
    lying = flat(8, 6, [0, 0, 0])
    lying[:, :1] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees: the left column is the top row
    Image.fromarray(lying).save(tmp_path / "a.png", exif=exif)
    for shape in ((None, 3, 6, 8), (None, 3, None, None)):
        batch = joined(read_calibration(tmp_path, [takes(*shape)]))
        assert batch.shape == (1, 3, 6, 8)
        assert np.all(batch[:, :, 0] == 1.0)
        assert np.all(batch[:, :, 1:] == 0.0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_of_bytes_is_read(tmp_path: Path, mode: str) -> None:
    kind = "tif" if mode == "CMYK" else "png"
    Image.fromarray(flat(6, 8, [255] * 3)).convert(mode).save(tmp_path / f"a.{kind}")
    assert np.array_equal(joined(read_calibration(tmp_path, [PHOTOS])), np.ones((1, 3, 6, 8)))


def test_an_open_size_is_that_of_the_images(tmp_path: Path) -> None:
    inputs = [takes(None, 3, None, None)]
    picture(tmp_path / "a.png", flat(7, 9, [0, 0, 0]))
    picture(tmp_path / "b.png", flat(7, 9, [9, 9, 9]))
    assert joined(read_calibration(tmp_path, inputs)).shape == (2, 3, 7, 9)
    picture(tmp_path / "c.png", flat(9, 7, [0, 0, 0]))
    with pytest.raises(CalibrationError, match=r"a.png has 9 x 7 pixels, .*c.png 7 x 9"):
        read_calibration(tmp_path, inputs)


def test_images_of_any_size_are_scaled_to_a_shape_that_is_given(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", flat(7, 9, [0, 0, 0]))
    picture(tmp_path / "b.png", flat(30, 20, [255] * 3))
    wanted = replace(takes(None, 3, None, None), stated_shape=(1, 3, 6, 8))
    samples = read_calibration(tmp_path, [wanted])
    assert samples.most_frequent == {"x": (3, 6, 8)}
    assert joined(samples).shape == (2, 3, 6, 8)


def test_images_are_decoded_when_their_batch_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        picture(tmp_path / f"{number}.png", flat(6, 8, [number] * 3))
    decoded: list[str] = []
    pixels = image_files._pixels

    def watched(file: Path, form: image_files.ImageForm) -> Array:
        decoded.append(file.name)
        return pixels(file, form)

    monkeypatch.setattr(image_files, "_pixels", watched)
    batches = read_calibration(tmp_path, [PHOTOS]).batches(2)
    assert decoded == []
    next(batches)
    assert decoded == ["0.png", "1.png"]


def test_more_images_than_the_limit_are_a_seeded_choice(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number:02}.png", flat(6, 8, [number] * 3))
    first, again, other = (
        joined(read_calibration(tmp_path, [PHOTOS], limit=5, seed=seed)) for seed in (0, 0, 1)
    )
    assert len(first) == 5
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def image_cut_short(folder: Path) -> None:
    values = RNG(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    damaged(picture(folder / "cut.png", values))


def deep(folder: Path) -> None:
    Image.fromarray(np.full((6, 8), 40_000, np.uint16)).save(folder / "deep.png")


def text(folder: Path) -> None:
    (folder / "text.jpg").write_text("not an image")


def fine(folder: Path) -> None:
    picture(folder / "a.png", flat(6, 8, [0, 0, 0]))


WRONG_FOLDERS: dict[str, tuple[Callable[[Path], None], Sequence[Input], str]] = {
    "empty": (lambda _: None, [PHOTOS], "holds no images"),
    "text": (text, [PHOTOS], "text.jpg cannot be decoded"),
    "cut short": (image_cut_short, [PHOTOS], "cut.png cannot be decoded"),
    "16 bits": (deep, [PHOTOS], "deep.png has pixels of mode I"),
    "no image input": (fine, [VECTORS], "one input of rank 4, but this one has x of rank 2"),
    "two inputs": (fine, [PHOTOS, VECTORS], "x of rank 4, x of rank 2; give an .npz"),
    "whole numbers": (fine, [takes(None, 3, 6, 8, dtype=np.int64)], "3 channels of int64"),
    "4 channels": (fine, [takes(None, 4, 6, 8)], "takes 4 channels"),
    "fewer than a batch": (fine, [takes(2, 3, 6, 8)], "holds 1 samples, but the model takes 2"),
}


@pytest.mark.parametrize(("fill", "inputs", "says"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_what_is_wrong_with_images_is_said(
    tmp_path: Path, fill: Callable[[Path], None], inputs: Sequence[Input], says: str
) -> None:
    fill(tmp_path)
    with pytest.raises(CalibrationError, match=says):
        joined(read_calibration(tmp_path, inputs))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_byte_of_an_image_may_be_wrong(suffix: str, tmp_path: Path) -> None:
    """Bytes of each format changed at random: pixels, or our error, and no warning."""
    values, rng = RNG(0).integers(0, 256, (6, 8, 3)).astype(np.uint8), RNG(1)
    path = picture(tmp_path / f"a{suffix}", values)
    good, refused = path.read_bytes(), 0
    for _ in range(60):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 200), 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            samples = joined(read_calibration(tmp_path, [PHOTOS]))
            assert samples.shape == (1, 3, 6, 8)
        except CalibrationError:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize(
    "error", [KeyError("a"), RuntimeError("b"), ZeroDivisionError(), MemoryError()]
)
def test_whatever_the_library_raises_names_the_image(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise error

    fine(tmp_path)
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(CalibrationError, match=r"a\.png cannot be decoded: "):
        joined(read_calibration(tmp_path, [PHOTOS]))


def test_the_pixels_of_all_images_are_bounded(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png", flat(6, 8, [0, 0, 0]))
    files = [tmp_path / f"{name}.png" for name in "abc"]
    form = form_of(PHOTOS.name, PHOTOS.dtype, PHOTOS.shape, "auto", None, None)
    with pytest.raises(CalibrationError, match=r"c\.png .* have 144 pixels, of 100 at most"):
        open_images(files, form, most=100)
    assert len(open_images(files, form, most=144).files) == 3


def test_pillow_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CalibrationError, match=r"pip install 'lbyl-onnx\[images\]'"):
        read_calibration(tmp_path, [PHOTOS])
    path = npy(tmp_path, normal(2, 4))
    assert read_calibration(path, [VECTORS]).count == 2  # arrays do without


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([0.1, 0.2], None, "mean is .* give 3 finite numbers"),
        ([], None, "give 3 finite numbers"),
        (None, [0.5, 0.5, 0.0], "numbers above 0"),
        ([float("nan")], None, "finite"),
        ([123.7, 116.3, 103.5], None, "divide it by 255"),
    ],
)
def test_a_wrong_mean_or_std_is_said(
    tmp_path: Path, mean: Sequence[float] | None, std: Sequence[float] | None, says: str
) -> None:
    fine(tmp_path)
    with pytest.raises(OptionError, match=says):
        read_calibration(tmp_path, [PHOTOS], mean, std)


def test_options_without_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder of images"):
        read_calibration(npy(tmp_path, normal(2, 4)), [VECTORS], mean=[0.5])
    fine(tmp_path)
    with pytest.raises(OptionError, match="no use"):
        read_calibration(tmp_path, [takes(None, 3, 6, 8, dtype=np.uint8)], std=[0.5])
    with pytest.raises(OptionError, match="give the layout"):
        read_calibration(tmp_path, [takes(None, None, None, None)])
    with pytest.raises(OptionError, match="at least 1"):
        read_calibration(tmp_path, [PHOTOS], limit=0)


def test_its_errors_are_the_tools_own() -> None:
    assert issubclass(CalibrationError, LbylOnnxError)
    assert CalibrationError.exit_code == 1


# --- several files, and folders ---


def saved(path: Path, array: Values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


WIDE = takes(None, 4, None)


def test_files_follow_each_other_in_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    values = normal(9, 4)
    parts = zip("bac", np.split(values, 3), strict=True)
    files = [saved(tmp_path / f"{name}.npy", part) for name, part in parts]
    archive = tmp_path / "d.npz"
    np.savez(archive, x=values[:2])
    read = joined(read_calibration([*files, archive], [VECTORS]))
    assert np.array_equal(read, np.concatenate([values, values[:2]]))


def test_a_folder_of_arrays_is_read_in_the_order_of_the_paths(tmp_path: Path) -> None:
    values = normal(6, 4)
    for name, part in zip(["b.npy", "a/z.npy", ".c.npy"], np.split(values, 3), strict=True):
        saved(tmp_path / name, part)
    read = joined(read_calibration(tmp_path, [VECTORS]))
    assert np.array_equal(read, np.concatenate([values[2:4], values[:2]]))  # a hidden one is none


def test_a_folder_of_archives_serves_several_inputs(tmp_path: Path) -> None:
    x, ids = normal(5, 4), np.arange(10).reshape(5, 2)
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 5))):
        np.savez(tmp_path / f"{name}.npz", x=x[part], ids=ids[part])
    samples = read_calibration(tmp_path, [VECTORS, takes(None, 2, name="ids", dtype=np.int32)])
    assert np.array_equal(joined(samples), x)
    assert np.array_equal(joined(samples, "ids"), ids)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_files_may_hold_samples_of_different_sizes(tmp_path: Path, suffix: str) -> None:
    widths, parts = (3, 5, 3), list[Values]()
    for number, width in enumerate(widths):
        parts.append(RNG(number).standard_normal((2, 4, width)).astype(np.float32))
        path = tmp_path / f"{number}.{suffix}"
        np.save(path, parts[-1]) if suffix == "npy" else np.savez(path, x=parts[-1])
    samples = read_calibration(tmp_path, [WIDE])
    assert samples.most_frequent == {"x": (4, 3)}
    found = [batch["x"] for batch in samples.batches(3)]
    assert [batch.shape for batch in found] == [(3, 4, 3), (1, 4, 3), (2, 4, 5)]
    assert np.array_equal(np.concatenate(found[:2]), np.concatenate([parts[0], parts[2]]))
    assert np.array_equal(found[2], parts[1])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_the_choice_is_among_all_files(tmp_path: Path, suffix: str) -> None:
    values = np.arange(60.0, dtype=np.float32).reshape(60, 1)
    for number, part in enumerate(np.split(values, 6)):
        path = tmp_path / f"{number}.{suffix}"
        np.save(path, part) if suffix == "npy" else np.savez(path, x=part)
    one = saved(tmp_path / "one" / "x.npy", values)
    few = joined(read_calibration(sorted(tmp_path.glob(f"*.{suffix}")), [takes(None, 1)], limit=9))
    assert np.array_equal(few, joined(read_calibration(one, [takes(None, 1)], limit=9)))


def test_an_error_names_the_file_and_the_sample_in_it(tmp_path: Path) -> None:
    saved(tmp_path / "a.npy", normal(6, 4))
    saved(tmp_path / "b.npy", one_bad(np.nan))
    with pytest.raises(CalibrationError, match=r"b\.npy holds values that are NaN.* in sample 4 "):
        read_calibration(tmp_path, [VECTORS])
    saved(tmp_path / "b.npy", normal(6, 5))
    with pytest.raises(CalibrationError, match=r"b\.npy has shape \(6, 5\)"):
        read_calibration(tmp_path, [VECTORS])


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        saved(tmp_path / name, normal(3, 4))
    samples = read_calibration(tmp_path, [VECTORS])
    saved(tmp_path / "b.npy", normal(2, 4))
    with pytest.raises(CalibrationError, match=r"b\.npy has changed meanwhile"):
        joined(samples)


def test_what_several_archives_unpack_to_is_bounded(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.npz" for name in "ab"]
    for file in files:
        np.savez(file, x=normal(4, 4))
    with pytest.raises(CalibrationError, match=r"b\.npz and the files before it unpack to 128 by"):
        open_array_files(files, "x", [VECTORS], 99, 0, most=100)


def test_images_may_be_given_one_by_one(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{n}.png", flat(6, 8, [n] * 3)) for n in (51, 0)]
    read = joined(read_calibration(files, [PHOTOS], [0.2], [0.5]))
    assert np.allclose(read[:, 0, 0, 0], [0.0, -0.4], atol=1e-6)  # float32 of two operations


def mixed(folder: Path) -> Sequence[Path]:
    return [folder, saved(folder / "x.npy", normal(2, 4))]


def two_kinds(folder: Path) -> Sequence[Path]:
    saved(folder / "arrays" / "x.npy", normal(2, 4))
    picture(folder / "images" / "a.png", flat(6, 8, [0, 0, 0]))
    return [folder / "arrays", folder / "images"]


def missing(folder: Path) -> Sequence[Path]:
    return [saved(folder / "x.npy", normal(2, 4)), folder / "y.npy"]


def unknown(folder: Path) -> Sequence[Path]:
    (folder / "y.csv").write_text("1,2")
    return [saved(folder / "x.npy", normal(2, 4)), folder / "y.csv"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (mixed, r"is the folder .* and the file .*x\.npy; give folders or files, not both"),
        (two_kinds, r"arrays holds arrays, but .*images images; give samples of one kind"),
        (missing, r"y\.npy does not exist"),
        (unknown, r"y\.csv is no \.npz"),
    ],
)
def test_what_is_wrong_with_several_paths_is_said(
    tmp_path: Path, make: Callable[[Path], Sequence[Path]], says: str
) -> None:
    with pytest.raises(CalibrationError, match=says):
        read_calibration(make(tmp_path), [VECTORS])


def test_mean_and_std_have_no_use_for_a_folder_of_arrays(tmp_path: Path) -> None:
    saved(tmp_path / "x.npy", normal(2, 4))
    with pytest.raises(OptionError, match="folder of images"):
        read_calibration(tmp_path, [VECTORS], mean=[0.5])
