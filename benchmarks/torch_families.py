"""Families of networks, small and with their true structure, exported from PyTorch.

Needs the extra `families`. Weights are random, seeded by the family's name; the statistics of
BatchNorm are random, too, so that nothing is trivially zero or one.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import onnx
import torch
from torch import Tensor, nn

from benchmarks import torch_attention as attention
from benchmarks import torch_convnets as convnets
from benchmarks import torch_dense as dense
from benchmarks import torch_hugging_face as hugging_face
from benchmarks import torch_transformers as transformers

IMAGE = (2, 3, 32, 32)
TOKENS = (2, 16)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "alexnet": convnets.alexnet,
    "vgg": partial(convnets.vgg, False),
    "vgg_bn": partial(convnets.vgg, True),
    "resnet_basic": partial(convnets.resnet, False),
    "resnet_bottleneck": partial(convnets.resnet, True),
    "resnext": partial(convnets.resnet, True, groups=4),
    "wide_resnet": partial(convnets.resnet, True, wide=2),
    "densenet": convnets.densenet,
    "mobilenet_v1": convnets.mobilenet_v1,
    "mobilenet_v2": partial(convnets.mobile, nn.ReLU6, None),
    "mobilenet_v3": partial(convnets.mobile, nn.Hardswish, nn.Hardsigmoid, 5, nn.Hardswish),
    "mnasnet": partial(convnets.mobile, nn.ReLU, None, 5),
    "efficientnet": partial(convnets.mobile, nn.SiLU, nn.Sigmoid),
    "shufflenet_v2": convnets.shufflenet_v2,
    "squeezenet": convnets.squeezenet,
    "googlenet": convnets.googlenet,
    "inception_v3": convnets.inception_v3,
    "regnet": convnets.regnet,
    "convnext": transformers.convnext,
    "vit": partial(transformers.VisionTransformer, False),
    "vit_fused": partial(transformers.VisionTransformer, True),
    "swin": transformers.Swin,
    "text_encoder": transformers.TextEncoder,
    "lstm_tagger": partial(transformers.Tagger, nn.LSTM),
    "gru_tagger": partial(transformers.Tagger, nn.GRU),
    "unet_transposed": partial(dense.UNet, True),
    "unet_resized": partial(dense.UNet, False),
    "fcn": partial(dense.Segmenter, False),
    "deeplab": partial(dense.Segmenter, True),
    "yolo": dense.Yolo,
}
ATTENTIVE: dict[str, Callable[[], nn.Module]] = {
    "llama": partial(hugging_face.llama, True),
    "llama_eager": partial(hugging_face.llama, False),
    "qwen3_eager": partial(hugging_face.qwen3, False),
    "t5": partial(hugging_face.t5, True),
    "t5_eager": partial(hugging_face.t5, False),
    "bert": partial(hugging_face.bert, True),
    "bert_eager": partial(hugging_face.bert, False),
    "vit_split": partial(hugging_face.vit_split, True),
    "vit_split_eager": partial(hugging_face.vit_split, False),
    "whisper": partial(hugging_face.whisper, True),
    "whisper_eager": partial(hugging_face.whisper, False),
    "vit_unbind": partial(attention.vit_unbind, True),
    "vit_unbind_eager": partial(attention.vit_unbind, False),
    "multihead": partial(attention.attention_only, "multihead"),
    "einsum": partial(attention.attention_only, "einsum"),
    "qk_norm": partial(attention.attention_only, "normalised"),
    "encoder_layers": attention.encoder_layers,
    "gated": attention.gated,
    "detr": attention.ObjectDecoder,
}
FAMILIES |= ATTENTIVE
TOKENS_OF = dict.fromkeys(("text_encoder", "lstm_tagger", "gru_tagger"), transformers.WORDS) | {
    "llama": hugging_face.LLAMA_WORDS,
    "llama_eager": hugging_face.LLAMA_WORDS,
    "qwen3_eager": hugging_face.LLAMA_WORDS,
    "t5": hugging_face.T5_WORDS,
    "t5_eager": hugging_face.T5_WORDS,
    "bert": hugging_face.BERT_WORDS,
    "bert_eager": hugging_face.BERT_WORDS,
    "multihead": attention.LABELS,
    "einsum": attention.LABELS,
    "qk_norm": attention.LABELS,
}
PATCHES = (2, 3, 3 * attention.PATCH, 3 * attention.PATCH)
SPECTRUM = (2, hugging_face.MELS, hugging_face.FRAMES)
SHAPES: dict[str, tuple[int, ...]] = {
    "vit_split": PATCHES,
    "vit_split_eager": PATCHES,
    "vit_unbind": PATCHES,
    "vit_unbind_eager": PATCHES,
    "whisper": SPECTRUM,
    "whisper_eager": SPECTRUM,
    "encoder_layers": (*TOKENS, attention.WIDTH),
    "gated": (2, 24),
    "detr": (2, attention.FEATURES, 4, 4),
}


@dataclass(frozen=True)
class Exporter:
    """How a model is exported.

    Parameters
    ----------
    dynamo
        PyTorch's newer exporter.
    opset
        Version of the operator set.
    optimised
        Constants folded, and BatchNorm into Conv; the dynamo exporter's optimiser.
    dynamic
        Whether the batch is a dynamic dimension.
    """

    dynamo: bool
    opset: int
    optimised: bool
    dynamic: bool


EXPORTERS: dict[str, Exporter] = {
    "legacy 11": Exporter(False, 11, True, True),
    "legacy 13, as trained": Exporter(False, 13, False, True),
    "legacy 17, static": Exporter(False, 17, True, False),
    "dynamo 18": Exporter(True, 18, True, True),
    "dynamo 20, as traced": Exporter(True, 20, False, False),
    "dynamo 23": Exporter(True, 23, True, False),
}


def build(family: str) -> nn.Module:
    """Build a family's model with seeded weights, ready to infer."""
    torch.manual_seed(crc32(family.encode()))
    module = FAMILIES[family]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0.0, 0.2)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0.0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    for name, value in module.named_parameters():
        if value.dim() == 1 and bool((value == value[0]).all()):
            start = nn.init.uniform_ if name.endswith("weight") else nn.init.normal_
            start(value, *((0.5, 1.5) if name.endswith("weight") else (0.0, 0.2)))
    return module.eval()


def example(family: str) -> Tensor:
    """Return an input of a family."""
    if family in TOKENS_OF:
        return torch.randint(TOKENS_OF[family], TOKENS)
    return torch.randn(SHAPES.get(family, IMAGE))


def export(family: str, exporter: Exporter) -> onnx.ModelProto:
    """Export a family's model.

    Raises
    ------
    RuntimeError
        Or one of its subclasses, where PyTorch cannot.
    """
    module, x, target = build(family), example(family), io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.dynamo:
            batch = {0: torch.export.Dim("batch", min=1, max=64)}
            program = torch.onnx.export(
                module,
                (x,),
                dynamo=True,
                verbose=False,
                opset_version=exporter.opset,
                optimize=exporter.optimised,
                dynamic_shapes=(batch,) if exporter.dynamic else None,
            )
            return program.model_proto
        torch.onnx.export(
            module,
            (x,),
            target,
            dynamo=False,
            opset_version=exporter.opset,
            do_constant_folding=exporter.optimised,
            training=torch.onnx.TrainingMode.EVAL
            if exporter.optimised
            else torch.onnx.TrainingMode.PRESERVE,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}} if exporter.dynamic else None,
        )
    return onnx.load_from_string(target.getvalue())
