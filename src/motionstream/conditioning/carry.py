"""Picture content carried along the tracks (``carry_content``): what a small model need not invent.

Three candidate pictures are made for every frame to come: the source moved, turned and scaled with the *nearest*
visible track and those around it that move along, the same for the nearest track that moves *otherwise*, and the source
left where it is (*static*). Where there is a pixel mixer (``pixel_mixer.py``), what it makes of the three takes the
second's place. What is carried is that picture; without a mixer, the one moved with the nearest track. All three are
encoded; a small network says how far the carried one may be off (``carry_prior.py``). The transformer sees all of it
as further channels and predicts around the carried latents, see ``model/motion_model.py``; what the code does not hold
of the carried picture is put back when its latents are decoded (``LinearAutoencoder.decode``).

Where content comes from may be known more finely than the model sees it: a photograph nearly always is. The same
choices then carry the ``fine`` pictures, and what a stream shows is as fine as they.

Content is taken from where and when a track begins: the given picture for tracks that start with the stream, the last
generated frame for a drag that starts later. Legend: B batch, K sources, T frames, N tracks, G grid places, s cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

FAR = 1e6
REACH = 24.0
"""Pixels within which tracks tell how the content around one of them turns and grows."""
STIFFNESS = 20.0
"""Squared pixels of evidence for no turn at all: a track alone, or two close ones, just move what is there."""
STRAIN = 0.6
"""Two tracks move together if their distance changes by less than this share of it, and a pixel."""


@dataclass(frozen=True)
class CarrySource:
    """Where content comes from.

    ``pictures`` (B, K, 3, H, W) in [−1, 1]; ``index`` (B, N) the picture each track begins in; ``start`` (B, N, 2)
    its place there in pixels; ``static`` (B, T) the picture that unspecified content is left in, frame by frame.
    ``seen`` (B, K, C, h, w): what a pixel mixer's ``see`` makes of the pictures, where it is known already. ``fine``
    (B, K, 3, sH, sW): the same pictures s times as large, where they are to be carried, too. ``things``
    (B, K, M, H/2, W/2): masks of what tracks are on, and of which, ``thing`` (B, T, N), −1 where that is not known;
    both or none, see ``things.py``.
    """

    pictures: Tensor
    index: Tensor
    start: Tensor
    static: Tensor
    seen: Tensor | None = None
    fine: Tensor | None = None
    things: Tensor | None = None
    thing: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> CarrySource:
        """The same with all of its tensors changed."""
        return replace(self, **{name: change(x) for name, x in vars(self).items() if x is not None})

    def without_tracks(self) -> CarrySource:
        """The same pictures for no tracks at all."""
        thing = None if self.thing is None else self.thing[:, :, :0]
        return replace(self, index=self.index[:, :0], start=self.start[:, :0], thing=thing)


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


@dataclass(frozen=True)
class Chosen:
    """A track for every look-up place: its ``move`` (B, T, G, 2) in pixels since it began, its ``position``
    (B, T, G, 2) now, how the content around it has ``turned`` (B, T, G, 2), see ``turns``, the ``picture`` (B, T, G) it
    began in, its ``distance`` (B, T, G) in pixels, at least ``FAR`` where there is none, and its row ``track``
    (B, T, G). Where there is none it is the static picture, unmoved, and row 0."""

    move: Tensor
    position: Tensor
    turned: Tensor
    picture: Tensor
    distance: Tensor
    track: Tensor

    def describe(self) -> Tensor:
        """Features (B, T, G, 4), see ``describe``."""
        return describe(self.distance, self.move)


def describe(distance: Tensor, move: Tensor) -> Tensor:
    """Features (…, 4) of a track at ``distance`` (…) that has gone ``move`` (…, 2), in pixels: closeness at two scales,
    displacement."""
    near = torch.stack([torch.exp(-distance / 8), torch.exp(-distance / 32)], dim=-1)
    return torch.cat([near, move / 16], dim=-1)


@dataclass(frozen=True)
class Relations:
    """Of every look-up place: the *near*est track, the nearest that moves otherwise (*far*), and the one that began
    nearest (*home*), which may have taken away what was here."""

    near: Chosen
    far: Chosen
    home: Chosen


Mixer = Callable[[Tensor, Relations, CarrySource], Mixture]
"""Of candidates (B, 3, 3, T, H, W)."""


def _grid_places(size: tuple[int, int], grid: int, device: torch.device) -> Tensor:
    """Centres (G, 2) of the look-up cells in pixels, x and y."""
    y = torch.arange(size[0] // grid, device=device) * grid + (grid - 1) / 2
    x = torch.arange(size[1] // grid, device=device) * grid + (grid - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T, N, …) at index (B, T, G) → (B, T, G, …)."""
    shape = index.shape + values.shape[3:]
    return values.gather(2, index.reshape(index.shape + (1,) * (values.ndim - 3)).expand(shape))


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
        weights = enlarge(self.mixture.weights[:, :, first:stop], self.scale)
        picture = weights[:, 3:] * enlarge(self.mixture.fill[:, :, first:stop], self.scale)
        picture.addcmul_(weights[:, :1], near)
        picture.addcmul_(weights[:, 1:2], self._moved(self.relations.far, first, stop))
        return picture.addcmul_(weights[:, 2:3], self.static(first, stop))

    def static(self, first: int, stop: int) -> Tensor:
        """The same frames with everything left where it is."""
        assert self.source.fine is not None
        return left_in_place(self.source.fine, self.source.static[:, first:stop])

    def _moved(self, chosen: Chosen, first: int, stop: int) -> Tensor:
        assert self.source.fine is not None
        chosen = Chosen(**{name: values[:, first:stop] for name, values in vars(chosen).items()})
        return warp(self.source.fine, sampling_points(chosen, self.source, grid=self.grid, scale=self.scale))


