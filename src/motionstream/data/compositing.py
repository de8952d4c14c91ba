"""Composites planes, textured sprites and weather into pictures as seen by a camera.

Textures have one texel per world pixel and are magnified once, bicubically; every frame then samples the finer
texture bilinearly, so that sharpness hardly depends on the sub-pixel shift.

Tracks and pixels follow the same description of the motion: `screen = turn * own + centre` for sprites, where
`own` are coordinates in the sprite, and `to_screen` for the world, with `bending` in between. Axes: B clips, b of
them with a plane, M sprites of all clips together, T frames, N tracks, S side of a sprite's texture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionstream.data.bending import Bends, Pulls
from motionstream.data.motion import CameraPaths
from motionstream.data.weather import Fog, Snow, Tints

FINER = 2  # texels per world pixel after magnification
EDGE = 1.5  # maximum extent in pixels of a soft edge beyond the outline


@dataclass(frozen=True)
class Plane:
    """One textured plane in each of some clips: the background, or a plane in front of it."""

    clip: Tensor  # int64 (b,), ascending; on the CPU
    texture: Tensor  # float32 (b, 3 or 4, h, w) in [0, 1], `FINER` texels per world pixel; fourth channel: opacity
    middle: Tensor  # float32 (b, 2): the world point (x, y) at the texture's centre
    camera: CameraPaths  # (b, T), on the CPU
    pulls: Pulls | None = None

    def grid(self, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
        """Texture coordinates for grid_sample of screen pixels x, y, two (b, T, ...) that broadcast.

        For a whole picture x is (b, T, 1, W) and y (b, T, H, 1).
        """
        beyond = (...,) + (None,) * (x.dim() - 2)
        zoom, centre = self.camera.zoom.to(x.device), self.camera.centre.to(x.device)
        half = ((size[1] - 1) / 2, (size[0] - 1) / 2)
        world = [(place - half[axis]) / zoom[beyond] + centre[..., axis][beyond] for axis, place in enumerate((x, y))]
        moved = (None, None) if self.pulls is None else self.pulls.shift(world[0], world[1])
        sides = []
        for axis, (place, shift) in enumerate(zip(world, moved, strict=True)):
            own = place - self.middle[:, axis, None][beyond]
            own = own if shift is None else own - shift
            sides.append(own * (2 * FINER / (self.texture.shape[3 - axis] - 1)))
        return torch.stack(torch.broadcast_tensors(*sides), -1)

    def covers(self, positions: Tensor, size: tuple[int, int]) -> Tensor:
        """Whether a plane with holes is opaque at the positions (b, T, N, 2): bool (b, T, N)."""
        grid = self.grid(positions[..., 0], positions[..., 1], size)
        hides = F.grid_sample(self.texture[:, 3:], grid, padding_mode="reflection", align_corners=True)
        return hides[:, 0] > 0.5


@dataclass(frozen=True)
class Sprites:
    """All sprites of a batch. Own coordinates are relative to the texture's centre, in pixels at scale 1."""

    clip: Tensor  # int64 (M,), on the CPU
    layer: Tensor  # int64 (M,) from 1, higher hides lower; on the CPU
    appearance: Tensor  # float32 (M, 4, S, S): colour, then signed distance to the outline in own pixels
    centre: Tensor  # float32 (M, T, 2) screen pixels
    turn: Tensor  # float32 (M, T, 2): (cos, sin) of the angle, times the magnification on the screen
    reach: Tensor  # float32 (M, T) pixels from the centre to the outline's farthest point; on the CPU
    points: Tensor  # float32 (M, P, 2) own coordinates of the sprite's tracks
    used: Tensor  # bool (M, P)
    bends: Bends | None = None
    tints: Tints | None = None

    def on_layer(self, layer: int) -> "Sprites":
        """The sprites of one layer: at most one per clip."""
        chosen = (self.layer == layer).nonzero()[:, 0]

        parts: dict[str, Any] = {
            name: value[chosen.to(value.device)] if isinstance(value, Tensor) else value and value.take(chosen)
            for name, value in vars(self).items()
        }
        return Sprites(**parts)

    def place(self, points: Tensor) -> Tensor:
        """Screen pixels (M, T, P, 2) of own coordinates (M, P, 2)."""
        cos, sin = self.turn[:, :, None].unbind(-1)
        x, y = points[:, None].unbind(-1)
        if self.bends is not None:
            across, down = self.bends.shift(x, y)
            x, y = x + across, y + down
        return torch.stack((cos * x - sin * y, sin * x + cos * y), -1) + self.centre[:, :, None]

    def own_coordinates(self, x: Tensor, y: Tensor) -> Tensor:
        """Texture coordinates for grid_sample of screen pixels x, y relative to the centres, two (M, T, ...)."""
        half = (self.appearance.shape[-1] - 1) / (2 * FINER)
        inverse = self.turn / (self.turn.square().sum(-1, keepdim=True) * half)
        cos, sin = (part[(...,) + (None,) * (x.dim() - 2)] for part in inverse.unbind(-1))
        own = torch.stack((cos * x + sin * y, cos * y - sin * x), -1)
        if self.bends is not None:
            across, down = self.bends.shift(own[..., 0] * half, own[..., 1] * half)
            own = own - torch.stack((across, down), -1) / half
        return own


