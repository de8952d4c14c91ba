"""Generates a whole clip at once with the teacher: many steps, joint guidance (paper, section 3.1, eq. 2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from motionstream.config import CausalConfig, SamplerConfig
from motionstream.model.attention import BlockCausal
from motionstream.model.flow import keyed_noise
from motionstream.model.motion_model import MotionModel
from motionstream.pixels import to_pictures
from motionstream.sampler.bidirectional import Guidance, trajectory
from motionstream.scene import Scene
from motionstream.tracks import Tracks


@torch.no_grad()
def make_clip(
    scene: Scene,
    tracks: Tracks,
    prompt: str,
    seed: int,
    sampler: SamplerConfig,
    *,
    guided: bool = True,
    causal: CausalConfig | None = None,
    after_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Video uint8 (T, H, W, 3) for the T frames of ``tracks``, which are at the scene's size.

    Args:
        guided: joint guidance with ``sampler``'s weights, three evaluations per step; otherwise the plain conditional
            velocity, one evaluation.
        causal: attend as the student will, chunk by chunk with sink and window, instead of to the whole clip.
        after_step: called after each of the sampler's steps.

    The clip is generated with 1 + 4k frames, or with whole chunks if ``causal`` is given: the tracks hold their last
    positions up to there, and surplus frames are trimmed.
    """
    if tracks.length == 0:
        raise ValueError("the tracks have no frames; give at least one")
    model = scene.model
    frames = latent_frames(model, tracks.length, causal)
    motion = scene.motion(tracks.hold(model.config.frames_of(frames) - tracks.length), first=True)
    conditions = scene.conditions_of(motion, prompt)
    guidance = None
    if guided:
        no_text = scene.conditions_of(motion, sampler.negative_prompt)
        no_motion = scene.conditions_of(motion.without_tracks(), prompt)
        guidance = Guidance(no_text, no_motion, sampler.text_guidance, sampler.motion_guidance)
    latent = scene.image.latent
    shape = (1, model.config.latent_channels, frames, *latent.shape[3:])
    noise = sampler.temperature * keyed_noise(shape, seed=seed, chunk=0, step=0, device=model.device)
    path = trajectory(
        model,
        noise,
        conditions,
        steps=sampler.teacher_steps,
        shift=sampler.shift,
        first_latent=latent,
        guidance=guidance,
        context=None if causal is None else BlockCausal(causal),
    )
    end = noise
    for t, x, _ in path:
        end = x
        if t < 1:
            after_step()
    pictures, state, size = [], None, model.config.causal.chunk_frames
    for at in range(0, frames, size):  # in parts, since a whole decoded clip is large
        part = conditions.frames(at, at + size)
        video, state = scene.parts.decode(end[:, :, at : at + size], state, part.carried)
        pictures.append(to_pictures(video))
    return np.concatenate(pictures)[: tracks.length]


def latent_frames(model: MotionModel, frames: int, causal: CausalConfig | None = None) -> int:
    """Number of latent frames for at least ``frames`` frames, in whole chunks if ``causal`` is given."""
    needed = -(-(frames - 1) // model.config.temporal_compression) + 1
    return needed if causal is None else -(-needed // causal.chunk_frames) * causal.chunk_frames
