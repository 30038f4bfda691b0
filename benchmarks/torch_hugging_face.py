"""Transformers as the library `transformers` builds them, small; each takes one input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.torch_attention import HEADS, HIDDEN, PATCH, WIDTH
from benchmarks.torch_convnets import CLASSES

LLAMA_WORDS, LLAMA_HIDDEN, KEY_HEADS = 96, 160, 2
T5_WORDS, T5_HIDDEN = 200, 192
BERT_WORDS, POSITIONS = 50, 16
MELS, FRAMES = 16, 32


class First(nn.Module):
    """The first of what a model of the library returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)  # an inference model is what is exported

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return self.model(x, return_dict=False)[0]


class Causal(First):
    """A decoder on whole sequences: positions and mask are constants, nothing is cached."""

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        position = torch.arange(x.shape[1])
        mask = torch.full((x.shape[1], x.shape[1]), -1e9).triu(1)[None, None]
        return self.model(x, attention_mask=mask, position_ids=position[None], return_dict=False)[0]


def llama(builtin: bool) -> nn.Module:
    """LLaMA (Touvron et al., 2023): rotary, RMSNorm, SwiGLU, two heads to each key head."""
    config = LlamaConfig(
        vocab_size=LLAMA_WORDS, hidden_size=WIDTH, intermediate_size=LLAMA_HIDDEN,
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    return Causal(LlamaForCausalLM(_attending(config, builtin)))


def qwen3(builtin: bool) -> nn.Module:
    """Qwen3 (2025): as LLaMA, with RMSNorm of each head's queries and keys before they turn."""
    config = Qwen3Config(
        vocab_size=LLAMA_WORDS, hidden_size=WIDTH, intermediate_size=LLAMA_HIDDEN,
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS,
        head_dim=WIDTH // HEADS, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    return Causal(Qwen3ForCausalLM(_attending(config, builtin)))


def t5(builtin: bool) -> nn.Module:
    """T5's encoder, version 1.1 (Raffel et al., 2020): gated GELU, biases from distances."""
    config = T5Config(
        vocab_size=T5_WORDS, d_model=WIDTH, d_kv=WIDTH // HEADS, num_heads=HEADS, d_ff=T5_HIDDEN,
        num_layers=2, feed_forward_proj="gated-gelu", use_cache=False,
    )  # fmt: skip
    return First(T5EncoderModel(_attending(config, builtin)))


def bert(builtin: bool) -> nn.Module:
    """BERT (Devlin et al., 2018)."""
    config = BertConfig(
        vocab_size=BERT_WORDS, hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=HIDDEN,
        num_attention_heads=HEADS, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    return First(BertModel(_attending(config, builtin), add_pooling_layer=False))


def vit_split(builtin: bool) -> nn.Module:
    """ViT with a projection each for queries, keys and values."""
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, num_labels=CLASSES,
        intermediate_size=HIDDEN, image_size=3 * PATCH, patch_size=PATCH,
    )  # fmt: skip
    return First(ViTForImageClassification(_attending(config, builtin)))


def whisper(builtin: bool) -> nn.Module:
    """Whisper's encoder (Radford et al., 2022): keys have no bias."""
    config = WhisperConfig(
        num_mel_bins=MELS, d_model=WIDTH, encoder_layers=2, encoder_attention_heads=HEADS,
        encoder_ffn_dim=HIDDEN, max_source_positions=FRAMES // 2,
    )  # fmt: skip
    return First(WhisperEncoder(_attending(config, builtin)))


def _attending(config: PreTrainedConfig, builtin: bool) -> PreTrainedConfig:
    config._attn_implementation = "sdpa" if builtin else "eager"
    return config
