"""Picture content carried along the tracks (``carry_content``): what a small model need not invent.

Three candidate pictures are made for every frame to come: the source moved, turned and scaled with the *nearest*
visible track and those around it that move along, the same for the nearest track that moves *otherwise*, and the source
left where it is (*static*). Where there is a pixel mixer (``pixel_mixer.py``), what it makes of the three takes the
second's place. What is carried is that picture; without a mixer, the one moved with the nearest track. All three are
encoded; a small network says how far the carried one may be off (``prior.py``). The transformer sees all of it
as further channels and predicts around the carried latents, see ``model/motion_model.py``; what the code does not hold
of the carried picture is put back when its latents are decoded (``showing.py``).

Where content comes from may be known more finely than the model sees it: a photograph nearly always is. The same
choices then carry the ``fine`` pictures, and what a stream shows is as fine as they.

Content is taken from where and when a track begins: the given picture for tracks that start with the stream, the last
generated frame for a drag that starts later. Legend: B batch, K sources, T frames, N tracks, G grid places, s cell.
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
"""Pixels, and parts of a turn or of a size, up to which what a track has done is rounding."""


@dataclass(frozen=True)
class Carried:
    """``candidates`` (B, 3, 3, T, H, W): candidate, colour; ``features`` (B, 8, T, G_h, G_w) on the look-up grid;
    ``fine``: the carried picture where the source has fine ones."""

    candidates: Tensor
    features: Tensor
    fine: FineCarry | None = None


@dataclass(frozen=True)
class Mixture:
    """What a mixer makes of the candidates: the ``picture`` (B, 3, T, H, W), and of what, ``weights`` (B, 4, T, H, W)
    of the candidates and of ``fill`` (B, 3, T, H, W), colours of its own."""

    picture: Tensor
    weights: Tensor
    fill: Tensor


Mixer = Callable[[Tensor, Relations, CarrySource], Mixture]
"""Of candidates (B, 3, 3, T, H, W)."""


@torch.no_grad()
def carry(
    positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int = 2, mixer: Mixer | None = None
) -> Carried:
    """Move the source pictures along the tracks.

    Args:
        positions: (B, T, N, 2) pixels. visible: bool (B, T, N). N = 0, or nothing visible, carries nothing: every
            candidate is the static one.
        source: where content comes from. grid: pixels between look-up places.
        mixer: makes the second candidate of all three, and its weights take the second track's place among the
            features.
    """
    height, width = source.pictures.shape[-2:]
    relations = relate(positions, visible, source, grid=grid)
    candidates = warp_all(relations, source, grid=grid)

    def to_maps(features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2).unflatten(3, (height // grid, width // grid))

    near, mixture = to_maps(relations.near.describe()), None
    if mixer is None:
        features = to_maps(relations.far.describe())
    else:
        mixture = mixer(candidates, relations, source)
        features = F.avg_pool3d(mixture.weights, (1, grid, grid))
        candidates = torch.stack([candidates[:, 0], mixture.picture, candidates[:, 2]], dim=1)
    fine = None if source.fine is None else FineCarry(relations, source, mixture, grid)
    return Carried(candidates, torch.cat([near, features], dim=1), fine)


@dataclass(frozen=True)
class FineCarry:
    """The carried picture of a source's fine ones, chosen as at the model's size; made when it is asked for, a few
    frames at a time, so that the first need not wait for the last."""

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
        """The mixture's weights, what is moved by nothing counted as static. Weights are enlarged smoothly and chosen
        tracks are not: beside a pin that holds what is here lies what another track would bring, for nothing."""
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
        """What healed fine pictures have besides the healed ones, (B, K, 3, sH, sW), where there is something new."""
        source = self.source
        if source.fine is None or source.healed is None or source.fine_healed is None:
            return None
        new = (source.fine_healed != source.fine).any(dim=2, keepdim=True)
        return (source.fine_healed - enlarge(source.healed.transpose(1, 2), self.scale).transpose(1, 2)) * new

    def static(self, first: int, stop: int) -> Tensor:
        """The same frames with everything left where it is."""
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
    """(B, C, T, H, W), every frame ``scale`` times as large, bilinearly."""
    flat = video.transpose(1, 2).flatten(0, 1)
    larger = F.interpolate(flat, scale_factor=scale, mode="bilinear", align_corners=False)
    return larger.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def warp_all(relations: Relations, source: CarrySource, *, grid: int) -> Tensor:
    """The three candidates (B, 3, 3, T, H, W): moved with the nearest track, with the other one, and static."""
    moved = [moved_along(c, source, source.pictures, source.healed, grid=grid) for c in (relations.near, relations.far)]
    return torch.stack([*moved, left_in_place(source.pictures, source.static)], dim=1)


def moved_along(
    chosen: Chosen, source: CarrySource, pictures: Tensor, healed: Tensor | None, *, grid: int, scale: int = 1
) -> Tensor:
    """A source's ``pictures`` (B, K, C, h, w) moved with the chosen tracks, (B, C, T, h, w). Where those are on no
    thing, and of an older view than the static picture's, they carry the ``healed`` ones, in which there are no things:
    where one has left the static picture, a mixer knows, but not where that was in a view that has moved since."""
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
    """Of pictures (B, K, C, h, w) the static one of every frame (B, T): (B, C, T, h, w)."""
    rows = torch.arange(len(pictures), device=pictures.device)[:, None]
    return pictures[rows, static].transpose(1, 2)


def sampling_points(chosen: Chosen, source: CarrySource, *, grid: int, scale: int = 1) -> Tensor:
    """Where in ``tall`` source pictures the content of every pixel is, if it has moved with its chosen track: as
    ``grid_sample`` takes it, (B, T, H, W, 2). ``scale``: of a picture so many times as large.

    Between look-up places the motion is interpolated, but not across an edge of it, see ``_between``.
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
    """Motion (N, 2, h, w) of look-up places → of pixels: interpolated, but not where it breaks off. Nothing moves
    halfway between two motions: there a pixel has that of the four places around it, each gone on with as it changes on
    its own side, which is nearest to the interpolated one. So the edge is a line and not stairs, also of what turns."""
    factor = grid * scale
    smooth = F.interpolate(moved, scale_factor=factor, mode="bilinear", align_corners=False)
    clip, row, column = _broken(moved, grid).nonzero(as_tuple=True)
    if len(clip) == 0:
        return smooth
    motion, (down, right) = moved.permute(0, 2, 3, 1), _slopes(moved)
    offset = (torch.arange(factor, device=moved.device) + 0.5) / factor - 0.5  # of a place's pixels from its middle
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
    """Places (N, h, w) at which motion breaks off: along some line it is not, by more than two steps of the grid, in
    the middle of what it is before and after. What turns or grows is."""
    around, (height, width) = F.pad(moved, (1, 1, 1, 1), mode="replicate"), moved.shape[-2:]
    bend = torch.zeros_like(moved[:, 0])
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        after = around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        before = around[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        bend = torch.maximum(bend, (after + before - 2 * moved).abs().amax(dim=1))
    return bend > 2 * grid


def _slopes(moved: Tensor) -> tuple[Tensor, Tensor]:
    """How motion (N, 2, h, w) changes from a place to the next, downwards and to the right, (N, h, w, 2): on that side
    of a place on which it changes less, for the other may be another thing's."""
    slopes = []
    for dim, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))):
        steps = F.pad(moved.diff(dim=dim), pad, mode="replicate")
        before, after = steps.narrow(dim, 0, moved.shape[dim]), steps.narrow(dim, 1, moved.shape[dim])
        slopes.append(torch.where(before.abs() < after.abs(), before, after).permute(0, 2, 3, 1))
    return slopes[0], slopes[1]


def _centres(size: int, scale: int, device: torch.device) -> Tensor:
    """Of the pixels of a side ``scale`` times as long, in pixels of the model's size."""
    return (torch.arange(size * scale, device=device) + 0.5) / scale - 0.5


def warp(pictures: Tensor, points: Tensor) -> Tensor:
    """Sample sources (B, K, C, h, w), stacked into one tall picture, at ``points`` (B, T, H, W, 2): (B, C, T, H, W).

    Points are relative to the tall picture, so that the sources may have another resolution than the points.
    """
    tall = pictures.transpose(1, 2).flatten(2, 3)
    sampled = F.grid_sample(tall, points.flatten(1, 2), padding_mode="border", align_corners=False)
    return sampled.unflatten(2, points.shape[1:3])
