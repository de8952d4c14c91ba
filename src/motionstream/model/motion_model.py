"""The whole trainable model: track head, carried content and transformer, which predict a velocity.

Teacher, causal initialisation and stream all use ``forward``; they differ only in the attention context.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.candidates import FineCarry, carry, enlarge
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.prior import CarryPrior, Prior
from motionstream.carry.relations import CarrySource
from motionstream.carry.showing import CarriedPicture, lights, lit
from motionstream.carry.things import with_things
from motionstream.conditioning.track_content import content_map
from motionstream.conditioning.track_head import TrackHead
from motionstream.config import CausalConfig, ModelConfig
from motionstream.model.attention import AttentionContext
from motionstream.model.flow import per_frame, x0_to_velocity
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.transformer import MotionTransformer
from motionstream.tracks.masks import Draw
from motionstream.tracks.sampling import chunk_starts

ID_GAIN = 4.0
"""Factor on the initial weights of the tracks' input channels, for models that rely on track ids."""

HELD_GAIN = 8.0
"""Factor on the channel that says what is held, which hundreds of others would drown."""


@dataclass(frozen=True)
class MotionInput:
    """Tracks of the frames to generate: ``positions`` (B, T, N, 2), ``visible`` (B, T, N), ``ids`` (B, N).

    ``size``: (height, width) of the video in pixels. ``first``: the frames begin the stream. Models that carry content
    need ``source``; models with ``latents_along_tracks`` need ``content`` (B, N, C), the tracks' latents.
    """

    positions: Tensor
    visible: Tensor
    ids: Tensor
    size: tuple[int, int]
    first: bool
    source: CarrySource | None = None
    content: Tensor | None = None

    def without_tracks(self) -> MotionInput:
        """The null motion: no tracks, hence an empty map and all content left in place."""
        source = self.source
        if source is not None:
            source = source.without_tracks()
        return replace(
            self,
            positions=self.positions[:, :, :0],
            visible=self.visible[:, :, :0],
            ids=self.ids[:, :0],
            source=source,
            content=None if self.content is None else self.content[:, :0],
        )


@dataclass(frozen=True)
class ImageInput:
    """The given picture: ``latent`` (B, C, 1, h, w), and ``tokens`` (B, n, image_dim) if there is an image encoder."""

    latent: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True)
class FinePicture:
    """The carried picture at the model's size, ``base`` (B, 3, T, H, W), what of it is ``held`` (B, 1, T, H, W), and
    its finer version, ``carry``. ``begins``: the first frame is the given picture itself, at the stream's beginning."""

    base: Tensor
    held: Tensor
    carry: FineCarry
    begins: bool

    def show(self, video: Tensor, first: int) -> Tensor:
        """A decoded video (B, 3, T', H, W), from the carried frame ``first`` on, in fine resolution: the fine carried
        picture in the video's light."""
        stop = first + video.shape[2]
        picture = self.carry.picture(first, stop)
        if self.begins and first == 0:
            picture[:, :, :1] = self.carry.static(0, 1)
        base, held = self.base[:, :, first:stop].clamp(-1, 1), self.held[:, :, first:stop]
        added = video - base
        if not added.any():
            return picture.clamp(-1, 1)
        light = lights(added, base, held, ridge=0.0)
        return (picture + lit(picture, light, enlarge(held, self.carry.scale))).clamp(-1, 1)


@dataclass(frozen=True)
class CarriedLatents:
    """Encoded carried content: ``candidates`` (B, 3, C, F, h, w), ``features`` (B, 8, F, h, w); ``held`` (B, V / 3, F,
    h, w), blocks of ``Carried.held``, None for nowhere; for the decoder ``detail`` (B, V, F, h, w), the carried
    picture's residual after the linear code, if it will be decoded; ``fine`` if the source has fine pictures."""

    candidates: Tensor
    features: Tensor
    held: Tensor | None = None
    detail: Tensor | None = None
    fine: FinePicture | None = None


@dataclass(frozen=True)
class Conditions:
    """The conditions of some latent frames.

    ``text`` (B, tokens, dim); ``channels`` (B, C', F, h, w), concatenated to the noisy latents; ``image`` tokens for
    models with an image branch; ``prior`` for models that carry content or predict around the picture. The decoder uses
    ``carried``, for models that carry content, and ``fine`` (always of all frames) for finer output.
    """

    text: Tensor
    channels: Tensor
    image: Tensor | None = None
    prior: Prior | None = None
    carried: CarriedPicture | None = None
    fine: FinePicture | None = None

    def with_text(self, text: Tensor) -> Conditions:
        return replace(self, text=text)

    def frames(self, start: int, stop: int) -> Conditions:
        """The conditions of latent frames ``start`` … ``stop`` − 1."""
        prior = self.prior and Prior(self.prior.mean[:, :, start:stop], self.prior.std[:, :, start:stop])
        carried = self.carried and self.carried.frames(start, stop)
        return replace(self, channels=self.channels[:, :, start:stop], prior=prior, carried=carried)


