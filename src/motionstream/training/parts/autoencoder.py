"""Trains ``nano``'s autoencoder: principal components, computed in seconds, then the residual decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder, from_blocks
from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.pixels import to_float
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion.trajectories import TrajectoryStore
from motionstream.training.loop.distributed import SampleDraws, shard
from motionstream.training.loop.stage import Stage


def fit_basis(
    autoencoder: LinearAutoencoder, scene: SceneConfig, bank: TextureBank, *, batches: int, seed: int
) -> float:
    """Fit the linear code to the principal components of rendered blocks; returns the share of variance kept."""
    samples = []
    generator = torch.Generator().manual_seed(seed)
    for index in range(batches):
        video = to_float(render(scene, 8, seed + index, bank).video)
        blocks = autoencoder.blocks_of(video, first=True).transpose(0, 1).flatten(1).T
        samples.append(blocks[torch.randperm(len(blocks), generator=generator)[:6000]])
    return autoencoder.fit(torch.cat(samples))


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [−1, 1]."""
    return float(10 * torch.log10(4 / (a - b).detach().square().mean().clamp(min=1e-10)))


def picture_loss(decoded: Tensor, video: Tensor) -> Tensor:
    """L1 of the pixels plus L1 of their spatial gradients, which keeps edges in place and avoids seams of blocks."""
    edges = [F.l1_loss(decoded.diff(dim=d), video.diff(dim=d)) for d in (3, 4)]
    return F.l1_loss(decoded, video) + edges[0] + edges[1]


class DecoderStage(Stage):
    """Trains the residual decoder to reproduce rendered frames."""

    def __init__(
        self,
        autoencoder: LinearAutoencoder,
        scene: SceneConfig,
        textures: tuple[str, ...],
        held_out: tuple[str, ...],
        *,
        batch: int,
        seed: int,
    ) -> None:
        super().__init__(autoencoder)
        self.autoencoder = autoencoder
        self.scene, self.batch, self.seed = scene, batch, seed
        self.bank = TextureBank(textures)
        self.held_out = TextureBank(held_out)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        draws = SampleDraws(self.seed, step, shard(self.batch))
        clips = [render(self.scene, 1, seed, self.bank).video for seed in draws.randint(2**31 - 1).tolist()]
        video = to_float(torch.cat(clips)).to(self.autoencoder.mean.device)
        with torch.no_grad():
            latents, _ = self.autoencoder.encode(video)
            # streaming decodes generated latents, not encoded ones: make the decoder robust to small errors
            strength = 0.05 * draws.rand(1, 1, 1, 1)
            latents = latents + (strength * draws.randn(*latents.shape[1:])).to(latents)
        decoded, _ = self.autoencoder.decode(latents)
        return picture_loss(decoded, video), {"psnr": psnr(decoded.detach(), video)}

    def validate(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LinearAutoencoder)
        numbers = {}
        for name, bank in (("rendered", self.bank), ("held_out", self.held_out)):
            video = to_float(render(self.scene, 8, 1, bank).video).to(module.mean.device)
            latents, _ = module.encode(video)
            decoded, _ = module.decode(latents)
            linear = module.decode_linear(latents)
            numbers[f"psnr_{name}"] = psnr(decoded, video)
            target = module.blocks_of(video, first=True)
            numbers[f"psnr_linear_{name}"] = psnr(linear, target)
        return numbers


class GeneratedDecoderStage(Stage):
    """Trains the residual decoder on latents like those it will get: random interpolations between true latents and
    those that the teacher generated.

    The linear code decodes every block separately, so generated latents show seams and coloured blocks; the decoder
    sees the neighbouring blocks and learns to remove them. The target is the linear decoding of the true latents. The
    last trajectories, ``batch`` of them but at most half, are held out for validation.

    Raises ValueError if the store has fewer than two trajectories.
    """

    def __init__(self, autoencoder: LinearAutoencoder, store: TrajectoryStore, *, batch: int, seed: int) -> None:
        super().__init__(autoencoder)
        self.autoencoder, self.store, self.batch = autoencoder, store, batch
        self.seed = seed
        if len(store) < 2:
            raise ValueError(f"{len(store)} trajectory: one is held out, make at least 2 (trajectories of the recipe)")
        self._count = len(store) - min(batch, len(store) // 2)
        self._held = store.take(list(range(self._count, len(store))))

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        draws = SampleDraws(self.seed, step, shard(self.batch))
        true, made = self._taken(self.store.take(draws.randint(self._count).tolist()))
        share = draws.rand(1, 1, 1, 1).to(true)
        video, decoded = self._linear(true), self.autoencoder.decode(true + share * (made - true))[0]
        return picture_loss(decoded, video), {"psnr": psnr(decoded.detach(), video)}

    def _taken(self, taken: tuple[PreparedClips, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """True latents and the teacher's, on the autoencoder's device."""
        clips, _, made = taken
        device = self.autoencoder.mean.device
        return clips.latents.to(device), made.to(device)

    def _linear(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            video = from_blocks(self.autoencoder.decode_linear(latents))
        return video[:, :, GROUP - 1 :].clamp(-1, 1)

    def validate(self, module: nn.Module) -> dict[str, float]:
        assert isinstance(module, LinearAutoencoder)
        true, made = self._taken(self._held)
        video = self._linear(true)
        return {
            "psnr_made": psnr(module.decode(made)[0], video),
            "psnr_made_linear": psnr(self._linear(made), video),
            "psnr_true": psnr(module.decode(true)[0], video),
        }
