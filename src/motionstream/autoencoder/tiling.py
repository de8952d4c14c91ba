"""Overlapping spatial tiles: their layout, and blending of their results.

Lengths are in latent cells; ``scale`` is the number of result pixels (or cells) per latent cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.component_config import require

Span = tuple[int, int]


def tile_spans(length: int, tile: int | None, overlap: int) -> tuple[Span, ...]:
    """Tiles along one axis, (start, stop): as few as possible, of equal size up to ``tile``, overlapping by at least
    ``overlap``.

    For example, 17 cells with tiles of up to 16 and an overlap of 4 give two tiles of 11.
    """
    if tile is None:
        return ((0, length),)
    require(tile >= 1, "autoencoder.tile", tile, "must be at least 1, or None for no tiles")
    require(0 <= 2 * overlap <= tile, "autoencoder.tile_overlap", overlap, f"must lie in 0 … tile / 2 (tile = {tile})")
    if tile >= length:
        return ((0, length),)
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    return tuple((start, start + size) for start in starts)


def blend_weights(spans: Sequence[Span], scale: int) -> list[Tensor]:
    """Weights of each tile along one axis, float32 (size · scale,): linear in the overlaps, summing to 1 everywhere."""
    weights = []
    for i, (start, stop) in enumerate(spans):
        weight = torch.ones((stop - start) * scale)
        before = (spans[i - 1][1] - start) * scale if i > 0 else 0
        after = (stop - spans[i + 1][0]) * scale if i + 1 < len(spans) else 0
        weight[:before] *= (torch.arange(before) + 0.5) / max(before, 1)
        weight[len(weight) - after :] *= 1 - (torch.arange(after) + 0.5) / max(after, 1)
        weights.append(weight)
    total = torch.zeros(spans[-1][1] * scale)
    for (start, stop), weight in zip(spans, weights, strict=True):
        total[start * scale : stop * scale] += weight
    # normalise, since more than two tiles may overlap in one place when the overlap is near half a tile
    return [weight / total[start * scale : stop * scale] for (start, stop), weight in zip(spans, weights, strict=True)]


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a frame, row by row."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def of(cls, size: tuple[int, int], tile: int | None, overlap: int) -> TileGrid:
        """Tiles of a frame of ``size`` (height, width) in cells."""
        return cls(tile_spans(size[0], tile, overlap), tile_spans(size[1], tile, overlap))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def crops(self, frame: Tensor, scale: int = 1) -> Iterator[Tensor]:
        """The tiles of ``frame`` (…, H · scale, W · scale)."""
        for top, bottom in self.rows:
            for left, right in self.columns:
                yield frame[..., top * scale : bottom * scale, left * scale : right * scale]

    def join(self, tiles: Sequence[Tensor], scale: int = 1) -> Tensor:
        """The inverse of ``crops``, in float32: overlaps are blended linearly; a single tile is returned unchanged."""
        assert len(tiles) == len(self)
        if len(tiles) == 1:
            return tiles[0].float()
        height, width = self.rows[-1][1] * scale, self.columns[-1][1] * scale
        frame = tiles[0].new_zeros((*tiles[0].shape[:-2], height, width), dtype=torch.float32)
        down = [weight[:, None].to(frame.device) for weight in blend_weights(self.rows, scale)]
        across = [weight.to(frame.device) for weight in blend_weights(self.columns, scale)]
        weights = [row * column for row in down for column in across]
        for place, tile, weight in zip(self.crops(frame, scale), tiles, weights, strict=True):
            place += tile * weight
        return frame
