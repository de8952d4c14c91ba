"""What has been moved: let go, it stays; taken up anew, it is what it was; what nobody touched does not wear."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from motionstream.carry import things as module
from motionstream.carry.candidates import carry
from motionstream.carry.memory import CarryMemory
from motionstream.carry.moved import Moved, uncovered, whose
from motionstream.carry.relations import relate
from motionstream.metrics import psnr
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import LiveTracks, Tracks

SIZE, SIDE, LEFT, TOP = 96, 24, 16, 40
PIN = (80.0, 80.0)
GRASP = np.array([(LEFT + x, TOP + y) for x in (6, 12, 18) for y in (6, 12, 18)], np.float32)
CPU = torch.device("cpu")


def ground() -> torch.Tensor:
    return 0.3 * torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 0.6


def square(dx: int = 0) -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE)
    mask[TOP : TOP + SIDE, LEFT + dx : LEFT + dx + SIDE] = 1
    return mask


def picture(dx: int = 0) -> torch.Tensor:
    """The square ``dx`` pixels from its place."""
    return torch.where(square(dx) > 0, 0.7, ground())


def chunk(*groups: tuple[np.ndarray, float, float, list[int]]) -> Tracks:
    """Three frames; each group of tracks goes from one shift to another, with these ids. And a pin, 99."""
    parts = [
        np.stack([start + np.float32([first + (last - first) * k / 2, 0]) for k in range(3)])
        for start, first, last, _ in groups
    ]
    positions = np.concatenate([*parts, np.broadcast_to(np.float32(PIN), (3, 1, 2))], axis=1)
    ids = [*(number for *_, numbers in groups for number in numbers), 99]
    outside = (positions < 0).any(-1) | (positions >= SIZE).any(-1)
    return Tracks(positions, ~outside, (SIZE, SIZE), 24, ids=np.array(ids))


@pytest.fixture
def memory(monkeypatch):
    """Of which the square has been dragged by 30 pixels; what is asked for masks and fillings is counted."""
    asked = []
    monkeypatch.setattr(module, "mask_of", lambda *args: asked.append("mask") or square())
    monkeypatch.setattr(module, "heal", lambda pictures, mask: asked.append("heal") or [ground()[0] for _ in pictures])
    made = CarryMemory(picture(), see=lambda pictures: pictures[:, :, :, ::2, ::2])
    made.source(chunk((GRASP, 0, 30, list(range(9)))), CPU)
    made.last = picture(30)
    made.asked = asked
    return made


def test_what_is_let_go_is_not_shown_at_home_by_a_pin(memory):
    rests = memory.source(chunk(), CPU)
    assert rests.pictures.shape[1] == 1 and torch.equal(rests.pictures[0], picture(30))
    assert rests.index.tolist() == [[0]] and rests.start[0].tolist() == [list(PIN)]


def test_what_is_held_or_let_go_is_known_in_every_picture(memory):
    holding = memory.source(chunk((GRASP, 30, 30, list(range(9)))), CPU)
    assert torch.equal(holding.held[0, holding.index[0, 0]], square())
    left = memory.source(chunk(), CPU)
    assert left.held.shape[1] == 1 and torch.equal(left.held[0, 0], square(30))
    again = memory.source(chunk((GRASP + np.float32([30, 0]), 0, -30, list(range(20, 29)))), CPU)
    assert torch.equal(again.held[0, again.index[0, 0]], square())
    assert torch.equal(again.held[0, again.static[0, 0]], square(30))


def test_what_is_taken_up_where_it_was_left_is_what_it_was(memory):
    memory.source(chunk(), CPU)
    again = memory.source(chunk((GRASP + np.float32([30, 0]), 0, -30, list(range(20, 29)))), CPU)
    own = again.index[0, 0]
    assert torch.equal(again.pictures[0, own], picture()[0]) and not again.static.eq(own).any()
    np.testing.assert_allclose(again.start[0, :9].numpy(), GRASP, atol=0.05)
    np.testing.assert_allclose(again.since[0, :9].numpy(), GRASP + np.float32([30, 0]), atol=1e-4)
    assert again.thing[0, 0].tolist() == [0] * 9 + [-1] and memory.asked == ["mask", "heal"], "nothing is cut out anew"
    static = int(again.static[0, 0])
    assert torch.equal(again.things[0, own, 0], square()) and torch.equal(again.things[0, static, 0], square(30))
    assert torch.equal(again.healed[0, static], ground()[0]), "what was behind it is known"
    # at home it has moved all the same, away from where the static picture has it
    tracks = chunk((GRASP + np.float32([30, 0]), 0, -30, list(range(20, 29))))
    where, visible = torch.from_numpy(tracks.positions.copy())[None], torch.from_numpy(tracks.visible.copy())[None]
    relations = relate(where, visible, again, grid=2)
    beside_the_pin = (80 // 2) * (SIZE // 2) + 80 // 2
    assert relations.near.track[0, -1, beside_the_pin] == 9 and relations.far.track[0, -1, beside_the_pin] < 9
    assert relations.far.distance[0, -1, beside_the_pin] < SIZE and relations.near.move[0, -1].abs().max() < 0.1
    memory.last = picture()
    for _ in range(20):  # for ever: nothing piles up
        memory.source(chunk((GRASP, 0, 30, list(range(30, 39)))), CPU)
        memory.last = picture(30)
        memory.source(chunk(), CPU)
        again = memory.source(chunk((GRASP + np.float32([30, 0]), 0, -30, list(range(40, 49)))), CPU)
        memory.last = picture()
        memory.source(chunk(), CPU)
    assert again.pictures.shape[1] == 2 and torch.equal(again.pictures[0, again.index[0, 0]], picture()[0])
    assert memory.asked == ["mask", "heal"]


def test_what_nobody_has_touched_does_not_wear(memory):
    memory.last = picture(30) + 0.02 * torch.randn(1, 3, SIZE, SIZE)
    rests = memory.source(chunk(), CPU)
    far = F.max_pool2d(square(30)[None], 5, 1, 2)[0] == 0
    assert torch.equal(rests.pictures[0, 0][:, far], ground()[0][:, far])
    assert torch.equal(rests.pictures[0, 0][:, square(30) > 0], memory.last[0][:, square(30) > 0])


def test_a_thing_that_is_held_is_known_in_the_picture_that_shows_it(memory):
    """Another one begins elsewhere, and it goes on: it is not left behind."""
    other = GRASP[:1] + np.float32([60, 36])
    both = memory.source(chunk((GRASP, 30, 36, list(range(9))), (other, 0, 0, [50])), CPU)
    static, own = int(both.static[0, 0]), int(both.index[0, 0])
    assert own != static and both.index[0, 9:].tolist() == [static, static]
    assert torch.equal(both.things[0, static, 0], square(30)) and torch.equal(both.healed[0, static], ground()[0])
    np.testing.assert_allclose(both.start[0, :9].numpy(), GRASP)


def wall() -> tuple[np.ndarray, list[int]]:
    """Points everywhere but on the square where it was left."""
    places = np.stack(np.meshgrid(np.arange(4, 90, 12), np.arange(4, 90, 12)), -1).reshape(-1, 2).astype(np.float32)
    places = places[[square(30)[int(y), int(x)] == 0 for x, y in places]]
    return places, list(range(200, 200 + len(places)))


def test_points_of_a_moving_view_come_and_go_and_the_others_go_on(memory):
    memory.source(chunk(), CPU)
    points, ids = wall()
    memory.source(chunk((points, 0, 6, ids)), CPU)
    memory.last = picture(36)
    fewer = memory.source(chunk((points[3:], 6, 9, ids[3:])), CPU)
    own, static = int(fewer.index[0, 0]), int(fewer.static[0, 0])
    assert own != static and torch.equal(fewer.pictures[0, own], picture(30)[0]), "nothing is carried twice for it"
    np.testing.assert_allclose(fewer.start[0, :8].numpy(), points[3:11])
    assert torch.equal(fewer.pictures[0, static], picture(36)[0])


def test_a_view_that_moves_by_less_than_counts_moves_all_the_same(memory):
    """Its points come and go, while something is held: a picture is made in every chunk."""
    points, ids = wall()
    memory.last = picture(30)
    for step in range(3):
        view = points[step:], 0.3 * step, 0.3 * step + 0.3, ids[step:]
        source = memory.source(chunk((GRASP, 30, 30, list(range(9))), view), CPU)
    assert torch.equal(source.pictures[0, source.index[0, 9]], picture(30)[0])
    np.testing.assert_allclose(source.start[0, 9:-1].numpy(), points[2:], atol=1e-5)


def test_where_something_is_let_go_before_a_moving_camera_everything_begins_anew(memory):
    """It is not known any more what is behind things, nor where other things are."""
    memory.source(chunk(), CPU)
    points, ids = wall()
    drag = np.float32([(80, 20), (84, 20), (80, 24), (84, 24)])
    memory.source(chunk((points, 0, 6, ids), (drag, 0, -20, [1, 2, 3, 4])), CPU)
    memory.last = picture(36)
    later = memory.source(chunk((points, 6, 9, ids)), CPU)
    assert later.pictures.shape[1] == 1 and torch.equal(later.pictures[0, 0], picture(36)[0])
    np.testing.assert_allclose(later.start[0, :8].numpy(), points[:8] + np.float32([6, 0]))
    memory.source(chunk((points, 9, 9, ids), (GRASP, 36, 40, list(range(9)))), CPU)
    assert memory.asked.count("mask") == 3, "the square is another thing"


def test_a_thing_found_before_a_moving_camera_is_known_in_the_views_own_picture(monkeypatch):
    """It is grasped in a later frame; the view goes on from the given picture, and does not show it where it was."""
    monkeypatch.setattr(module, "mask_of", lambda *args: square(6))
    monkeypatch.setattr(module, "heal", lambda pictures, mask: [torch.where(mask > 0, -1.0, x) for x in pictures])
    made = CarryMemory(picture(), see=lambda pictures: pictures[:, :, :, ::2, ::2])
    points, ids = wall()
    made.source(chunk((points, 0, 6, ids)), CPU)
    made.last = picture(6)
    grasp, numbers = GRASP + np.float32([6, 0]), list(range(9))
    made.source(chunk((points, 6, 6, ids), (grasp, 0, 0, numbers)), CPU)
    tracks = chunk((points, 6, 9, ids), (grasp, 0, 30, numbers))
    source = made.source(tracks, CPU)
    own, view = int(source.index[0, -2]), int(source.index[0, 0])
    assert own == int(source.static[0, 0]) and view != own and torch.equal(source.pictures[0, view], picture()[0])
    assert torch.equal(source.things[0, own, 0], square(6)) and torch.equal(source.things[0, view, 0], square())
    visible = torch.from_numpy(tracks.visible.copy())[None]
    moved = carry(torch.from_numpy(tracks.positions.copy())[None], visible, source).candidates[0, 0, :, -1]
    home = (slice(None), slice(TOP + 4, TOP + SIDE - 4), slice(LEFT + 9 + 4, LEFT + 9 + 10))
    assert (moved[home] == -1).all() and (moved[:, TOP + 12, LEFT + 36 + 12] > 0.5).all()


def test_what_comes_into_the_picture_is_of_its_thing(monkeypatch):
    monkeypatch.setattr(module, "mask_of", lambda *args: square())
    memory = CarryMemory(picture(), see=lambda pictures: pictures[:, :, :, ::2, ::2])
    ids = list(range(9))
    memory.source(chunk((GRASP, 0, 66, ids)), CPU)  # its right side is outside
    memory.last = picture(66)
    memory.source(chunk(), CPU)
    gone = GRASP + np.float32([66, 0])
    assert not chunk((gone, 0, 0, ids)).visible.all()
    memory.source(chunk((gone, 0, -6, [number + 20 for number in ids])), CPU)
    memory.last = picture(60)
    back = memory.source(chunk((gone, -6, -30, [number + 20 for number in ids])), CPU)
    assert back.index[0, :9].unique().tolist() == [int(back.index[0, 0])] and (back.thing[0, 0, :9] == 0).all()
    np.testing.assert_allclose(back.start[0, :9].numpy(), GRASP, atol=0.5)


def test_whose_a_grasp_is():
    def thing(dx: int) -> Moved:
        where = GRASP + np.float32([dx, 0])
        return Moved.found(0, square(), list(range(9)), GRASP, where, None)

    first, second = thing(30), thing(40)
    assert torch.equal(first.shown, square(30))
    places = np.array([(LEFT + x, TOP + 12) for x in (32, 40, 60)], np.float32)
    rows = [part.tolist() for part in whose([first, second], places)]
    assert rows == [[0], [1, 2]], "on both: the later"
    beside = np.array([(LEFT + x, TOP + 12) for x in (50, 56, 62, 70)], np.float32)  # two of a grasp are next to it
    assert [part.tolist() for part in whose([first], beside[:3])] == [[]]
    assert [part.tolist() for part in whose([first], beside[[0, 1]])] == [[0, 1]]
    picture_behind = [torch.zeros(3, SIZE, SIZE), torch.zeros(3, 2 * SIZE, 2 * SIZE)]
    small, large = uncovered([x + 1 for x in picture_behind], first.shown, picture_behind)
    assert (small[:, square(30) > 0] == 0).all() and small.mean() > 0.8 and large.shape == (3, 2 * SIZE, 2 * SIZE)
    assert torch.equal(large[:, ::2, ::2], small)


def test_there_let_go_and_back_is_the_photograph_again():
    """As in the studio: corners pinned, the cat's eye dragged, let go, taken up where it is, dragged back."""
    stream = MotionStreamPipeline.from_pretrained("nano").stream(
        Path(__file__).parents[2] / "examples/chelsea.png", "", seed=0
    )
    live = LiveTracks(stream.size)
    for x, y in ((10, 10), (118, 10), (10, 118), (118, 118)):
        live.pin(x, y)
    frames = []

    def step(*moves: float) -> None:
        for x in moves:
            live.move(hand, x, 70)
        frames.append(stream.step(live.cut(stream.next_frames))[-1:])

    hand = live.drag(50, 70)
    step()
    step(58, 64, 70)
    live.release(hand)
    step()
    step()
    hand = live.drag(70, 70)
    step(62, 56, 50)
    live.release(hand)
    step()
    step()
    assert psnr(frames[1], frames[0]) < 25 and psnr(frames[3], frames[1]) > 45
    assert psnr(frames[-1], frames[0]) > 40
