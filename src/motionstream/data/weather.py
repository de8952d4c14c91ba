"""Effects that a caption can announce but tracks cannot express: darkness, fog, snow, a thing changing its colour.

Axes: B clips, b of them with the effect, M sprites, F flakes, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motionstream.data.captions import colour_word
from motionstream.data.draws import Draws
from motionstream.data.motion import ease

# Colours that sprites may change to; each has a name in `colour_word`.
TINTS = (
    (0.85, 0.1, 0.1),
    (0.92, 0.5, 0.08),
    (0.92, 0.85, 0.15),
    (0.12, 0.62, 0.2),
    (0.12, 0.25, 0.85),
    (0.5, 0.12, 0.7),
    (0.94, 0.4, 0.68),
    (0.95, 0.95, 0.95),
    (0.08, 0.08, 0.08),
)
SHADING = 0.5  # share of a texture's brightness variation that is kept with the new colour


def draw_darkness(draws: Draws, batch: int, frames: int, probability: float) -> tuple[Tensor, Tensor]:
    """Brightness of every frame (B, T), and which clips turn dark (B,)."""
    dark = draws.chance(probability, batch)
    ramp = draws.uniform(12.0, 20.0, batch, 1)
    onset = draws.uniform(0.0, 1.0, batch, 1) * (frames - 1 - ramp).clamp(min=1.0)
    rest = draws.uniform(0.25, 0.5, batch, 1)
    progress = ((torch.arange(frames) - onset) / ramp).clamp(0, 1)
    return torch.where(dark[:, None], 1 - (1 - rest) * progress, 1.0), dark


@dataclass(frozen=True)
class Fog:
    """Fog that thickens during a clip, slightly uneven."""

    clips: list[int]
    colour: Tensor  # float32 (b, 3)
    density: Tensor  # float32 (b, T), zero in frame 0
    veil: Tensor  # float32 (b, H, W) in 0.7..1

    def cover(self, video: Tensor) -> None:
        """Draw over video (B, 3, T, H, W) in [0, 1], in place."""
        for row, clip in enumerate(self.clips):
            share = self.density[row, :, None, None].to(video.device) * self.veil[row].to(video.device)
            video[clip].lerp_(self.colour[row, :, None, None, None].to(video.device), share)


def draw_fog(draws: Draws, batch: int, frames: int, size: tuple[int, int], probability: float) -> Fog | None:
    """Fog in randomly chosen clips; probability: their share. Returns None if no clip has fog."""
    clips = draws.chance(probability, batch).nonzero()[:, 0].tolist()
    if not clips:
        return None
    count = len(clips)
    time = torch.arange(frames, dtype=torch.float32)
    onset = draws.uniform(0.0, 0.25 * frames, count, 1)
    progress = ease((time - onset) / draws.uniform(0.5 * frames, 0.8 * frames, count, 1))
    coarse = draws.uniform(0.7, 1.0, count, 1, 4, 4)
    veil = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(0.7, 1.0)[:, 0]
    grey = draws.uniform(0.65, 0.9, count, 1) + draws.uniform(-0.03, 0.03, count, 3)
    return Fog(clips, grey, progress * draws.uniform(0.55, 0.85, count, 1), veil)


@dataclass(frozen=True)
class Snow:
    """Falling flakes in front of everything; flakes that leave the picture return on the opposite side."""

    clips: list[int]
    start: Tensor  # float32 (b, F, 2) pixels; y counts from the top of the strip of `span` rows in which flakes fall
    speed: Tensor  # float32 (b, F, 2) pixels per frame
    sway: Tensor  # float32 (b, F, 3): pixels to either side, radians per frame, phase
    radius: Tensor  # float32 (b, F)
    opacity: Tensor  # float32 (b, F)

    def cover(self, video: Tensor) -> None:
        """Draw over video (B, 3, T, H, W) in [0, 1], in place."""
        for row, clip in enumerate(self.clips):
            share = self.shown(row, video.shape[2], (video.shape[3], video.shape[4])).to(video.device)
            video[clip].lerp_(torch.full((), 0.97, device=video.device), share)

    def shown(self, row: int, frames: int, size: tuple[int, int]) -> Tensor:
        """Opacity of a clip's flakes: (T, H, W) in [0, 1]."""
        margin = math.ceil(float(self.radius[row].max()) + 0.5)
        extent = torch.tensor((size[1] + 2 * margin, size[0] + 2 * margin))
        place, fallen = self.places(row, frames, extent)
        side = torch.arange(-margin, margin + 1)
        corner = place.round()
        offset = corner - place
        squared = (offset[..., 1, None] + side)[..., None].square() + (offset[..., 0, None] + side)[
            ..., None, :
        ].square()
        radius, opacity = self.radius[row][:, None, None], (self.opacity[row] * fallen)[..., None, None]
        share = (radius + 0.5 - squared.sqrt()).clamp(0, 1) * opacity  # T, F, window, window
        # The strip has a margin on all sides, plus another one for the flakes' windows.
        width, height = (int(side) + 2 * margin + 1 for side in extent)
        first = (torch.arange(frames)[:, None] * height + corner[..., 1].long()) * width + corner[..., 0].long()
        window = torch.arange(2 * margin + 1)
        index = first[..., None, None] + window[:, None] * width + window
        picture = torch.zeros(frames * height * width)
        picture.scatter_reduce_(0, index.flatten(), share.flatten(), "amax")
        inside = slice(2 * margin, 2 * margin + size[0]), slice(2 * margin, 2 * margin + size[1])
        return picture.unflatten(0, (frames, height, width))[:, inside[0], inside[1]]

    def places(self, row: int, frames: int, extent: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T, F, 2) of a clip's flakes in a strip of `extent` (width, height), and which have appeared
        (T, F)."""
        time = torch.arange(frames)[:, None]
        width, rate, phase = self.sway[row].unbind(-1)
        place = self.start[row] + self.speed[row] * time[..., None]
        x = place[..., 0] + width * (rate * time + phase).sin()
        return torch.stack((x, place[..., 1]), -1) % extent, place[..., 1] >= 0


def draw_snow(draws: Draws, batch: int, size: tuple[int, int], probability: float) -> Snow | None:
    """Snow in randomly chosen clips; in half of them it begins with the clip, in the others it is already falling.

    probability: share of clips with snow. Returns None if no clip has snow.
    """
    clips = draws.chance(probability, batch).nonzero()[:, 0].tolist()
    if not clips:
        return None
    scale = min(size) / 128
    shape = (len(clips), round(150 * size[0] * size[1] / (scale * 128) ** 2))
    begins = draws.chance(0.5, len(clips), 1)
    near = draws.uniform(0.0, 1.0, *shape)  # near flakes are larger and faster
    wind = draws.uniform(-1.0, 1.0, len(clips), 1)
    start = draws.uniform(0.0, 1.0, *shape, 2) * torch.tensor((size[1], size[0]))
    start[..., 1] -= torch.where(begins, size[0], 0)
    pace = scale * (2.0 + 2.5 * near)
    present = draws.uniform(0.0, 1.0, *shape) < draws.uniform(0.35, 1.0, len(clips), 1)
    return Snow(
        clips=clips,
        start=start,
        speed=torch.stack((scale * wind * (0.5 + near), pace), -1),
        sway=torch.stack(
            (scale * draws.uniform(0.0, 3.0, *shape), draws.uniform(0.1, 0.3, *shape), draws.angle(*shape)), -1
        ),
        radius=scale * (0.6 + 0.9 * near),
        opacity=draws.uniform(0.6, 1.0, *shape) * present,
    )


@dataclass(frozen=True)
class Tints:
    """Changes of the sprites' colours; most sprites keep theirs."""

    colour: Tensor  # float32 (M, 3)
    grey: Tensor  # float32 (M,): mean of the sprite's own texture
    share: Tensor  # float32 (M, T): progress of the change in [0, 1]; all zero without a change

    def take(self, index: Tensor) -> Tints:
        """The tints of some sprites."""
        return Tints(*(value[index.to(value.device)] for value in vars(self).values()))

    def to(self, device: torch.device | str) -> Tints:
        """The same on another device."""
        return Tints(*(value.to(device) for value in vars(self).values()))

    def paint(self, seen: Tensor) -> Tensor:
        """Apply the changes to colours of sprites (M, 3, T, ...) in [0, 1]."""
        beyond = (...,) + (None,) * (seen.dim() - 3)
        light = seen.mean(1, keepdim=True) - self.grey[:, None, None][beyond]
        new = (self.colour[:, :, None][beyond] + SHADING * light).clamp(0, 1)
        return torch.lerp(seen, new, self.share[:, None][beyond])

    def word(self, sprite: int) -> str | None:
        """The name of a sprite's new colour, None if it keeps its own."""
        if not bool(self.share[sprite].any()):
            return None
        red, green, blue = self.colour[sprite].tolist()
        return colour_word((red, green, blue))


