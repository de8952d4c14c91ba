"""Non-rigid motion: parts of a background that are pulled, and sprites that bend.

Pictures need the backward map (what does a pixel show?), tracks the forward map (where is a point now?). Both follow
from one description: pulls are defined backwards and inverted numerically for the few points of tracks; bends are
shears, known in both directions. Lengths are in pixels. Axes: B clips, K pulls per clip, M sprites, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.data.draws import Draws
from motionstream.data.motion import ease

RADIUS = (15.0, 45.0)  # pixels, in pictures whose shorter side is 128
LARGEST_PULL = 0.7  # relative to the radius; beyond 1.6 the picture would fold over
LARGEST_TWIST = 0.25  # radians
PULLS = 2
STEPS = 40  # maximum of the inversion; each reduces the error by a quarter or more
CLOSE = 1e-3  # the inversion ends when a step changes it by less, in pixels


@dataclass(frozen=True)
class Pulls:
    """Round, soft-edged parts of a plane that are moved and twisted about their centres.

    The position p shows the material point `p - shift(p)`, where shift is the sum over the pulls of
    `exp(-|p - c|^2 / (2 radius^2)) * (path + twist * (p - c) turned by 90 degrees)`, c = start + path.
    """

    start: Tensor  # float32 (B, K, 2): the centre in frame 0
    path: Tensor  # float32 (B, K, T, 2): displacement of the centre; zero in frame 0
    twist: Tensor  # float32 (B, K, T) radians; zero in frame 0
    radius: Tensor  # float32 (B, K)

    def to(self, device: torch.device | str) -> Pulls:
        """The same on another device."""
        return Pulls(*(value.to(device) for value in vars(self).values()))

    def shift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement, since frame 0, of the material now at x, y: two tensors with their broadcast shape (B, T, ...).

        For a whole picture pass x as (B, T, 1, W) and y as (B, T, H, 1), so that exponentials are computed only for
        rows and columns.
        """
        beyond = (...,) + (None,) * (x.dim() - 2)
        across, down = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        for pull in range(self.radius.shape[1]):
            path = self.path[:, pull]
            centre = self.start[:, pull, None] + path
            right = x - centre[..., 0][beyond]
            below = y - centre[..., 1][beyond]
            slope = (-0.5 / self.radius[:, pull].square())[:, None][beyond]
            strength = (slope * right.square()).exp() * (slope * below.square()).exp()
            twist = self.twist[:, pull][beyond]
            across = across + strength * (path[..., 0][beyond] - twist * below)
            down = down + strength * (path[..., 1][beyond] + twist * right)
        return across, down

    def place(self, material: Tensor) -> Tensor:
        """Positions (B, T, N, 2) of material points (B, N, 2) in every frame, to a hundredth of a pixel.

        Fixed-point iteration of `p = material + shift(p)`, a contraction for pulls this weak.
        """
        x, y = (part[:, None] for part in material.unbind(-1))
        across, down = self.shift(x, y)
        for _ in range(STEPS):
            before = across, down
            across, down = self.shift(x + across, y + down)
            if max(float((across - before[0]).abs().max()), float((down - before[1]).abs().max())) < CLOSE:
                break
        return torch.stack((x + across, y + down), -1)

    def pulled(self, points: Tensor) -> Tensor:
        """Index of the pull that holds each of the points (B, N, 2) of frame 0: int64 (B, N), -1 for none.

        A moving pull holds points within its radius, which move at least 0.6 times as far as its centre.
        """
        distance = (points[:, None] - self.start[:, :, None]).norm(dim=-1) / self.radius[..., None]
        moves = (self.path.norm(dim=-1).amax(-1) > 0)[..., None]
        nearest, which = torch.where(moves, distance, torch.inf).min(1)
        return torch.where(nearest < 1, which, -1)


