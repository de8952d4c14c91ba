"""Conditions of prepared clips and the flow-matching loss, shared by the diffusion stages."""

from __future__ import annotations

import torch
from torch import Tensor

from motionstream.conditioning.text import TextEncoder
from motionstream.model.attention import AttentionContext
from motionstream.model.flow import add_noise, hold_picture, velocity_to_x0
from motionstream.model.motion_model import CarriedLatents, Conditions, ImageInput, MotionInput, MotionModel, posterior
from motionstream.sampler.bidirectional import Guidance
from motionstream.tracks.sampling import draw_ids
from motionstream.training.clips.prepared import PreparedClips, content_of_clips


def make_conditions(
    model: MotionModel,
    text: TextEncoder,
    clips: PreparedClips,
    generator: torch.Generator | list[torch.Generator],
    without_image: Tensor | None = None,
) -> Conditions:
    """Conditions of whole clips, with random track ids from one generator, or from one for each clip.

    ``without_image`` (B,): clips whose picture is dropped from the conditions.
    """
    batch, _, count = clips.visible.shape
    each = generator if isinstance(generator, list) else [generator] * batch
    ids = torch.cat([draw_ids(g, 1, count, model.config.track_head.id_range) for g in each]).to(clips.visible.device)
    cell = model.config.spatial_compression
    size = (cell * clips.latents.shape[3], cell * clips.latents.shape[4])
    content = content_of_clips(clips, model.config) if model.config.latents_along_tracks else None
    motion = MotionInput(clips.positions, clips.visible, ids, size=size, first=True, content=content)
    carried = CarriedLatents(clips.candidates, clips.features, clips.held)
    image = ImageInput(clips.latents[:, :, :1], clips.image)
    if without_image is not None and without_image.any():
        kept = (~without_image).to(clips.latents)
        tokens = None if image.tokens is None else image.tokens * kept[:, None, None]
        image = ImageInput(image.latent * kept.reshape(-1, 1, 1, 1, 1), tokens)
    return model.conditions(motion, text_tokens(text, clips), carried, image)


def text_tokens(text: TextEncoder, clips: PreparedClips) -> Tensor:
    """Tokens (B, tokens, width) of the captions, encoded beforehand or now; an empty caption is the null condition."""
    where = clips.latents.device
    if clips.text is None:
        return text.encode(clips.captions).to(where)
    empty = torch.tensor([caption == "" for caption in clips.captions], device=where)
    return torch.where(empty[:, None, None], text.encode([""]).to(where), clips.text)


def null_conditions(
    model: MotionModel,
    text: TextEncoder,
    clips: PreparedClips,
    told: Conditions,
    generator: torch.Generator | list[torch.Generator],
) -> Guidance:
    """Joint guidance (equation 2) for ``told``, the clips' conditions, with the weights from the model's config."""
    settings = model.config.sampler
    negative = text.encode([settings.negative_prompt] * len(clips)).to(clips.latents.device)
    nothing = clips.without_tracks(torch.ones(len(clips), dtype=torch.bool))
    return Guidance(
        no_text=told.with_text(negative),
        no_motion=make_conditions(model, text, nothing, generator),
        text=settings.text_guidance,
        motion=settings.motion_guidance,
    )


def x0_loss(prediction: Tensor, x0: Tensor, noisy: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """Weighted squared error of x0, per element.

    Without a prior the weight is 1/t², which gives the plain flow-matching loss of the velocity (eq. A2, w_t = 1). With
    a prior, the squared error is divided by the posterior's standard deviation: a compromise between the plain
    error and division by the variance (whitening), which would spend the model's capacity on invisible details.
    """
    error = (prediction - x0) ** 2
    if conditions.prior is None:
        return error / t.reshape(t.shape[0], 1, -1, 1, 1).clamp(min=0.02) ** 2
    _, std = posterior(conditions.prior.detach(), noisy, t)
    return error / std.clamp(min=0.02)


def evaluate_loss(
    model: MotionModel,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    conditions: Conditions,
    context: AttentionContext | None = None,
    *,
    without_image: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean loss over all latent frames except the given one, which counts only in the clips ``without_image`` (B,).

    ``weight`` (B, F): w_t of equation A2 for each frame; 1 when None.
    """
    clean = model.config.image_conditioning == "first_latent"
    noisy = add_noise(x0, noise, t)
    held, held_t = hold_picture(noisy, t, x0[:, :, :1], noise, clean=clean)
    counted = torch.ones_like(t) if weight is None else weight.clone()
    if without_image is None:
        noisy, t = held, held_t
        counted[:, 0] = 0
    else:
        gone = without_image.to(x0.device)
        noisy = torch.where(gone.reshape(-1, 1, 1, 1, 1), noisy, held)
        t = torch.where(gone[:, None], t, held_t)
        counted[:, 0] *= gone
    prediction = velocity_to_x0(noisy, model(noisy, t, conditions, context), t)
    frames = x0_loss(prediction, x0, noisy, t, conditions).mean(dim=(1, 3, 4))
    # divided by the number of frames that count, not by the sum of weights, which would cancel w_t
    return ((frames * counted).sum(dim=1) / (counted > 0).sum(dim=1).clamp(min=1)).mean()


def decibels(latents: Tensor, target: Tensor) -> float:
    """Signal-to-error ratio in dB, without the first latent frame."""
    error = (latents - target)[:, :, 1:].square().mean()
    return float(10 * torch.log10(target[:, :, 1:].square().mean() / error))
