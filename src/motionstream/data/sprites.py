"""Outlines of sprites: random star-shaped curves, their signed distance maps, and points inside.

An outline is a table of radii over equally spaced angles, in pixels. Axes: M sprites, A angles.
"""

import math

import torch
from torch import Tensor

from motionstream.data.draws import Draws, Range

ANGLES = 128
LARGEST = 1.5  # maximum of a radius relative to the outline's mean


def draw_outlines(draws: Draws, count: int, radius: Range) -> Tensor:
    """Radii (M, ANGLES) of superellipses (ellipses among them), rounded polygons and Fourier blobs.

    radius: range of the root mean square radius in pixels, which determines the area.
    """
    if count == 0:  # Fourier transforms do not support empty batches
        return torch.zeros(0, ANGLES)
    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    aspect = draws.log_uniform(0.55, 1.0, count, 1)
    power = torch.where(draws.chance(0.4, count, 1), 2.0, draws.log_uniform(1.3, 6.0, count, 1))
    superellipse = (angle.cos().abs().pow(power) + (angle.sin().abs() / aspect).pow(power)).pow(-1 / power)

    corner = 2 * math.pi / draws.integers(3, 7, count, 1)
    polygon = (corner / 2).cos() / (angle % corner - corner / 2).cos()
    blur = torch.exp(-0.5 * (torch.arange(ANGLES // 2 + 1) * draws.uniform(0.03, 0.15, count, 1)) ** 2)
    polygon = torch.fft.irfft(torch.fft.rfft(polygon) * blur, n=ANGLES)

    waves = torch.arange(1, 7)
    amplitude = draws.uniform(0.0, 0.4, count, 6) / waves
    phase = draws.angle(count, 6)
    blob = 1 + (amplitude[..., None] * (waves[:, None] * angle + phase[..., None]).cos()).sum(1)

    kind = draws.choice((0.4, 0.25, 0.35), count)
    outlines = torch.stack((superellipse, polygon, blob))[kind, torch.arange(count)]
    outlines = outlines / outlines.square().mean(1, keepdim=True).sqrt()
    return outlines.clamp(0.35, LARGEST) * draws.uniform(*radius, count, 1)


def _radius_at(outlines: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Radius of outlines (M, A) at angles (M, K) in radians, and its derivative by the angle: two (M, K)."""
    place = angle * (ANGLES / (2 * math.pi)) % ANGLES
    before = place.floor()
    index = before.long() % ANGLES
    low = outlines.gather(1, index)
    high = outlines.gather(1, (index + 1) % ANGLES)
    return torch.lerp(low, high, place - before), (high - low) * (ANGLES / (2 * math.pi))


def signed_distance(outlines: Tensor, points: Tensor) -> Tensor:
    """Distance in pixels from points (M, K, 2) to the outlines (M, A), to first order; negative inside."""
    radius, slope = _radius_at(outlines, torch.atan2(points[..., 1], points[..., 0]))
    return (points.norm(dim=-1) - radius) / (1 + (slope / radius).square()).sqrt()


def distance_maps(outlines: Tensor, side: int) -> Tensor:
    """Signed distances on a grid of `side` x `side` pixels around each sprite's centre: (M, side, side)."""
    axis = torch.arange(side, device=outlines.device) - (side - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack((x, y), -1).flatten(0, 1).expand(len(outlines), -1, -1)
    return signed_distance(outlines, points).unflatten(1, (side, side))


def grid_points(draws: Draws, outlines: Tensor, angle: Tensor, grid: int, margin: float = 1.5) -> tuple[Tensor, Tensor]:
    """A regular grid of points on each sprite, such as a user would place to drag it.

    outlines (M, A); angle (M,): the sprites' rotation in the first frame, where the grid is upright; grid:
    points per side; margin: minimum distance from the outline in pixels. The spacing is 4 to 8 pixels, so on
    small sprites outer points fall outside. Returns the points in sprite coordinates (M, grid * grid, 2) and
    whether they lie inside (M, grid * grid).
    """
    count = len(outlines)
    spacing = (2 * outlines.amax(1) / grid).clamp(4.0, 8.0)
    axis = torch.arange(grid) - (grid - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    upright = torch.stack((x, y), -1).flatten(0, 1) + draws.uniform(-0.5, 0.5, count, 1, 2)
    upright = upright * spacing[:, None, None]
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = upright.unbind(-1)
    points = torch.stack((cos * x + sin * y, cos * y - sin * x), -1)
    return points, signed_distance(outlines, points) < -margin