def draw_tints(
    draws: Draws, batch: int, clip: Tensor, colours: Tensor, eligible: Tensor, frames: int, probability: float
) -> Tints | None:
    """In randomly chosen clips the last eligible sprite changes to a colour with a different name.

    clip (M,): each sprite's clip. colours (M, 3): their mean colours. eligible bool (M,): whose change would be
    visible. probability: share of clips to choose, if they have an eligible sprite. Returns None if nothing changes.
    """
    chosen = draws.chance(probability, batch)
    changing = torch.zeros(len(clip), dtype=torch.bool)
    for number in chosen.nonzero()[:, 0].tolist():
        candidates = (eligible & (clip == number)).nonzero()[:, 0]
        changing[candidates[-1:]] = True
    if not changing.any():
        return None
    target = torch.zeros(len(clip), 3)
    which = draws.integers(0, len(TINTS) - 1, len(clip)).tolist()
    for index, first in enumerate(which):
        red, green, blue = colours[index].tolist()
        own = colour_word((red, green, blue))
        first += colour_word(TINTS[first]) == own
        target[index] = torch.tensor(TINTS[first % len(TINTS)])
    time = torch.arange(frames, dtype=torch.float32)
    span = draws.uniform(12.0, 30.0, len(clip), 1)
    onset = draws.uniform(0.0, 1.0, len(clip), 1) * (frames - 1 - span).clamp(min=0.0)
    share = ((time - onset) / span).clamp(0, 1) * changing[:, None]
    return Tints(target, colours.mean(1), share)
