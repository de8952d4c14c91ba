"""Baselines: a frozen frame, the plain warp, the carried picture, and the autoencoder as an upper bound.

All take and return uint8 video (T, H, W, 3) at the model's size.
"""

from __future__ import annotations

import numpy as np
import torch

from motionstream.carry.candidates import carry
from motionstream.carry.relations import CarrySource
from motionstream.model.motion_model import MotionInput
from motionstream.pipeline import MotionStreamPipeline
from motionstream.pixels import to_pictures, to_video
from motionstream.tracks import Tracks


def frozen(video: np.ndarray) -> np.ndarray:
    """The first frame, repeated."""
    return np.repeat(video[:1], len(video), axis=0)


@torch.no_grad()
def coded(pipeline: MotionStreamPipeline, video: np.ndarray) -> np.ndarray:
    """The video encoded and decoded by the autoencoder: the result of a perfect model. 1 + 4k frames."""
    autoencoder = pipeline.parts.autoencoder
    latents, _ = autoencoder.encode(to_video(video, pipeline.model.device))
    return to_pictures(autoencoder.decode(latents)[0])


@torch.no_grad()
def warped(pipeline: MotionStreamPipeline, video: np.ndarray, tracks: Tracks) -> np.ndarray:
    """The first frame with every place moved like the nearest visible track: following without a model."""
    motion = motion_of(pipeline, video, tracks)
    assert motion.source is not None
    grid = pipeline.config.carry.grid if pipeline.config.carry else 2
    return to_pictures(carry(motion.positions, motion.visible, motion.source, grid=grid).candidates[:, 0])


@torch.no_grad()
def carried_mixture(pipeline: MotionStreamPipeline, video: np.ndarray, tracks: Tracks) -> np.ndarray | None:
    """The carried pictures, without the transformer's change, beginning with the given picture. None if the model does
    not carry content."""
    model = pipeline.model
    if model.config.carry is None:
        return None
    motion = motion_of(pipeline, video, tracks)
    assert motion.source is not None
    grid, mixer = model.config.carry.grid, model.pixel_mixer
    carried = carry(motion.positions, motion.visible, model.with_things(motion), grid=grid, mixer=mixer)
    return np.concatenate([video[:1], to_pictures(carried.candidates[:, model.config.carry.carried])[1:]])


def guessed(pipeline: MotionStreamPipeline, video: np.ndarray, tracks: Tracks, hidden: np.ndarray) -> np.ndarray | None:
    """``coded``, except for pixels that were ``hidden``, bool (T, H, W), in the first frame: these are from the carried
    picture, since even a perfect model must guess them. None if the model does not carry content."""
    mixture = carried_mixture(pipeline, video, tracks)
    return None if mixture is None else np.where(hidden[..., None], mixture, coded(pipeline, video))


def motion_of(pipeline: MotionStreamPipeline, video: np.ndarray, tracks: Tracks) -> MotionInput:
    """The model's input for tracks that all begin in the first frame, with that frame as their source."""
    assert tracks.visible[0].all(), "every track must be visible in the first frame, from which its content is taken"
    device = pipeline.model.device
    positions = torch.from_numpy(tracks.positions.copy()).to(device)[None]
    visible = torch.from_numpy(tracks.clipped().visible.copy()).to(device)[None]
    whose = torch.zeros(1, tracks.count, dtype=torch.long, device=device)
    source = CarrySource(
        pictures=to_video(video[:1], pipeline.model.device)[:, None, :, 0],
        index=whose,
        start=positions[:, 0],
        static=torch.zeros(1, tracks.length, dtype=torch.long, device=device),
    )
    return MotionInput(positions, visible, whose, size=tracks.size, first=True, source=source)
