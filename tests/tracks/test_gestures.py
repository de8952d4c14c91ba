import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motionstream.tracks import (
    MAX_POINTS,
    LiveTracks,
    Tracks,
    drag_tracks,
    grid_around,
    parse_drag,
    parse_pin,
    parse_point,
    pin_tracks,
)

SIZE = (96, 128)  # height, width
ONE = {"radius": 0}  # a grid of a single point


def pointer(tracks: Tracks) -> np.ndarray:
    """The path (T, 2) of the only point."""
    assert tracks.count == 1
    return tracks.positions[:, 0]


# Grids


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    x=st.floats(-0.5, 127.49),
    y=st.floats(-0.5, 95.49),
    spacing=st.floats(1, 200),
    radius=st.floats(0, 300),
)
def test_grid_is_regular_round_inside_and_contains_its_centre(x: float, y: float, spacing: float, radius: float):
    grid = grid_around(x, y, SIZE, spacing=spacing, radius=radius)
    steps = (grid - (x, y)) / spacing
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert np.hypot(*(grid - (x, y)).T).max() <= radius * (1 + 1e-6)
    assert (grid >= -0.5).all() and (grid < (127.5, 95.5)).all()
    assert (grid == (x, y)).all(axis=1).sum() == 1
    # Nothing that belongs is missing: count what a plain double loop finds.
    reach = range(-math.ceil(130 / spacing), math.ceil(130 / spacing) + 1)
    plain = [(x + i * spacing, y + j * spacing) for i, j in itertools.product(reach, reach)]
    plain = [p for p in plain if -0.5 <= p[0] < 127.5 and -0.5 <= p[1] < 95.5]
    near = [math.hypot(p[0] - x, p[1] - y) for p in plain]
    assert sum(d < radius * (1 - 1e-6) for d in near) <= len(grid) <= sum(d <= radius * (1 + 1e-6) for d in near)


def test_grid_in_a_mask():
    mask = np.zeros(SIZE, bool)
    mask[20:60, 90:110] = True
    grid = grid_around(10, 10, SIZE, spacing=4, mask=mask)  # the mask is not where the pointer is
    assert len(grid) == 5 * 10
    assert mask[grid[:, 1].round().astype(int), grid[:, 0].round().astype(int)].all()
    mask[:] = False
    mask[33, 77] = mask[0, 0] = True  # between the grid's points: the nearest of its pixels
    assert grid_around(50, 50, SIZE, spacing=16, mask=mask).tolist() == [[77, 33]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": -0.6}, r"start \(-0.6, 40\) is outside"),
        ({"x": 127.5}, "outside"),
        ({"y": 96}, "outside"),
        ({"y": float("nan")}, "nan"),
        ({"spacing": 0.5}, "spacing is 0.5"),
        ({"spacing": float("nan")}, "spacing is nan"),
        ({"radius": -1}, "radius is -1"),
        ({"radius": float("inf")}, "radius is inf"),
        ({"mask": np.zeros(SIZE, bool)}, "mask is empty"),
        ({"mask": np.ones((4, 4), bool)}, r"mask is bool \(4, 4\)"),
        ({"mask": np.ones(SIZE)}, "mask is float64"),
    ],
)
def test_gestures_that_cannot_start_say_why_and_leave_nothing(change: dict, message: str):
    live = LiveTracks(SIZE)
    arguments = {"x": 40, "y": 40} | change
    for begin in (live.drag, live.pin):
        with pytest.raises(ValueError, match=message):
            begin(**arguments)
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises(ValueError):
        live.path([(x, y), (50, 50)], duration=1, **arguments)
    assert live.gestures == () and live.cut(9).count == 0


def test_too_many_points_are_refused_with_the_numbers():
    live = LiveTracks((200, 200))
    live.drag(100, 100, spacing=2, mask=np.ones((200, 200), bool))
    with pytest.raises(ValueError, match=f"40000 more points would make 50000, and {MAX_POINTS} are allowed"):
        live.drag(100, 100, spacing=1, mask=np.ones((200, 200), bool))
    assert live.cut(9).count == MAX_POINTS


# Drags, live


def test_a_drag_starts_at_its_start_moves_rigidly_and_ends_at_the_last_sample():
    live = LiveTracks(SIZE)
    gesture = live.drag(40, 30)
    for step in range(1, 11):
        live.move(gesture, 40 + 3 * step, 30 + step)
    tracks = live.cut(9)
    grid = grid_around(40, 30, SIZE)
    assert tracks.count == len(grid) == 13 and tracks.visible.all()
    np.testing.assert_allclose(tracks.positions[0], grid)
    np.testing.assert_allclose(tracks.positions[-1], grid + np.array([30, 10]))
    np.testing.assert_allclose(tracks.positions - tracks.positions[:, :1], np.repeat((grid - grid[0])[None], 9, 0))