def draw_pulls(draws: Draws, batch: int, frames: int, size: tuple[int, int], probability: float) -> Pulls | None:
    """One or two pulls in every chosen clip. Each moves, rests, and then moves on or returns.

    probability: share of clips that have pulls. Returns None if no clip has.
    """
    chosen = draws.chance(probability, batch)
    if not chosen.any():
        return None
    shape = (batch, PULLS)
    second = draws.chance(0.4, batch) & chosen
    present = torch.stack((chosen, second), 1)
    # Two pulls may overlap; even together they must not fold the picture.
    share = torch.where(second, 0.6, 1.0)[:, None]
    scale = min(size) / 128
    radius = scale * draws.uniform(*RADIUS, *shape)
    start = draws.uniform(-0.35, 0.35, *shape, 2) * torch.tensor((size[1], size[0]))

    length = LARGEST_PULL * share * radius * present
    heading = draws.angle(*shape)
    first = _polar(length * draws.uniform(0.5, 1.0, *shape), heading)
    end = _polar(length * draws.uniform(0.2, 1.0, *shape), heading + draws.uniform(-2.0, 2.0, *shape))
    end = end * draws.chance(0.6, *shape)[..., None]  # the others return to the start

    time = torch.arange(frames, dtype=torch.float32)
    begin = draws.uniform(0.0, 0.25 * frames, *shape)
    travel = draws.uniform(8.0, 18.0, *shape) + 0.5 * radius / scale
    onward = begin + travel + draws.uniform(0.0, 8.0, *shape)
    there = ease((time - begin[..., None]) / travel[..., None])
    further = ease((time - onward[..., None]) / travel[..., None])
    # A convex combination of start, first stop and end, hence never farther out than these.
    path = first[..., None, :] * (there - further)[..., None] + end[..., None, :] * further[..., None]
    twist = LARGEST_TWIST * draws.uniform(-1.0, 1.0, *shape) * draws.chance(0.6, *shape) * present * share
    used = slice(None) if second.any() else slice(1)
    return Pulls(start[:, used], path[:, used], (twist[..., None] * (there - 0.7 * further))[:, used], radius[:, used])


def _polar(length: Tensor, angle: Tensor) -> Tensor:
    return length[..., None] * torch.stack((angle.cos(), angle.sin()), -1)


@dataclass(frozen=True)
class Bends:
    """Bent sprites: points move perpendicular to an axis by `size * (sin(wave * along + phase) - sin(phase))`.

    The coordinate along the axis does not change, so the forward and backward maps differ only in sign; the centre
    stays in place.
    """

    axis: Tensor  # float32 (M, 2), unit vector
    size: Tensor  # float32 (M, T) pixels; zero in frame 0
    wave: Tensor  # float32 (M,) radians per pixel
    phase: Tensor  # float32 (M, T)

    def take(self, index: Tensor) -> Bends:
        """The bends of some sprites."""
        return Bends(*(value[index.to(value.device)] for value in vars(self).values()))

    def to(self, device: torch.device | str) -> Bends:
        """The same on another device."""
        return Bends(*(value.to(device) for value in vars(self).values()))

    def shift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement of points (M, T or 1, ...) in sprite coordinates, before or after bending: two tensors
        (M, T, ...)."""
        beyond = (...,) + (None,) * (x.dim() - 2)
        across, down = (part[:, None][beyond] for part in self.axis.unbind(-1))
        phase = self.phase[beyond]
        along = (across * x + down * y) * self.wave[:, None][beyond]
        size = self.size[beyond] * ((along + phase).sin() - phase.sin())
        return -down * size, across * size

    def reach(self, radius: Tensor) -> Tensor:
        """Upper bound (M, T) of the displacement of points in sprites with these radii (M,)."""
        return self.size.abs() * (self.wave * radius).clamp(max=2.0)[:, None]


def draw_bends(draws: Draws, radius: Tensor, frames: int, probability: float) -> Bends | None:
    """Bows and waves of sprites with these radii (M,): held, swinging, or running along the sprite.

    probability: share of sprites that bend. Returns None if none does.
    """
    count = len(radius)
    chosen = draws.chance(probability, count)
    if not chosen.any():
        return None
    turns = draws.uniform(1.2, 3.5, count)  # radians from centre to rim: from a bow to a whole wave
    wave = turns / radius
    # The slope, size times wave, is the shear.
    size = torch.minimum(0.9 / wave, 0.4 * radius) * draws.uniform(0.4, 1.0, count) * chosen
    heading = draws.angle(count)

    time = torch.arange(frames, dtype=torch.float32)
    begin = draws.uniform(0.0, 0.2 * frames, count, 1)
    grown = ease((time - begin) / draws.uniform(8.0, 24.0, count, 1))
    swing = (2 * math.pi * (time - begin) / draws.uniform(20.0, 48.0, count, 1)).sin()
    grown = grown * torch.where(draws.chance(0.5, count, 1), swing, 1.0)
    running = 2 * math.pi / draws.uniform(16.0, 40.0, count, 1) * draws.chance(0.3, count, 1)
    return Bends(
        axis=torch.stack((heading.cos(), heading.sin()), -1),
        size=size[:, None] * grown,
        wave=wave,
        phase=draws.angle(count, 1) + running * time,
    )
