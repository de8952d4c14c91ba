"""The director against gestures made by hand, and against itself."""

import numpy as np
import pytest

from motionstream.session.commands import Camera, Command, Erase, Followed, Move, Path, Pin, Press, Release, Select
from motionstream.session.director import Director, TrackGroup
from motionstream.session.followed import pack_points
from motionstream.tracks import LiveTracks, Tracks
from motionstream.tracks.transfer import FIRST_ID

SIZE = (32, 48)


def perform(director: Director, script: list[Command | tuple[int, float]]) -> list:
    """Obey commands and cut (frames, moment), in the order of the script; the cuts' tracks."""
    cuts = []
    for step in script:
        if isinstance(step, Command):
            director.obey(step)
        else:
            cuts.append(director.cut(*step))
    return cuts


def busy(seed: int = 0) -> list[Command | tuple[int, float]]:
    """A few seconds of everything at once."""
    random = np.random.default_rng(seed)
    script: list[Command | tuple[int, float]] = [
        Press(time=0.0, gesture=7, x=10, y=10),
        Pin(time=0.01, gesture=3, x=30, y=20, radius=5, spacing=4),
        Path(time=0.02, gesture=9, points=((5, 5), (20, 9), (40, 30)), speed=20, delay=0.3, release=True),
        (9, 0.05),
    ]
    for chunk in range(8):
        moments = np.sort(random.uniform(chunk / 2, chunk / 2 + 0.5, 12))
        places = random.uniform(-9, 50, (12, 2))
        script += [Move(time=t, gesture=7, x=x, y=y) for t, (x, y) in zip(moments, places, strict=True)]
        script.append((12, chunk / 2 + 0.5))
    return [*script, Release(time=4.1, gesture=7), Erase(time=4.2, gesture=3), (12, 4.5), (12, 5.0)]


def test_the_same_commands_and_cuts_give_the_same_tracks() -> None:
    first, second = (perform(Director(SIZE, 24), busy()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.visible, other.visible)
        assert np.array_equal(one.ids, other.ids)
    other = perform(Director(SIZE, 24), busy(seed=1))
    assert not np.array_equal(first[3].positions, other[3].positions)
    assert first[-1].count == 0, "released, erased and walked to its end"


def test_every_kind_of_gesture_is_what_live_tracks_make_of_it() -> None:
    director, live = Director(SIZE, 24), LiveTracks(SIZE, 24)
    director.obey(Press(time=1.0, gesture=5, x=10, y=10, radius=8, spacing=4))
    director.obey(Pin(time=1.0, gesture=2, x=30, y=20, radius=3, spacing=3))
    line = ((5.0, 5.0), (40.0, 5.0))
    director.obey(Path(time=1.0, gesture=8, points=line, duration=1.5, delay=0.25, ease="smooth", radius=0))
    drag = live.drag(10, 10, radius=8, spacing=4, time=1.0)
    live.pin(30, 20, radius=3, spacing=3)
    live.path(line, start=0.25, duration=1.5, ease="smooth", radius=0)
    for chunk, frames in enumerate((9, 12, 12, 12)):
        time = 1.5 + chunk / 2
        director.obey(Move(time=time - 0.1, gesture=5, x=10 + chunk, y=12))
        live.move(drag, 10 + chunk, 12, time - 0.1)
        one, other = director.cut(frames, time), live.cut(frames, time)
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.visible, other.visible)
    assert np.allclose(one.positions[-1, -1], [40, 5]), "the path ends where it was drawn to"


def test_a_path_that_releases_is_forgotten_and_may_be_drawn_anew() -> None:
    director = Director(SIZE, 24)
    path = Path(time=0, gesture=1, points=((5, 5), (20, 5)), duration=0.2, release=True)
    director.obey(path)
    tracks = director.cut(9, 0.1)
    assert tracks.visible.all() and np.ptp(tracks.positions[5:], axis=0).max() == 0  # it rests to the cut's end
    assert director.overlay(tracks, 100)[1] == (TrackGroup(1, "path", tracks.count),), "it is shown in its last chunk"
    assert not director.obey(Release(time=0.2, gesture=1)), "it is gone already"
    assert director.obey(path)


