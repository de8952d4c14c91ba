"""The UMT5 text encoder of Wan: transformers' model behind the interface of ``conditioning.text``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from motionstream.component_config import UMT5Config
from motionstream.conditioning.int8 import to_int8
from motionstream.conditioning.pretrained import (
    Device,
    WeightSource,
    assemble,
    check_folder,
    check_settings,
    check_shapes,
    existing_folder,
    folder_weights,
    load_tokenizer,
    optional_import,
    random_weights,
    write_folder,
)
from motionstream.conditioning.resident import Resident
from motionstream.conditioning.text import clean_text

Quantise = Literal["none", "int8"]

_NOT_IN_SHAPES = ("num_heads", "d_kv", "feed_forward_proj", "relative_attention_max_distance")
# Official names (Wan-Video/Wan2.1, wan/modules/t5.py) → transformers', within a block.
_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_ENDS = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}


class UMT5TextEncoder:
    """Sentences → (B, tokens, d_model), zero after each sentence's end: Wan's transformer has no mask and relies on it.

    The last 16 sentences are cached; the model is in memory only while another is encoded, longer only with ``keep``.
    It may be on another device than its output (offload). Sentences are encoded one by one without padding: the
    official code masks the padding, so results are the same at a fraction of the cost of 512 tokens.
    """

    def __init__(
        self,
        config: UMT5Config,
        weights: WeightSource,
        tokenizer: Callable[[], Any],
        dtype: torch.dtype,
        device: Device,
        *,
        keep: bool = False,
        quantise: Quantise = "none",
        output_device: Device | None = None,
    ) -> None:
        if quantise not in ("none", "int8"):
            raise ValueError(f"quantise = {quantise!r}: 'none' or 'int8'")
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.output_device = torch.device(output_device or device)
        self.quantise = quantise
        self._weights = weights
        self._load_tokenizer = tokenizer
        self._tokenizer: Any = None
        self._resident = Resident(self._load, keep=keep)

    @classmethod
    def random(
        cls,
        config: UMT5Config,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        *,
        keep: bool = False,
        quantise: Quantise = "none",
        output_device: Device | None = None,
    ) -> UMT5TextEncoder:
        """Random weights, reproducible from ``seed``, and a tokenizer of bytes instead of words."""
        transformers = optional_import("transformers")
        return cls(
            config,
            partial(random_weights, seed=seed),
            transformers.ByT5Tokenizer,
            dtype,
            device,
            keep=keep,
            quantise=quantise,
            output_device=output_device,
        )

    @classmethod
    def from_folder(
        cls,
        text_encoder_folder: str | Path,
        tokenizer_folder: str | Path,
        config: UMT5Config,
        dtype: torch.dtype = torch.bfloat16,
        device: Device = "cpu",
        *,
        keep: bool = False,
        quantise: Quantise = "none",
        output_device: Device | None = None,
    ) -> UMT5TextEncoder:
        """Load weights and tokenizer as transformers saves them. Only headers are read until a sentence is encoded.

        Args:
            quantise: "int8" keeps the linear layers' weights in eight bits.
            output_device: device of the tokens; ``device`` by default.

        Raises:
            ValueError: folders or libraries missing, files damaged or of another model.
        """
        folder = existing_folder(text_encoder_folder, "text encoder")
        tokenizer = existing_folder(tokenizer_folder, "tokenizer")
        check_settings(folder, transformers_config(config), _NOT_IN_SHAPES)
        check_folder(_skeleton(config), folder, _canonical)
        return cls(
            config,
            partial(folder_weights, folder=folder, canonical=_canonical),
            partial(load_tokenizer, tokenizer, config.vocab_size),
            dtype,
            device,
            keep=keep,
            quantise=quantise,
            output_device=output_device,
        )

    @property
    def resident(self) -> bool:
        """Whether the model is in memory now."""
        return self._resident.resident

    def release(self) -> None:
        """Free the model's memory; encoded sentences stay cached."""
        self._resident.release()

    @torch.no_grad()
    def encode(self, sentences: list[str]) -> Tensor:
        """Tokens (B, tokens, d_model) on ``output_device``; longer sentences are truncated."""
        cleaned = [clean_text(sentence, fix_encoding=True) for sentence in sentences]
        rows = self._resident.outputs(cleaned, lambda model, index: self._encode_one(model, cleaned[index]))
        shape = (len(rows), self.config.tokens, self.config.d_model)
        out = torch.zeros(shape, dtype=self.dtype, device=self.output_device)
        for place, row in zip(out, rows, strict=True):
            place[: len(row)] = row
        return out

    def save(self, text_encoder_folder: str | Path, tokenizer_folder: str | Path) -> None:
        """Write folders that ``from_folder`` and transformers read. ValueError if the weights are quantised."""
        if self.quantise != "none":
            raise ValueError(f"a text encoder with quantise = {self.quantise!r} cannot be saved: load it with 'none'")
        with self._resident.borrowed() as model:
            write_folder(text_encoder_folder, cast(Any, model).save_pretrained)
        write_folder(tokenizer_folder, self._tokenizer_once().save_pretrained)

    def _tokenizer_once(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    def _encode_one(self, model: nn.Module, sentence: str) -> Tensor:
        tokenizer = self._tokenizer_once()
        ids = tokenizer(sentence, truncation=True, max_length=self.config.tokens, return_tensors="pt").input_ids
        hidden = model(input_ids=ids.to(self.device)).last_hidden_state[0]
        return hidden.to(self.output_device, self.dtype)

    def _load(self) -> nn.Module:
        eight_bits = self.quantise == "int8"
        start = torch.device("cpu") if eight_bits else self.device
        skeleton = _skeleton(self.config)
        model = assemble(skeleton, self._weights(skeleton, self.dtype, start), start)
        if eight_bits:
            return to_int8(model, self.device)
        return model


def transformers_config(config: UMT5Config) -> Any:
    """The transformers config of this encoder; its ``save_pretrained`` writes the folder's ``config.json``."""
    return optional_import("transformers").UMT5Config(
        architectures=["UMT5EncoderModel"],
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gated-gelu",
    )


def from_official(state: Mapping[str, Tensor], config: UMT5Config) -> dict[str, Tensor]:
    """Rename the parameters of ``models_t5_umt5-xxl-enc-bf16.pth`` to transformers' names; nothing is copied.

    Raises:
        ValueError: the state is not that of the official encoder, or of another size than ``config``.
    """
    renamed = {_transformers_name(key): value for key, value in state.items()}
    shapes = {key: value.shape for key, value in renamed.items()}
    check_shapes(_skeleton(config), shapes, _canonical, "the official UMT5 state")
    return renamed


def _transformers_name(key: str) -> str:
    name = key.removesuffix(".weight")
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        rest = _BLOCK.get(match[2])
        renamed = rest and f"encoder.block.{match[1]}.{rest}"
    else:
        renamed = _ENDS.get(name)
    if renamed is None:
        raise ValueError(f"this is not the official UMT5 encoder of Wan: it has {key!r}")
    return f"{renamed}.weight"


def _skeleton(config: UMT5Config) -> nn.Module:
    transformers = optional_import("transformers")
    with torch.device("meta"):
        model = transformers.UMT5EncoderModel(transformers_config(config))
    model.set_input_embeddings(model.shared)  # ties the two names of the embedding table
    return model


def _canonical(name: str) -> str | None:
    if name.startswith(("decoder.", "lm_head.")):  # files of the full UMT5 have a decoder, too
        return None
    return "shared.weight" if name == "encoder.embed_tokens.weight" else name
