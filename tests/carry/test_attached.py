"""A part that is dragged stays attached to the rest of its thing: what lies between stretches, the rest stays."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from motionstream.carry import things as module
from motionstream.carry.attached import MOST_ANCHORS, attach
from motionstream.carry.candidates import carry
from motionstream.carry.memory import CarryMemory
from motionstream.carry.moved import Moved
from motionstream.carry.relations import CarrySource, grid_places, relate
from motionstream.carry.thing_motion import Anchors, source_places
from motionstream.carry.things import with_things
from motionstream.tracks import Tracks

SIZE, MIDDLE = 96, 48
HEAD, NECK, BODY = slice(8, 28), slice(28, 68), slice(68, 92)  # rows
NONE = np.zeros((0, 2))
CASES = ("no network", "an edge all around", "not the same thing", "off it", "grasped where it would be held")
GRASP = np.array([(x, y) for x in (40, 48, 56) for y in (12, 18, 24)], np.float32)


def bird() -> np.ndarray:
    """Which pixels (H, W) show it: a head, a neck 12 pixels wide, and a body."""
    shape = np.zeros((SIZE, SIZE), bool)
    for rows, half in ((HEAD, 14), (NECK, 6), (BODY, 30)):
        shape[rows, MIDDLE - half : MIDDLE + half] = True
    return shape


def head() -> np.ndarray:
    shape = bird()
    shape[HEAD.stop :] = False
    return shape


def photograph() -> np.ndarray:
    """A white bird, darker further down, before a dark, noisy ground, uint8 (H, W, 3)."""
    picture = np.random.default_rng(0).integers(20, 60, (SIZE, SIZE, 3), np.uint8)
    shade = np.broadcast_to(240 - np.arange(SIZE)[:, None, None], picture.shape).astype(np.uint8)
    return np.where(bird()[..., None], shade, picture)


def all_of_it(picture, on, off):
    """Stands for the network: it knows the bird."""
    assert bird()[tuple(on.astype(int).T[::-1])].all()
    return bird().astype(np.float32)


def source(anchors: np.ndarray | None, whole: np.ndarray) -> CarrySource:
    picture = torch.from_numpy(photograph()).permute(2, 0, 1).float()[None, None] / 127.5 - 1
    places = None if anchors is None else torch.from_numpy(anchors)[None, None]
    return CarrySource(
        picture,
        torch.zeros(1, len(GRASP), dtype=torch.long),
        torch.from_numpy(GRASP)[None],
        torch.zeros(1, 2, dtype=torch.long),
        things=torch.from_numpy(whole).float()[None, None, None],
        thing=torch.zeros(1, 2, len(GRASP), dtype=torch.long),
        healed=picture,
        anchors=places,
    )


def dragged(shift: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames: at the start, and moved."""
    positions = torch.from_numpy(np.stack([GRASP, GRASP + np.float32(shift)]))[None]
    return positions, torch.ones(positions.shape[:3], dtype=torch.bool)


def test_a_head_is_attached_to_its_neck_and_to_nothing_else():
    whole, anchors = attach(photograph(), head(), GRASP, NONE, all_of_it)
    assert (whole & head()).sum() == head().sum() and not (whole & ~bird()).any()
    reaches = np.flatnonzero((whole & ~head())[:, MIDDLE])
    assert reaches[0] == HEAD.stop and HEAD.stop + 8 < reaches[-1] < NECK.stop
    assert (
        len(anchors) >= 2 and (anchors[:, 1] > HEAD.stop + 4).all() and bird()[tuple(anchors.astype(int).T[::-1])].all()
    )


@pytest.mark.parametrize("case", CASES)
def test_what_is_attached_to_nothing_is_as_it_was(case):
    picture, draw, asked = photograph(), all_of_it, []
    if case == "an edge all around":
        picture[HEAD.stop : HEAD.stop + 2] = 30
    if case == "not the same thing":
        draw = lambda picture, on, off: head().astype(np.float32)  # noqa: E731
    if case == "off it":
        draw = lambda picture, on, off: asked.append(off) or head().astype(np.float32)  # noqa: E731
    off = np.array([(MIDDLE, 80.0)]) if case == "off it" else NONE
    on = np.array([(MIDDLE, 40.0)]) if case == "grasped where it would be held" else GRASP
    whole, anchors = attach(picture, head(), on, off, None if case == "no network" else draw)
    assert np.array_equal(whole, head()) and anchors.shape == (0, 2)
    assert case != "off it" or asked == [off]


