"""The export of an encoder of sentences from its weights in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel


class States(nn.Module):
    """The last states of an encoder, from its three inputs alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Encode: (sentence, token) to (sentence, token, channel)."""
        found = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        return found[0]


def export(weights: Path, example: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write the model, opset 17, batch and length dynamic; the pooling is left to the client.

    Parameters
    ----------
    weights
        Folder with the configuration and the weights.
    example
        int64 (sentence, token) for each input, in their order.
    path
        Where to.
    """
    encoder = AutoModel.from_pretrained(
        weights, attn_implementation="eager", add_pooling_layer=False
    )
    torch.onnx.export(
        States(encoder).eval(),
        tuple(torch.from_numpy(array) for array in example.values()),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=list(example),
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in (*example, "last_hidden_state")},
    )
