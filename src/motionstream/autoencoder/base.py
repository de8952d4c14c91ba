"""The interface of all autoencoders."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class StreamingAutoencoder(Protocol):
    """Latents are normalised, B C T H W; videos are B 3 T H W in [−1, 1]. The caller keeps the state of each stream.

    The first latent frame of a stream stands for one frame, every other for four. A call without a state begins a
    stream and handles 4F − 3 frames, as input of ``encode`` or output of ``decode``; with the previous call's state it
    handles 4F. Chunk by chunk equals whole. A state is immutable, so it can be reused to branch a stream.
    """

    latent_channels: int

    def encode(self, video: Tensor, state: Any | None = None) -> tuple[Tensor, Any]: ...

    def decode(self, latents: Tensor, state: Any | None = None) -> tuple[Tensor, Any]: ...
