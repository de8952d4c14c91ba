"""Training of the tiny decoder (paper, appendix A): pictures from the full autoencoder's latents, at a tenth of its
cost.

The encoder is frozen and the decoder starts from scratch, with L1 and a perceptual distance; a PatchGAN with replay
joins later. Clips are decoded as in a stream: one call is bit-identical to chunk-by-chunk decoding and lets gradients
through the decoder's memory. That memory reaches eight latent frames back, beyond the length of the paper's clips (six
latent frames, 21 frames), so a clip may have a lead-in: it is decoded first, without gradients, and its state is passed
on, as in a stream that began long ago.

Every clip and random choice is a function of (seed, step, sample of the global batch), so resuming needs no position in
the data, and the number of ranks does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream import metrics
from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.autoencoder.tiny import GROUP, TinyAutoencoder
from motionstream.pixels import to_float
from motionstream.training.clips.videos import ClipBatches, DrawClip
from motionstream.training.loop import distributed
from motionstream.training.loop.logs import Say
from motionstream.training.loop.run import Run, TrainConfig, train
from motionstream.training.loop.stage import Stage
from motionstream.training.parts.discriminator import PatchDiscriminator, ReplayBuffer, adversarial_loss, judge_loss
from motionstream.training.parts.perceptual import ContrastStandIn, Perceptual


@dataclass(frozen=True)
class TinyTraining:
    """Losses and data of the tiny decoder's training. The batch is the paper's; the weights and the schedule are
    ours."""

    batch: int = 16
    target: Literal["video", "decoder"] = "video"
    """The regression target: the video itself, or the full decoder's output, which costs a decoding."""
    perceptual_weight: float = 1.0
    adversarial_weight: float = 0.02
    """0: no discriminator."""
    adversarial_start: int = 20_000
    """Decoder updates before the discriminator starts: still blurred pictures would teach it nothing."""
    adversarial_ramp: int = 10_000
    """Decoder updates over which its weight rises from 0."""
    discriminator_channels: int = 64
    replay: int = 4
    """Earlier clips kept per sample of the batch."""
    lead_in: int = 0
    """Maximum lead-in in latent frames, by which drawn clips exceed the trained length. Every step draws a lead-in of
    0 … ``lead_in``."""
    workers: int = 0
    """Threads that draw the next step's clips in the background; 0 draws them when needed."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "adversarial_ramp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("adversarial_start", "replay", "lead_in", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")
        for name in ("perceptual_weight", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative; 0 leaves it out")
        if self.target not in ("video", "decoder"):
            raise ValueError(f"target = {self.target!r}: give 'video' or 'decoder'")

    def loop_steps(self, decoder_updates: int) -> int:
        """Steps of the loop for this number of decoder updates: once started, the discriminator takes every other
        step."""
        if self.adversarial_weight == 0:
            return decoder_updates
        return decoder_updates + max(0, decoder_updates - self.adversarial_start)


def paper_recipe() -> tuple[TrainConfig, TinyTraining]:
    """Appendix A: 200,000 updates of 16 clips with AdamW; clips of 144×144 pixels and 21 frames, after our lead-in.

    The learning rate's exponent is illegible in our copy; we read 3e-4. Everything else is ours.
    ``VideoFolder(folder, frames=21 + 4 * settings.lead_in)`` draws such clips.
    """
    training = TinyTraining(workers=16, lead_in=8)
    config = TrainConfig(
        steps=training.loop_steps(200_000),
        lr=3e-4,
        warmup=1000,
        betas=(0.9, 0.99),
        ema=0.999,
        bf16=True,
        log_every=50,
        checkpoint_every=1000,
        validate_every=2000,
    )
    return config, training


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through ``module`` without accumulating in its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class TinyDecoderStage(Stage):
    """Trains the tiny decoder towards its target, and the discriminator against the decoder.

    ``module`` is only the decoder; the tiny encoder is not trained.

    Args:
        tiny: its decoder is trained on the latents of the frozen ``autoencoder``.
        draw: the source of clips. held_out: videos (B, 3, T, H, W) for validation, uint8 or float in [−1, 1].
        perceptual: LPIPS or the stand-in.

    Raises ValueError if the decoder does not fit the latents.
    """

    def __init__(
        self,
        tiny: TinyAutoencoder,
        autoencoder: StreamingAutoencoder,
        draw: DrawClip,
        held_out: Tensor,
        settings: TinyTraining,
        perceptual: Perceptual | None = None,
    ) -> None:
        if tiny.latent_channels != autoencoder.latent_channels:
            raise ValueError(
                f"the tiny decoder is for latents of {tiny.latent_channels} channels, the autoencoder's have "
                f"{autoencoder.latent_channels}: give it their number"
            )
        super().__init__(tiny.decoder)
        self.tiny, self.autoencoder, self.settings = tiny, autoencoder, settings
        self.device = next(tiny.decoder.parameters()).device
        if settings.adversarial_weight > 0:
            self.opponent = PatchDiscriminator(settings.discriminator_channels).to(self.device)
        self.perceptual = ContrastStandIn() if perceptual is None else perceptual
        self.perceptual.to(self.device)
        self.replay = ReplayBuffer(settings.replay)
        self._clips = ClipBatches(draw, seed=settings.seed, workers=settings.workers)
        self._held_out = (to_float(held_out) if held_out.dtype == torch.uint8 else held_out).to(self.device)
        self._held_latents = self._encode(self._held_out)
        with torch.no_grad():
            made = tiny.decode(self._held_latents[:1, :, :1])[0].shape[3:]
        if made != self._held_out.shape[3:]:
            wanted, got = (f"{h}×{w}" for h, w in (self._held_out.shape[3:], made))
            raise ValueError(
                f"the tiny decoder makes {got} pixels where the video has {wanted}: its patch_size is "
                f"{tiny.config.patch_size}, the autoencoder's compression another"
            )
        self._full: dict[str, float] | None = None
        self._last = torch.zeros(0)

    def _own_precision(self) -> AbstractContextManager[object]:
        """Disable the loop's mixed precision for frozen networks and figures: rounding would change SSIM."""
        return torch.autocast(self.device.type, enabled=False)

    @torch.no_grad()
    def _encode(self, video: Tensor) -> Tensor:
        with self._own_precision():
            return self.autoencoder.encode(video)[0]

    @torch.no_grad()
    def _full_decoding(self, latents: Tensor) -> Tensor:
        with self._own_precision():
            return self.autoencoder.decode(latents)[0]

    def _adversarial_step(self, step: int) -> int | None:
        """Steps since the discriminator started; None before."""
        since = step - self.settings.adversarial_start
        return None if self.opponent is None or since < 0 else since

    def turn(self, step: int) -> Literal["module", "opponent"]:
        """From ``adversarial_start`` on the discriminator and the decoder take turns, the discriminator first."""
        since = self._adversarial_step(step)
        return "module" if since is None or since % 2 else "opponent"

    def adversarial_weight(self, step: int) -> float:
        """The discriminator's weight in the decoder's loss."""
        since = self._adversarial_step(step)
        if since is None:
            return 0.0
        updates = (since + 1) // 2
        return self.settings.adversarial_weight * min(1.0, updates / self.settings.adversarial_ramp)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = distributed.shard(self.settings.batch)
        video = self._last = self._clips.at(step, samples).to(self.device)
        lead = self._lead(step, (video.shape[2] - 1) // GROUP + 1)
        used = video.shape[2] - GROUP * (self.settings.lead_in - lead)
        video = video[:, :, :used]
        latents = self._encode(video)
        if self.settings.target == "decoder":
            video = self._full_decoding(latents)
        if self.turn(step) == "opponent":
            return self._judge(latents, video, lead, step, samples)
        return self._regress(latents, video, lead, step)

    def _lead(self, step: int, latent_frames: int) -> int:
        """The lead-in of this step's clips in latent frames, the same for all."""
        most = self.settings.lead_in
        if latent_frames <= most:
            raise ValueError(
                f"clips of {latent_frames} latent frames leave nothing to learn from after lead_in = {most}: draw more "
                "frames"
            )
        generator = distributed.keyed_generator(self.settings.seed, step, "lead-in")
        return int(torch.randint(most + 1, (), generator=generator))

    def _decode(self, latents: Tensor, lead: int) -> Tensor:
        """Decode the frames after the lead-in, without clamping, which would stop gradients.

        After a lead-in the first three frames are left out, so that clips have 4F − 3 frames in either case.
        """
        if lead == 0:
            return self.tiny.decode(latents, clamp=False)[0]
        with torch.no_grad():
            _, state = self.tiny.decode(latents[:, :, :lead])
        return self.tiny.decode(latents[:, :, lead:], state, clamp=False)[0][:, :, GROUP - 1 :]

    def _regress(self, latents: Tensor, video: Tensor, lead: int, step: int) -> tuple[Tensor, dict[str, float]]:
        """The decoder's loss."""
        decoded = self._decode(latents, lead)
        video = video[:, :, -decoded.shape[2] :]
        absolute = F.l1_loss(decoded, video)
        numbers = {"l1": absolute.item(), "psnr": float(metrics.psnr(decoded.detach().clamp(-1, 1), video).mean())}
        loss = absolute
        if self.settings.perceptual_weight > 0:
            distance = self.perceptual(decoded, video).mean()
            loss = loss + self.settings.perceptual_weight * distance
            numbers[self.perceptual.name] = distance.item()
        weight = self.adversarial_weight(step)
        if weight > 0:
            assert self.opponent is not None
            with _untouched(self.opponent):
                adversarial = adversarial_loss(self.opponent(decoded))
            loss = loss + weight * adversarial
            numbers |= {"adversarial": adversarial.item(), "adversarial_weight": weight}
        return loss, numbers

    def last_batch(self) -> dict[str, Tensor]:
        return {"video": self._last}

    def _judge(
        self, latents: Tensor, video: Tensor, lead: int, step: int, samples: range
    ) -> tuple[Tensor, dict[str, float]]:
        """The discriminator's loss, on current and replayed clips."""
        assert self.opponent is not None
        with torch.no_grad():
            decoded = self._decode(latents, lead)
        draws = distributed.SampleDraws(self.settings.seed, step, samples, "replay")
        shown = self.replay.exchange(decoded, samples, draws.generators)
        real, fake = self.opponent(video[:, :, -decoded.shape[2] :]), self.opponent(shown)
        loss = judge_loss(real, fake)
        # accuracy: both at 1 mean that the discriminator has won, both at 0.5 that it sees no difference
        right = {"real_right": (real > 0).float().mean().item(), "fake_right": (fake < 0).float().mean().item()}
        return loss, {"judge": loss.item(), **right}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """PSNR (dB), SSIM and the perceptual distance on the held-out videos, for the tiny and the full decoder."""
        assert module is self.module
        if self._full is None:
            self._full = self._figures(self._full_decoding(self._held_latents))
        figures = self._figures(self.tiny.decode(self._held_latents)[0])
        return figures | {f"{name}_full": value for name, value in self._full.items()}

    def _figures(self, decoded: Tensor) -> dict[str, float]:
        with self._own_precision():
            figures = {
                "psnr": metrics.psnr(decoded, self._held_out),
                "ssim": metrics.ssim(decoded, self._held_out),
                self.perceptual.name: self.perceptual(decoded, self._held_out),
            }
        return {name: float(value.mean()) for name, value in figures.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"replay": self.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replay.load_state_dict(state["replay"])


def train_tiny(
    tiny: TinyAutoencoder,
    autoencoder: StreamingAutoencoder,
    draw: DrawClip,
    held_out: Tensor,
    folder: Path,
    config: TrainConfig,
    settings: TinyTraining,
    *,
    perceptual: Perceptual | None = None,
    say: Say = print,
) -> Run:
    """Train or resume ``tiny``'s decoder and write ``FOLDER/tiny-decoder.safetensors`` in TAEHV's layout.

    All ranks call this and wait until the file exists. The file, and ``tiny`` afterwards, have the averaged decoder and
    the unchanged encoder.
    """
    stage = TinyDecoderStage(tiny, autoencoder, draw, held_out, settings, perceptual)
    run = train(stage, config, folder / "tiny-decoder", say=say)
    run.use_average()
    distributed.agree(lambda: tiny.save(folder / "tiny-decoder.safetensors"))
    return run
