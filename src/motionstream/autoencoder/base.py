"""What every autoencoder of this library answers to."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class StreamingAutoencoder(Protocol):
    """Latents are normalised B C T H W; videos B 3 T H W in [−1, 1]. State belongs to the caller, one per stream.

    The first latent frame of a stream stands for one frame, every other for four. Without a state a call begins a
    stream: ``decode`` makes 4F − 3 frames, ``encode`` takes 4F − 3; with the state of the call before, 4F. Chunk by
    chunk equals whole. A state is never changed: it may be used again, to branch.
    """

    latent_channels: int

    def encode(self, video: Tensor, state: Any | None = None) -> tuple[Tensor, Any]: ...

    def decode(self, latents: Tensor, state: Any | None = None) -> tuple[Tensor, Any]: ...