def test_without_samples_points_hold():
    live = LiveTracks(SIZE)
    gesture = live.drag(40, 30, **ONE)
    assert (pointer(live.cut(9)) == (40, 30)).all()
    live.move(gesture, 60, 50)
    assert pointer(live.cut(12))[-1].tolist() == [60, 50]
    for frames in (12, 12, 1, 9):
        assert (pointer(live.cut(frames)) == (60, 50)).all()


def test_steady_pointer_makes_steady_motion_across_cuts():
    live = LiveTracks(SIZE)
    gesture = live.drag(10, 30, time=0.0, **ONE)
    parts, sample = [], 0
    for frames in (9, 12, 12, 12):
        for _ in range(frames * 2):  # a pointer of 48 samples a second, in real time
            sample += 1
            live.move(gesture, 10 + sample, 30, time=sample / 48)
        parts.append(live.cut(frames))
    steps = np.diff(pointer(Tracks.join(parts))[:, 0])
    np.testing.assert_allclose(steps[:8], 18 / 8, atol=1e-4)  # the first chunk shows its span in 8 steps
    np.testing.assert_allclose(steps[8:], 2, atol=1e-4)


def test_times_shape_the_motion_and_their_offset_does_not():
    def positions(offset: float) -> np.ndarray:
        live = LiveTracks(SIZE)
        gesture = live.drag(10, 10, time=offset, **ONE)
        live.move(gesture, 10, 10, time=offset + 0.5)
        live.move(gesture, 50, 10, time=offset + 1.0)
        return pointer(live.cut(9))

    np.testing.assert_allclose(positions(0)[:, 0], [10] * 5 + [20, 30, 40, 50], atol=1e-5)
    np.testing.assert_allclose(positions(-7), positions(12345.5), atol=1e-3)