def refine(texture: Tensor) -> Tensor:
    """Magnify (n, c, h, w) to (n, c, FINER * (h - 1) + 1, FINER * (w - 1) + 1), keeping the original texels."""
    size = [FINER * (side - 1) + 1 for side in texture.shape[2:]]
    return F.interpolate(texture, size=size, mode="bicubic", align_corners=True)


def to_screen(world: Tensor, camera: CameraPaths, size: tuple[int, int]) -> Tensor:
    """Screen pixels (..., 2) of world points (..., 2), for cameras whose shapes broadcast with them."""
    middle = torch.tensor(((size[1] - 1) / 2, (size[0] - 1) / 2), device=world.device)
    return (world - camera.centre) * camera.zoom[..., None] + middle


def _see(plane: Plane, size: tuple[int, int]) -> Tensor:
    """A plane as seen by its cameras: (b, 3 or 4, T, H, W)."""
    device = plane.texture.device
    across, down = (torch.arange(side, device=device) for side in size[::-1])
    grid = plane.grid(across.expand(1, 1, 1, -1), down[:, None].expand(1, 1, -1, 1), size)
    # Time is folded into the rows: every clip is one tall picture sampled from one texture.
    seen = F.grid_sample(plane.texture, grid.flatten(1, 2), padding_mode="reflection", align_corners=True)
    return seen.unflatten(2, grid.shape[1:3])


def _draw_planes(planes: Sequence[Plane], size: tuple[int, int]) -> Tensor:
    """Draw the planes from the farthest, which every clip has, to the nearest: (B, 3, T, H, W)."""
    video = _see(planes[0], size)
    for plane in planes[1:]:
        seen = _see(plane, size)
        for row, clip in enumerate(plane.clip.tolist()):
            video[clip].lerp_(seen[row, :3], seen[row, 3:])
    return video