def test_what_cannot_be_done_is_refused_and_changes_nothing() -> None:
    director, twin = Director(SIZE, 24), Director(SIZE, 24)
    for one in (director, twin):
        one.obey(Press(time=0, gesture=1, x=5, y=5))
    for command, word in (
        (Press(time=0, gesture=1, x=9, y=9), "gesture 1 exists already"),
        (Path(time=0, gesture=2, points=((99, 5), (20, 5)), speed=3), "outside the picture"),
        (Path(time=0, gesture=2, points=((9, 5), (20, 5))), "give exactly one"),
        (Erase(time=0, gesture=2), "no gesture 2 to erase"),
    ):
        with pytest.raises(ValueError, match=word):
            director.obey(command)
    assert not director.obey(Move(time=0, gesture=2, x=1, y=1))
    assert np.array_equal(director.cut(9, 1.0).positions, twin.cut(9, 1.0).positions)


def test_times_that_run_backwards_are_taken_as_the_last() -> None:
    director = Director(SIZE, 24)
    director.obey(Press(time=5, gesture=1, x=5, y=5))
    director.obey(Move(time=4, gesture=1, x=9, y=5))
    director.obey(Release(time=3, gesture=1))
    assert director.cut(9, 5.5).count


def test_the_overlay_says_whose_points_they_are() -> None:
    director = Director(SIZE, 24)
    director.obey(Press(time=0, gesture=4, x=5, y=5, radius=40, spacing=2))
    director.obey(Pin(time=0, gesture=2, x=30, y=20, radius=0))
    tracks = director.cut(9, 0.4)
    positions, groups = director.overlay(tracks, 10)
    assert positions.shape == (9, 10, 2)
    assert [(group.gesture, group.kind) for group in groups] == [(4, "press"), (2, "pin")]
    assert sum(group.count for group in groups) == 10
    assert np.array_equal(positions[0, -1], [30, 20])


def test_the_camera_moves_the_scene_and_pins_but_not_what_is_under_a_pointer():
    director = Director(SIZE, 24, depth=np.ones(SIZE, np.float32))
    director.obey(Press(time=0.0, gesture=7, x=10, y=10, radius=0))
    director.obey(Pin(time=0.0, gesture=3, x=30, y=20, radius=0))
    assert director.cut(9, 0.4).count == 2
    director.obey(Camera(time=0.4, pan=(1.0, 0.0)))
    tracks = director.cut(12, 0.9)
    scene = tracks.select(tracks.ids < 0)
    assert scene.count >= 4
    held, pin = (tracks.positions[:, tracks.ids == number][:, 0] for number in (0, 1))
    assert np.all(held == (10, 10))
    moved = 0.2 * 32 * 0.5  # 20 % of the shorter side a second
    assert pin[-1, 0] - 30 == pytest.approx(-moved, abs=0.3) and pin[-1, 1] == pytest.approx(20)
    steps = (scene.positions[-1] - scene.positions[0])[scene.visible[-1] & scene.visible[0]]
    assert np.allclose(steps, steps[0], atol=1e-3) and steps[0, 0] < -2
    groups = director.overlay(tracks, 500)[1]
    assert groups == (TrackGroup(-1, "camera", scene.count), TrackGroup(7, "press", 1), TrackGroup(3, "pin", 1))


def test_the_same_camera_commands_give_the_same_tracks():
    def script() -> list:
        commands = busy()
        commands[12:12] = [Camera(time=0.05, orbit=(1.0, -0.5), zoom=0.2)]
        commands[40:40] = [Camera(time=1.4)]
        return commands

    first, second = (perform(Director(SIZE, 24), script()) for _ in range(2))
    assert any((tracks.ids < 0).any() for tracks in first)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.positions, other.positions, equal_nan=True)
        assert np.array_equal(one.visible, other.visible) and np.array_equal(one.ids, other.ids)


