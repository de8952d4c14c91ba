"""What tracks are on: those that move together, on a thing that is cut out of the picture, and kept in a stream."""

import numpy as np
import pytest
import torch

from motionstream.carry import things as module
from motionstream.carry.grouping import DENSE
from motionstream.carry.healing import heal
from motionstream.carry.memory import CarryMemory
from motionstream.carry.relations import CarrySource
from motionstream.carry.things import MOST_THINGS, mask_of, with_things
from motionstream.tracks import Tracks

SIZE = 96
SQUARES = ((16, 16), (56, 56))  # left, top, of 24 pixels each


NONE = np.zeros((0, 2), np.float32)


def squares() -> torch.Tensor:
    """A noisy ground with two squares, (3, H, W) in [−1, 1]."""
    picture = 0.1 * torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 0.5
    for number, (left, top) in enumerate(SQUARES):
        picture[number, top : top + 24, left : left + 24] += 1.0
    return picture


def square(number: int) -> torch.Tensor:
    left, top = SQUARES[number]
    mask = torch.zeros(SIZE, SIZE)
    mask[top : top + 24, left : left + 24] = 1
    return mask


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.minimum(one, other).sum() / torch.maximum(one, other).sum())


def points(number: int) -> np.ndarray:
    left, top = SQUARES[number]
    return np.array([(left + x, top + y) for x in (8, 16) for y in (8, 16)], np.float32)


def make_source(start: np.ndarray, sources: int = 1) -> CarrySource:
    pictures = squares()[None, None].repeat(1, sources, 1, 1, 1)
    index = torch.zeros(1, len(start), dtype=torch.long)
    return CarrySource(pictures, index, torch.from_numpy(start)[None], torch.zeros(1, 2, dtype=torch.long))


def chunk(start: np.ndarray, *moves: tuple[float, float], ids: list[int]) -> Tracks:
    """Two frames, at the start and moved, a move for each track."""
    positions = np.stack([start, start + np.array(moves, np.float32)])
    return Tracks(positions, np.ones(positions.shape[:2], bool), size=(SIZE, SIZE), fps=24, ids=np.array(ids))


@pytest.mark.parametrize("number", [0, 1])
def test_the_thing_under_the_middle_track_is_found(number):
    mask = mask_of(squares(), points(number), NONE)
    assert mask.shape == (SIZE, SIZE) and overlap(mask, square(number)) > 0.95
    assert torch.equal(mask, mask_of(squares(), points(number), NONE))


def test_a_track_outside_of_the_picture_is_on_something_at_its_border():
    assert mask_of(squares(), np.array([[-9.0, 300.0]]), NONE).any()


def test_what_other_tracks_are_on_is_not_of_the_thing():
    """A blot on a patch that is more like it than like the ground: only tracks that rest tell that they are two."""
    y, x = np.mgrid[:SIZE, :SIZE]
    blot, patch = (torch.from_numpy((np.hypot(x - 40, y - 48) < r).astype(np.float32)) for r in (11, 20))
    picture = 0.2 * torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 0.6
    picture[0], picture[1] = picture[0] + patch, picture[1] + 0.4 * blot
    on, off = np.array([(40.0, 48), (36, 44), (36, 52)]), np.array([(56.0, 48), (58, 40), (40, 62)])
    assert overlap(mask_of(picture, on, NONE), blot) < 0.5
    assert overlap(mask_of(picture, on, off), blot) > 0.95


def test_what_rests_on_a_thing_that_is_moved_holds_it(monkeypatch):
    monkeypatch.setattr(module, "mask_of", lambda *args: square(0))
    start = np.concatenate([points(0), points(1)[:1]])
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    go, rest = (5, 0), (0, 0)
    found = memory.source(chunk(start, go, rest, go, go, rest, ids=list(range(5))), torch.device("cpu"))
    assert found.thing is not None and found.thing[0, 0].tolist() == [0, 0, 0, 0, -1]


def test_each_clip_has_its_own_things():
    start = np.concatenate([points(0), points(1)])
    source = make_source(start)
    both = CarrySource(*(torch.cat([x, x]) for x in (source.pictures, source.index, source.start, source.static)))
    move = torch.zeros(2, 1, 8, 2)
    move[0, :, :4, 0] = 6  # of the first clip the first square, of the second both, and one point is hidden
    move[1, :, :4, 0], move[1, :, 4:, 1] = 6, -6
    visible = torch.ones(2, 1, 8, dtype=torch.bool)
    visible[1, :, 7] = False
    positions = (both.start[:, None] + move).masked_fill(~visible[..., None], torch.nan)
    found = with_things(both, positions, visible, [0])
    assert found.things is not None and found.thing is not None
    assert found.things.shape == (2, 1, MOST_THINGS, SIZE, SIZE)
    assert found.thing.tolist() == [[[0] * 4 + [-1] * 4], [[0] * 4 + [1] * 3 + [-1]]]
    assert overlap(found.things[1, 0, 1], square(1)) > 0.85 and not found.things[0, 0, 1].any()


