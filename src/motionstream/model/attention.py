"""Self-attention contexts, which make one transformer bidirectional, block-causal or cached.

A context gets the pre-rope queries, keys and values of one layer and returns the attention output. The weights and the
rest of the forward do not depend on it. Tensors are (B, tokens, heads, head_dim), tokens ordered (frame, row, column);
``grid`` is (frames, rows, columns) of tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from motionstream.config import CausalConfig
from motionstream.model.backends import attention, plain_attention
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.rope import apply_rope, rope_table

__all__ = [
    "AttentionContext",
    "Bidirectional",
    "BlockCausal",
    "Cached",
    "Grid",
    "TeacherForced",
    "attention",
    "plain_attention",
]

Grid = tuple[int, int, int]


class AttentionContext(Protocol):
    """Attention of one layer; determines rope positions and which tokens are visible."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor: ...


class Bidirectional:
    """Every token sees every token, with the frame's index as rope position: for the teacher and the critic."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        rope = rope_table(query.shape[-1], tuple(range(grid[0])), grid[1], grid[2], query.device)
        return attention(apply_rope(query, rope), apply_rope(key, rope), value)


class BlockCausal:
    """A whole clip in one forward: each chunk sees sink ∪ window ∪ itself, with rope positions as in the cache.

    Replaces the cache during causal initialisation and in tests. Every query chunk gathers its own keys, so sinks can
    be roped relative to the query chunk's slot and no mask is needed. ``full_history`` ignores sink and window: every
    earlier chunk is visible (as in Self-Forcing).
    """

    def __init__(self, causal: CausalConfig, *, full_history: bool = False) -> None:
        self.causal = causal
        self.full_history = full_history

    def _visible(self, chunk: int) -> list[tuple[int, int]]:
        if self.full_history:
            return [(j, j) for j in range(chunk + 1)]
        return self.causal.visible_chunks(chunk)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        frames, height, width = grid
        size = self.causal.chunk_frames
        if frames % size:
            raise ValueError(f"{frames} latent frames do not divide into chunks of {size}")
        q, k, v = (x.split(size * height * width, dim=1) for x in (query, key, value))

        def roped(x: Tensor, place: int) -> Tensor:
            positions = tuple(range(place * size, (place + 1) * size))
            return apply_rope(x, rope_table(x.shape[-1], positions, height, width, x.device))

        outputs = []
        for chunk in range(frames // size):
            visible = self._visible(chunk)
            keys = torch.cat([roped(k[j], place) for j, place in visible], dim=1)
            values = torch.cat([v[j] for j, _ in visible], dim=1)
            outputs.append(attention(roped(q[chunk], visible[-1][1]), keys, values))
        return torch.cat(outputs, dim=1)


class TeacherForced(BlockCausal):
    """Every chunk of a noisy clip against the clean past that streaming would have cached, all in one forward.

    The batch (2 B, ...) holds the clean clips, at t = 0, followed by the same clips with noise. A clean chunk sees
    sink ∪ window ∪ itself, as in the clean pass that writes the cache; a noisy one sees the clean chunks of its sink
    and window, and itself. Nothing is detached: the loss on noisy chunks trains the clean pass, too.
    """

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        if query.shape[0] % 2:
            raise ValueError(f"a batch of {query.shape[0]} cannot be clean clips and as many noisy ones")
        (clean_query, noisy_query), (clean_key, noisy_key), (clean_value, noisy_value) = (
            x.chunk(2) for x in (query, key, value)
        )
        clean = super().attend(layer, clean_query, clean_key, clean_value, grid)
        frames, height, width = grid
        size = self.causal.chunk_frames
        tokens = size * height * width
        q, k, v = (x.split(tokens, dim=1) for x in (noisy_query, noisy_key, noisy_value))
        past_k, past_v = (x.split(tokens, dim=1) for x in (clean_key, clean_value))

        def roped(x: Tensor, place: int) -> Tensor:
            positions = tuple(range(place * size, (place + 1) * size))
            return apply_rope(x, rope_table(x.shape[-1], positions, height, width, x.device))

        outputs = []
        for chunk in range(frames // size):
            *past, (_, slot) = self._visible(chunk)
            keys = torch.cat([*(roped(past_k[j], place) for j, place in past), roped(k[chunk], slot)], dim=1)
            values = torch.cat([*(past_v[j] for j, _ in past), v[chunk]], dim=1)
            outputs.append(attention(roped(q[chunk], slot), keys, values))
        return torch.cat([clean, torch.cat(outputs, dim=1)])


class Cached:
    """Streaming: one chunk against the rolling cache. With ``write``, stages the chunk's keys and values."""

    def __init__(self, cache: RollingKVCache, *, write: bool = False) -> None:
        self.cache = cache
        self.write = write

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, grid: Grid) -> Tensor:
        if self.write:
            self.cache.write(layer, key, value)
        rope = rope_table(query.shape[-1], self.cache.current_positions, grid[1], grid[2], query.device)
        past_keys, past_values, _ = self.cache.read(layer)
        # the cache has the weights' dtype; under autocast torch.cat would promote the keys to it, but not the queries
        keys = torch.cat([past_keys.to(key.dtype), apply_rope(key, rope)], dim=1)
        values = torch.cat([past_values.to(value.dtype), value], dim=1)
        return attention(apply_rope(query, rope), keys, values)