def test_a_gesture_takes_hold_of_a_selected_object():
    director = Director(SIZE, 24)
    corners = ((24.0, 10.0), (39.0, 10.0), (39.0, 19.0), (24.0, 19.0))
    director.obey(Select(time=0, request=5, outline=corners))
    assert director.mask(5).sum() == 10 * 16 and director.mask(5)[10:20, 24:40].all()
    director.obey(Press(time=0, gesture=1, x=30, y=15, spacing=2, object=5))
    director.obey(Path(time=0, gesture=2, points=((30, 15), (35, 15)), speed=9, spacing=4, object=5))
    tracks = director.cut(9, 0.4)
    columns, rows = tracks.positions[0].T
    assert columns.min() >= 23.5 and columns.max() <= 39.5 and rows.min() >= 9.5 and rows.max() <= 19.5
    assert tracks.count > 40
    with pytest.raises(ValueError, match="no object 6; select it first"):
        director.obey(Pin(time=0, gesture=3, x=30, y=15, object=6))
    for number in range(40):
        director.obey(Select(time=0, request=100 + number, outline=corners))
    with pytest.raises(ValueError, match="no object 5"):
        director.mask(5)
    for wrong in (Select(time=0, request=1), Select(time=0, request=1, outline=((90, 90), (95, 90), (95, 95)))):
        with pytest.raises(ValueError, match="outline"):
            director.obey(wrong)


def moving(frames: int, first: int, count: int = 20, step: float = 1.0) -> Followed:
    """A source whose points, on a grid of 8 pixels, go to the right."""
    x, y = np.meshgrid(np.arange(4.0, 48, 10)[:5], np.arange(4.0, 32, 8)[:4])
    places = np.stack([x, y], axis=-1).reshape(-1, 2)[:count]
    positions = places + np.stack([np.arange(frames) * step, np.zeros(frames)], axis=-1)[:, None]
    ids = FIRST_ID + first + np.arange(len(places))
    return Followed(time=0, points=pack_points(Tracks(positions, np.ones(positions.shape[:2], bool), SIZE, 24, ids)))


def test_a_followed_sources_points_are_in_the_next_cut_alone() -> None:
    director = Director(SIZE, 24)
    assert director.next_followed_id == FIRST_ID
    director.obey(moving(9, 5))
    tracks = director.cut(9, 0.0)
    assert tracks.count == 20 and np.array_equal(tracks.ids, FIRST_ID + 5 + np.arange(20))
    assert np.allclose(tracks.positions[8] - tracks.positions[0], [8, 0])
    assert director.next_followed_id == FIRST_ID + 25
    positions, groups = director.overlay(tracks, 512)
    assert groups == (TrackGroup(-2, "follow", 20),) and positions.shape == (9, 20, 2)
    assert director.cut(12, 0.5).count == 0
    director.obey(moving(9, 5))
    with pytest.raises(ValueError, match="9 frames of a followed source for a chunk of 12"):
        director.cut(12, 1.0)
    assert director.cut(12, 1.0).count == 0, "and it is forgotten"
    with pytest.raises(ValueError, match="followed points are damaged"):
        director.obey(Followed(time=0, points="nothing"))


def test_a_gesture_has_the_last_word_where_it_is() -> None:
    director = Director(SIZE, 24)
    director.obey(Pin(time=0, gesture=1, x=14, y=12, radius=0))
    director.obey(moving(12, 0))
    tracks = director.cut(12, 0.0)
    source, pin = tracks.select(tracks.ids >= FIRST_ID), tracks.select(tracks.ids < FIRST_ID)
    assert pin.count == 1 and 0 < source.count < 20
    assert np.hypot(*(source.positions - pin.positions[0, 0]).transpose(2, 0, 1)).min() > 11
    _, groups = director.overlay(tracks, 512)
    assert [(group.kind, group.count) for group in groups] == [("follow", source.count), ("pin", 1)]


def test_a_camera_moves_what_is_followed_as_well() -> None:
    still, panned = Director(SIZE, 24), Director(SIZE, 24)
    panned.obey(Camera(time=0.0, pan=(1.0, 0.0)))
    for director in (still, panned):
        director.cut(9, 0.0)
        director.obey(moving(12, 0))
    plain, tracks = still.cut(12, 0.5), panned.cut(12, 0.5)
    source = tracks.select(tracks.ids >= FIRST_ID)
    both = source.visible[-1] & plain.visible[-1]
    assert (plain.positions[-1] - source.positions[-1])[both, 0].min() > 1
    _, groups = panned.overlay(tracks, 512)
    assert [group.kind for group in groups][-1] == "follow"
