"""The diffusion transformer: Wan's, with the self-attention context as an argument.

Parameter names are those of diffusers' ``WanTransformer3DModel``, so its checkpoints load unchanged. Legend:
B batch, F latent frames, L tokens = F × rows × columns, D width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.model.attention import AttentionContext, Bidirectional, Grid, attention
from motionstream.model.precision import ISLANDS, without_autocast

TIME_SCALE = 1000.0
"""Wan's timesteps run 0..1000; everywhere else in this library t lies in [0, 1]."""


class RMSNorm(nn.Module):
    """RMS norm across all heads, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """A layer norm computed in float32, one of Wan's islands of full precision."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class _Projection(nn.Module):
    """diffusers' GELU projection; a module only so that the parameter is named ``net.0.proj``."""

    def __init__(self, dim: int, hidden: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int, approximate: str) -> None:
        super().__init__()
        self.net = nn.Sequential(_Projection(dim, hidden, approximate), nn.Identity(), nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    """Projections with QK-norm across all heads. Self-attention takes a context, cross-attention tokens."""

    def __init__(self, dim: int, heads: int, eps: float, added_kv_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)
        if added_kv_dim is not None:
            self.add_k_proj = nn.Linear(added_kv_dim, dim)
            self.add_v_proj = nn.Linear(added_kv_dim, dim)
            self.norm_added_k = RMSNorm(dim, eps)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def self_attention(self, x: Tensor, layer: int, context: AttentionContext, grid: Grid) -> Tensor:
        query, key, value = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(x)), self.to_v(x)
        out = context.attend(layer, self._split(query), self._split(key), self._split(value), grid)
        return self.to_out[0](out.flatten(-2))

    def cross_attention(self, x: Tensor, text: Tensor, image: Tensor | None) -> Tensor:
        """Attend to text and image tokens. The image branch reuses the query; outputs are summed before projection."""
        query = self._split(self.norm_q(self.to_q(x)))
        out = attention(query, self._split(self.norm_k(self.to_k(text))), self._split(self.to_v(text)))
        if image is not None:
            key, value = self.norm_added_k(self.add_k_proj(image)), self.add_v_proj(image)
            out = out + attention(query, self._split(key), self._split(value))
        return self.to_out[0](out.flatten(-2))


class TransformerBlock(nn.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, eps: float, affine: bool, added_kv: int | None) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.attn2 = Attention(dim, heads, eps, added_kv)
        self.norm2 = LayerNorm(dim, eps) if affine else nn.Identity()
        self.ffn = FeedForward(dim, ffn_dim, dim, "tanh")
        self.norm3 = LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Tensor,
        image: Tensor | None,
        layer: int,
        context: AttentionContext,
        grid: Grid,
    ) -> Tensor:
        """``modulation``: float32 (B, F or 1, 6, D), shift, scale and gate of the attention, then of the ffn."""
        table = self.scale_shift_table.float() + modulation
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unsqueeze(3).unbind(2)
        h = modulate(self.norm1(x.float()), shift1, scale1).to(x.dtype)
        x = gated(x, self.attn1.self_attention(h, layer, context, grid), gate1)
        x = x + self.attn2.cross_attention(self.norm2(x), text, image)
        h = modulate(self.norm3(x.float()), shift2, scale2).to(x.dtype)
        return gated(x, self.ffn(h), gate2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply per-frame shift and scale (B, F or 1, 1, D) to x (B, L, D)."""
    return torch.addcmul(shift, x.unflatten(1, (shift.shape[1], -1)), 1 + scale).flatten(1, 2)


def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Add ``update`` · ``gate`` to ``x`` in float32; the result has the dtype of ``x``."""
    frames = gate.shape[1]
    out = torch.addcmul(x.float().unflatten(1, (frames, -1)), update.float().unflatten(1, (frames, -1)), gate)
    return out.flatten(1, 2).to(x.dtype)


class _TimeEmbedding(nn.Module):
    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(freq_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class _TextEmbedding(nn.Module):
    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class _ImageEmbedding(nn.Module):
    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(image_dim)
        self.ff = FeedForward(image_dim, image_dim, dim, "none")
        self.norm2 = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.ff(self.norm1(x)))


class ConditionEmbedder(nn.Module):
    """Time, text and image tokens to the transformer's width."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int, image_dim: int | None) -> None:
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = _TimeEmbedding(freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = _TextEmbedding(text_dim, dim)
        if image_dim is not None:
            self.image_embedder = _ImageEmbedding(image_dim, dim)

    def time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t (B, F or 1) in [0, 1] → embedding (B, F or 1, D) and modulation (B, F or 1, 6, D).

        In the precision of its weights, as in Wan's own code: autocast would run an island in half precision.
        """
        half = self.freq_dim // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
        angles = (t.float() * TIME_SCALE)[..., None] * frequencies
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1)
        with without_autocast(t.device):
            embedding = self.time_embedder(wave.to(self.time_embedder.linear_1.weight.dtype))
            modulation = self.time_proj(F.silu(embedding).to(self.time_proj.weight.dtype))
        return embedding, modulation.unflatten(-1, (6, -1))


