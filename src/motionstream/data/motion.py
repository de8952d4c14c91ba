"""Motion of the sprites and the camera in a rendered scene.

World coordinates are those of the camera's view at frame 0: pixels (x, y), origin at the picture's centre.
Axes: B clips, M sprites of all clips together, T frames.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.data.draws import Draws, Range

FRAMES_PER_UNIT = 12  # speeds are in pixels per 12 frames, the length of a chunk

# Kinds of motion and their probabilities.
CURVED, START_STOP, SLOW, HOLD, DRAG = range(5)
KIND_WEIGHTS = (0.3, 0.15, 0.1, 0.15, 0.3)


@dataclass(frozen=True)
class CameraPaths:
    """Camera views: `screen = zoom * (world - centre) + centre of the picture`."""

    centre: Tensor  # float32 (B, T, 2) world pixels, zero at frame 0
    zoom: Tensor  # float32 (B, T), one at frame 0


@dataclass(frozen=True)
class SpritePaths:
    """World poses: the point q in a sprite's coordinates lies at `position + scale * rotation(angle) q`."""

    position: Tensor  # float32 (M, T, 2) world pixels
    angle: Tensor  # float32 (M, T) radians, clockwise on the screen (y points down)
    scale: Tensor  # float32 (M, T), one at frame 0


def ease(progress: Tensor) -> Tensor:
    """Smoothstep: 0 to 1 with zero slope at both ends; clamped outside."""
    progress = progress.clamp(0, 1)
    return progress * progress * (3 - 2 * progress)


def draw_camera(
    draws: Draws, batch: int, frames: int, pan: float, zoom: Range, static_probability: float
) -> CameraPaths:
    """Smooth pans and zooms.

    pan: mean speed of a pan in pixels per 12 frames (each pan has 0.2 to 1.8 times as much). zoom: range of the
    final magnification. static_probability: share of the clips with a still camera.
    """
    moving = ~draws.chance(static_probability, batch)
    kind = draws.choice((0.5, 0.2, 0.3), batch)  # pan, zoom, both
    time = torch.arange(frames, dtype=torch.float32)
    start = torch.where(draws.chance(0.5, batch), 0.0, draws.uniform(0.0, 0.4 * frames, batch))
    span = (frames - 1 - start).clamp(min=1) * draws.uniform(0.7, 1.3, batch)
    linear = ((time - start[:, None]) / span[:, None]).clamp(0, 1)
    progress = torch.where(draws.chance(0.5, batch)[:, None], ease(linear), linear)

    length = pan / FRAMES_PER_UNIT * span * draws.uniform(0.2, 1.8, batch) * (moving & (kind != 1))
    heading = draws.angle(batch)
    direction = torch.stack((heading.cos(), heading.sin()), -1)
    centre = (length[:, None] * progress)[..., None] * direction[:, None]
    magnification = draws.log_uniform(*zoom, batch).log() * (moving & (kind != 0))
    return CameraPaths(centre, (magnification[:, None] * progress).exp())