def enlarge(video: Tensor, scale: int) -> Tensor:
    """(B, C, T, H, W), every frame ``scale`` times as large, bilinearly."""
    flat = video.transpose(1, 2).flatten(0, 1)
    larger = F.interpolate(flat, scale_factor=scale, mode="bilinear", align_corners=False)
    return larger.unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


def relate(positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int) -> Relations:
    """Choose the tracks of every look-up place; arguments as of ``carry``."""
    places = _grid_places((source.pictures.shape[-2], source.pictures.shape[-1]), grid, positions.device)
    shape = (*positions.shape[:2], len(places))
    static = source.static[:, :, None].expand(shape)
    if positions.shape[2] == 0:
        still = torch.zeros(*shape, 2, device=positions.device)
        rows = torch.zeros(shape, dtype=torch.long, device=positions.device)
        none = Chosen(still, still, _unturned(still), static, torch.full(shape, FAR, device=positions.device), rows)
        return Relations(none, none, none)
    clean = torch.where(visible[..., None], positions, 0.0)
    moves = torch.where(visible[..., None], positions - source.start[:, None], 0.0)
    turned = turns(clean, visible, source)
    index = source.index[:, None].expand(visible.shape)

    def squares(where: Tensor) -> Tensor:
        """Of the distances (B, T, G, N) of visible tracks, positions (B, T, N, 2)."""
        square = (places**2).sum(-1)[:, None] + (where**2).sum(-1)[:, :, None] - 2 * places @ where.mT
        return torch.where(visible[:, :, None], square.clamp(min=0), FAR**2)

    def choose(square: Tensor) -> Chosen:
        distance, best = square.min(dim=-1)
        found = distance < FAR**2
        move = torch.where(found[..., None], _pick(moves, best), 0.0)
        turn = torch.where(found[..., None], _pick(turned, best), _unturned(move))
        picture = torch.where(found, _pick(index, best), static)
        return Chosen(move, _pick(clean, best), turn, picture, distance.sqrt(), best)

    square = squares(clean)
    near = choose(square)
    # "otherwise" means by more than a pixel: |m_n − m|² expanded, so that no (G, N, 2) tensor is made
    differ = (near.move**2).sum(-1, keepdim=True) + (moves**2).sum(-1)[:, :, None] - 2 * near.move @ moves.mT
    far = choose(torch.where(differ > 1, square, FAR**2))
    return Relations(near, far, choose(squares(source.start[:, None].expand_as(positions))))


