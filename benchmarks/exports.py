"""Write the exports that the tests keep: graphs without weights, one or two of each family.

Run as ``python -m benchmarks.exports [--families NAME ..]``, with the extra `families`. The
exporters take turns, so that each is seen with many families; some graphs that are unlike the
others come in addition. Attention and gates come by those exporters that write them differently.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import onnx
import torch

from benchmarks.torch_families import ATTENTIVE, EXPORTERS, FAMILIES, export
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
ATTENTION = (
    ("llama", "dynamo 23"),
    ("llama_eager", "dynamo 18"),
    ("llama_eager", "legacy 17, static"),
    ("qwen3_eager", "dynamo 18"),
    ("t5", "dynamo 18"),
    ("t5_eager", "legacy 17, static"),
    ("bert", "dynamo 23"),
    ("bert_eager", "legacy 11"),
    ("vit_split", "dynamo 20, as traced"),
    ("vit_unbind", "legacy 17, static"),
    ("vit_unbind_eager", "dynamo 18"),
    ("whisper_eager", "legacy 13, as trained"),
    ("multihead", "legacy 17, static"),
    ("multihead", "dynamo 18"),
    ("einsum", "legacy 13, as trained"),
    ("qk_norm", "dynamo 23"),
    ("encoder_layers", "dynamo 18"),
    ("gated", "dynamo 18"),
    ("detr", "dynamo 18"),
    ("detr", "legacy 11"),
)


def selected(families: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of family and exporter, of some families."""
    exporters = list(EXPORTERS)
    plain = [family for family in FAMILIES if family not in ATTENTIVE]
    pairs = [(family, exporters[i % len(exporters)]) for i, family in enumerate(plain)]
    for family, exporter in dict.fromkeys((*pairs, *MORE, *ATTENTION)):
        if family in families:
            yield family, exporter


def main() -> None:
    """Write the files anew: all, or those of some families."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    families = parser.parse_args().families
    FOLDER.mkdir(exist_ok=True)
    if families == list(FAMILIES):
        for path in FOLDER.glob("*.onnx"):
            path.unlink()
    for family, exporter in selected(families):
        try:
            model = stripped(export(family, EXPORTERS[exporter]))
        except torch.onnx.errors.UnsupportedOperatorError:
            print(f"{family}, {exporter}: not exported by PyTorch")
            continue
        write(f"{family}_{exporter}".replace(",", "").replace(" ", "_"), model)


def write(name: str, model: onnx.ModelProto) -> None:
    """Write one file, unless it is large."""
    content = model.SerializeToString(deterministic=True)
    if len(content) > LARGEST:
        print(f"{name}: {len(content):,} bytes are too many")
        return
    (FOLDER / f"{name}.onnx").write_bytes(content)
    # As the tests will load it.
    onnx.load(FOLDER / f"{name}.onnx")
    print(f"{name}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
