"""The rolling cache of keys and values (paper, section 3.2).

Fixed buffers [sink | window]: a slot *is* a rope position, and slots fill in order, so a new stream simply uses fewer
of them. Sinks are roped once. The window is also kept pre-rope, and is roped anew for its slots whenever it rolls, once
per chunk; the denoising steps of a chunk only read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motionstream.config import CausalConfig
from motionstream.model.rope import apply_rope, rope_table


class RollingKVCache:
    """Clean keys and values of the chunks that the next chunk attends to.

    Args:
        causal: chunk, sink and window sizes.
        layers, batch, heads, head_dim: of the transformer.
        grid: tokens per latent frame as (height, width).

    ``read(layer)`` returns (keys, values, positions); ``write`` and ``commit`` append one clean chunk.
    """

    def __init__(
        self,
        causal: CausalConfig,
        *,
        layers: int,
        batch: int,
        heads: int,
        head_dim: int,
        grid: tuple[int, int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.causal = causal
        self.grid = grid
        self.head_dim = head_dim
        self.layers = layers
        self.device = torch.device(device)
        self.chunk_tokens = causal.chunk_frames * grid[0] * grid[1]
        past = causal.sink_chunks + causal.window_chunks
        shape = (layers, batch, past * self.chunk_tokens, heads, head_dim)
        self._keys = torch.zeros(shape, device=self.device, dtype=dtype)
        self._values = torch.zeros(shape, device=self.device, dtype=dtype)
        window = causal.window_chunks * self.chunk_tokens
        self._window_raw = torch.zeros((layers, batch, window, heads, head_dim), device=self.device, dtype=dtype)
        staged = (layers, batch, self.chunk_tokens, heads, head_dim)
        self._staged_keys = torch.zeros(staged, device=self.device, dtype=dtype)
        self._staged_values = torch.zeros(staged, device=self.device, dtype=dtype)
        self.chunks = 0

    def reset(self) -> None:
        """Forget the stream; the buffers stay."""
        self.chunks = 0

    @property
    def nbytes(self) -> int:
        """Memory of all buffers in bytes; it never changes."""
        buffers = (self._keys, self._values, self._window_raw, self._staged_keys, self._staged_values)
        return sum(b.numel() * b.element_size() for b in buffers)

    def positions(self, chunk_position: int) -> tuple[int, ...]:
        """Rope positions of the latent frames of a chunk in slot ``chunk_position``."""
        frames = self.causal.chunk_frames
        return tuple(range(chunk_position * frames, (chunk_position + 1) * frames))

    @property
    def current_positions(self) -> tuple[int, ...]:
        """Rope positions of the latent frames about to be generated."""
        return self.positions(self.causal.slot(self.chunks))

    def _past(self) -> list[tuple[int, int]]:
        return self.causal.visible_chunks(self.chunks)[:-1]

    def read(self, layer: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Roped keys and values (B, tokens, heads, head_dim) of the past chunks, and their frames' rope positions."""
        past = self._past()
        tokens = len(past) * self.chunk_tokens
        positions = tuple(p for _, place in past for p in self.positions(place))
        return self._keys[layer, :, :tokens], self._values[layer, :, :tokens], positions

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stage the pre-rope keys and the values of the clean chunk of one layer."""
        expected = tuple(self._staged_keys.shape[1:])
        assert tuple(keys.shape) == expected, f"chunk keys {tuple(keys.shape)}, the cache holds {expected}"
        self._staged_keys[layer].copy_(keys.detach())
        self._staged_values[layer].copy_(values.detach())

    def commit(self) -> None:
        """Append the staged chunk: it becomes a sink, fills the window, or rolls it."""
        sink, window, n = self.causal.sink_chunks, self.causal.window_chunks, self.chunk_tokens
        chunk = self.chunks
        self.chunks = chunk + 1
        if chunk < sink:
            self._place(chunk, self._staged_keys, self._staged_values, position=chunk)
            return
        if window == 0:
            return
        index = chunk - sink
        if index >= window:
            # clone: source and destination of the shift overlap
            self._window_raw[:, :, :-n] = self._window_raw[:, :, n:].clone()
            self._values[:, :, sink * n : -n] = self._values[:, :, (sink + 1) * n :].clone()
            index = window - 1
        self._window_raw[:, :, index * n : (index + 1) * n] = self._staged_keys
        self._values[:, :, (sink + index) * n : (sink + index + 1) * n] = self._staged_values
        for slot, (past, position) in enumerate(self._past()):
            if past >= sink:
                raw = self._window_raw[:, :, (slot - sink) * n : (slot - sink + 1) * n]
                self._place(slot, raw, None, position)

    def refresh_sink(self) -> None:
        """Replace the sinks by the newest chunks of the window, roped for the sinks' slots; the window is unchanged.

        Raises ValueError if the window is shorter than the sink, or not full yet.
        """
        sink, window, n = self.causal.sink_chunks, self.causal.window_chunks, self.chunk_tokens
        if window < sink:
            raise ValueError(f"{self.causal}: a window shorter than the sink cannot refresh it")
        if self.chunks < sink + window:
            raise ValueError(f"{self.chunks} chunks do not fill {self.causal} yet; refresh its sink later")
        for slot in range(sink):
            index = window - sink + slot
            raw = self._window_raw[:, :, index * n : (index + 1) * n]
            values = self._values[:, :, (sink + index) * n : (sink + index + 1) * n].clone()
            self._place(slot, raw, values, position=slot)

    def _place(self, slot: int, raw_keys: Tensor, values: Tensor | None, position: int) -> None:
        rope = rope_table(self.head_dim, self.positions(position), *self.grid, self.device)
        span = slice(slot * self.chunk_tokens, (slot + 1) * self.chunk_tokens)
        for layer in range(self.layers):  # rope runs in float32: all layers at once would take gigabytes
            self._keys[layer, :, span] = apply_rope(raw_keys[layer], rope)
        if values is not None:
            self._values[:, :, span] = values