def turns(positions: Tensor, visible: Tensor, source: CarrySource) -> Tensor:
    """How the content around each track has turned and grown since it began, told by the tracks that move along.

    A least-squares similarity around every track, fitted twice: tracks that contradict the first fit count less.

    Returns:
        (B, T, N, 2): real and imaginary part of the complex number by which an offset from the track now is multiplied
        to give the offset from its start in the source; (1, 0) for no turn.
    """
    start = torch.where(visible[..., None], source.start[:, None], 0.0)
    now, then = (x[:, :, None] - x[:, :, :, None] for x in (positions, start))  # [n, j] = x_j − x_n
    apart = then.norm(dim=-1)
    moving = (positions - start).norm(dim=-1) > 0.5
    same = source.index[:, None, :, None] == source.index[:, None, None]
    together = visible[..., None] & visible[:, :, None] & same & (moving[..., None] == moving[:, :, None])
    together &= ((now - then).norm(dim=-1) < STRAIN * apart + 1) & (apart < 2 * REACH)
    near = torch.exp(-2 * (apart / REACH) ** 2) * together
    turned = _fit(near, now, then)
    error = (_turn(now, turned[:, :, :, None]) - then).norm(dim=-1)
    return _fit(near / (1 + error**2), now, then)


def _fit(weight: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The complex factors (B, T, N, 2) that take offsets ``now`` (B, T, N, N, 2) to ``then``, drawn towards 1."""
    real = (weight * (then * now).sum(-1)).sum(-1)
    imaginary = (weight * (then[..., 1] * now[..., 0] - then[..., 0] * now[..., 1])).sum(-1)
    return torch.stack([real + STIFFNESS, imaginary], dim=-1) / (
        (weight * (now**2).sum(-1)).sum(-1) + STIFFNESS
    ).unsqueeze(-1)


def _turn(offset: Tensor, factor: Tensor) -> Tensor:
    """Complex products (…, 2)."""
    (x, y), (a, b) = offset.unbind(-1), factor.unbind(-1)
    return torch.stack([a * x - b * y, a * y + b * x], dim=-1)


def _unturned(like: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0], device=like.device).expand_as(like)


def warp_all(relations: Relations, source: CarrySource, *, grid: int) -> Tensor:
    """The three candidates (B, 3, 3, T, H, W): moved with the nearest track, with the other one, and static."""
    moved = [warp(source.pictures, sampling_points(c, source, grid=grid)) for c in (relations.near, relations.far)]
    return torch.stack([*moved, left_in_place(source.pictures, source.static)], dim=1)


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
    offset = _grid_places((height, width), grid, device) - chosen.position
    moved = (chosen.move + offset - _turn(offset, chosen.turned)).movedim(-1, 2).unflatten(3, cells).flatten(0, 1)
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
    """Motion (N, 2, h, w) of look-up places → of pixels: interpolated where neighbours move together. Where they do not
    (two grid steps apart, they differ by more than two), nothing moves halfway between two motions: a pixel has that of
    the four places around it which is nearest to the interpolated one, so that the edge is a line and not stairs."""
    height, width = moved.shape[-2:]
    factor = grid * scale
    most = F.max_pool2d(torch.cat([moved, -moved], dim=1), 3, stride=1, padding=1)
    parted = ((most[:, :2] + most[:, 2:]).amax(dim=1, keepdim=True) > 2 * grid).float()
    smooth = F.interpolate(moved, scale_factor=factor, mode="bilinear", align_corners=False)
    if moved.device.type == "cpu" and not parted.any():  # a GPU would have to be waited for
        return smooth
    around = F.interpolate(F.pad(moved, (1, 1, 1, 1), mode="replicate"), scale_factor=factor, mode="nearest")
    nearest, least = smooth, torch.full_like(smooth[:, :1], torch.inf)
    for down in (factor // 2, factor // 2 + factor):
        for right in (factor // 2, factor // 2 + factor):
            corner = around[:, :, down : down + height * factor, right : right + width * factor]
            apart = (corner - smooth).square().sum(dim=1, keepdim=True)
            nearest, least = torch.where(apart < least, corner, nearest), torch.minimum(apart, least)
    return torch.where(F.interpolate(parted, scale_factor=factor, mode="nearest") > 0, nearest, smooth)


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
