"""The camera against closed forms: a plane panned, zoom about the middle, a turned camera, what hides what."""

import itertools
import math

import numpy as np
import pytest

from motionstream.tracks import LiveTracks, Tracks, drag_tracks
from motionstream.tracks.camera import (
    CHUNKS,
    PAN_SPEED,
    CameraMove,
    CameraWay,
    LiveCamera,
    camera_tracks,
)
from motionstream.tracks.depth import plain_prior
from motionstream.tracks.projection import DepthScene, Pose

SIZE = (64, 96)
MIDDLE = np.array([47.5, 31.5])


def plane(depth: float = 3.0) -> np.ndarray:
    return np.full(SIZE, depth, np.float32)


def nothing(frames: int) -> Tracks:
    return Tracks.empty(frames, SIZE)


def clip(way: CameraWay, frames: int = 45, depth: np.ndarray | None = None) -> Tracks:
    return camera_tracks(plane() if depth is None else depth, way, nothing(frames), spacing=8)


def displacement(tracks: Tracks, start: np.ndarray) -> np.ndarray:
    """How far every point that is seen at the end has gone since the first frame."""
    return (tracks.positions[-1] - start)[tracks.visible[-1]]


def from_start(tracks: Tracks) -> Tracks:
    return tracks.select(tracks.visible[0])


def test_a_pan_over_a_plane_moves_all_of_it_alike_against_the_camera():
    tracks = from_start(clip(CameraWay(pan=(0.25, -0.125))))
    assert tracks.count == 8 * 12
    moved = displacement(tracks, tracks.positions[0])
    assert np.allclose(moved, [-16, 8], atol=1e-3)  # a quarter of the shorter side, 64
    assert tracks.visible[-1].sum() == 10 * 7  # the others have left


def test_zoom_scales_about_the_middle_whatever_the_depth():
    tracks = from_start(clip(CameraWay(zoom=1.5), depth=plain_prior(SIZE)))
    seen = tracks.visible[-1]
    expected = MIDDLE + 1.5 * (tracks.positions[0][seen] - MIDDLE)
    assert seen.any() and np.allclose(tracks.positions[-1][seen], expected, atol=1e-3)


def test_a_dolly_to_a_plane_is_a_zoom():
    near, large = from_start(clip(CameraWay(dolly=0.5))), from_start(clip(CameraWay(zoom=2.0)))
    assert np.array_equal(near.visible[-1], large.visible[-1])
    assert np.allclose(near.positions[-1][near.visible[-1]], large.positions[-1][large.visible[-1]], atol=1e-3)


def test_an_orbit_turns_the_world_about_what_it_looks_at():
    depth, angle = plain_prior(SIZE), math.radians(15)
    tracks = from_start(clip(CameraWay(orbit=(15, 0)), depth=depth))
    scene = DepthScene(depth, SIZE)
    start = tracks.positions[0].astype(float)
    column, row = np.floor(start + 0.5).astype(int).T
    z = depth[row, column]
    x = (start[:, 0] - MIDDLE[0]) / scene.focal * z
    y = (start[:, 1] - MIDDLE[1]) / scene.focal * z
    # Turning the camera to the right about (0, 0, middle) turns the world the other way about it.
    away = z - scene.middle
    turned_x = math.cos(angle) * x + math.sin(angle) * away
    turned_z = -math.sin(angle) * x + math.cos(angle) * away + scene.middle
    expected = np.stack([turned_x / turned_z, y / turned_z], -1) * scene.focal + MIDDLE
    seen = tracks.visible[-1]
    assert seen.sum() > 50 and np.allclose(tracks.positions[-1][seen], expected[seen], atol=1e-3)
    middle = np.hypot(*(start - MIDDLE).T).argmin()
    gone = np.hypot(*(tracks.positions[-1] - start)[seen].T)
    assert np.hypot(*(tracks.positions[-1, middle] - start[middle])) < 0.4 * gone.max()


def test_an_orbit_downwards_keeps_the_horizon_level():
    tracks = from_start(clip(CameraWay(orbit=(0, 20)), depth=plane()))
    scene = DepthScene(plane(), SIZE)
    # Of a plane turned about the horizontal line through its middle, that line stays and rows stay rows.
    rows = np.unique(tracks.positions[0, :, 1])
    for row in rows:
        line = tracks.positions[-1][(tracks.positions[0, :, 1] == row) & tracks.visible[-1], 1]
        assert len(line) == 0 or np.ptp(line) < 1e-3
    pose = LiveCamera(plane(), SIZE, spacing=8)
    pose.steer(nothing(2), CameraWay(orbit=(0, 20)).steps(2))
    place, depth = scene.project(np.array([[0.0, 0.0, 3.0]]), pose.pose)
    assert np.allclose(place, MIDDLE) and depth[0] == pytest.approx(3)


