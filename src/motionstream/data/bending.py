"""Motion that no rigid layer makes: parts of a background that are pulled, and sprites that bend.

Pictures are drawn backwards (what does a pixel show?), tracks followed forwards (where is a point now?). Both come
from one description: a pull is given backwards and inverted for the few points of tracks, a bend is a shear along one
axis and known in both directions. Lengths are pixels. Axes: B clips, K pulls of a clip, M sprites, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.data.draws import Draws
from motionstream.data.motion import ease

RADIUS = (15.0, 45.0)  # pixels, of pictures of 128
LARGEST_PULL = 0.7  # of the radius; beyond 1.6 the picture would fold over
LARGEST_TWIST = 0.25  # radians
PULLS = 2
STEPS = 40  # at most, of the inversion, whose error shrinks by a quarter or more in each
CLOSE = 1e-3  # pixels between two steps at which it ends


@dataclass(frozen=True)
class Pulls:
    """Round, soft-edged parts of a plane that are moved and twisted about their middles.

    A place p shows the material `p - shift(p)`, where shift is the sum over the pulls of
    `exp(-|p - c|^2 / (2 radius^2)) * (path + twist * (p - c) turned by 90 degrees)`, c = start + path.
    """

    start: Tensor  # float32 (B, K, 2): the middle in frame 0
    path: Tensor  # float32 (B, K, T, 2): how far it has been pulled; zero in frame 0
    twist: Tensor  # float32 (B, K, T) radians; zero in frame 0
    radius: Tensor  # float32 (B, K)

    def to(self, device: torch.device | str) -> Pulls:
        """The same on another device."""
        return Pulls(*(value.to(device) for value in vars(self).values()))

    def shift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """How far what is now at x, y has come: two tensors of the common shape of x and y, (B, T, ...).

        For a whole picture x is (B, T, 1, W) and y (B, T, H, 1): then the exponentials are taken of lines only.
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
        """Where the material of points (B, N, 2) is in every frame: (B, T, N, 2), to a hundredth of a pixel.

        `p = material + shift(p)` is a contraction for pulls this weak, so it is simply repeated.
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
        """Which pull holds each of the points (B, N, 2) of frame 0: int64 (B, N), -1 for none.

        A pull holds what it moves at least 0.6 times as far as its middle, if that moves at all.
        """
        distance = (points[:, None] - self.start[:, :, None]).norm(dim=-1) / self.radius[..., None]
        moves = (self.path.norm(dim=-1).amax(-1) > 0)[..., None]
        nearest, which = torch.where(moves, distance, torch.inf).min(1)
        return torch.where(nearest < 1, which, -1)


def draw_pulls(draws: Draws, batch: int, frames: int, size: tuple[int, int], probability: float) -> Pulls | None:
    """One or two pulls in every chosen clip, each there and on or back, with a rest before, between and after.

    probability: share of clips that have any. None if no clip has.
    """
    chosen = draws.chance(probability, batch)
    if not chosen.any():
        return None
    shape = (batch, PULLS)
    second = draws.chance(0.4, batch) & chosen
    present = torch.stack((chosen, second), 1)
    # Two may overlap; together they must not fold the picture either.
    share = torch.where(second, 0.6, 1.0)[:, None]
    scale = min(size) / 128
    radius = scale * draws.uniform(*RADIUS, *shape)
    start = draws.uniform(-0.35, 0.35, *shape, 2) * torch.tensor((size[1], size[0]))

    length = LARGEST_PULL * share * radius * present
    heading = draws.angle(*shape)
    first = _polar(length * draws.uniform(0.5, 1.0, *shape), heading)
    end = _polar(length * draws.uniform(0.2, 1.0, *shape), heading + draws.uniform(-2.0, 2.0, *shape))
    end = end * draws.chance(0.6, *shape)[..., None]  # the others go back

    time = torch.arange(frames, dtype=torch.float32)
    begin = draws.uniform(0.0, 0.25 * frames, *shape)
    travel = draws.uniform(8.0, 18.0, *shape) + 0.5 * radius / scale
    onward = begin + travel + draws.uniform(0.0, 8.0, *shape)
    there = ease((time - begin[..., None]) / travel[..., None])
    further = ease((time - onward[..., None]) / travel[..., None])
    # A mean of the three places it comes to: never farther out than they are.
    path = first[..., None, :] * (there - further)[..., None] + end[..., None, :] * further[..., None]
    twist = LARGEST_TWIST * draws.uniform(-1.0, 1.0, *shape) * draws.chance(0.6, *shape) * present * share
    used = slice(None) if second.any() else slice(1)
    return Pulls(start[:, used], path[:, used], (twist[..., None] * (there - 0.7 * further))[:, used], radius[:, used])


def _polar(length: Tensor, angle: Tensor) -> Tensor:
    return length[..., None] * torch.stack((angle.cos(), angle.sin()), -1)


@dataclass(frozen=True)
class Bends:
    """Sprites bent across an axis: own points move by `size * (sin(wave * along + phase) - sin(phase))` across it.

    The way along the axis stays as it is, so forwards and backwards differ in their sign only, and the middle rests.
    """

    axis: Tensor  # float32 (M, 2), of length one
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
        """How far own points (M, T or 1, ...), bent or not, are moved: two tensors (M, T, ...)."""
        beyond = (...,) + (None,) * (x.dim() - 2)
        across, down = (part[:, None][beyond] for part in self.axis.unbind(-1))
        phase = self.phase[beyond]
        along = (across * x + down * y) * self.wave[:, None][beyond]
        size = self.size[beyond] * ((along + phase).sin() - phase.sin())
        return -down * size, across * size

    def reach(self, radius: Tensor) -> Tensor:
        """No point of sprites whose radii are (M,) moves farther than this: (M, T)."""
        return self.size.abs() * (self.wave * radius).clamp(max=2.0)[:, None]


def draw_bends(draws: Draws, radius: Tensor, frames: int, probability: float) -> Bends | None:
    """Bows and waves of sprites whose radii are (M,): bent and held, to and fro, or running along them.

    probability: share of sprites that bend. None if none does.
    """
    count = len(radius)
    chosen = draws.chance(probability, count)
    if not chosen.any():
        return None
    turns = draws.uniform(1.2, 3.5, count)  # radians from the middle to the rim: a bow, up to a whole wave
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