def test_a_drag_that_pauses_does_not_jump_when_it_goes_on():
    live = LiveTracks(SIZE)
    gesture = live.drag(10, 10, time=0.0, **ONE)
    live.cut(9)
    for step in range(1, 13):  # ten seconds later
        live.move(gesture, 10 + 2 * step, 10, time=10 + step / 24)
    np.testing.assert_allclose(pointer(live.cut(12))[:, 0], 10 + 2 * np.arange(1, 13), atol=1e-4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_chunks_together_are_continuous(data: st.DataObject):
    """However a pointer is sampled and cut: its track starts at the press, follows the line through the
    samples in their order, and has come to the last one at every cut."""
    live = LiveTracks(SIZE)
    timed = data.draw(st.booleans(), "timed")
    clock = data.draw(st.floats(-100, 1e6), "clock")
    gesture = live.drag(3, 5, time=clock if timed else None, **ONE)
    x, parts = 3.0, []
    cuts = data.draw(st.lists(st.sampled_from([2, 9, 12]), min_size=1, max_size=5), "cuts")
    for frames in cuts:
        for gap in data.draw(st.lists(st.floats(0, 2), max_size=6), "gaps"):
            clock += gap
            x += data.draw(st.floats(0, 9), "step")
            live.move(gesture, x, 5 + 2 * (x - 3), time=clock if timed else None)
        parts.append(live.cut(frames))
        np.testing.assert_allclose(pointer(parts[-1])[-1], (x, 5 + 2 * (x - 3)), atol=1e-3)
    path = pointer(Tracks.join(parts)).astype(float)
    assert path[0].tolist() == [3, 5]
    np.testing.assert_allclose(path[:, 1], 5 + 2 * (path[:, 0] - 3), atol=1e-3)
    assert (np.diff(path[:, 0]) >= -1e-4).all()


def test_a_cut_that_knows_the_time_keeps_the_pointer_s_pace():
    live = LiveTracks(SIZE, fps=24)
    gesture = live.drag(10, 10, time=0.0, **ONE)
    live.cut(9, time=0.0)
    live.move(gesture, 10, 10, time=0.25)
    live.move(gesture, 34, 10, time=0.375)  # a flick of an eighth of a second, then nothing
    x = pointer(live.cut(12, time=0.5))[:, 0]
    np.testing.assert_allclose(x, [10] * 6 + [18, 26, 34, 34, 34, 34], atol=1e-5)
    # A stream that is made at half speed replays at double speed what happened meanwhile.
    for step in range(1, 25):
        live.move(gesture, 34 + step, 10, time=0.5 + step / 24)
    np.testing.assert_allclose(pointer(live.cut(12, time=1.5))[:, 0], 34 + 2 * np.arange(1, 13), atol=1e-4)
    # An hour's pause is not replayed.
    for step in range(1, 13):
        live.move(gesture, 58 + step, 10, time=3600 + step / 24)
    np.testing.assert_allclose(pointer(live.cut(12, time=3600.5))[:, 0], 58 + np.arange(1, 13), atol=1e-3)
    # Nor is one that comes after the motion: what counts is a chunk's time (half a second) more.
    for step in range(1, 13):
        live.move(gesture, 70 + step, 10, time=3600.5 + step / 24)
    after = pointer(live.cut(12, time=3700))[:, 0]
    np.testing.assert_allclose(after, np.minimum(70 + 2 * np.arange(1, 13), 82), atol=1e-3)
    # And the next chunk shows what happened since that cut, which was only a quarter of a second ago.
    live.move(gesture, 82, 10, time=3700.125)
    live.move(gesture, 94, 10, time=3700.25)
    after = pointer(live.cut(12, time=3700.25))[:, 0]
    np.testing.assert_allclose(after, [82] * 6 + list(range(84, 95, 2)), atol=1e-3)


def test_samples_that_come_late_keep_their_order():
    live = LiveTracks(SIZE)
    gesture = live.drag(10, 10, time=0.0, **ONE)
    live.cut(9, time=0.5)
    for x, time in ((12, 0.2), (14, 0.4), (26, 1.0)):  # two of them from before the cut
        live.move(gesture, x, 10, time=time)
    np.testing.assert_allclose(pointer(live.cut(12, time=1.0))[:, 0], 14 + np.arange(1, 13), atol=1e-4)


def test_several_gestures_at_once_share_the_clock():
    live = LiveTracks(SIZE)
    first = live.drag(10, 10, time=0.0, **ONE)
    second = live.drag(50, 50, time=0.0, **ONE)
    pin = live.pin(100, 80)
    for step in range(1, 9):
        live.move(first, 10 + step, 10, time=step / 24)
    live.move(second, 58, 50, time=4 / 24)  # arrives in the middle of the span
    tracks = live.cut(9)
    assert live.gestures == (first, second, pin)

    def of(gesture: int) -> np.ndarray:
        return tracks.select(np.isin(tracks.ids, live.track_ids(gesture))).positions

    np.testing.assert_allclose(of(first)[:, 0, 0], 10 + np.arange(9), atol=1e-5)
    np.testing.assert_allclose(of(second)[:, 0, 0], [50, 52, 54, 56, 58, 58, 58, 58, 58], atol=1e-5)
    np.testing.assert_allclose(of(pin), np.repeat(grid_around(100, 80, SIZE)[None], 9, 0))


# Release


@pytest.mark.parametrize("rest", [True, False])
def test_released_points_rest_to_the_chunks_end_or_are_hidden_and_then_the_ids_are_gone(rest):
    live = LiveTracks(SIZE, rest=rest)
    gesture, pin = live.drag(10, 10, **ONE), live.pin(60, 60, **ONE)
    live.cut(9, time=0.0)
    live.move(gesture, 20, 10, time=0.1)
    live.release(gesture, time=0.25)
    tracks = live.cut(12, time=0.5)
    assert tracks.visible[:, 0].tolist() == [True] * 5 + [rest] * 7
    assert tracks.positions[4, 0].tolist() == [20, 10]
    assert not rest or tracks.positions[-1, 0].tolist() == [20, 10]
    assert tracks.visible[:, 1].all()
    after = live.cut(12, time=1.0)
    assert after.ids.tolist() == live.track_ids(pin).tolist() == [1] and live.gestures == (pin,)
    with pytest.raises(ValueError, match=f"no gesture {gesture}"):
        live.move(gesture, 1, 1)


def test_release_without_times():
    live = LiveTracks(SIZE, rest=False)
    gesture = live.drag(10, 10, **ONE)
    for step in range(1, 4):
        live.move(gesture, 10 + step, 10)
    live.release(gesture)  # the last of four things that happened in nine frames
    assert live.cut(9).visible[:, 0].tolist() == [True] * 8 + [False]
    gesture = live.drag(10, 10, **ONE)
    live.cut(12)
    live.release(gesture)  # between two chunks
    tracks = live.cut(12)
    assert tracks.count == 1 and not tracks.visible.any()
    assert live.cut(12).count == 0


def test_what_was_released_between_chunks_is_absent_at_once():
    live = LiveTracks(SIZE)
    gesture, pin = live.drag(10, 10, **ONE), live.pin(60, 60, **ONE)
    live.cut(12)
    live.release(gesture)
    assert live.cut(12).ids.tolist() == live.track_ids(pin).tolist()


def test_a_click_holds_for_a_chunk():
    live = LiveTracks(SIZE)
    live.release(live.drag(10, 10, **ONE))
    tracks = live.cut(9)
    assert tracks.visible[:8].all() and (tracks.positions == 10).all()
    assert live.cut(12).count == 0


def test_a_chunk_of_one_frame_loses_nothing():
    live = LiveTracks(SIZE)
    gesture = live.drag(10, 10, time=0.0, **ONE)
    live.move(gesture, 22, 10, time=0.5)
    live.release(gesture, time=0.6)
    assert pointer(live.cut(1)).tolist() == [[10, 10]]
    tracks = live.cut(12)
    assert tracks.visible[:, 0].all()
    np.testing.assert_allclose(tracks.positions[:6, 0, 0], 10 + 2 * np.arange(1, 7))
    gesture = live.drag(10, 10, time=1.0, **ONE)
    live.move(gesture, 22, 10, time=1.5)
    live.cut(1)
    live.move(gesture, 34, 10, time=2.0)
    np.testing.assert_allclose(pointer(live.cut(12))[:, 0], 10 + 2 * np.arange(1, 13))


def test_erased_gestures_are_gone_and_ids_are_never_used_again():
    live = LiveTracks(SIZE)
    first = live.drag(10, 10)
    ids = live.track_ids(first)
    assert live.cut(9).ids.tolist() == ids.tolist()
    live.erase(first)
    second = live.drag(10, 10)
    assert not np.isin(live.track_ids(second), ids).any()
    assert live.cut(12).ids.tolist() == live.track_ids(second).tolist()


def test_what_cannot_be_done_to_a_gesture():
    live = LiveTracks(SIZE)
    drag, pin = live.drag(10, 10, time=5), live.pin(20, 20)
    path = live.path([(10, 10), (20, 20)], speed=5)
    for gesture, kind in ((pin, "pin"), (path, "path")):
        with pytest.raises(ValueError, match=f"gesture {gesture} is a {kind}"):
            live.move(gesture, 1, 1)
    with pytest.raises(ValueError, match="no gesture 99"):
        live.release(99)
    with pytest.raises(ValueError, match="time 4 is before 5"):
        live.move(drag, 1, 1, time=4)
    with pytest.raises(ValueError, match="time is nan"):
        live.move(drag, 1, 1, time=math.nan)
    for x in (math.nan, math.inf, 1e300):
        with pytest.raises(ValueError, match="pointer at"):
            live.move(drag, x, 1)
    live.release(drag, time=6)
    with pytest.raises(ValueError, match="was released"):
        live.move(drag, 1, 1, time=7)
    with pytest.raises(ValueError, match="was released already"):
        live.release(drag)
    with pytest.raises(ValueError, match="0 frames"):
        live.cut(0)
    assert live.frame == 0 and live.cut(9).positions[0, 0].tolist() == [2, 2]


# Out of the picture


def test_points_that_leave_are_invisible_and_come_back():
    live = LiveTracks(SIZE)
    gesture = live.drag(120, 50, spacing=8, radius=8)
    live.move(gesture, 200, 50)
    tracks = live.cut(9)
    assert tracks.visible[0].all() and not tracks.visible[-1].any()
    np.testing.assert_array_equal(tracks.visible, tracks.inside())
    live.move(gesture, 120, 50)
    assert live.cut(12).visible[-1].all()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_nothing_a_pointer_does_makes_a_cut_fail(data: st.DataObject):
    live = LiveTracks(SIZE)
    far = st.floats(-1e6, 1e6)
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["drag", "pin", "path", "move", "release", "erase", "cut"]))
        start = data.draw(st.tuples(st.floats(-0.5, 127.4), st.floats(-0.5, 95.4)))
        if action == "drag":
            live.drag(*start)
        elif action == "pin":
            live.pin(*start, spacing=3, radius=5)
        elif action == "path":
            line = [start, *data.draw(st.lists(st.tuples(far, far), max_size=3))]
            live.path(line, speed=data.draw(st.floats(1e-3, 1e9)), release_at_end=data.draw(st.booleans()))
        elif action == "cut":
            frames = data.draw(st.sampled_from([1, 9, 12]))
            tracks = live.cut(frames, data.draw(st.none() | st.floats(0, 1e6)))
            assert tracks.length == frames and tracks.size == SIZE
            assert not (tracks.visible & ~tracks.inside()).any()
            assert np.isfinite(tracks.positions).all()
        elif live.gestures:
            gesture = data.draw(st.sampled_from(live.gestures))
            try:
                if action == "move":
                    live.move(gesture, data.draw(far), data.draw(far), data.draw(st.none() | st.floats(0, 1e6)))
                elif action == "release":
                    live.release(gesture)
                else:
                    live.erase(gesture)
            except ValueError as error:
                assert any(word in str(error) for word in ("released", "only drags", "before"))