def _draw_sprites(video: Tensor, sprites: Sprites) -> None:
    """Draw the sprites of one layer over video (B, 3, T, H, W), in place, each within a window around it."""
    height, width = video.shape[-2:]
    frames = sprites.reach.shape[1]
    device = video.device
    side = 2 * int(float(sprites.reach.max()) + EDGE) + 3
    rows, columns = min(side, height), min(side, width)
    window = torch.tensor((columns, rows), device=device)
    limit = torch.tensor((width, height), device=device) - window
    # A window moved back into the picture still contains every visible pixel of its sprite.
    corner = (sprites.centre - (window - 1) / 2).round().clamp(min=0)
    corner = torch.minimum(corner, limit)

    offset = corner - sprites.centre
    x = (offset[..., 0, None] + torch.arange(columns, device=device))[:, :, None].expand(-1, -1, rows, -1)
    y = (offset[..., 1, None] + torch.arange(rows, device=device))[..., None].expand(-1, -1, -1, columns)
    grid = sprites.own_coordinates(x, y)
    seen = F.grid_sample(sprites.appearance, grid.flatten(1, 2), padding_mode="border", align_corners=True)
    magnification = sprites.turn.norm(dim=-1)[:, :, None, None]
    distance = seen[:, 3].unflatten(1, (frames, rows)) * magnification
    alpha = (0.5 - distance).clamp(0, 1).flatten(1)[:, None]
    colour = seen[:, :3].unflatten(2, (frames, rows))
    if sprites.tints is not None:
        colour = sprites.tints.paint(colour)

    # Flat indices of the windows' pixels in the whole batch.
    plane = torch.arange(3, device=device) + 3 * sprites.clip.to(device)[:, None]  # M, 3
    picture = torch.arange(frames, device=device) + frames * plane[..., None]  # M, 3, T
    first = (picture * height + corner[:, None, :, 1].long()) * width + corner[:, None, :, 0].long()
    local = torch.arange(rows, device=device)[:, None] * width + torch.arange(columns, device=device)
    index = (first[..., None, None] + local).flatten(2)
    video.put_(index, torch.lerp(video.take(index), colour.flatten(2), alpha))


def composite(
    planes: Sequence[Plane],
    sprites: Sprites,
    brightness: Tensor,
    size: tuple[int, int],
    weather: Sequence[Fog | Snow] = (),
) -> Tensor:
    """The clips as uint8 (B, 3, T, H, W), on the planes' device.

    planes: the farthest, which every clip has, then nearer ones. brightness (B, T) multiplies the finished picture,
    weather included.
    """
    video = _draw_planes(planes, size)
    for layer in sprites.layer.unique().tolist():
        _draw_sprites(video, sprites.on_layer(layer))
    for cover in weather:
        cover.cover(video)
    video.mul_((255 * brightness).to(video.device)[:, None, :, None, None]).add_(0.5)
    return video.clamp_(0, 255).to(torch.uint8)


def hidden_by(planes: Sequence[Plane], positions: Tensor, depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Which points of the planes lie behind a nearer plane: positions (B, T, N, 2), depth (B, N) -> bool (B, T, N).

    depth: index of a point's plane; 0 is the farthest. planes: all of them, in this order.
    """
    hidden = torch.zeros(positions.shape[:3], dtype=torch.bool, device=positions.device)
    for level, plane in enumerate(planes[1:], 1):
        clips = plane.clip.to(positions.device)
        hidden[clips] |= plane.covers(positions[clips], size) & (depth[clips] < level)[:, None]
    return hidden


def visibility(sprites: Sprites, positions: Tensor, layer: Tensor, size: tuple[int, int]) -> Tensor:
    """Which tracks are visible: bool (B, T, N).

    positions (B, T, N, 2) in pixels; layer (B, N). A track is visible inside the picture where no sprite of a
    higher layer covers it by more than half; unused rows (layer -1) are never visible.
    """
    x, y = positions.unbind(-1)
    visible = (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5) & (layer >= 0)[:, None]
    return visible & (covering(sprites, positions) <= layer[:, None])


def covering(sprites: Sprites, positions: Tensor) -> Tensor:
    """The highest layer with a sprite covering each position (B, T, N, 2) by more than half: (B, T, N), 0 if none."""
    highest = torch.zeros(positions.shape[:-1], dtype=torch.long, device=positions.device)
    for level in sprites.layer.unique().tolist():
        cover = sprites.on_layer(level)
        clips = cover.clip.to(positions.device)
        x, y = (positions[clips] - cover.centre[:, :, None]).unbind(-1)
        grid = cover.own_coordinates(x, y)
        distance = F.grid_sample(cover.appearance[:, 3:], grid, padding_mode="border", align_corners=True)
        highest[clips] = torch.where(distance[:, 0] > 0, highest[clips], level)
    return highest