def test_where_the_thing_itself_ends_nothing_holds_it():
    """A tip that fades into the ground, beyond which the network sees nothing more of the thing."""
    picture = photograph()
    fades = np.linspace(0, 1, NECK.stop - HEAD.stop)[:, None, None]
    picture[NECK, MIDDLE - 6 : MIDDLE + 6] = 210 * (1 - fades) + 40 * fades
    picture[BODY] = 40
    short = bird()
    short[HEAD.stop + 12 :] = False
    whole, anchors = attach(picture, head(), GRASP, NONE, lambda picture, on, off: short.astype(np.float32))
    assert np.array_equal(whole, head()) and len(anchors) == 0


def test_the_neck_stretches_and_the_body_stays():
    """What is shown: the thing where its mask has gone, all else in place."""
    whole, anchors = attach(photograph(), head(), GRASP, NONE, all_of_it)
    shift = np.float32([16, -4])
    shown = Moved.found(0, torch.from_numpy(whole).float(), list(range(9)), GRASP, GRASP + shift, None, anchors).shown
    moved = carry(*dragged((16.0, -4.0)), source(anchors, whole)).candidates[0, 0, :, 1]
    assert (moved[:, shown > 0] > -0.2).float().mean() > 0.95  # no dark ground comes along, but at its rim
    after = (shown > 0).numpy() | (bird() & ~whole)
    assert cv2.connectedComponents(after.astype(np.uint8))[0] == 2  # nothing is torn
    assert after[8:20, 62:66].all() and not shown[int(anchors[:, 1].max()) + 2 :].any()


@pytest.mark.parametrize("count", [12, 2])
def test_anchors_move_with_the_view_but_not_with_strays_of_the_drag(count):
    whole, anchors = attach(photograph(), head(), GRASP, NONE, all_of_it)
    told, shift = source(anchors, whole), torch.tensor([3.0, 0.0])
    ground = torch.stack([torch.linspace(2.0, 92.0, count), torch.full((count,), 60.0)], dim=-1)[None]
    told = replace(
        told,
        start=torch.cat([told.start, ground], dim=1),
        index=torch.zeros(1, len(GRASP) + count, dtype=torch.long),
        thing=torch.cat([told.thing, torch.full((1, 2, count), -1)], dim=2),
    )
    positions = torch.cat([dragged((3.0, 0.0))[0], torch.stack([ground, ground + shift], dim=1)], dim=2)
    visible = torch.ones(positions.shape[:3], dtype=torch.bool)
    near = relate(positions, visible, told, grid=2).near
    at = (grid_places((SIZE, SIZE), 2, near.move.device) - torch.from_numpy(anchors[0])).norm(dim=-1).argmin()
    moved = near.move[0, 1, at, 0]
    assert moved > 2.9 if count == 12 else moved < 1.5