# Paths


def test_a_path_is_walked_by_arc_length():
    live = LiveTracks(SIZE, fps=24)
    corner = [(10, 10), (10, 20), (10, 20), (40, 20)]  # 40 pixels, a point given twice
    live.path(corner, duration=0.5, **ONE)
    path = pointer(live.cut(15))
    travelled = np.concatenate([[0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    np.testing.assert_allclose(travelled, np.minimum(np.arange(15) / 12, 1) * 40, atol=0.6)  # corners are cut
    assert path[0].tolist() == [10, 10] and path[3].tolist() == [10, 20] and path[12].tolist() == [40, 20]
    assert (path[12:] == (40, 20)).all()


def test_speed_start_and_release_at_the_end():
    live = LiveTracks(SIZE, fps=24, rest=False)
    live.cut(9)  # the path counts from here
    live.path([(10, 10), (34, 10)], speed=48, start=0.25, release_at_end=True, **ONE)
    tracks = live.cut(24)
    np.testing.assert_allclose(tracks.positions[:7, 0, 0], 10)
    np.testing.assert_allclose(tracks.positions[6:19, 0, 0], 10 + 2 * np.arange(13), atol=1e-4)
    assert tracks.visible[:, 0].tolist() == [True] * 19 + [False] * 5
    assert live.cut(12).count == 0


def test_smooth_paths_start_and_stop_gently_in_the_same_time():
    live = LiveTracks(SIZE)
    live.path([(10, 10), (110, 10)], duration=1, ease="smooth", **ONE)
    x = pointer(live.cut(30))[:, 0]
    steps = np.diff(x)
    assert x[0] == 10 and x[12] == 60 and x[24] == 110
    assert steps[0] < 0.6 and steps[23] < 0.6 and steps[12] > 5.5 and (steps >= 0).all()


def test_a_path_in_chunks_is_the_path_in_one():
    def make() -> LiveTracks:
        live = LiveTracks(SIZE)
        live.path([(10, 10), (60, 70), (120, 5)], duration=1.3, start=0.2, ease="smooth", release_at_end=True)
        return live

    live = make()
    chunks = Tracks.join([live.cut(frames) for frames in (9, 12, 12, 1, 11)])
    whole = make().cut(45)
    np.testing.assert_array_equal(chunks.visible, whole.visible)
    np.testing.assert_array_equal(chunks.positions[chunks.visible], whole.positions[whole.visible])


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "exactly one"),
        ({"duration": 1, "speed": 1}, "exactly one"),
        ({"duration": 0}, "duration is 0"),
        ({"speed": -1}, "speed is -1"),
        ({"speed": math.nan}, "speed is nan"),
        ({"duration": 1, "start": -1}, "start is -1"),
        ({"duration": 1, "ease": "bouncy"}, "'bouncy'"),
        ({"duration": 1, "points": []}, r"shape \(0,\)"),
        ({"duration": 1, "points": [(1, 2, 3)]}, r"shape \(1, 3\)"),
        ({"duration": 1, "points": [(1, 2), (math.nan, 3)]}, r"point 1 is \(nan, 3\)"),
    ],
)
def test_bad_paths(change: dict, message: str):
    arguments = {"points": [(10, 10), (20, 20)]} | change
    with pytest.raises(ValueError, match=message):
        LiveTracks(SIZE).path(arguments.pop("points"), **arguments)


