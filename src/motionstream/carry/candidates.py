"""Warps the source pictures along the tracks, so that a small model need not invent their content (``carry``).

Every frame gets three candidate pictures: the source moved, turned and scaled with the *nearest* visible track and the
tracks around it that move along (*near*); the same for the nearest track that moves differently (*far*); and the source
left in place (*static*). A pixel mixer (``pixel_mixer.py``), if there is one, replaces the second candidate by its mix
of the three, and that mix is the carried picture. Without a mixer the near candidate is.

All three are encoded, and a small network predicts the error of the carried one (``prior.py``). The transformer gets
them as further channels and predicts around the carried latents (``model/motion_model.py``). Detail of the carried
picture that the latents lose is added back on decoding (``showing.py``).

If the source has ``fine`` pictures (a photograph at more than the model's resolution), the same choices carry them, and
the stream shows frames at their resolution.

Content comes from the picture in which a track begins: the given picture for tracks that start with the stream, the
last carried frame for later ones. Legend: B batch, K sources, T frames, N tracks, G grid places, s scale of the fine
pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.relations import CarrySource, Chosen, Relations, grid_places, relate, thing_of, turned_by

RESTS = 1e-3
"""Motion below this is rounding: displacement in pixels, rotation and scale as a complex factor's distance from 1."""


@dataclass(frozen=True)
class Carried:
    """``candidates`` (B, 3, 3, T, H, W), axes 1 and 2 candidate and colour; ``features`` (B, 8, T, G_h, G_w) on the
    look-up grid; ``held`` (B, 1, T, H, W): how much of each pixel of the carried picture shows what
    ``CarrySource.held`` marks; ``fine``: the carried picture in fine resolution, if the source has fine pictures."""

    candidates: Tensor
    features: Tensor
    held: Tensor
    fine: FineCarry | None = None


@dataclass(frozen=True)
class Mixture:
    """A mixer's result: the ``picture`` (B, 3, T, H, W) and the ``weights`` (B, 4, T, H, W) of the three candidates and
    of ``fill`` (B, 3, T, H, W), colours from the mixer itself."""

    picture: Tensor
    weights: Tensor
    fill: Tensor


Mixer = Callable[[Tensor, Relations, CarrySource], Mixture]
"""Mixes candidates (B, 3, 3, T, H, W)."""


