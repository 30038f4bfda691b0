"""Sounds as samples: one waveform, mono, at the model's rate, whole or in windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import DTypeLike, NDArray

from lbyl_onnx.data.calibration import FrontEnd, read_calibration
from lbyl_onnx.data.files import audio_files
from lbyl_onnx.data.samples import Input, Samples
from lbyl_onnx.errors import CalibrationError, OptionError
from lbyl_onnx.types import Array

RATE, WINDOW = 16_000, 300
Wave = NDArray[np.float64]


def takes(
    *shape: int | None,
    name: str = "x",
    dtype: DTypeLike = np.float32,
    given: tuple[int, ...] = (),
) -> Input:
    return Input(name, np.dtype(dtype), shape, given)


ANY = takes(None, None)


def noise(frames: int, channels: int = 1, seed: int = 0) -> Wave:
    """Values of 16 bits, which every format here keeps as they are."""
    whole = np.random.default_rng(seed).integers(-(1 << 15), 1 << 15, (frames, channels))
    return whole / (1 << 15)


def written(path: Path, values: Wave, rate: int = RATE, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, subtype)
    return path


def opened(
    path: Path | Sequence[Path], *inputs: Input, rate: int | None = None, limit: int = 512
) -> Samples:
    front = FrontEnd(rate=rate)
    return read_calibration(path, inputs or (ANY,), front=front, limit=limit)


def rows(samples: Samples, name: str = "x") -> list[Array]:
    return [samples.source.read(row[None])[name][0] for row in samples.rows]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_are_averaged(tmp_path: Path, suffix: str, channels: int) -> None:
    values = noise(1000, channels)
    (row,) = rows(opened(written(tmp_path / f"x.{suffix}", values)))
    assert row.dtype == np.float32
    assert np.allclose(row, values.mean(axis=1), atol=2e-7)  # float32 sums of up to five values


def test_ogg_is_read_too(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)
    (row,) = rows(opened(written(tmp_path / "x.ogg", tone)))
    assert len(row) == 8000
    error = np.linalg.norm(row.astype(np.float64) - tone)
    assert error < 0.1 * np.linalg.norm(tone)  # it is packed with loss


@pytest.mark.parametrize(("own", "rate"), [(44_100, None), (8_000, 16_000), (16_000, 22_050)])
def test_a_tone_keeps_its_pitch_at_another_rate(tmp_path: Path, own: int, rate: int | None) -> None:
    """The oracle is the same tone, made at the model's rate."""
    frames, wanted = own, rate or RATE
    (row,) = rows(
        opened(written(tmp_path / "x.wav", tone(frames, own), own, "FLOAT"), ANY, rate=rate)
    )
    assert len(row) == wanted
    inner = slice(wanted // 10, -wanted // 10)  # away from the ends, before which there is silence
    assert (
        np.max(np.abs(row.astype(np.float64) - tone(wanted, wanted))[inner]) < 5e-3
    )  # ripple of the filter's pass


def tone(frames: int, rate: int) -> Wave:
    return np.asarray(0.5 * np.sin(2 * np.pi * 440 * np.arange(frames) / rate))


@pytest.mark.parametrize("shape", [(None, WINDOW), (None, 1, WINDOW)])
@pytest.mark.parametrize(("frames", "count"), [(1000, 3), (900, 3), (300, 1), (299, 1)])
def test_a_fixed_length_gets_windows(
    tmp_path: Path, shape: tuple[int | None, ...], frames: int, count: int
) -> None:
    values = noise(frames)[:, 0]
    samples = opened(written(tmp_path / "x.wav", values), takes(*shape))
    (batch,) = samples.batches(9)
    assert batch["x"].shape == (count, *shape[1:])
    filled = np.concatenate([values, np.zeros(WINDOW)])[: count * WINDOW]
    assert np.array_equal(batch["x"].ravel(), filled.astype(np.float32))


def test_a_length_that_is_given_makes_windows_too(tmp_path: Path) -> None:
    path = written(tmp_path / "x.wav", noise(1000))
    (batch,) = opened(path, takes(None, None, given=(1, 400))).batches(9)
    assert batch["x"].shape == (2, 400)


def test_a_dynamic_length_gets_each_file_whole(tmp_path: Path) -> None:
    for number, frames in enumerate((700, 900, 700)):
        written(tmp_path / f"{number}.wav", noise(frames, seed=number))
    samples = opened(tmp_path, takes(None, None, None))
    assert samples.most_frequent == {"x": (1, 700)}
    assert [batch["x"].shape for batch in samples.batches(4)] == [(2, 1, 700), (1, 1, 900)]


def test_what_is_too_long_is_cut(tmp_path: Path) -> None:
    values = noise(2500)[:, 0]
    files = [written(tmp_path / "x.wav", values, 1000)]
    samples = audio_files.open_sounds(files, "x", [ANY], 1000, 99, 0, most_seconds=1)
    found = rows(samples)
    assert [len(row) for row in found] == [1000, 1000]
    assert np.array_equal(np.concatenate(found), values[:2000].astype(np.float32))


def test_a_mask_of_the_waveform_is_1(tmp_path: Path) -> None:
    mask = takes(None, None, name="attention_mask", dtype=np.int64)
    (batch,) = opened(written(tmp_path / "x.wav", noise(500)), ANY, mask).batches(1)
    assert batch["attention_mask"].dtype == np.int64
    assert np.array_equal(batch["attention_mask"], np.ones((1, 500)))


def test_the_input_has_its_type(tmp_path: Path) -> None:
    (row,) = rows(
        opened(written(tmp_path / "x.wav", noise(500)), takes(None, None, dtype=np.float16))
    )
    assert row.dtype == np.float16


def test_more_windows_than_the_limit_are_a_seeded_choice(tmp_path: Path) -> None:
    steps = np.repeat(np.arange(40) / 64, WINDOW)
    samples = opened(written(tmp_path / "x.wav", steps), takes(None, WINDOW), limit=5)
    found = [float(row[0]) for row in rows(samples)]
    assert len(set(found)) == 5
    assert found == sorted(found)


def test_what_goes_a_little_beyond_is_clipped(tmp_path: Path) -> None:
    values = np.array([0.5, 1.2, -1.5] * 200)
    (row,) = rows(opened(written(tmp_path / "x.wav", values, subtype="FLOAT")))
    assert np.array_equal(row, np.clip(values, -1, 1).astype(np.float32))


# --- what is wrong ---


def filled_with(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = np.zeros(500)
        values[7] = value
        return written(folder / "x.wav", values, subtype="FLOAT")

    return make


def empty(folder: Path) -> Path:
    return written(folder / "x.wav", np.zeros(0))


def no_sound(folder: Path) -> Path:
    (folder / "x.wav").write_text("not a sound")
    return folder / "x.wav"


def odd_rate(folder: Path) -> Path:
    return written(folder / "x.wav", np.zeros(500), 500_000)


def cut_short(folder: Path) -> Path:
    path = written(folder / "x.flac", noise(20_000))
    path.write_bytes(path.read_bytes()[:9000])
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (filled_with(np.nan), r"x\.wav holds NaN or infinity; mend"),
        (filled_with(np.inf), r"x\.wav holds NaN or infinity; mend"),
        (filled_with(3e4), r"holds floats up to 30000, but sound is in \[-1, 1\]; divide"),
        (empty, r"x\.wav holds no sound; leave it out"),
        (no_sound, r"x\.wav cannot be decoded: "),
        (odd_rate, r"x\.wav has 500,000 samples a second, of 1,000 to 384,000"),
        (cut_short, r"x\.flac (cannot be decoded|ends after [\d,]+ of 20,000 samples)"),
    ],
)
def test_it_is_said_in_one_line(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(CalibrationError, match=says) as caught:
        rows(opened(make(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "inputs",
    [
        [takes(None, 3, 8, 8)],
        [takes(None, 2, None)],
        [takes(None, 40)],
        [takes(None, None, dtype=np.int64)],
        [ANY, takes(None, None, name="y")],
        [takes(None, None, name="mask")],
        [ANY, takes(None, 300, name="mask")],
    ],
)
def test_models_that_take_no_waveform(tmp_path: Path, inputs: list[Input]) -> None:
    with pytest.raises(
        CalibrationError, match=r"x\.wav holds sounds, for models of one wavef.* takes "
    ):
        opened(written(tmp_path / "x.wav", noise(500)), *inputs)


@pytest.mark.parametrize(("channels", "rate"), [(2, 16000), (1, 8000)])
def test_the_values_of_one_file_are_bounded(tmp_path: Path, channels: int, rate: int) -> None:
    files = [written(tmp_path / "x.wav", noise(500, channels), rate)]
    with pytest.raises(CalibrationError, match=r"x\.wav has 1,000 values, of 900 at most; cut"):
        audio_files.open_sounds(files, "x", [ANY], 16000, 99, 0, most_values=900)


class Broken(ModuleType):
    """The library where its own, of C, is missing."""

    def __getattr__(self, name: str) -> object:
        raise OSError("sndfile library not found")


@pytest.mark.parametrize("module", [None, Broken("soundfile")], ids=["Python's", "C's"])
def test_the_library_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    path = written(tmp_path / "x.wav", noise(500))
    monkeypatch.setitem(sys.modules, "soundfile", module)
    with pytest.raises(CalibrationError, match=r"pip install 'lbyl-onnx\[audio\]'"):
        opened(path)


def test_a_rate_has_no_use_for_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 300), np.float32))
    with pytest.raises(OptionError, match=r"sample_rate is for sounds, but .*x\.npy holds arrays"):
        opened(tmp_path / "x.npy", rate=8000)


def test_files_are_decoded_once_for_the_windows_that_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, real = list[Any](), audio_files._decoded

    def watched(file: Path, rate: int) -> Any:
        decoded.append(file.name)
        return real(file, rate)

    monkeypatch.setattr(audio_files, "_decoded", watched)
    for name in "ab":
        written(tmp_path / f"{name}.wav", noise(900))
    samples = opened(tmp_path, takes(None, WINDOW))
    assert decoded == []
    assert [len(batch["x"]) for batch in samples.batches(2)] == [2, 2, 2]
    assert decoded == ["a.wav", "b.wav"]
