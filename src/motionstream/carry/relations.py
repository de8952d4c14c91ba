"""Chooses the tracks that the content of each place follows (``relate``), for ``candidates.py`` to warp.

Every look-up place gets three tracks: the nearest visible one (*near*), the nearest that moves differently (*far*), and
the one that began nearest (*home*), which may have taken away what was here. If the things under the tracks are known
(``things.py``), their masks take precedence: a place that shows a thing follows that thing, whichever track is nearest,
and all of a thing moves by one smooth field (``thing_motion.py``). Legend: B batch, K sources, T frames, N tracks,
G places of the look-up grid, M things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.attached import LETS_GO_PX
from motionstream.carry.thing_motion import Anchors, source_places, squares

FAR = 1e6  # distance in pixels that stands for "no track"
TURN_REACH_PX = 24.0
"""Distance in pixels at which the weight of a neighbouring track, from which rotation and scale are estimated, has
fallen to exp(−2)."""
TURN_STIFFNESS_PX2 = 20.0
"""Regularization towards no rotation and scale 1, in squared pixels: single tracks and close pairs only shift."""
AS_NEAR = 0.1
"""If two things' tracks are equally near within this many pixels, the thing found later wins: one point may be grasped
twice."""
HAIR = 1e-3
"""Offset in pixels that keeps rounding errors from deciding between two equally near pixels."""
TURN_STRAIN = 0.6
"""Two tracks move together if their offset changes by less than this share of their distance plus one pixel."""


@dataclass(frozen=True)
class CarrySource:
    """The pictures that content comes from, and the tracks' beginnings in them.

    ``pictures`` (B, K, 3, H, W) in [−1, 1]; ``index`` (B, N): the picture each track begins in; ``start`` (B, N, 2):
    its position there in pixels; ``static`` (B, T): the picture that content without a track is taken from, frame by
    frame; ``since`` (B, N, 2): the tracks' positions in the static picture, by default their starts. ``seen``
    (B, K, C, h, w): a pixel mixer's ``see`` of the pictures, if already computed. ``fine`` (B, K, 3, sH, sW): the same
    pictures s times as large, if these are to be carried too. ``things`` (B, K, M, H, W): masks of the things under
    the tracks; ``thing`` (B, T, N): each track's row among them, −1 if unknown; ``healed``: the pictures with the
    things removed, and ``fine_healed`` the same for the fine ones. All of the last four or none, see ``things.py``.
    ``held`` (B, K, H, W): which pixels show a thing that tracks hold or have held, None for nowhere. ``anchors``
    (B, M, A, 2): places at which things are attached to what rests, in the pictures they were cut out of, NaN where a
    thing has fewer; None if none has any (``attached.py``).
    """

    pictures: Tensor
    index: Tensor
    start: Tensor
    static: Tensor
    seen: Tensor | None = None
    fine: Tensor | None = None
    things: Tensor | None = None
    thing: Tensor | None = None
    healed: Tensor | None = None
    fine_healed: Tensor | None = None
    since: Tensor | None = None
    held: Tensor | None = None
    anchors: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> CarrySource:
        """Apply ``change`` to all tensors."""
        return replace(self, **{name: change(x) for name, x in vars(self).items() if x is not None})

    def without_tracks(self) -> CarrySource:
        """The same pictures with N = 0."""
        thing = None if self.thing is None else self.thing[:, :, :0]
        since = None if self.since is None else self.since[:, :0]
        return replace(self, index=self.index[:, :0], start=self.start[:, :0], thing=thing, since=since)


@dataclass(frozen=True)
class Chosen:
    """One track for every look-up place.

    ``move`` (B, T, G, 2): pixels since it began; ``position`` (B, T, G, 2) now; ``turned`` (B, T, G, 2): rotation and
    scale of the content around it, see ``turns``; ``picture`` (B, T, G) it began in; ``distance`` (B, T, G) from the
    place in pixels; ``track`` (B, T, G), its row. Without a track: distance at least ``FAR``, the static picture,
    unmoved, row 0.
    """

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
    """Features (…, 4) of a track at ``distance`` (…) that has moved by ``move`` (…, 2), in pixels: closeness at two
    scales, displacement."""
    near = torch.stack([torch.exp(-distance / 8), torch.exp(-distance / 32)], dim=-1)
    return torch.cat([near, move / 16], dim=-1)


@dataclass(frozen=True)
class Relations:
    """The tracks of every look-up place: the nearest (*near*), the nearest that moves differently (*far*), and the one
    that began nearest (*home*), whose move is measured from its position in the static picture."""

    near: Chosen
    far: Chosen
    home: Chosen


def grid_places(size: tuple[int, int], grid: int, device: torch.device) -> Tensor:
    """Centres (G, 2) of the look-up cells in pixels, x and y."""
    y = torch.arange(size[0] // grid, device=device) * grid + (grid - 1) / 2
    x = torch.arange(size[1] // grid, device=device) * grid + (grid - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def relate(positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int) -> Relations:
    """Choose the tracks of every look-up place; arguments as in ``candidates.carry``."""
    size = (source.pictures.shape[-2], source.pictures.shape[-1])
    places = grid_places(size, grid, positions.device)
    if positions.shape[2] == 0:
        none = _nothing(source.static[:, :, None].expand(*positions.shape[:2], len(places)))
        return Relations(none, none, none)
    tracks = _TrackChoices.of(positions, visible, source, places, (size[0] // grid, size[1] // grid))
    near, home = tracks.nearest(visible), tracks.nearest(visible, then=True)
    otherwise, fields = visible[:, :, None], list[Chosen]()
    if source.things is not None and source.thing is not None:
        on = [source.thing == number for number in range(int(source.thing.max()) + 1)]
        loose = visible & (source.thing < 0)
        anchors = [tracks.anchors(source.anchors, number, on_it, loose) for number, on_it in enumerate(on)]
        fields = [tracks.field(visible & on_it, each) for on_it, each in zip(on, anchors, strict=True)]
        there = [places - field.move for field in fields]
        near = _claimed(near, fields, _owner(near, fields, source.things, source, there))
        left = [tracks.left(on_it, each) for on_it, each in zip(on, anchors, strict=True)]
        wider = with_rims(source.things, 1 + grid // 2)  # to claim every look-up place that the mask overlaps
        home = _claimed(home, left, _owner(home, left, wider, source, [places] * len(left)))
        mine = thing_of(near, source)[..., None]
        otherwise = otherwise & ((source.thing[:, :, None] != mine) | (mine < 0))
    far = tracks.nearest(otherwise & tracks.differ(near))
    return Relations(near, _claimed(far, fields, thing_of(far, source)), home)


@dataclass(frozen=True)
class _TrackChoices:
    """The tracks to choose from at the ``places`` (G, 2), in ``cells`` rows and columns.

    For each track: ``index`` (B, N) of the picture it began in and its ``start`` (B, N, 2) there; ``position``
    (B, T, N, 2), ``move`` since it began and ``turned`` (see ``turns``), valid while visible; ``gone`` (B, T, N, 2),
    its move from its ``home`` (B, N, 2) in the static picture, visible or not. ``static`` (B, T): see ``CarrySource``.
    """

    places: Tensor
    cells: tuple[int, int]
    static: Tensor
    index: Tensor
    start: Tensor
    home: Tensor
    position: Tensor
    move: Tensor
    turned: Tensor
    gone: Tensor

    @classmethod
    def of(
        cls, positions: Tensor, visible: Tensor, source: CarrySource, places: Tensor, cells: tuple[int, int]
    ) -> _TrackChoices:
        home = source.start if source.since is None else source.since
        gone = positions - home[:, None]
        gone = torch.where(gone.isnan(), float(source.pictures.shape[-1]), gone)
        move = positions - source.start[:, None]
        position, move = (torch.where(visible[..., None], x, 0.0) for x in (positions, move))
        turned = turns(position, visible, source)
        return cls(places, cells, source.static, source.index, source.start, home, position, move, turned, gone)

    def nearest(self, counts: Tensor, *, then: bool = False) -> Chosen:
        """The nearest of the tracks that count, (B, T, N) or per place (B, T, G, N): by their position now, or with
        ``then`` by their home in the static picture."""
        where = self.home[:, None].expand_as(self.position) if then else self.position
        if counts.ndim == 4:
            square = torch.where(counts, squares(self.places, where), FAR**2)
        else:
            square = squares(self.places, where, torch.where(counts, 0.0, FAR**2))
        least, best = square.min(dim=-1)
        distance = least.clamp(min=0)
        found = distance < FAR**2
        move = torch.where(found[..., None], _pick(self.gone if then else self.move, best), 0.0)
        turned = torch.where(found[..., None], _pick(self.turned, best), _unturned(move))
        index = self.index[:, None].expand(self.position.shape[:3])
        picture = torch.where(found, _pick(index, best), self.static[:, :, None])
        return Chosen(move, _pick(self.position, best), turned, picture, distance.sqrt(), best)

    def anchors(self, all_of_them: Tensor | None, number: int, on_it: Tensor, loose: Tensor) -> Anchors | None:
        """One thing's anchors, given all things' (B, M, A, 2), the tracks on it (B, T, N) and those on no thing. Where
        these are the more they are a view's, and the anchors follow the nearest; a few may be strays of the drag."""
        if all_of_them is None or number >= all_of_them.shape[1]:
            return None
        start = all_of_them[:, number]
        known = start.isfinite().all(dim=-1)
        start = torch.where(known[..., None], start, 0.0)
        grasped = torch.where(on_it.any(dim=1)[:, None], squares(start[:, None], self.start[:, None])[:, 0], FAR**2)
        known = known & (grasped.amin(dim=-1) > LETS_GO_PX**2)
        places = start[:, None].expand(-1, self.position.shape[1], -1, -1)
        apart = squares(places, self.home[:, None].expand_as(self.position), torch.where(loose, 0.0, FAR**2))
        least, nearest = apart.min(dim=-1)
        view = loose.sum(dim=-1, keepdim=True) > on_it.sum(dim=-1, keepdim=True)
        moved = torch.where((view & (least < FAR**2))[..., None], _pick(self.gone, nearest), 0.0)
        return Anchors(start, places + moved, known[:, None] & on_it.any(dim=-1, keepdim=True))

    def field(self, on_it: Tensor, anchors: Anchors | None) -> Chosen:
        """The motion of a whole thing from the tracks on it (B, T, N) and its anchors; its distance is that of the
        nearest of the tracks."""
        some, on_it, rows = self._some(on_it)
        near = some.nearest(on_it)
        there = source_places(some.places, some.position, some.start, on_it, anchors)
        move = torch.where((near.distance < FAR)[..., None], some.places - there, 0.0)
        return self._everywhere(move, near.picture, near.distance, _pick(rows, near.track))

    def left(self, on_it: Tensor, anchors: Anchors | None) -> Chosen:
        """The motion of a thing away from its place in the static picture. Tracks count whether visible or not: a
        thing that is hidden or has left the picture is gone from there, too. Nothing has left where an anchor is
        nearer than the tracks."""
        some, on_it, rows = self._some(on_it)
        home = some.nearest(on_it, then=True)
        move = torch.where((home.distance < FAR)[..., None], _pick(some.gone, home.track), 0.0)
        if anchors is not None:
            where = anchors.then[:, None].expand_as(anchors.now)
            still = squares(some.places, where, torch.where(anchors.hold, 0.0, FAR**2)).amin(dim=-1)
            move = torch.where((still < home.distance**2)[..., None], 0.0, move)
        static = self.static[:, :, None].expand_as(home.picture)
        return self._everywhere(move, static, home.distance, _pick(rows, home.track))

    def _everywhere(self, move: Tensor, picture: Tensor, distance: Tensor, track: Tensor) -> Chosen:
        """Values at every other place → a choice at all places."""
        smooth = _doubled(torch.cat([move, distance[..., None]], dim=-1), self.cells, "bilinear")
        picture, track = (
            _doubled(torch.stack([picture, track], dim=-1).float(), self.cells, "nearest").long().unbind(-1)
        )
        move, distance = smooth[..., :2], smooth[..., 2]
        distance = torch.where(distance < 0.9 * FAR, distance, FAR)  # rounding must not turn "no track" into one
        return Chosen(move, self.places.expand_as(move), _unturned(move), picture, distance, track)

    def differ(self, chosen: Chosen) -> Tensor:
        """Which tracks' moves since the static picture differ from the chosen ones' by more than a pixel:
        (B, T, G, N)."""
        return squares(_pick(self.gone, chosen.track), self.gone) > 1

    def _some(self, counts: Tensor) -> tuple[_TrackChoices, Tensor, Tensor]:
        """The tracks that count (B, T, N) in any frame, padded with others where clips have fewer, to be chosen from at
        every other place: these tracks, which of them count and their rows, both (B, T, n)."""
        ever = counts.any(dim=1)
        rows = ever.int().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(ever.sum(dim=1).max()))]
        timed = rows[:, None].expand(-1, counts.shape[1], -1)
        some = replace(
            self,
            places=_every_other(self.places, self.cells),
            index=self.index.gather(1, rows),
            start=self.start.gather(1, rows[..., None].expand(-1, -1, 2)),
            home=self.home.gather(1, rows[..., None].expand(-1, -1, 2)),
            position=_pick(self.position, timed),
            move=_pick(self.move, timed),
            turned=_pick(self.turned, timed),
            gone=_pick(self.gone, timed),
        )
        return some, counts.gather(2, timed), timed