def test_a_path_of_one_point_holds():
    live = LiveTracks(SIZE)
    live.path([(10, 12)], speed=3, **ONE)
    assert (pointer(live.cut(9)) == (10, 12)).all()


# Whole clips


def test_drag_tracks_reach_their_end_by_three_quarters_and_hold():
    tracks = drag_tracks((20, 30), (100, 60), frames=49, size=SIZE)
    grid = grid_around(20, 30, SIZE)
    np.testing.assert_allclose(tracks.positions[0], grid)
    np.testing.assert_allclose(tracks.positions[36:] - grid, np.broadcast_to((80, 30), (13, len(grid), 2)), atol=1e-4)
    assert np.hypot(*(tracks.positions[35] - grid - (80, 30))[0]) > 1e-3
    assert tracks.visible.all()
    released = drag_tracks((20, 30), (100, 60), frames=49, size=SIZE, hold=False)
    assert released.visible[:37].all() and not released.visible[37:].any()


def test_drag_tracks_may_end_outside_but_not_start_there():
    tracks = drag_tracks((20, 30), (-500, 30), frames=21, size=SIZE)
    assert tracks.visible[0].all() and not tracks.visible[-1].any()
    with pytest.raises(ValueError, match="outside the picture"):
        drag_tracks((-5, 30), (20, 30), frames=21, size=SIZE)
    with pytest.raises(ValueError, match="reach is 0"):
        drag_tracks((20, 30), (30, 30), frames=21, size=SIZE, reach=0)
    assert drag_tracks((20, 30), (30, 30), frames=1, size=SIZE).length == 1