class MotionModel(nn.Module):
    """See the module's docstring. ``config.inputs`` orders the channel slices."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        compression = {"spatial": config.spatial_compression, "temporal": config.temporal_compression}
        self.transformer = MotionTransformer(**asdict(config.transformer))
        self.track_head = TrackHead(config.track_head, **compression)
        self.carry_prior = self.pixel_mixer = None
        if config.carry is not None:
            if config.carry.mixer is not None:
                self.pixel_mixer = PixelMixer(config.carry.mixer, grid=config.carry.grid).requires_grad_(False)
            self.carry_prior = CarryPrior(config.carry, config.latent_channels, **compression)
        if config.carry is not None or config.still_std is not None:
            # zero output: before training, the prediction is the mean of the prior's posterior
            nn.init.zeros_(self.transformer.proj_out.weight)
            nn.init.zeros_(self.transformer.proj_out.bias)
        if config.still_std is not None:
            self._init_likeness()

    @torch.no_grad()
    def _init_likeness(self) -> None:
        """Initialise such that cells with the same track id are alike and attend to one another, which otherwise takes
        thousands of clips to learn (docs/log.md): keys are projected like queries, the tracks' input weights are scaled
        up by ``ID_GAIN``, and the track head treats all frames of a group alike. Else an id in the first latent frame,
        a group of a single frame, would not resemble itself in later ones."""
        for block in self.transformer.blocks:
            block.attn1.to_k.load_state_dict(block.attn1.to_q.state_dict())
        compress = self.track_head.compress.weight
        compress.copy_(compress[:, :, -1:].expand_as(compress))
        names = [name for name, _ in self.config.inputs]
        before = sum(width for _, width in self.config.inputs[: names.index("tracks")])
        tracks = slice(before, before + self.config.track_head.out_channels)
        self.transformer.patch_embedding.weight[:, tracks] *= ID_GAIN

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.proj_out.weight.dtype

    @property
    def device(self) -> torch.device:
        # not the transformer's, whose blocks may be offloaded
        return self.track_head.project.weight.device

    @property
    def draw(self) -> Draw | None:
        """The pixel mixer's ``draw``, None without one."""
        return None if self.pixel_mixer is None else self.pixel_mixer.draw

    def encode_carried(self, motion: MotionInput, autoencoder: object) -> CarriedLatents | None:
        """Carry the content and encode it; None for models without it."""
        if self.carry_prior is None:
            return None
        assert self.config.carry is not None and isinstance(autoencoder, LinearAutoencoder)
        if motion.source is None:
            raise ValueError("this model carries picture content: MotionInput.source is missing")
        config = self.config.carry
        source = motion.source
        if source.things is None:
            source = self.with_things(motion)
        made = carry(motion.positions, motion.visible, source, grid=config.grid, mixer=self.pixel_mixer)
        candidates, fine = made.candidates, None
        latents = autoencoder.encode_part(candidates.flatten(0, 1), first=motion.first)
        latents = latents.unflatten(0, candidates.shape[:2])
        detail = autoencoder.lost(candidates[:, config.carried], latents[:, config.carried], first=motion.first)
        if made.fine is not None:
            fine = FinePicture(candidates[:, config.carried].clone(), made.held, made.fine, motion.first)
        if motion.first:  # latent frame 0 is the given picture's latent, so its detail is that picture's
            given = candidates[:, 2, :, :1]
            detail[:, :, :1] = autoencoder.lost(given, latents[:, 2, :, :1], first=True)
            if fine is not None:
                fine.base[:, :, :1] = given
        held = autoencoder.blocks_of(made.held, first=motion.first)
        return CarriedLatents(latents, self.carry_prior.pool(made.features, first=motion.first), held, detail, fine)

    def with_things(self, motion: MotionInput) -> CarrySource:
        """The source of whole clips, completed by the things in it if there is a pixel mixer."""
        assert motion.source is not None
        if self.pixel_mixer is None:
            return motion.source
        chunk = self.config.chunk_video_frames
        starts = chunk_starts(motion.positions.shape[1], chunk(0 if motion.first else 1), chunk(1))
        return with_things(motion.source, motion.positions, motion.visible, starts, self.draw)

    def conditions(
        self,
        motion: MotionInput,
        text: Tensor,
        carried: CarriedLatents | None = None,
        image: ImageInput | None = None,
    ) -> Conditions:
        """Assemble the conditions of some latent frames from tracks, text tokens, carried content and the picture.

        A model that concatenates the picture gets its latent in the stream's latent frame 0 and zeros in all others
        (the layout of VideoX-Fun's Control models), hence only zeros after the first chunk; one that predicts around
        the picture gets it in every frame. The image tokens are the same throughout the stream.
        """
        tracks = self.track_head(motion.positions, motion.visible, motion.ids, size=motion.size, first=motion.first)
        slices = {"tracks": tracks}
        if self.config.image_conditioning == "concat":
            if image is None:
                raise ValueError(f"{self.config.name} takes the picture as input channels: conditions need an image")
            slices["image"] = self._image_slice(image.latent, motion, tracks.shape[2])
        prior = None
        if self.carry_prior is not None:
            assert carried is not None, "carried content is missing; encode_carried makes it"
            prior = self.carry_prior(carried.candidates, carried.features)
            # detached: the prior is trained by its own likelihood, not by the transformer's loss
            spread = prior.std.detach().log()
            held = torch.zeros_like(spread[:, :1]) if carried.held is None else carried.held.mean(dim=1, keepdim=True)
            told = [carried.candidates.flatten(1, 2), spread, carried.features, HELD_GAIN * held]
            slices["carry"] = torch.cat(told, dim=1)
        channels = torch.cat([slices[name].float() for name, _ in self.config.inputs if name in slices], dim=1)
        tokens = None if image is None else image.tokens
        if self.config.still_std is not None:
            if image is None:
                raise ValueError(f"{self.config.name} predicts around the picture: conditions need an image")
            told = slices.get("image", image.latent.expand(-1, -1, tracks.shape[2], -1, -1))
            prior = prior_around(told, self.config.still_std)
        if self.carry_prior is None:
            return Conditions(text=text, channels=channels, image=tokens, prior=prior)
        assert carried is not None and prior is not None
        around = prior.mean.detach()
        if motion.first:  # latent frame 0 is the given picture, as in ``encode_carried``
            around = torch.cat([carried.candidates[:, 2, :, :1], around[:, :, 1:]], dim=2)
        picture = CarriedPicture(around, carried.detail, carried.held)
        return Conditions(text, channels, tokens, prior, picture, carried.fine)

    def _image_slice(self, latent: Tensor, motion: MotionInput, frames: int) -> Tensor:
        """The picture's ``latent`` (B, C, 1, h, w) as input channels of ``frames`` latent frames."""
        if self.config.still_std is not None:
            # predicts how far a place is from the picture, and so has to see the picture there (docs/log.md)
            told = latent.expand(-1, -1, frames, -1, -1)
        else:
            told = picture_slice(latent, frames, first=motion.first)
        if not self.config.latents_along_tracks:
            return told
        along = self._along_tracks(motion)
        return torch.where((along != 0).any(dim=1, keepdim=True), along, told)

    def _along_tracks(self, motion: MotionInput) -> Tensor:
        """The tracks' latents for the image slice; zero in the stream's first latent frame, which has the picture's."""
        assert motion.content is not None, "latents_along_tracks: MotionInput.content is missing"
        config = self.config
        maps = content_map(
            motion.positions,
            motion.visible,
            motion.content,
            size=motion.size,
            cell=config.spatial_compression,
            group=config.temporal_compression,
            first=motion.first,
        )
        return torch.cat([torch.zeros_like(maps[:, :, :1]), maps[:, :, 1:]], dim=2) if motion.first else maps

    def forward(
        self, noisy: Tensor, t: Tensor, conditions: Conditions, context: AttentionContext | None = None
    ) -> Tensor:
        """The velocity of ``noisy`` (B, C, F, h, w) at noise level ``t``, (B,) or (B, F)."""
        inputs = torch.cat([noisy, conditions.channels], dim=1).to(self.dtype)
        image = None if conditions.image is None else conditions.image.to(self.dtype)
        out = self.transformer(inputs, t, conditions.text.to(self.dtype), image, context).to(noisy.dtype)
        if conditions.prior is None:
            return out
        mean, std = posterior(conditions.prior.detach(), noisy, t)
        return x0_to_velocity(noisy, mean + std * out, t)

    def make_cache(
        self, batch: int, latent_size: tuple[int, int], causal: CausalConfig | None = None
    ) -> RollingKVCache:
        """An empty rolling cache for ``batch`` streams with latents of this (height, width).

        ``causal``: sink and window if not the model's own (training draws them).
        """
        patch = self.config.transformer.patch_size
        rows, columns = latent_size
        return RollingKVCache(
            causal or self.config.causal,
            **self.transformer.cache_geometry(),
            batch=batch,
            grid=(rows // patch[1], columns // patch[2]),
            device=self.device,
            dtype=self.dtype,
        )


def picture_slice(latent: Tensor, frames: int, *, first: bool) -> Tensor:
    """The image slice of ``frames`` latent frames: ``latent`` (B, C, 1, h, w) in frame 0 of a stream, zeros after."""
    zeros = latent.new_zeros(*latent.shape[:2], frames - first, *latent.shape[3:])
    return torch.cat([latent, zeros], dim=2) if first else zeros


def prior_around(told: Tensor, std: float) -> Prior:
    """The prior of a video that is as ``told`` (B, C, F, h, w): the picture standing still, or with
    ``latents_along_tracks`` what tracks bring along, with standard deviation ``std``. It carries no gradient."""
    mean = told.detach().float()
    return Prior(mean, torch.full_like(mean, std))


def posterior(prior: Prior, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x0 given ``noisy`` = (1 − t) x0 + t n and the Gaussian prior.

    Where the prior's deviation is small, the mean stays near the carried content regardless of the noise, so sampling
    adds no noise; where it is large, this is the usual preconditioning of a diffusion model.
    """
    time = per_frame(t)
    keep = 1 - time
    variance = keep**2 * prior.std**2 + time**2
    gain = keep * prior.std**2 / variance
    return prior.mean + gain * (noisy - keep * prior.mean), prior.std * time / variance.sqrt()