def with_rims(things: Tensor, pixels: int = 1) -> Tensor:
    """Dilate masks (B, K, M, H, W) by so many pixels, so that the rim of a thing does not stay behind."""
    for _ in range(pixels):
        things = spread(things)
    return things


def spread(maps: Tensor) -> Tensor:
    """Maximum over 3×3 pixels of maps (…, H, W); ten times as fast as max pooling."""
    maps = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    maps = torch.maximum(torch.maximum(maps[..., :-2, :], maps[..., 1:-1, :]), maps[..., 2:, :])
    return torch.maximum(torch.maximum(maps[..., :-2], maps[..., 1:-1]), maps[..., 2:])


def _owner(plain: Chosen, things: list[Chosen], masks: Tensor, source: CarrySource, there: list[Tensor]) -> Tensor:
    """The thing (B, T, G) that owns each place, or −1: the one whose mask (B, K, M, H, W) covers the place, or, if none
    does but the plain choice is on a thing, the nearest one. Of two things the one with the nearer track wins, at equal
    distance the one found later. ``there``: every place mapped to each thing's picture, (…, 2)."""
    on_a_thing = thing_of(plain, source) >= 0
    claimed = torch.full_like(plain.track, -1)
    nearest, first, second = claimed, torch.full_like(plain.distance, FAR), torch.full_like(plain.distance, FAR)
    for number, thing in enumerate(things):
        shown = _mask_at(masks[:, :, number], thing.picture, there[number].expand_as(thing.move))
        claimed, first = _nearer(claimed, first, number, thing, shown > 0.5)
        nearest, second = _nearer(nearest, second, number, thing, on_a_thing)
    return torch.where(claimed < 0, nearest, claimed)