def test_a_thing_keeps_its_scale_between_its_tracks_and_its_anchors():
    then = torch.from_numpy(GRASP)[None]
    now = then[None] + torch.tensor([20.0, 0.0])
    rest = torch.tensor([[[42.0, 60.0], [48.0, 60.0], [54.0, 60.0]]])
    on_it, places = torch.ones(1, 1, len(GRASP), dtype=torch.bool), now[0, 0]
    holds = Anchors(rest, rest[None], torch.ones(1, 1, 3, dtype=torch.bool))
    there = source_places(places, now, then, on_it, holds)[0, 0]
    torch.testing.assert_close(there, then[0], atol=0.7, rtol=0)
    beside = places + torch.tensor([0.0, -8.0])  # above the head, without a track
    above = source_places(beside, now, then, on_it, holds)[0, 0]
    apart = (above[6] - above[0]).norm() / (beside[6] - beside[0]).norm()
    assert 0.9 < apart < 1.1
    none = Anchors(rest, rest[None], torch.zeros(1, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(
        source_places(places, now, then, on_it, none), source_places(places, now, then, on_it), atol=1e-4, rtol=0
    )


def test_an_anchor_lets_go_where_the_thing_is_grasped():
    """Whoever takes the neck where it is anchored takes all of it."""
    start, anchors = np.float32([(48, 50), (50, 52)]), np.float32([(47, 49)])
    mask, shift = torch.from_numpy(bird()).float(), np.float32([9, 0])
    bound = Moved.found(0, mask, [0, 1], start, start + shift, None, anchors)
    free = Moved.found(0, mask, [0, 1], start, start + shift, None)
    assert torch.equal(bound.shown, free.shown)
    far = Moved.found(0, mask, [0, 1], start, start + shift, None, np.float32([(47, 70)]))
    assert not torch.equal(far.shown, free.shown) and far.shown[70, MIDDLE - 6] > 0


def test_let_go_and_dragged_back_it_is_the_photograph_again(monkeypatch):
    monkeypatch.setattr(module, "mask_of", lambda *args: torch.from_numpy(head()).float())
    picture = torch.from_numpy(photograph()).permute(2, 0, 1).float()[None] / 127.5 - 1
    memory = CarryMemory(picture, see=lambda pictures: pictures[:, :, :, ::2, ::2], draw=all_of_it)

    def chunk(first: float, last: float, ids: range) -> torch.Tensor:
        """Three frames in which the head goes from one shift to another; returns the last one carried."""
        steps = [GRASP + np.float32([first + (last - first) * k / 2, 0]) for k in range(3)]
        tracks = Tracks(np.stack(steps), np.ones((3, 9), bool), (SIZE, SIZE), 24, ids=np.array(ids))
        told = memory.source(tracks, torch.device("cpu"))
        assert told.anchors is not None and torch.isfinite(told.anchors).all(dim=-1).any()
        shown = carry(torch.from_numpy(np.stack(steps))[None], torch.ones(1, 3, 9, dtype=torch.bool), told)
        memory.last = shown.candidates[:, 0, :, -1]
        return memory.last[0]

    away = (chunk(0, 14, range(9)) - picture[0]).abs()[:, bird()]
    back = (chunk(14, 0, range(9, 18)) - picture[0]).abs()[:, bird()]
    assert away.mean() > 0.1 and back.mean() < 4e-3


def test_whole_clips_have_room_for_anchors_so_that_they_can_be_joined(monkeypatch):
    monkeypatch.setattr(module, "mask_of", lambda *args: torch.from_numpy(head()).float())
    positions, visible = dragged((9.0, 0.0))
    plain = CarrySource(
        **{name: getattr(source(None, head()), name) for name in ("pictures", "index", "start", "static")}
    )
    held, free = (with_things(plain, positions, visible, [0], draw=draw) for draw in (all_of_it, None))
    assert held.anchors.shape == free.anchors.shape and torch.isfinite(held.anchors).any()
    assert not torch.isfinite(free.anchors).any()
    for told in (held, free):  # as a stream tells it, without the room
        own = torch.isfinite(told.anchors).all(dim=-1).any(dim=(0, 1))
        close = replace(told, anchors=told.anchors[:, :, own] if own.any() else None)
        near, exact = (relate(positions, visible, each, grid=2).near for each in (told, close))
        torch.testing.assert_close(near.move, exact.move, atol=1e-3, rtol=0)


def test_no_more_anchors_than_clips_have_room_for():
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    small = np.zeros((SIZE, SIZE), bool)
    small[40:56, 40:56] = True
    _, anchors = attach(picture, small, GRASP[:0], NONE, lambda picture, on, off: np.ones((SIZE, SIZE), np.float32))
    assert 8 < len(anchors) <= MOST_ANCHORS and np.ptp(anchors, axis=0).min() > 30
