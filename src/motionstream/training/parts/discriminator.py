"""The discriminator for the tiny decoder (paper, appendix A): a PatchGAN over short runs of frames, with replay.

Axes: B clips, C channels, T frames; videos (B, 3, T, H, W) in [−1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """Classifies patches as real or generated (Isola et al. 2017); with three layers a patch has 70×70 pixels.

    ``frames`` successive frames are stacked as channels, so that flicker is visible. Group normalisation replaces batch
    normalisation: the result for a clip depends on no other clip, and there is no running state.
    """

    def __init__(self, channels: int = 64, layers: int = 3, frames: int = 3) -> None:
        """``channels`` of the first layer, a multiple of 8; each further layer doubles them, up to 8 × ``channels``."""
        super().__init__()
        if channels < 8 or channels % 8 or layers < 1 or frames < 1:
            raise ValueError(
                f"discriminator of {channels} channels, {layers} layers and {frames} frames: give a multiple of 8, and "
                "1 or more of both"
            )
        self.frames = frames
        body: list[nn.Module] = [nn.Conv2d(3 * frames, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            wider = channels * min(2**layer, 8)
            # the last layer keeps the resolution
            stride = 2 if layer < layers else 1
            body += [nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False), nn.GroupNorm(8, wider)]
            body += [nn.LeakyReLU(0.2)]
            width = wider
        self.body = nn.Sequential(*body, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, video: Tensor) -> Tensor:
        """Video (B, 3, T, H, W) → one logit per patch, (B, ⌈T / frames⌉, h, w), positive for real.

        If T is not a multiple of ``frames``, copies of the first frame are prepended.
        """
        short = -video.shape[2] % self.frames
        video = torch.cat([video[:, :, :1].expand(-1, -1, short, -1, -1), video], dim=2)
        runs = video.unflatten(2, (-1, self.frames)).transpose(1, 2).flatten(2, 3)  # B runs (3 frames) H W
        return self.body(runs.flatten(0, 1)).squeeze(1).unflatten(0, runs.shape[:2])


def judge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss (Lim and Ye 2017): 0 for logits of ``real`` above 1 and of ``fake`` below −1."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adversarial_loss(fake: Tensor) -> Tensor:
    """The decoder's adversarial loss: lower if the discriminator takes its pictures for real."""
    return -fake.mean()


class ReplayBuffer:
    """Keeps earlier outputs of the decoder, so that the discriminator does not forget them (Shrivastava et al. 2017).

    Every sample of the global batch has its own history, so the result depends neither on the number of ranks nor on
    micro-batches.
    """

    def __init__(self, capacity: int) -> None:
        """``capacity``: number of clips kept for each sample, in half precision on the CPU; 0 disables the buffer."""
        if capacity < 0:
            raise ValueError(f"replay = {capacity}: the clips kept per sample cannot be fewer than 0")
        self.capacity = capacity
        self.kept: dict[int, Tensor] = {}  # sample → (clips, 3, T, H, W)

    @torch.no_grad()
    def exchange(self, fakes: Tensor, samples: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """Store ``fakes`` (B, 3, T, H, W) and return as many clips, each a fake or an earlier one of the same sample.

        While a sample's history fills, its fakes are returned. Afterwards, with probability ½, a fake replaces a random
        earlier one, which is returned instead. ``generators``: one for each of ``samples``.
        """
        shown = [self._one(*each) for each in zip(fakes, samples, generators, strict=True)]
        return torch.stack(shown)

    def _one(self, fake: Tensor, sample: int, generator: torch.Generator) -> Tensor:
        if self.capacity == 0:
            return fake
        stored = fake.half().cpu()[None]
        history = self.kept.get(sample)
        if history is None or len(history) < self.capacity:
            self.kept[sample] = stored if history is None else torch.cat([history, stored])
            return fake
        if torch.rand((), generator=generator) < 0.5:
            return fake
        place = int(torch.randint(self.capacity, (), generator=generator))
        earlier = history[place].to(fake, copy=True)
        history[place] = stored[0]
        return earlier

    def state_dict(self) -> dict[str, Tensor]:
        return {str(sample): history.clone() for sample, history in self.kept.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.kept = {int(sample): history.clone() for sample, history in state.items()}