def test_pins_and_drags_go_together():
    drag = drag_tracks((20, 30), (100, 60), frames=21, size=SIZE, fps=16)
    pins = pin_tracks([(110, 80), (5, 90)], frames=21, size=SIZE, fps=16, spacing=4, radius=4)
    assert pins.count == 10 and (pins.positions == pins.positions[0]).all() and pins.visible.all()
    merged = Tracks.merge([drag, pins], renumber=True)
    assert merged.count == drag.count + 10 and merged.fps == 16


# Text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("40,64:90,64", ((40, 64), (90, 64))),
        (" 40.5 , 6 : -90,1e2", ((40.5, 6), (-90, 100))),
        ("0.25,0.5:0.75,1", ((31.5, 47.5), (95.5, 95.5))),
        ("0.25,0.5:-0.5,0.5", ((31.5, 47.5), (-64.5, 47.5))),
        ("0,0:1,1", ((-0.5, -0.5), (127.5, 95.5))),  # all at most 1: fractions
        ("1,1:0,0", ((127, 95), (-0.5, -0.5))),
        ("0.25,0.5:1.25,0.5", ((31.5, 47.5), (159.5, 47.5))),  # its start is one, so its end is
        ("1,0:0.5,-2", ((1, 0), (0.5, -2))),  # not written as fractions: pixels
        ("5.5,0.5:0.5,0.5", ((5.5, 0.5), (0.5, 0.5))),
    ],
)
def test_drags_as_text(text: str, expected: tuple):
    assert parse_drag(text, SIZE) == expected


def test_pins_and_points_as_text():
    assert parse_point("3,-4.5") == (3, -4.5)
    assert parse_pin("0.5,0.5", SIZE) == (63.5, 47.5)
    assert parse_pin("5,0.5", SIZE) == (5, 0.5)
    assert LiveTracks(SIZE).pin(*parse_pin("1,1", SIZE)) == 0


@pytest.mark.parametrize(
    "text", ["", "a", "1,2", "1,2:3", "1,2:3,4,5", "1,2:3,4:5,6", "nan,2:3,4", "1,2:inf,4", "1;2:3;4"]
)
def test_malformed_drags_name_the_text(text: str):
    with pytest.raises(ValueError, match=f"^{text!r}.*(write x0?,y0?|finite)"):
        parse_drag(text, SIZE)


@pytest.mark.parametrize("text", ["0.3,0.5:60,0.5", "0.3,0.5:0.5,-64"])
def test_fractions_and_pixels_are_not_mixed(text: str):
    with pytest.raises(ValueError, match=f"^{text!r}: the start is in fractions of the picture and 6"):
        parse_drag(text, SIZE)


@pytest.mark.parametrize("text", ["-0.1,0.5:0.5,0.5", "128,5:3,3", "5,-2:5,5"])
def test_drags_that_start_outside_name_the_text(text: str):
    with pytest.raises(ValueError, match=f"^{text!r}: start .* is outside the picture"):
        parse_drag(text, SIZE)
    with pytest.raises(ValueError, match="outside"):
        parse_pin(text.split(":")[0], SIZE)
