"""Write the exports that the tests keep: graphs without weights, one or two of each family.

Run as ``python -m benchmarks.exports``, with the extra `families`. The exporters take turns, so
that each is seen with many families; some graphs that are unlike the others come in addition.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import torch

from benchmarks.torch_families import EXPORTERS, FAMILIES, export
from tests.support.exported import FOLDER, stripped

LARGEST = 100_000
MORE = (
    ("convnext", "legacy 11"),
    ("resnet_basic", "dynamo 20, as traced"),
    ("shufflenet_v2", "dynamo 20, as traced"),
    ("unet_resized", "dynamo 18"),
    ("vit_fused", "dynamo 23"),
    ("text_encoder", "dynamo 23"),
    ("yolo", "dynamo 20, as traced"),
    ("deeplab", "legacy 11"),
)


def selected() -> Iterator[tuple[str, str]]:
    """Yield the pairs of family and exporter."""
    exporters = list(EXPORTERS)
    pairs = [(family, exporters[i % len(exporters)]) for i, family in enumerate(FAMILIES)]
    yield from dict.fromkeys((*pairs, *MORE))


def main() -> None:
    """Write the files anew."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.onnx"):
        path.unlink()
    for family, exporter in selected():
        try:
            model = stripped(export(family, EXPORTERS[exporter]))
        except torch.onnx.errors.UnsupportedOperatorError:
            print(f"{family}, {exporter}: not exported by PyTorch")
            continue
        content = model.SerializeToString(deterministic=True)
        name = f"{family}_{exporter}".replace(",", "").replace(" ", "_")
        if len(content) > LARGEST:
            print(f"{name}: {len(content):,} bytes are too many")
            continue
        (FOLDER / f"{name}.onnx").write_bytes(content)
        # As the tests will load it.
        onnx.load(FOLDER / f"{name}.onnx")
        print(f"{name}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