def test_a_stream_finds_a_thing_once_and_forgets_it(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "mask_of", lambda *args: asked.append(args) or mask_of(*args))
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    start = np.concatenate([points(0), points(1)[:1]])
    ids, rest, go = [5, 6, 7, 8, 9], (0, 0), (4, 0)
    first = memory.source(chunk(start, *[rest] * 5, ids=ids), torch.device("cpu"))
    assert not asked and first.things is not None and first.thing is not None and (first.thing == -1).all()
    moved = memory.source(chunk(start, go, go, rest, rest, rest, ids=ids), torch.device("cpu"))
    assert len(asked) == 1 and moved.thing is not None and moved.thing.tolist() == [[[0, 0, -1, -1, -1]] * 2]
    later = memory.source(chunk(start, go, go, go, go, rest, ids=ids), torch.device("cpu"))
    assert len(asked) == 2, "those that come along are on the same thing, which is larger than was thought"
    again = memory.source(chunk(start, go, go, go, go, rest, ids=ids), torch.device("cpu"))
    assert len(asked) == 2 and again.things is not None and torch.equal(again.things, later.things)
    assert later.thing is not None and later.thing.tolist() == [[[0, 0, 0, 0, -1]] * 2]
    assert later.things is not None and overlap(later.things[0, 0, 0], square(0)) > 0.85
    less = memory.source(chunk(start[4:], (0, 5), ids=[9]), torch.device("cpu"))
    assert len(asked) == 3 and less.thing is not None and less.thing.tolist() == [[[0]] * 2]
    assert less.things is not None and less.things[0, :, 0].any() and not less.things[0, :, 1:].any()


def test_a_stream_and_a_clip_find_the_same_chunk_by_chunk():
    start = np.concatenate([points(0), points(1)])
    halves = [chunk(start, *[(5.0, 1.0)] * 4, *[(0.2, 0.0)] * 4, ids=list(range(8)))]
    halves.append(chunk(start, *[(9.0, 2.0)] * 4, *[(-4.0, 3.0)] * 4, ids=list(range(8))))
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    streamed = [memory.source(half, torch.device("cpu")) for half in halves]
    positions = torch.from_numpy(np.concatenate([half.positions for half in halves]))[None]
    whole = with_things(make_source(start), positions, torch.ones(1, 4, 8, dtype=torch.bool), [0, 2])
    assert whole.thing is not None and whole.things is not None
    assert torch.equal(torch.cat([each.thing for each in streamed], dim=1), whole.thing)
    assert whole.thing[0].tolist() == [[0] * 4 + [-1] * 4] * 2 + [[0] * 4 + [1] * 4] * 2
    assert streamed[1].things is not None and streamed[1].things.shape[2] == 2, "no more than there are"
    assert torch.equal(streamed[1].things, whole.things[:, :, :2]) and not whole.things[:, :, 2:].any()