@pytest.mark.parametrize("way", [CameraWay(orbit=(25, -10), pan=(0.2, 0.1)), CameraWay(dolly=-0.5, zoom=0.8)])
def test_chunk_by_chunk_is_the_whole_bit_for_bit(way):
    depth, frames = plain_prior(SIZE), 33
    whole = camera_tracks(depth, way, nothing(frames), spacing=8)
    camera, parts, steps, done = LiveCamera(depth, SIZE, spacing=8), [], way.steps(frames), 0
    for wanted in (9, 12, 12):
        parts.append(camera.steer(nothing(wanted), steps[done : done + wanted]))
        done += wanted
    live = Tracks.join(parts)
    assert np.array_equal(live.visible, whole.visible)
    assert np.array_equal(live.positions[live.visible], whole.positions[whole.visible])
    # Where the points of the first chunk go does not depend on where chunks are cut at all.
    once = LiveCamera(depth, SIZE, spacing=8).steer(nothing(frames), steps)
    for track in once.ids[once.visible[0]]:
        a, b = once.select(once.ids == track), live.select(live.ids == track)
        both = a.visible[:, 0] & b.visible[:, 0]
        assert both[:5].all() and np.array_equal(a.positions[both], b.positions[both])


def test_velocities_add_up_to_the_way():
    camera = LiveCamera(plane(), SIZE, 24, spacing=8)
    camera.move(CameraMove(pan=(1, 0)))
    parts = [camera.cut(nothing(frames)) for frames in (9, 12, 12)]
    tracks = from_start(Tracks.join(parts))
    expected = PAN_SPEED * 64 * np.arange(33) / 24  # the first frame is the picture itself
    row = int(np.argmax(tracks.visible.all(axis=0)))
    assert np.allclose(tracks.positions[0, row, 0] - tracks.positions[:, row, 0], expected, atol=1e-3)