def _nearer(owner: Tensor, best: Tensor, number: int, thing: Chosen, may: Tensor) -> tuple[Tensor, Tensor]:
    """Update the owner (B, T, G) and its ``best`` distance by one more thing, where it ``may`` own the place."""
    takes = may & (thing.distance < torch.where(best < FAR, best + AS_NEAR, FAR))
    return torch.where(takes, number, owner), torch.where(takes, thing.distance, best)


def _claimed(plain: Chosen, things: list[Chosen], owner: Tensor) -> Chosen:
    """Each place's choice: that of the thing that is its ``owner`` (B, T, G), else the plain one."""
    for number, thing in enumerate(things):
        mine = owner == number
        plain = Chosen(
            **{
                name: torch.where(mine[..., None] if value.ndim == 4 else mine, getattr(thing, name), value)
                for name, value in vars(plain).items()
            }
        )
    return plain


def thing_of(chosen: Chosen, source: CarrySource) -> Tensor:
    """The thing (B, T, G) under each chosen track, −1 if unknown or without a track."""
    if source.thing is None:
        return torch.full_like(chosen.track, -1)
    return torch.where(chosen.distance < FAR, source.thing.gather(2, chosen.track), -1)


def _mask_at(masks: Tensor, picture: Tensor, places: Tensor) -> Tensor:
    """Values (B, T, G) of masks (B, K, H, W) at places (B, T, G, 2) of pictures (B, T, G); 0 outside."""
    height, width = masks.shape[-2:]
    x, y = (places + 0.5 + HAIR).floor().long().unbind(-1)  # whole-pixel moves often end on a border between pixels
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows = torch.arange(len(masks), device=masks.device)[:, None, None]
    return torch.where(inside, masks[rows, picture, y.clamp(0, height - 1), x.clamp(0, width - 1)], 0.0)


