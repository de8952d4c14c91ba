"""The planes of rendered scenes: their size, textures and tracks.

Axes: B clips, b of them with a plane, T frames, n points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from motionstream.data.bending import Pulls
from motionstream.data.compositing import Plane, hidden_by, refine, to_screen
from motionstream.data.draws import Draws
from motionstream.data.motion import CameraPaths
from motionstream.data.parallax import Depths, draw_cover

Paint = Callable[[Draws, int, tuple[int, int]], Tensor]
"""Draws ``count`` textures of a size (height, width): float32 (count, 3, height, width)."""


def extent(camera: CameraPaths, pulls: Pulls | None, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The area of a plane that the cameras see in any frame: its centres (b, 2), and one size (height, width) that
    suffices for all clips."""
    half = torch.tensor((size[1] / 2, size[0] / 2)) / camera.zoom[..., None]
    least = (camera.centre - half).amin(1)
    largest = (camera.centre + half).amax(1)
    if pulls is not None:
        # Pulls are continuous and injective, so the farthest material is visible at the picture's border.
        side = torch.linspace(-1, 1, 33)
        one = torch.ones_like(side)
        ring = torch.cat([torch.stack(pair, -1) for pair in ((side, one), (side, -one), (one, side), (-one, side))])
        world = camera.centre[:, :, None] + half[:, :, None] * ring
        source = world - torch.stack(pulls.shift(world[..., 0], world[..., 1]), -1)
        least = torch.minimum(least, source.amin((1, 2)))
        largest = torch.maximum(largest, source.amax((1, 2)))
    # A whole offset and even margins, so that the first frame shows the texture without resampling.
    middle = ((least + largest) / 2).round()
    needed = torch.maximum(largest - middle, middle - least).amax(0) * 2
    width, height = (
        side + 2 * math.ceil((float(need) - side) / 2 + 1) for side, need in zip(size[::-1], needed, strict=True)
    )
    return middle, (height, width)


def draw_far(draws: Draws, camera: CameraPaths, pulls: Pulls | None, size: tuple[int, int], paint: Paint) -> Plane:
    """Draw the far plane of every clip."""
    middle, sides = extent(camera, pulls, size)
    texture = refine(paint(draws, len(middle), sides)).clamp_(0, 1)
    device = texture.device
    moved = None if pulls is None else pulls.to(device)
    return Plane(torch.arange(len(middle)), texture, middle.to(device), camera, moved)


def draw_nearer(draws: Draws, depths: Depths, size: tuple[int, int], paint: Paint) -> tuple[Plane, ...]:
    """Draw the planes in front of the far one, from far to near, each for the clips that have it."""
    made = []
    for level, camera in enumerate(depths.cameras[1:], 2):
        clip = (depths.planes >= level).nonzero()[:, 0]
        if len(clip):
            camera = CameraPaths(camera.centre[clip], camera.zoom[clip])
            middle, sides = extent(camera, None, size)
            colour = paint(draws, len(clip), sides)
            noise = torch.Generator(colour.device).manual_seed(draws.seed())
            texture = torch.cat((colour, draw_cover(draws, len(clip), sides, noise)), 1)
            made.append(Plane(clip, refine(texture).clamp_(0, 1), middle.to(colour.device), camera))
    return tuple(made)


def plane_tracks(planes: Sequence[Plane], grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Track a grid of `grid` x `grid` points of the first frame, each on the nearest plane visible there.

    planes: the far one, which every clip has, then nearer ones. Returns positions (B, T, n, 2) in pixels of the picture
    of `size` (height, width); whether no nearer plane hides them (B, T, n); and the pull of the far plane that holds
    each point (B, n), -1 for none.
    """
    far, device = planes[0], planes[0].texture.device
    batch, frames = far.camera.zoom.shape
    # The centres of a grid of cells that covers the first frame.
    y, x = ((torch.arange(grid) + 0.5) * (side / grid) - side / 2 for side in size)
    world = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)

    def seen(place: Tensor, camera: CameraPaths) -> Tensor:
        wide = CameraPaths(camera.centre[:, :, None], camera.zoom[:, :, None])
        return to_screen(place, wide, size).to(device)

    held = torch.full((batch, grid**2), -1, device=device)
    if far.pulls is None:
        positions = seen(world, far.camera)
    else:
        everywhere = world.to(device).expand(batch, -1, -1)
        positions = seen(far.pulls.place(everywhere).cpu(), far.camera)
        held = far.pulls.pulled(everywhere)

    depth = torch.zeros_like(held)
    start = (world + torch.tensor(((size[1] - 1) / 2, (size[0] - 1) / 2))).to(device)
    for level, plane in enumerate(planes[1:], 1):
        clips = plane.clip.to(device)
        mine = plane.covers(start.expand(len(clips), frames, -1, -1), size)[:, 0]
        depth[clips] = torch.where(mine, level, depth[clips])
        positions[clips] = torch.where(mine[:, None, :, None], seen(world, plane.camera), positions[clips])
    return positions, ~hidden_by(planes, positions, depth, size), torch.where(depth > 0, -1, held)
