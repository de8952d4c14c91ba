"""Which track the content of a place follows (``relate``): what ``candidates.py`` then moves along with it.

Of every look-up place three are told: the *near*est visible track, the nearest that moves otherwise (*far*), and the
one that began nearest (*home*), which may have taken away what was here. Where it is known what tracks are on
(``things.py``), the masks tell first: a place that shows a thing follows that thing, whichever track is nearest, and
all of a thing moves by one smooth field (``thing_motion.py``). Legend: B batch, K sources, T frames, N tracks, G places
of the look-up grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.carry.thing_motion import source_places, squares

FAR = 1e6
TURN_REACH_PX = 24.0
"""Pixels within which tracks tell how the content around one of them turns and grows."""
TURN_STIFFNESS_PX2 = 20.0
"""Squared pixels of evidence for no turn at all: a track alone, or two close ones, just move what is there."""
AS_NEAR = 0.1
"""Pixels by which two things' tracks have to differ for the nearer one to count; else it is what was found later: one
point may be grasped twice."""
HAIR = 1e-3
"""Pixels by which what lies between two is nearer to one, that rounding may not decide."""
TURN_STRAIN = 0.6
"""Two tracks move together if their distance changes by less than this share of it, and a pixel."""


@dataclass(frozen=True)
class CarrySource:
    """Where content comes from.

    ``pictures`` (B, K, 3, H, W) in [−1, 1]; ``index`` (B, N) the picture each track begins in; ``start`` (B, N, 2)
    its place there in pixels; ``static`` (B, T) the picture that unspecified content is left in, frame by frame, and
    ``since`` (B, N, 2) the tracks' places in that one, which are their starts where it is not given.
    ``seen`` (B, K, C, h, w): what a pixel mixer's ``see`` makes of the pictures, where it is known already. ``fine``
    (B, K, 3, sH, sW): the same pictures s times as large, where they are to be carried, too. ``things``
    (B, K, M, H, W): masks of what tracks are on, and of which, ``thing`` (B, T, N), −1 where that is not known;
    ``healed``: the pictures without them, and ``fine_healed`` the fine ones. All or none, see ``things.py``.
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

    def map(self, change: Callable[[Tensor], Tensor]) -> CarrySource:
        """The same with all of its tensors changed."""
        return replace(self, **{name: change(x) for name, x in vars(self).items() if x is not None})

    def without_tracks(self) -> CarrySource:
        """The same pictures for no tracks at all."""
        thing = None if self.thing is None else self.thing[:, :, :0]
        since = None if self.since is None else self.since[:, :0]
        return replace(self, index=self.index[:, :0], start=self.start[:, :0], thing=thing, since=since)


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
    nearest (*home*), which may have taken away what was here, and has gone from there by its move."""

    near: Chosen
    far: Chosen
    home: Chosen


def grid_places(size: tuple[int, int], grid: int, device: torch.device) -> Tensor:
    """Centres (G, 2) of the look-up cells in pixels, x and y."""
    y = torch.arange(size[0] // grid, device=device) * grid + (grid - 1) / 2
    x = torch.arange(size[1] // grid, device=device) * grid + (grid - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def relate(positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int) -> Relations:
    """Choose the tracks of every look-up place; arguments as of ``carry``."""
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
        fields = [tracks.field(visible & on_it) for on_it in on]
        there = [places - field.move for field in fields]
        near = _claimed(near, fields, _owner(near, fields, source.things, source, there))
        left = [tracks.left(on_it) for on_it in on]
        wider = with_rims(source.things, 1 + grid // 2)  # in all of a look-up place, wherever its middle is
        home = _claimed(home, left, _owner(home, left, wider, source, [places] * len(left)))
        mine = thing_of(near, source)[..., None]
        otherwise = otherwise & ((source.thing[:, :, None] != mine) | (mine < 0))
    far = tracks.nearest(otherwise & tracks.differ(near))
    return Relations(near, _claimed(far, fields, thing_of(far, source)), home)


@dataclass(frozen=True)
class _TrackChoices:
    """What there is to choose from at the ``places`` (G, 2). Of every track: the picture's ``index`` (B, N) it began in
    and its ``start`` (B, N, 2) there; its ``position`` (B, T, N, 2), ``move`` since it began, and how it has
    ``turned``, where it is seen; ``gone``, its move since it was at its ``home`` (B, N, 2) in the static picture,
    wherever it is. ``static`` (B, T) as of the source."""

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
        """Of those that count, (B, T, N) or for every place (B, T, G, N), the nearest now, or in the static picture."""
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

    def field(self, on_it: Tensor) -> Chosen:
        """How all of a thing moves, told by the tracks (B, T, N) on it; as far as the nearest of them."""
        some, on_it, rows = self._some(on_it)
        near = some.nearest(on_it)
        there = source_places(some.places, some.position, some.start, on_it)
        move = torch.where((near.distance < FAR)[..., None], some.places - there, 0.0)
        return self._everywhere(move, near.picture, near.distance, _pick(rows, near.track))

    def left(self, on_it: Tensor) -> Chosen:
        """Where a thing was: a thing that is hidden, or has left the picture, is not there any more, either."""
        some, on_it, rows = self._some(on_it)
        home = some.nearest(on_it, then=True)
        move = torch.where((home.distance < FAR)[..., None], _pick(some.gone, home.track), 0.0)
        static = self.static[:, :, None].expand_as(home.picture)
        return self._everywhere(move, static, home.distance, _pick(rows, home.track))

    def _everywhere(self, move: Tensor, picture: Tensor, distance: Tensor, track: Tensor) -> Chosen:
        """What is known at every other place, at all of them."""
        smooth = _doubled(torch.cat([move, distance[..., None]], dim=-1), self.cells, "bilinear")
        picture, track = (
            _doubled(torch.stack([picture, track], dim=-1).float(), self.cells, "nearest").long().unbind(-1)
        )
        move, distance = smooth[..., :2], smooth[..., 2]
        distance = torch.where(distance < 0.9 * FAR, distance, FAR)  # nothing there is not to come nearer by rounding
        return Chosen(move, self.places.expand_as(move), _unturned(move), picture, distance, track)

    def differ(self, chosen: Chosen) -> Tensor:
        """Which tracks have moved otherwise than the chosen ones since the static picture, by more than a pixel:
        (B, T, G, N)."""
        return squares(_pick(self.gone, chosen.track), self.gone) > 1

    def _some(self, counts: Tensor) -> tuple[_TrackChoices, Tensor, Tensor]:
        """Only those that count (B, T, N) at any time, and a few more where clips have different numbers of them, at
        every other place: the tracks, which of them count, and their rows (B, T, n)."""
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
    """Masks (B, K, M, H, W), so many pixels wider: the rim of what has left is not left behind."""
    for _ in range(pixels):
        things = spread(things)
    return things


def spread(maps: Tensor) -> Tensor:
    """The largest number of every pixel (…, H, W) and those around it. (A pooling takes ten times as long.)"""
    maps = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
    maps = torch.maximum(torch.maximum(maps[..., :-2, :], maps[..., 1:-1, :]), maps[..., 2:, :])
    return torch.maximum(torch.maximum(maps[..., :-2], maps[..., 1:-1]), maps[..., 2:])


def _owner(plain: Chosen, things: list[Chosen], masks: Tensor, source: CarrySource, there: list[Tensor]) -> Tensor:
    """The thing (B, T, G) whose mask, (B, K, M, H, W), says that a place shows it, or where none does and the plain
    choice is on a thing, any. Of two the one whose track is nearer, or was found later. ``there``: where in its picture
    each thing had what it would show, (…, 2)."""
    on_a_thing = thing_of(plain, source) >= 0
    claimed = torch.full_like(plain.track, -1)
    nearest, first, second = claimed, torch.full_like(plain.distance, FAR), torch.full_like(plain.distance, FAR)
    for number, thing in enumerate(things):
        shown = _mask_at(masks[:, :, number], thing.picture, there[number].expand_as(thing.move))
        claimed, first = _nearer(claimed, first, number, thing, shown > 0.5)
        nearest, second = _nearer(nearest, second, number, thing, on_a_thing)
    return torch.where(claimed < 0, nearest, claimed)


def _nearer(owner: Tensor, best: Tensor, number: int, thing: Chosen, may: Tensor) -> tuple[Tensor, Tensor]:
    """The owner (B, T, G) and its ``best`` distance, with one more thing where it ``may``."""
    takes = may & (thing.distance < torch.where(best < FAR, best + AS_NEAR, FAR))
    return torch.where(takes, number, owner), torch.where(takes, thing.distance, best)


def _claimed(plain: Chosen, things: list[Chosen], owner: Tensor) -> Chosen:
    """Each place's choice among the things', or the plain one where the ``owner`` (B, T, G) is none of them."""
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
    """What the chosen tracks are on (B, T, G), −1 where that is not known or there is none."""
    if source.thing is None:
        return torch.full_like(chosen.track, -1)
    return torch.where(chosen.distance < FAR, source.thing.gather(2, chosen.track), -1)


def _mask_at(masks: Tensor, picture: Tensor, places: Tensor) -> Tensor:
    """Masks (B, K, H, W) at places (B, T, G, 2) of pictures (B, T, G): (B, T, G). Nothing is outside."""
    height, width = masks.shape[-2:]
    x, y = (places + 0.5 + HAIR).floor().long().unbind(-1)  # tracks often move by whole pixels, to a border
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows = torch.arange(len(masks), device=masks.device)[:, None, None]
    return torch.where(inside, masks[rows, picture, y.clamp(0, height - 1), x.clamp(0, width - 1)], 0.0)


def _every_other(places: Tensor, cells: tuple[int, int]) -> Tensor:
    """Of places (G, 2), rows and columns of ``cells``: the middles of four, (G/4, 2)."""
    return F.avg_pool2d(places.T.unflatten(1, cells)[None], 2)[0].flatten(1).T


def _doubled(values: Tensor, cells: tuple[int, int], mode: str) -> Tensor:
    """Values (B, T, G/4, C) of the middles of four → (B, T, G, C) of each."""
    maps = values.permute(0, 1, 3, 2).unflatten(3, (cells[0] // 2, cells[1] // 2)).flatten(0, 1)
    return F.interpolate(maps, scale_factor=2, mode=mode).flatten(2).mT.unflatten(0, values.shape[:2])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T, N, …) at index (B, T, G) → (B, T, G, …)."""
    shape = index.shape + values.shape[3:]
    return values.gather(2, index.reshape(index.shape + (1,) * (values.ndim - 3)).expand(shape))


def _nothing(static: Tensor) -> Chosen:
    """No track at all: the static picture (B, T, G)."""
    still = torch.zeros(*static.shape, 2, device=static.device)
    none = torch.full(static.shape, FAR, device=static.device)
    return Chosen(still, still, _unturned(still), static, none, torch.zeros_like(static))


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
    together &= ((now - then).norm(dim=-1) < TURN_STRAIN * apart + 1) & (apart < 2 * TURN_REACH_PX)
    near = torch.exp(-2 * (apart / TURN_REACH_PX) ** 2) * together
    turned = _fit(near, now, then)
    error = (turned_by(now, turned[:, :, :, None]) - then).norm(dim=-1)
    return _fit(near / (1 + error**2), now, then)


def _fit(weight: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The complex factors (B, T, N, 2) that take offsets ``now`` (B, T, N, N, 2) to ``then``, drawn towards 1."""
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
