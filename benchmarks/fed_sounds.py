"""Spoken sentences for openWakeWord, whose features all of its wake words are found in."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.fed_case import Case, SubjectMissingError, folder_of, input_of, installed
from benchmarks.fed_readers import WORDS
from benchmarks.fed_vision import cosine

RATIOS = (0.1, 0.25)
SCORED, CALIBRATION = 60, 40
SCORED_SEED, CALIBRATION_SEED = 11, 12
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-us+f3", "en-gb+f2", "en-us+m3")
CALLED, CALL = 0.4, "hey jarvis"  # share of the sentences that begin with the wake word
HEARD = 0.5  # the least score at which the client takes a word for heard
RATE, PAUSE = 16000, 8000  # values a second; of silence around a sentence
FRAME = 1280  # values that the client is given at a time


def wakeword(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield openWakeWord's speech embedding, which reads a mel spectrogram of one channel.

    Parameters
    ----------
    folder
        For files that the subject makes.
    limit
        Most sentences that score; None for all.

    Raises
    ------
    SubjectMissingError
        When openwakeword or espeak-ng is not installed.
    """
    client = installed("openwakeword.model", "openwakeword")
    models = folder_of("openwakeword", "openwakeword") / "resources" / "models"
    path, word = models / "embedding_model.onnx", str(models / "hey_jarvis_v0.1.onnx")
    clips = spoken(SCORED_SEED, SCORED)[:limit]

    def heard(model: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        reader = client.Model(wakeword_model_paths=[word], embedding_onnx_model_path=str(model))
        embeddings, found = [], []
        for clip in clips:
            embeddings.append(reader.preprocessor._get_embeddings(clip))  # (windows, 96)
            reader.reset()
            scores = [
                reader.predict(clip[i : i + FRAME]) for i in range(0, len(clip) - FRAME, FRAME)
            ]
            found.append(max(value for score in scores for value in score.values()) >= HEARD)
        return np.concatenate(embeddings), np.asarray(found)

    embeddings, before = heard(path)

    def score(model: Path) -> Mapping[str, float]:
        others, after = heard(model)
        return {"cosine": cosine(embeddings, others), "equal": float(np.mean(before == after))}

    features = installed("openwakeword.utils", "openwakeword").AudioFeatures()
    spectra = [features._get_melspectrogram(c) for c in spoken(CALIBRATION_SEED, CALIBRATION)]
    windows = [s[i : i + 76] for s in spectra for i in range(0, len(s) - 76, 16)]
    samples = np.stack(windows)[..., None].astype(np.float32)  # (windows, 76, 32, 1)
    yield Case("openWakeWord embedding", path, RATIOS, {input_of(path): samples}, score)


def spoken(seed: int, count: int) -> list[NDArray[np.int16]]:
    """Speak sentences in several voices and speeds.

    Returns
    -------
    list of (values,) int16
        At RATE values a second.
    """
    if shutil.which("espeak-ng") is None:
        raise SubjectMissingError("espeak-ng is not installed: apt install espeak-ng")
    rng = np.random.default_rng(seed)
    clips = []
    for _ in range(count):
        words = " ".join(rng.choice(WORDS, int(rng.integers(3, 6))))
        text = f"{CALL}, {words}" if rng.random() < CALLED else words
        speed, voice = str(rng.integers(130, 190)), str(rng.choice(VOICES))
        command = ["espeak-ng", "-v", voice, "-s", speed, "--stdout", text]
        clips.append(_resampled(subprocess.run(command, check=True, capture_output=True).stdout))
    return clips


def _resampled(stored: bytes) -> NDArray[np.int16]:
    """Bring a sound to RATE, with silence before and behind."""
    with wave.open(io.BytesIO(stored)) as sound:
        rate = sound.getframerate()
        values = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    time = np.arange(0, len(values), rate / RATE)
    there = np.interp(time, np.arange(len(values)), values).astype(np.int16)
    return np.pad(there, PAUSE)