def test_a_short_press_of_a_key_moves_for_as_long_as_it_was_held():
    camera = LiveCamera(plane(), SIZE, 24, spacing=8)
    camera.cut(nothing(9), time=0.0)
    camera.move(CameraMove(pan=(1, 0)), time=0.125)
    camera.move(CameraMove(), time=0.375)
    x = [camera.pose.position[0]]
    tracks = camera.cut(nothing(12), time=0.5)
    x.append(camera.pose.position[0])
    pixels = (x[1] - x[0]) / 3 * camera.scene.focal
    assert pixels == pytest.approx(0.25 * PAN_SPEED * 64)
    moves = np.diff(tracks.positions[:, tracks.count // 2, 0])
    assert moves[:2].max() == 0 and moves[-2:].max() == 0 and moves[5] < 0
    later = camera.cut(nothing(12), time=1.0)
    assert camera.pose.position[0] == x[1] and later.count == tracks.count


def test_a_camera_at_rest_gives_nothing_and_once_moved_holds():
    camera = LiveCamera(plane(), SIZE, spacing=8)
    assert camera.cut(nothing(9)).count == 0 and camera.view() == 1
    camera.move(CameraMove(zoom=1))
    assert camera.cut(nothing(12)).count > 90
    camera.move(CameraMove())
    held = camera.cut(nothing(12))
    assert held.count > 50
    # Points that came into view begin in this chunk, where the last frame has them; everything else stays.
    assert np.nanmax(np.abs(np.diff(held.positions, axis=0))) < 1e-5


def two_walls() -> np.ndarray:
    depth = plane(4.0)
    depth[:, 40:56] = 1.0  # a pillar before a wall
    return depth


def test_a_near_pillar_hides_the_wall_as_the_camera_passes():
    way = CameraWay(pan=(0.2, 0), ease="linear")
    tracks = from_start(camera_tracks(two_walls(), way, nothing(45), spacing=8))
    pillar = np.abs(tracks.positions[0, :, 0] - 47.5) < 8
    # The pillar is four times as near as the wall: it sweeps over what stands to its left.
    moved = tracks.positions[20] - tracks.positions[0]
    assert np.allclose(moved[pillar][:, 0], 4 * np.nanmedian(moved[~pillar, 0]), rtol=1e-3)
    left = (tracks.positions[0, :, 0] > 20) & (tracks.positions[0, :, 0] < 39)
    assert not tracks.visible[20:, left].all() and tracks.visible[:, pillar].all(axis=1)[:20].all()
    for frame in (5, 15, 25, 35):
        shift = float(np.nanmedian(moved[pillar][:, 0])) / 20 * frame
        edge = 39.5 + shift, 55.5 + shift
        x = tracks.positions[frame, :, 0]
        under = (x > edge[0] + 2) & (x < edge[1] - 2) & ~pillar
        clear = ((x < edge[0] - 3) | (x > edge[1] + 3)) & (x > 0) & ~pillar
        assert not tracks.visible[frame, under].any()
        assert tracks.visible[frame, clear].all()


def test_points_behind_the_camera_are_invisible():
    scene = DepthScene(plane(), SIZE)
    places, depth = scene.project(np.array([[0.0, 0, -1], [0, 0, 0], [0, 0, 2]]), Pose())
    assert np.isnan(places[:2]).all() and depth[2] == 2
    assert scene.seen(places, depth, Pose()).tolist() == [False, False, True]


def test_what_comes_into_view_gets_points_where_the_last_frame_has_it():
    camera = LiveCamera(plane(), SIZE, spacing=8)
    camera.move(CameraMove(pan=(1, 0)))
    chunks = [camera.cut(nothing(CHUNKS[index > 0])) for index in range(6)]
    for before, after in itertools.pairwise(chunks):
        new = ~np.isin(after.ids, before.ids)
        assert after.visible[0].all()
        if new.any():  # at the right, a plane's step behind those that were there
            assert after.positions[0, new, 0].min() > 80
    right = chunks[-1].positions[-1, :, 0]
    assert right[chunks[-1].visible[-1]].max() > 70
    assert len(set(chunks[-1].ids) & set(chunks[0].ids)) < chunks[0].count
    assert 0 < camera.view() < 0.75


def test_an_object_is_dragged_and_carried_by_the_camera():
    drag = drag_tracks((30, 30), (50, 40), 45, SIZE, radius=8, spacing=4, reach=1)
    way = CameraWay(pan=(0.25, 0))
    both = camera_tracks(plane(), way, drag, spacing=8)
    objects = both.select(np.arange(both.count - drag.count, both.count))
    eased = way.steps(45).cumsum(axis=0)[:, 0] / 0.25
    expected = drag.positions + np.stack([-16 * eased, 0 * eased], -1)[:, None]
    assert np.allclose(objects.positions[objects.visible], expected[objects.visible], atol=1e-3)
    # The scene's points do not come near it, nor does one say that the place it left still shows it.
    scene = both.select(np.arange(both.count - drag.count))
    for frame in range(45):
        apart = np.hypot(*(scene.positions[frame][:, None] - objects.positions[frame][None]).transpose(2, 0, 1))
        assert not (apart[scene.visible[frame]] < 7.9).any()
    begun = scene.select(scene.visible[0])
    at_start = np.hypot(*(begun.positions[0] - (30, 30)).T)
    assert at_start.min() > 8


def test_what_is_under_a_pointer_stays_under_it():
    live, camera = LiveTracks(SIZE), LiveCamera(plane(), SIZE, spacing=8)
    hand, pin = live.drag(30, 30, radius=0), live.pin(60, 30, radius=0)
    camera.move(CameraMove(pan=(1, 0)))
    for frames in (9, 12):
        tracks = camera.cut(live.cut(frames), pointed=live.track_ids(hand).tolist())
    held = tracks.select(np.isin(tracks.ids, live.track_ids(hand)))
    still = tracks.select(np.isin(tracks.ids, live.track_ids(pin)))
    assert np.all(held.positions == (30, 30))
    assert np.allclose(still.positions[-1, 0], (60 - PAN_SPEED * 64 * 20 / 24, 30), atol=1e-3)


def test_wrong_values_are_named():
    for wrong in ({"pan": (2, 0)}, {"zoom": math.nan}, {"orbit": (0,)}):
        with pytest.raises(ValueError, match=f"camera {next(iter(wrong))}"):
            CameraMove(**wrong)
    for wrong in ({"dolly": 1.0}, {"zoom": 0}, {"pan": (math.inf, 0)}, {"ease": "never"}):
        with pytest.raises(ValueError, match=f"camera {next(iter(wrong))}"):
            CameraWay(**wrong)
    with pytest.raises(ValueError, match="use fit_depth"):
        LiveCamera(np.ones((3, 3)), SIZE)
    with pytest.raises(ValueError, match="field_of_view"):
        DepthScene(plane(), SIZE, 0)
    with pytest.raises(ValueError, match="objects of 9 frames"):
        LiveCamera(plane(), SIZE, spacing=8).steer(nothing(9), np.zeros((8, 6)))