def test_only_so_many_things_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "mask_of", lambda *args: square(0))
    start = np.array([(12 + 30 * (i % 3), 12 + 30 * (i // 3)) for i in range(MOST_THINGS + 2)], np.float32)
    moves = [(0.0, 3.0 + 12 * i) for i in range(len(start))]
    tracks = chunk(start, *moves, ids=list(range(len(start))))
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    found = memory.source(tracks, torch.device("cpu"))
    assert found.thing is not None and found.things is not None
    assert found.things.shape[2] == MOST_THINGS
    assert sorted(found.thing[0, 0].tolist()) == [-1, -1, *range(MOST_THINGS)]


def test_what_moves_with_the_camera_is_no_thing():
    start = np.stack(np.meshgrid(np.arange(4, SIZE, 12), np.arange(4, SIZE, 12)), -1).reshape(-1, 2).astype(np.float32)
    assert len(start) < DENSE
    tracks = chunk(start, *[(5.0, 0.0)] * len(start), ids=list(range(len(start))))
    found = with_things(
        make_source(start), torch.from_numpy(tracks.positions)[None], torch.ones(1, 2, len(start)) > 0, [0]
    )
    assert found.thing is not None and (found.thing == -1).all()


@pytest.mark.parametrize(("pin", "things"), [((90.0, 90.0), 1), ((45.0, 45.0), 0), (None, 0)])
def test_what_spans_much_of_the_picture_is_a_thing_if_a_pin_beside_it_rests(monkeypatch, pin, things):
    """A pin amid the others says nothing: where a camera aims, nothing moves either."""
    monkeypatch.setattr(module, "mask_of", lambda *args: square(0))
    start = np.array([(x, y) for x in range(10, 81, 14) for y in range(10, 67, 14)], np.float32)
    moves = [(5.0, 0.0)] * 30
    if pin is not None:
        start, moves = np.concatenate([start, np.float32([pin])]), [*moves, (0.0, 0.0)]
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    found = memory.source(chunk(start, *moves, ids=list(range(len(start)))), torch.device("cpu"))
    assert found.thing is not None and (found.thing[0, :, :30] == things - 1).all()
    assert (found.thing[0, :, 30:] == -1).all()


def test_parts_of_a_view_at_different_depths_are_no_things_and_what_parts_from_them_is():
    """The camera passes by: what is near moves twice as far. A drag against it is another matter."""
    start = np.stack(np.meshgrid(np.arange(4, SIZE, 12), np.arange(4, SIZE, 12)), -1).reshape(-1, 2).astype(np.float32)
    moves = [(5.0, 0.0) if y < SIZE / 2 else (8.0, 0.0) for _, y in start]
    both = np.concatenate([start, points(1)])
    for move, things in (((8.0, 0.0), 0), ((8.0, -12.0), 1)):
        tracks = chunk(both, *moves, *[move] * 4, ids=list(range(len(both))))
        positions = torch.from_numpy(tracks.positions)[None]
        found = with_things(make_source(both), positions, torch.ones(1, 2, len(both)) > 0, [0])
        assert found.thing is not None and (found.thing[:, :, : len(start)] == -1).all()
        assert (found.thing[:, :, len(start) :] == things - 1).all()


@pytest.mark.parametrize(("speed", "things"), [(0.0, 0), (1.5, 1)])
def test_what_has_come_into_a_moving_view_is_no_thing_but_a_drag_in_it_is(speed, things):
    """Tracks that begin in a later picture have gone less far than the view, whose camera nears: what counts is how
    they move now. ``speed``: of a drag, in pixels per frame, besides the view's."""
    grid = np.arange(4, SIZE, 12, dtype=np.float32)
    view, here = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2), points(1)
    middle, time = np.float32([SIZE / 2, SIZE / 2]), np.arange(4, dtype=np.float32)[:, None, None]
    before = middle + (view - middle) * np.float32(1.2)  # where the view's tracks are when the others begin
    nearer = 1 + 0.02 * time
    positions = np.concatenate([middle + (before - middle) * nearer, middle + (here - middle) * nearer], axis=1)
    positions[:, len(view) :, 1] -= speed * time[..., 0]
    start = np.concatenate([view, here])
    source = make_source(start, sources=2)
    source.index[0, len(view) :] = 1
    clips = [module.Things()]
    told = torch.from_numpy(positions)[None]
    inside = ((told > -0.5) & (told < SIZE - 0.5)).all(dim=-1)
    module.find(source, told, inside, clips, list(range(len(start))), [0, 1])
    assert len(clips[0].masks) == things
    assert all(clips[0].of(track) == -1 for track in range(len(view)))


def test_what_has_left_the_picture_is_no_thing_of_its_own():
    """A camera goes on over a wall; tracks at its edge are seen no more after the first half."""
    start = np.stack(np.meshgrid(np.arange(4, SIZE, 12), np.arange(4, SIZE, 12)), -1).reshape(-1, 2).astype(np.float32)
    positions = start + np.linspace(0, 12, 5, dtype=np.float32)[:, None, None] * np.float32([-1, 0])
    visible = positions[..., 0] >= 0
    assert not visible.all() and visible[1].all()
    found = with_things(make_source(start), torch.from_numpy(positions)[None], torch.from_numpy(visible)[None], [0])
    assert found.thing is not None and (found.thing == -1).all()
    released = np.broadcast_to(np.arange(5)[:, None] < 4, (5, 4))  # a flick, over before its chunk is
    positions = points(0) + np.linspace(0, 24, 5, dtype=np.float32)[:, None, None] * np.float32([1, 0])
    source = make_source(points(0))
    found = with_things(source, torch.from_numpy(positions)[None], torch.from_numpy(released.copy())[None], [0])
    assert found.thing is not None and (found.thing == 0).all(), "whose tracks were all seen last at once"


def test_tracks_that_part_are_on_two_things_and_each_is_cut_out_anew():
    start = np.array(
        [(28, 28), (36, 30), (56, 56), (62, 60)], np.float32
    )  # 34 pixels and more apart, through one between
    start = np.concatenate([start, [(46, 44)]]).astype(np.float32)
    together = chunk(start, *[(6.0, 6.0)] * 5, ids=list(range(5)))
    apart = chunk(start, *[(-20.0, 6.0)] * 2, *[(30.0, 6.0)] * 3, ids=list(range(5)))
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    first = memory.source(together, torch.device("cpu"))
    assert first.thing is not None and first.thing[0, 0].tolist() == [0] * 5
    second = memory.source(apart, torch.device("cpu"))
    assert second.thing is not None and second.thing[0, 0].tolist() == [1, 1, 0, 0, 0]
    assert second.things is not None and overlap(second.things[0, 0, 1], square(0)) > 0.85


def test_a_thing_that_turns_stays_one():
    start = np.concatenate([points(0), points(0) + np.float32([22, 0])])
    angle = np.exp(0.6j) * ((start - start.mean(0)) @ (1, 1j))
    turned = np.stack([angle.real, angle.imag], -1) + start.mean(0) - start
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    memory.source(chunk(start, *[(3.0, 3.0)] * 8, ids=list(range(8))), torch.device("cpu"))
    found = memory.source(chunk(start.astype(np.float32), *map(tuple, turned), ids=list(range(8))), torch.device("cpu"))
    assert found.thing is not None and (found.thing == 0).all()


def test_what_is_behind_a_thing_is_told_with_it_and_found_once(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "heal", lambda *args: asked.append(args) or heal(*args))
    start = np.concatenate([points(0), points(1)])
    memory = CarryMemory(squares()[None], see=lambda pictures: pictures[:, :, :, ::2, ::2])
    one = [(4.0, 0.0)] * 4 + [(0.0, 0.0)] * 4
    for _ in range(2):
        found = memory.source(chunk(start, *one, ids=list(range(8))), torch.device("cpu"))
    assert len(asked) == 1 and found.healed is not None
    left, top = SQUARES[0]
    inside = (slice(None), slice(top, top + 24), slice(left, left + 24))
    assert found.healed[0, 0][inside].max() < 0 < found.pictures[0, 0][inside].max()
    other = (slice(None), slice(SQUARES[1][1], SQUARES[1][1] + 24), slice(SQUARES[1][0], SQUARES[1][0] + 24))
    assert torch.equal(found.healed[0, 0][other], found.pictures[0, 0][other])
    found = memory.source(chunk(start, *[(4.0, 0.0)] * 4, *[(0.0, 5.0)] * 4, ids=list(range(8))), torch.device("cpu"))
    assert len(asked) == 2 and found.healed is not None and found.healed[0, 0][other].max() < 0


@pytest.mark.parametrize("seen", [True, False])
def test_whatever_is_grasped_goes_along_where_there_is_something_to_be_seen(seen):
    start = np.array([(40.0, 8.0), (24, 24), (24, 28)], np.float32)  # the first is on the ground
    picture = squares()
    if seen:
        picture[:, 3:13, 36:46:2] += 0.3
    mask = mask_of(picture, start, NONE)
    assert all(mask[int(y), int(x)] == 1 for x, y in start[1:]) and overlap(mask, square(0)) > 0.75
    assert (mask[8, 40] == mask[8 - 5, 40] == 1) if seen else not mask[:14, 44:].any()


def test_no_flat_ground_goes_along_with_the_tip_of_a_thing():
    """A mast in the sky, whose tip is of another colour: what is cut out around the others leaves it out."""
    sky = -0.6 + 0.002 * torch.arange(SIZE).float()[:, None].expand(3, SIZE, SIZE).clone()
    sky[0, 40:90, 46:51] = 0.9
    sky[2, 20:40, 46:51] = 0.9
    start = np.array([(48.0, 28.0), *((48.0, y) for y in (50, 58, 66, 74, 82))], np.float32)
    mask = mask_of(sky, start, NONE)
    assert mask[45:85, 46:51].min() == 1, "the mast"
    assert mask[24:33, 46:51].min() == 1, "its tip, where it was grasped"
    assert not mask[22:34, :44].any() and not mask[22:34, 53:].any(), "and no sky beside it"
