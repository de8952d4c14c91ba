"""Backgrounds of two or three planes at different depths, which a moving camera shifts by different amounts.

A nearer plane is a texture with holes that show the planes behind it. Axes: B clips, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.data.draws import Draws, Range
from motionstream.data.motion import FRAMES_PER_UNIT, CameraPaths, ease
from motionstream.data.textures import spectral_noise

# Motion of each plane relative to the sprites' layer: the far plane, then the nearer ones.
FAR: Range = (0.4, 0.8)
NEARER: tuple[Range, ...] = ((1.15, 1.6), (1.7, 2.3))
COVER: Range = (0.2, 0.45)  # share of the picture that a nearer plane hides


@dataclass(frozen=True)
class Depths:
    """The number of planes in each clip, and each plane's camera."""

    planes: Tensor  # int64 (B,): 1 to 3
    orbits: Tensor  # bool (B,): the camera moves sideways, aimed at the sprites
    cameras: tuple[CameraPaths, ...]  # of the far plane and of each nearer one, for all clips


def draw_depths(draws: Draws, camera: CameraPaths, pan: float, probability: float) -> Depths | None:
    """Draw depths for the clips of `camera`, the sprites' camera. With a still camera the clip always orbits, so that
    the depth is visible.

    pan: mean speed of the orbit in pixels per 12 frames, at relative motion 2. probability: share of clips with
    several planes. Returns None if no clip has.
    """
    batch, frames = camera.zoom.shape
    chosen = draws.chance(probability, batch)
    if not chosen.any():
        return None
    planes = torch.where(chosen, draws.integers(2, 1 + len(NEARER), batch), 1)
    rests = (camera.centre == 0).all(dim=2).all(dim=1) & (camera.zoom == 1).all(dim=1)
    orbits = chosen & (rests | draws.chance(0.4, batch))

    time = torch.arange(frames, dtype=torch.float32)
    span = draws.uniform(0.6, 1.2, batch, 1) * frames
    along = torch.where(draws.chance(0.4, batch, 1), (3 * time / span).sin(), ease(time / span))
    length = pan * frames / FRAMES_PER_UNIT * draws.uniform(0.4, 1.2, batch) * orbits
    heading = draws.angle(batch)
    # Mostly sideways, as people walk around a thing.
    way = torch.stack((heading.cos(), 0.3 * heading.sin()), -1) * length[:, None]
    orbit = way[:, None] * along[..., None]

    def seen(nearness: Tensor) -> CameraPaths:
        centre = camera.centre * nearness[:, None, None] + orbit * (nearness - 1)[:, None, None]
        zoom = (camera.zoom.log() * nearness[:, None]).exp()
        return CameraPaths(
            torch.where(chosen[:, None, None], centre, camera.centre), torch.where(chosen[:, None], zoom, camera.zoom)
        )

    ranges = (FAR, *NEARER)
    return Depths(planes, orbits, tuple(seen(draws.uniform(*nearness, batch)) for nearness in ranges))


def draw_cover(draws: Draws, count: int, size: tuple[int, int], noise: torch.Generator) -> Tensor:
    """Opacity of irregular shapes with edges about a pixel wide: float32 (count, 1, H, W), 1 on the plane, 0 in holes.

    Half of the planes are densest at the bottom, like bushes; the others have no preference. noise: a generator on the
    rendering device.
    """
    field = spectral_noise(draws, count, 1, size, noise, exponent=(2.4, 3.2))
    lower = (draws.uniform(1.0, 2.0, count, 1, 1, 1) * draws.chance(0.5, count, 1, 1, 1)).to(field.device)
    field = field + lower * torch.linspace(-1, 1, size[0], device=field.device)[:, None]
    share = draws.uniform(*COVER, count)
    levels = [part[:, ::3, ::3].quantile(1 - float(wanted)) for part, wanted in zip(field, share, strict=True)]
    field = field - torch.stack(levels)[:, None, None, None]
    # Dividing the field by its slope gives the distance to its edge in pixels.
    down, across = torch.gradient(field, dim=(2, 3))
    slope = (down.square() + across.square()).sqrt()
    typical = slope.mean(dim=(2, 3), keepdim=True)
    return (0.5 + field / torch.maximum(slope, 0.5 * typical)).clamp(0, 1)
