"""What every autoencoder of this library answers to."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class StreamingAutoencoder(Protocol):
    """Latents are normalised B C T H W; videos B 3 T H W in [−1, 1]. State belongs to the caller, one per stream.

    The first latent frame of a stream stands for one frame, every other for four. Chunk by chunk equals whole.
    """

    latent_channels: int

    def encode(self, video: Tensor, *, first: bool = True) -> Tensor: ...

    def decode(self, latents: Tensor, state: Any | None = None) -> tuple[Tensor, Any]: ...