def _velocity(draws: Draws, kind: Tensor, frames: int, speed: float) -> tuple[Tensor, Tensor]:
    """Speed in pixels per frame and heading in radians between successive frames: two (M, T - 1).

    Sprites with rests are faster in between, so that their mean over time matches `speed` as well.
    """
    count = len(kind)

    def column(low: float, high: float) -> Tensor:
        return draws.uniform(low, high, count, 1)

    time = (torch.arange(frames - 1, dtype=torch.float32) + 0.5).expand(count, -1)
    pace = speed / FRAMES_PER_UNIT * column(0.0, 2.0)
    turns = draws.angle(count, 64)

    bend, sway, phase = column(-1.0, 1.0), column(0.0, 0.5), draws.angle(count, 1)
    wave = 2 * math.pi * time / column(16.0, 48.0) + phase
    curved = pace * (1 + 0.4 * wave.sin()), bend * time / FRAMES_PER_UNIT + sway * wave.cos()

    period = column(10.0, 30.0)
    local = time + period * column(0.0, 1.0)
    segment = (local / period).long() % turns.shape[1]
    duty = column(0.35, 0.8)
    on = (local % period) < period * duty
    start_stop = pace / duty * on, turns.gather(1, segment)

    # A drag by hand: rest, move straight with a soft start and stop, rest; repeated in long clips.
    rest, travel = column(0.0, 10.0), column(7.0, 24.0)
    period = rest + travel + column(2.0, 12.0)
    segment = (time / period).long() % turns.shape[1]
    along = ((time % period - rest) / travel).clamp(0, 1)
    drag = pace * (period / travel) * 6 * along * (1 - along), turns.gather(1, segment)

    kinds = (curved, start_stop, (0.25 * pace.expand_as(time), 0 * time), (0 * time, 0 * time), drag)
    index = kind[None, :, None].expand(1, -1, frames - 1)
    rate, heading = (torch.stack(parts).gather(0, index)[0] for parts in zip(*kinds, strict=True))
    return rate, heading


def _place(draws: Draws, path: Tensor, view: CameraPaths, size: tuple[int, int]) -> Tensor:
    """Rotate and shift each path (M, T, 2), which starts at the origin, so that most stay in the picture.

    `view` is each sprite's camera (M, T). Takes the best of twelve random placements, i.e. the one that leaves
    the picture least; for one sprite in eight an arbitrary one, so that some objects leave or enter.
    """
    count, tries = len(path), 12
    height, width = size
    angle = draws.angle(count, tries)
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    x, y = path[:, None, :, 0], path[:, None, :, 1]
    turned = torch.stack((cos * x - sin * y, sin * x + cos * y), -1)  # M, tries, T, 2
    half = torch.tensor((width / 2, height / 2))
    start = draws.uniform(-0.85, 0.85, count, tries, 1, 2) * half
    world = turned + start
    screen = (world - view.centre[:, None]) * view.zoom[:, None, :, None]
    outside = ((screen.abs() - 0.8 * half).clamp(min=0)).amax(dim=(2, 3))
    outside[draws.chance(0.125, count)] = 0
    best = outside.argmin(1)
    return world[torch.arange(count), best]


def draw_sprites(
    draws: Draws,
    view: CameraPaths,
    size: tuple[int, int],
    speed: float,
    rotation: float,
    scaling: Range,
) -> SpritePaths:
    """Paths of M sprites with random kinds of motion.

    view: the camera of each sprite's clip, (M, T). speed: mean speed of a sprite in pixels per 12 frames, rests
    included (each draws 0 to 2 times as much; slow ones have a quarter of that, held ones 0). rotation: maximum
    rotation in degrees per 12 frames. scaling: range of the final scale. Rotation and scale follow the distance
    travelled, so a resting sprite is completely still.
    """
    count, frames = view.zoom.shape
    kind = draws.choice(KIND_WEIGHTS, count)
    rate, heading = _velocity(draws, kind, frames, speed)
    step = rate[..., None] * torch.stack((heading.cos(), heading.sin()), -1)
    path = torch.cat((torch.zeros(count, 1, 2), step.cumsum(1)), 1)

    gone = torch.cat((torch.zeros(count, 1), rate.cumsum(1)), 1)
    progress = gone / gone[:, -1:].clamp(min=1e-6)  # 0 to 1; stays 0 for a sprite at rest
    turn = math.radians(rotation) * frames / FRAMES_PER_UNIT * draws.uniform(-1, 1, count)
    turn = turn * draws.chance(0.5, count)
    growth = draws.log_uniform(*scaling, count).log() * draws.chance(0.4, count)
    return SpritePaths(
        position=_place(draws, path, view, size),
        angle=draws.angle(count, 1) + turn[:, None] * progress,
        scale=(growth[:, None] * progress).exp(),
    )