def _every_other(places: Tensor, cells: tuple[int, int]) -> Tensor:
    """Centres (G/4, 2) of each 2×2 places of a grid (G, 2) with ``cells`` rows and columns."""
    return F.avg_pool2d(places.T.unflatten(1, cells)[None], 2)[0].flatten(1).T


def _doubled(values: Tensor, cells: tuple[int, int], mode: str) -> Tensor:
    """Upsample values (B, T, G/4, C), one per 2×2 places, to (B, T, G, C)."""
    maps = values.permute(0, 1, 3, 2).unflatten(3, (cells[0] // 2, cells[1] // 2)).flatten(0, 1)
    return F.interpolate(maps, scale_factor=2, mode=mode).flatten(2).mT.unflatten(0, values.shape[:2])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T, N, …) at index (B, T, G) → (B, T, G, …)."""
    shape = index.shape + values.shape[3:]
    return values.gather(2, index.reshape(index.shape + (1,) * (values.ndim - 3)).expand(shape))


def _nothing(static: Tensor) -> Chosen:
    """The choice without any track: the static picture (B, T, G)."""
    still = torch.zeros(*static.shape, 2, device=static.device)
    none = torch.full(static.shape, FAR, device=static.device)
    return Chosen(still, still, _unturned(still), static, none, torch.zeros_like(static))


def turns(positions: Tensor, visible: Tensor, source: CarrySource) -> Tensor:
    """Rotation and scale of the content around each track since it began, from the neighbours that move with it.

    A least-squares similarity around every track, fitted twice: tracks that contradict the first fit weigh less.

    Returns:
        (B, T, N, 2): real and imaginary part of the complex number by which an offset from the track now is multiplied
        to give the offset from its start in the source; (1, 0) for no change.
    """
    start = torch.where(visible[..., None], source.start[:, None], 0.0)
    now, then = (x[:, :, None] - x[:, :, :, None] for x in (positions, start))  # [n, j] = x_j − x_n
    apart = then.norm(dim=-1)
    moving = (positions - start).norm(dim=-1) > 0.5
    same = source.index[:, None, :, None] == source.index[:, None, None]
    together = visible[..., None] & visible[:, :, None] & same & (moving[..., None] == moving[:, :, None])
    together &= ((now - then).norm(dim=-1) < TURN_STRAIN * apart + 1) & (apart < 2 * TURN_REACH_PX)
    near = torch.exp(-2 * (apart / TURN_REACH_PX) ** 2) * together
    turned = _fit(near, now, then)
    error = (turned_by(now, turned[:, :, :, None]) - then).norm(dim=-1)
    return _fit(near / (1 + error**2), now, then)


def _fit(weight: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The complex factors (B, T, N, 2) that map offsets ``now`` (B, T, N, N, 2) to ``then``, regularized towards 1."""
    real = (weight * (then * now).sum(-1)).sum(-1)
    imaginary = (weight * (then[..., 1] * now[..., 0] - then[..., 0] * now[..., 1])).sum(-1)
    return torch.stack([real + TURN_STIFFNESS_PX2, imaginary], dim=-1) / (
        (weight * (now**2).sum(-1)).sum(-1) + TURN_STIFFNESS_PX2
    ).unsqueeze(-1)


def turned_by(offset: Tensor, factor: Tensor) -> Tensor:
    """Complex products (…, 2)."""
    (x, y), (a, b) = offset.unbind(-1), factor.unbind(-1)
    return torch.stack([a * x - b * y, a * y + b * x], dim=-1)


def _unturned(like: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0], device=like.device).expand_as(like)
