"""What the kept channels know of a removed one: the sample's first layer, on synthetic images.

Usage: ``python -m docs.figures.delivery [FILE.svg]``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from docs.figures.writing import alone, write
from lbyl_onnx.data.synthetic.images import images
from lbyl_onnx.report.svg import Axis, scatter

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "digits.onnx"
KEPT, POINTS = 22, 800


def draw() -> str:
    """Return the scatter of the removed channels' values and what stands in for them, as SVG."""
    model = onnx.load(SAMPLE)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(relu.output[0], onnx.TensorProto.FLOAT, None)
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    samples = images(256, (1, 8, 8), np.random.default_rng(0))
    values = np.asarray(session.run([relu.output[0]], {"input": samples})[0], np.float64)
    a = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)  # (N, n, h, w) -> (n, N * h * w)

    order = np.argsort(-a.var(axis=1))
    kept, removed = order[:KEPT], order[KEPT:]
    mean, covariance = a.mean(axis=1), np.cov(a)
    c_kk = covariance[np.ix_(kept, kept)]
    ridge = 1e-3 * np.mean(np.diag(covariance))
    s = np.linalg.solve(c_kk + ridge * np.eye(KEPT), covariance[np.ix_(kept, removed)]).T
    c = mean[removed] - s @ mean[kept]
    delivered = s @ a[kept] + c[:, None]

    chosen = np.random.default_rng(1).choice(a[removed].size, POINTS, replace=False)
    pairs = np.stack([a[removed].reshape(-1)[chosen], delivered.reshape(-1)[chosen]], axis=1)
    points = [(float(x), float(y)) for x, y in pairs]
    share = np.sum((delivered - a[removed]) ** 2) / np.sum((a[removed] - mean[removed, None]) ** 2)
    title = f"{1 - share:.0%} of the variance is kept"
    return alone(
        scatter(title, points, Axis("value of a removed channel"), Axis("what the kept ones give"))
    )


if __name__ == "__main__":
    write(draw(), __file__)
