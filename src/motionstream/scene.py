"""The beginning of a video: the given picture, encoded, and the conditions made from its tracks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.memory import CarryMemory
from motionstream.components import Components
from motionstream.conditioning.track_content import TrackContent
from motionstream.config import ModelConfig
from motionstream.media.pictures import fit, read_picture, rgb_of
from motionstream.model.motion_model import Conditions, ImageInput, MotionInput, MotionModel
from motionstream.pixels import to_video
from motionstream.tracks import Tracks

MOST_SCALE = 4
"""Largest factor by which frames can be larger than the model's size."""

LIVE_THREADS = 4
"""Fewest CPU threads with which frames at twice the model's size are generated in real time."""

Picture = str | Path | np.ndarray | Image.Image


class Scene:
    """One picture, fitted to one of the model's sizes and encoded, and the state for making conditions from tracks.

    Args:
        size: (height, width) of the video; the model's size nearest to the picture's aspect ratio when None.
        scale: size of the frames relative to the model's, in the picture's own detail; above 1 only for models that
            carry content.
        seed: draws the track ids of equation 1.

    Raises:
        ValueError: the picture is unreadable, the size impossible for the latents, or the scale not supported.
    """

    def __init__(
        self,
        model: MotionModel,
        parts: Components,
        image: Picture,
        seed: int,
        size: tuple[int, int] | None = None,
        scale: int = 1,
    ) -> None:
        check_scale(model.config, scale)
        self.model, self.parts = model, parts
        config = model.config
        picture = read_rgb(image)
        self.size = config.nearest_size(*picture.shape[:2]) if size is None else config.checked_size(size)
        self.fps = config.fps
        self.picture, self.fit = fit(picture, self.size)
        pixels, fine = to_video(self.picture[None], model.device)[:, :, 0], None
        if scale > 1:
            # made from the finer picture, so that a recording needs to store only that one
            self.picture, _ = fit(picture, (scale * self.size[0], scale * self.size[1]))
            fine = to_video(self.picture[None], model.device)[:, :, 0]
            pixels = F.avg_pool2d(fine, scale)
        self.begin_anew(pixels, fine)
        numbers = torch.Generator().manual_seed(seed % 2**63)
        self._id_numbers = torch.randperm(config.track_head.id_range, generator=numbers)

    @torch.no_grad()
    def begin_anew(self, pixels: Tensor, fine: Tensor | None = None) -> None:
        """Encode a picture, float (1, 3, H, W) in [−1, 1] of the scene's size, and take content from it from now on.
        ``fine``: the same picture, larger, for finer frames."""
        latent, _ = self.parts.autoencoder.encode(pixels[:, :, None])
        tokens = None if self.parts.image_encoder is None else self.parts.image_encoder.encode(pixels)
        self.image = ImageInput(latent.float(), tokens)
        see = None if self.model.pixel_mixer is None else self.model.pixel_mixer.see
        self.carry = CarryMemory(pixels, see, fine, self.model.draw)
        self.content = TrackContent(self.image.latent[:, :, 0], self.model.config.spatial_compression)

    @torch.no_grad()
    def conditions(self, tracks: Tracks, prompt: str, *, first: bool) -> Conditions:
        """Conditions of the frames of ``tracks``. Call in the stream's order. ``first``: they begin the stream."""
        return self.conditions_of(self.motion(tracks, first=first), prompt)

    @torch.no_grad()
    def conditions_of(self, motion: MotionInput, prompt: str) -> Conditions:
        """Conditions of tracks that ``motion`` has converted."""
        text = self.parts.text_encoder.encode([prompt]).to(self.model.device)
        carried = self.model.encode_carried(motion, self.parts.autoencoder)
        return self.model.conditions(motion, text, carried, self.image)

    def motion(self, tracks: Tracks, *, first: bool) -> MotionInput:
        """Tracks as the model's input, with random ids and the sources of their content."""
        config = self.model.config
        if tuple(tracks.size) != tuple(self.size):
            raise ValueError(
                f"the tracks are for a {tracks.size[1]}x{tracks.size[0]} picture, the stream is "
                f"{self.size[1]}x{self.size[0]}: use tracks.resize({self.size})"
            )
        if not math.isclose(tracks.fps, self.fps, rel_tol=1e-6):
            raise ValueError(
                f"the tracks have {tracks.fps:g} frames a second, the stream has {self.fps:g}: use "
                f"tracks.resample({self.fps:g}), or make them at that rate"
            )
        tracks = tracks.clipped()
        if config.carry is not None and tracks.count > config.carry.max_tracks:
            tracks = thinned(tracks, config.carry.max_tracks)
        device = self.model.device
        source = None if config.carry is None else self.carry.source(tracks, device)
        positions = torch.from_numpy(tracks.positions.copy()).to(device)[None]
        visible = torch.from_numpy(tracks.visible.copy()).to(device)[None]
        ids = self._id_numbers[torch.from_numpy(tracks.ids % len(self._id_numbers))].to(device)[None]
        content = self.content.of(tracks) if config.latents_along_tracks else None
        return MotionInput(positions, visible, ids, size=self.size, first=first, source=source, content=content)


def usual_scale(config: ModelConfig, device: torch.device | None = None) -> int:
    """The default ``scale``: 2 for models that carry content, otherwise 1. ``device``: frames are generated live on
    it; then a CPU with fewer than ``LIVE_THREADS`` threads also gets 1."""
    enough = device is None or device.type != "cpu" or torch.get_num_threads() >= LIVE_THREADS
    return 2 if config.carry is not None and enough else 1


def check_scale(config: ModelConfig, scale: int) -> None:
    """ValueError for a ``scale`` that the model does not support."""
    most = 1 if config.carry is None else MOST_SCALE
    if not 1 <= scale <= most:
        why = "" if config.carry is not None else f", for {config.name} carries no picture content"
        raise ValueError(f"scale = {scale}: frames can be shown 1 to {most} times as large{why}")


def thinned(tracks: Tracks, most: int) -> Tracks:
    """At most ``most`` tracks, chosen evenly; those that are never visible are dropped first."""
    order = np.flatnonzero(tracks.visible.any(axis=0))
    order = np.arange(tracks.count) if len(order) < most else order
    return tracks.select(order[np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)])


def read_rgb(image: Picture) -> np.ndarray:
    """Any picture as uint8 (H, W, 3)."""
    if isinstance(image, str | Path):
        return read_picture(image)
    return rgb_of(image) if isinstance(image, Image.Image) else image