@torch.no_grad()
def carry(
    positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int = 2, mixer: Mixer | None = None
) -> Carried:
    """Move the source pictures along the tracks.

    Args:
        positions: (B, T, N, 2) pixels. visible: bool (B, T, N). With N = 0 or nothing visible, every candidate is the
            static one.
        source: the pictures and where each track began in them. grid: pixels between look-up places.
        mixer: replaces the second candidate by its mix, and the far track's features by its weights.
    """
    height, width = source.pictures.shape[-2:]
    relations = relate(positions, visible, source, grid=grid)
    candidates, held = warp_marked(relations, source, grid=grid)

    def to_maps(features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2).unflatten(3, (height // grid, width // grid))

    near, mixture = to_maps(relations.near.describe()), None
    if mixer is None:
        features, held = to_maps(relations.far.describe()), held[:, :1]
    else:
        mixture = mixer(candidates, relations, source)
        held = (mixture.weights[:, : held.shape[1]] * held).sum(dim=1, keepdim=True)
        features = F.avg_pool3d(mixture.weights, (1, grid, grid))
        candidates = torch.stack([candidates[:, 0], mixture.picture, candidates[:, 2]], dim=1)
    fine = None if source.fine is None else FineCarry(relations, source, mixture, grid)
    return Carried(candidates, torch.cat([near, features], dim=1), held, fine)


@dataclass(frozen=True)
class FineCarry:
    """The carried picture in fine resolution, with the choices made at the model's size. Computed on request, a few
    frames at a time, so that the first frames need not wait for the last."""

    relations: Relations
    source: CarrySource
    mixture: Mixture | None
    grid: int

    @property
    def scale(self) -> int:
        assert self.source.fine is not None
        return self.source.fine.shape[-1] // self.source.pictures.shape[-1]

    def picture(self, first: int, stop: int) -> Tensor:
        """Frames ``first`` … ``stop`` − 1, (B, 3, T, sH, sW)."""
        near = self._moved(self.relations.near, first, stop)
        if self.mixture is None:
            return near
        weights = enlarge(self._settled(first, stop), self.scale)
        fill = enlarge(self.mixture.fill[:, :, first:stop], self.scale)
        if self._behind is not None:
            fill += left_in_place(self._behind, self.source.static[:, first:stop])
        picture = weights[:, 3:] * fill
        picture.addcmul_(weights[:, :1], near)
        picture.addcmul_(weights[:, 1:2], self._moved(self.relations.far, first, stop))
        return picture.addcmul_(weights[:, 2:3], self.static(first, stop))

    def _settled(self, first: int, stop: int) -> Tensor:
        """The mixture's weights, with those of resting content moved to the static candidate. Weights are enlarged
        smoothly and the choice of tracks is not: without this, content of another track would bleed into the pixels
        beside a pin."""
        assert self.mixture is not None
        near, far, static, fill = self.mixture.weights[:, :, first:stop].unbind(dim=1)
        parts = []
        for weight, chosen in ((near, self.relations.near), (far, self.relations.far)):
            upright = chosen.turned - chosen.turned.new_tensor((1.0, 0.0))
            rests = torch.cat([chosen.move, upright], dim=-1).abs().amax(dim=-1) < RESTS
            rests = (rests & (chosen.picture == self.source.static[:, :, None]))[:, first:stop]
            rests = rests.unflatten(2, (weight.shape[2] // self.grid, -1))
            still = weight * rests.repeat_interleave(self.grid, 2).repeat_interleave(self.grid, 3)
            static = static + still
            parts.append(weight - still)
        return torch.stack([*parts, static, fill], dim=1)

    @cached_property
    def _behind(self) -> Tensor | None:
        """The fine healed pictures minus the enlarged healed ones, (B, K, 3, sH, sW), zero where healing changed
        nothing; None without healed fine pictures."""
        source = self.source
        if source.fine is None or source.healed is None or source.fine_healed is None:
            return None
        new = (source.fine_healed != source.fine).any(dim=2, keepdim=True)
        return (source.fine_healed - enlarge(source.healed.transpose(1, 2), self.scale).transpose(1, 2)) * new

    def static(self, first: int, stop: int) -> Tensor:
        """Frames ``first`` … ``stop`` − 1 of the static candidate, (B, 3, T, sH, sW)."""
        assert self.source.fine is not None
        return left_in_place(self.source.fine, self.source.static[:, first:stop])

    def _moved(self, chosen: Chosen, first: int, stop: int) -> Tensor:
        chosen = Chosen(**{name: values[:, first:stop] for name, values in vars(chosen).items()})
        source, fine = self.source, self.source.fine
        assert fine is not None
        if source.thing is not None:
            source = replace(source, thing=source.thing[:, first:stop], static=source.static[:, first:stop])
        return moved_along(chosen, source, fine, source.fine_healed, grid=self.grid, scale=self.scale)


def enlarge(video: Tensor, scale: int) -> Tensor:
    """Enlarge every frame of (B, C, T, H, W) by ``scale``, bilinearly."""
    flat = video.transpose(1, 2).flatten(0, 1)
    larger = F.interpolate(flat, scale_factor=scale, mode="bilinear", align_corners=False)
    return larger.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def warp_all(relations: Relations, source: CarrySource, *, grid: int) -> Tensor:
    """The three candidates (B, 3, 3, T, H, W): near, far and static."""
    return warp_marked(relations, source, grid=grid)[0]


def warp_marked(relations: Relations, source: CarrySource, *, grid: int) -> tuple[Tensor, Tensor]:
    """The candidates, see ``warp_all``, and which pixels of each show what is marked as ``held``, (B, 3, T, H, W)."""
    pictures, healed = source.pictures, source.healed
    if source.held is not None:
        pictures = torch.cat([pictures, source.held[:, :, None]], dim=2)
        healed = None if healed is None else F.pad(healed, (0, 0, 0, 0, 0, 1))
    moved = [moved_along(c, source, pictures, healed, grid=grid) for c in (relations.near, relations.far)]
    candidates = torch.stack([*moved, left_in_place(pictures, source.static)], dim=1)
    if source.held is None:
        return candidates, torch.zeros_like(candidates[:, :, 0])
    return candidates[:, :, :3], candidates[:, :, 3]


def moved_along(
    chosen: Chosen, source: CarrySource, pictures: Tensor, healed: Tensor | None, *, grid: int, scale: int = 1
) -> Tensor:
    """Move a source's ``pictures`` (B, K, C, h, w) with the chosen tracks, (B, C, T, h, w).

    Tracks that are on no thing and began in another picture than the static one carry the ``healed`` pictures, from
    which things are removed. The mixer knows which pixels a thing has left in the static picture, but not which pixels
    those were in an older view that has moved since.
    """
    points = sampling_points(chosen, source, grid=grid, scale=scale)
    if healed is None or source.thing is None or source.thing.shape[2] == 0:
        return warp(pictures, points)
    plain = (thing_of(chosen, source) < 0) & (chosen.picture != source.static[:, :, None])
    if not plain.any():
        return warp(pictures, points)
    plain = plain.unflatten(2, (pictures.shape[-2] // (grid * scale), -1)).flatten(0, 1)
    plain = F.interpolate(plain[:, None].float(), scale_factor=grid * scale)[:, 0].view(points.shape[:-1])
    x, y = points.unbind(-1)
    return warp(torch.cat([pictures, healed], dim=1), torch.stack([x, (y + 1) / 2 + plain - 1], dim=-1))


def left_in_place(pictures: Tensor, static: Tensor) -> Tensor:
    """Select the ``static`` picture (B, T) of every frame from pictures (B, K, C, h, w): (B, C, T, h, w)."""
    rows = torch.arange(len(pictures), device=pictures.device)[:, None]
    return pictures[rows, static].transpose(1, 2)


def sampling_points(chosen: Chosen, source: CarrySource, *, grid: int, scale: int = 1) -> Tensor:
    """``grid_sample`` coordinates (B, T, H, W, 2) of every pixel's content in the stacked source pictures (see
    ``warp``), if it has moved with its chosen track. ``scale``: output size relative to the model's.

    Motion is interpolated between look-up places, but not across motion edges, see ``_between``.
    """
    _, sources, _, height, width = source.pictures.shape
    device, cells = chosen.move.device, (height // grid, width // grid)
    offset = grid_places((height, width), grid, device) - chosen.position
    moved = (chosen.move + offset - turned_by(offset, chosen.turned)).movedim(-1, 2).unflatten(3, cells).flatten(0, 1)
    moved = _between(moved, grid, scale)
    edge = 0.5 / scale - 0.5  # the first pixel's centre
    x = (_centres(width, scale, device) - moved[:, 0]).clamp(edge, width - 1 - edge)
    y = (_centres(height, scale, device)[:, None] - moved[:, 1]).clamp(edge, height - 1 - edge)
    if sources > 1:
        pictures = chosen.picture.unflatten(2, cells).flatten(0, 1)[:, None].float()
        y = y + height * F.interpolate(pictures, scale_factor=grid * scale, mode="nearest")[:, 0]
    points = torch.stack([2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / (sources * height) - 1], dim=-1)
    return points.unflatten(0, chosen.move.shape[:2])


def _between(moved: Tensor, grid: int, scale: int) -> Tensor:
    """Motion (N, 2, h, w) of look-up places → of pixels, interpolated except at motion edges.

    At an edge no pixel should move halfway between two motions. There the motions of the four surrounding places are
    extrapolated with the slope of their own side, and a pixel takes the one closest to the interpolated motion. So the
    edge is a line rather than stairs, also for rotating things.
    """
    factor = grid * scale
    smooth = F.interpolate(moved, scale_factor=factor, mode="bilinear", align_corners=False)
    clip, row, column = _broken(moved, grid).nonzero(as_tuple=True)
    if len(clip) == 0:
        return smooth
    motion, (down, right) = moved.permute(0, 2, 3, 1), _slopes(moved)
    offset = (torch.arange(factor, device=moved.device) + 0.5) / factor - 0.5  # of pixels from their place's centre
    side = offset.sign().long()
    pixels = smooth.unflatten(2, (-1, factor)).unflatten(4, (-1, factor)).permute(0, 2, 4, 3, 5, 1)
    between = pixels[clip, row, column]  # (K, factor, factor, 2)
    nearest, least = between, torch.full_like(between[..., :1], torch.inf)
    for below, beside in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y = (row[:, None] + below * side).clamp(0, moved.shape[2] - 1)
        x = (column[:, None] + beside * side).clamp(0, moved.shape[3] - 1)
        place = clip[:, None, None], y[:, :, None], x[:, None]
        over = (offset - (y - row[:, None]))[:, :, None, None] * down[place]
        over = over + (offset - (x - column[:, None]))[:, None, :, None] * right[place]
        corner = motion[place] + over
        apart = (corner - between).square().sum(dim=-1, keepdim=True)
        nearest, least = torch.where(apart < least, corner, nearest), torch.minimum(apart, least)
    pixels[clip, row, column] = nearest
    return smooth


def _broken(moved: Tensor, grid: int) -> Tensor:
    """Places (N, h, w) at a motion edge: along some line through them, motion differs from the mean of both neighbours
    by more than one grid step. Rotation and scaling are linear, so they make no edge."""
    around, (height, width) = F.pad(moved, (1, 1, 1, 1), mode="replicate"), moved.shape[-2:]
    bend = torch.zeros_like(moved[:, 0])
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        after = around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        before = around[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        bend = torch.maximum(bend, (after + before - 2 * moved).abs().amax(dim=1))
    return bend > 2 * grid


def _slopes(moved: Tensor) -> tuple[Tensor, Tensor]:
    """Difference of motion (N, 2, h, w) from one place to the next, downwards and to the right, (N, h, w, 2) each: the
    smaller of the two one-sided differences, since the other may cross to another thing."""
    slopes = []
    for dim, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        steps = F.pad(moved.diff(dim=dim), pad, mode="replicate")
        before, after = steps.narrow(dim, 0, moved.shape[dim]), steps.narrow(dim, 1, moved.shape[dim])
        slopes.append(torch.where(before.abs() < after.abs(), before, after).permute(0, 2, 3, 1))
    return slopes[0], slopes[1]


def _centres(size: int, scale: int, device: torch.device) -> Tensor:
    """Pixel centres along a side ``scale`` times as long, in pixels of the model's size."""
    return (torch.arange(size * scale, device=device) + 0.5) / scale - 0.5


def warp(pictures: Tensor, points: Tensor) -> Tensor:
    """Sample sources (B, K, C, h, w), stacked vertically into one picture, at ``points`` (B, T, H, W, 2):
    (B, C, T, H, W).

    Points are relative to the stacked picture's size, so sources may have any resolution.
    """
    tall = pictures.transpose(1, 2).flatten(2, 3)
    sampled = F.grid_sample(tall, points.flatten(1, 2), padding_mode="border", align_corners=False)
    return sampled.unflatten(2, points.shape[1:3])