class MotionTransformer(ModelMixin, ConfigMixin):
    """One transformer for teacher, critic, causal initialisation and streaming; only the context differs.

    Constructor arguments, config and parameter names are those of diffusers' ``WanTransformer3DModel``.
    """

    _supports_gradient_checkpointing = False
    _keep_in_fp32_modules: ClassVar[list[str]] = list(ISLANDS)

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
    ) -> None:
        super().__init__()
        if qk_norm != "rms_norm_across_heads":
            raise ValueError(f"qk_norm = {qk_norm!r}: only Wan's 'rms_norm_across_heads' exists")
        if pos_embed_seq_len is not None:
            raise ValueError(f"pos_embed_seq_len = {pos_embed_seq_len}: first-and-last-frame models are not supported")
        dim = num_attention_heads * attention_head_dim
        self.patch_embedding = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.condition_embedder = ConditionEmbedder(dim, freq_dim, text_dim, image_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, num_attention_heads, ffn_dim, eps, cross_attn_norm, added_kv_proj_dim)
            for _ in range(num_layers)
        )
        self.norm_out = LayerNorm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        image: Tensor | None = None,
        context: AttentionContext | None = None,
    ) -> Tensor:
        """Predict the velocity.

        Args:
            latents: (B, in_channels, F, H, W).
            t: (B,) or (B, F) in [0, 1]; 1 is noise.
            text: (B, tokens, text_dim).
            image: image tokens (B, 257, image_dim), for models with an image branch.
            context: attention context; bidirectional when None.

        Returns:
            (B, out_channels, F, H, W).
        """
        p_t, p_h, p_w = self.config["patch_size"]
        frames, height, width = latents.shape[2] // p_t, latents.shape[3] // p_h, latents.shape[4] // p_w
        grid = (frames, height, width)
        context = context or Bidirectional()
        embedder = self.condition_embedder

        x = self.patch_embedding(latents).flatten(2).transpose(1, 2)
        embedding, modulation = embedder.time(t[:, None] if t.ndim == 1 else t)
        text = embedder.text_embedder(text)
        image = None if image is None else embedder.image_embedder(image)
        modulation = modulation.float()
        for layer, block in enumerate(self.blocks):
            x = block(x, modulation, text, image, layer, context, grid)

        shift, scale = (self.scale_shift_table.float() + embedding.float().unsqueeze(2)).unsqueeze(3).unbind(2)
        x = self.proj_out(modulate(self.norm_out(x.float()), shift, scale).to(x.dtype))
        x = x.unflatten(1, grid).unflatten(-1, (p_t, p_h, p_w, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def cache_geometry(self) -> dict[str, Any]:
        """Arguments for a key-value cache: layers, heads, head_dim."""
        config = self.config
        return {
            "layers": config["num_layers"],
            "heads": config["num_attention_heads"],
            "head_dim": config["attention_head_dim"],
        }
