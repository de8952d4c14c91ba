import math

import numpy as np
import pytest

from motionstream.tracks.tracker import LucasKanade, TemplateTracker, Tracker, grid_points, make_tracker

SIZE = (96, 128)
TRACKERS = [LucasKanade(), TemplateTracker()]


class Texture:
    """A sum of waves that is known at every point of the plane, so that it moves by exactly what is said."""

    def __init__(self, seed: int, shortest: float = 6.0, longest: float = 40.0) -> None:
        rng = np.random.default_rng(seed)
        length, angle = rng.uniform(shortest, longest, (2, 24)), rng.uniform(0, 2 * np.pi, (2, 24))
        self.waves = 2 * np.pi * np.stack([np.cos(angle[0]), np.sin(angle[0])]) / length[0]
        self.phases = rng.uniform(0, 2 * np.pi, (24, 3))

    def at(self, points: np.ndarray) -> np.ndarray:
        """Colours (..., 3), about 0..255, at points (..., 2)."""
        waves = points @ self.waves
        return 128 + 16 * np.stack([np.sin(waves + phase).sum(-1) for phase in self.phases.T], axis=-1)


def pixels() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x, y], axis=-1).astype(float)


def picture(colours: np.ndarray) -> np.ndarray:
    return np.clip(np.round(colours), 0, 255).astype(np.uint8)


def pan(speed: tuple[float, float], frames: int = 13) -> np.ndarray:
    """A textured plane that moves by `speed` pixels a frame."""
    texture = Texture(0)
    return np.stack([picture(texture.at(pixels() - np.array(speed) * t)) for t in range(frames)])


def sprite(
    frames: int = 17,
    speed: tuple[float, float] = (1.6, 0.7),
    turn: float = 0.0,
    growth: float = 1.0,
    radius: float = 24.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A soft-edged textured disc over textured ground: video, and exact paths (T, N, 2) of points on it."""
    ground, own = Texture(1).at(pixels()), Texture(2, shortest=9)
    start = np.array([40.0, 40.0])
    grid = np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3)]) * radius / 4
    video, paths = [], []
    for t in range(frames):
        pose = growth**t * np.exp(1j * math.radians(turn) * t)
        centre = start + np.array(speed) * t
        offset = pixels() - centre
        inner = (offset[..., 0] + 1j * offset[..., 1]) / pose
        alpha = 1 / (1 + np.exp(np.abs(inner) - radius))[..., None]
        colours = own.at(np.stack([inner.real, inner.imag], -1)) * alpha + ground * (1 - alpha)
        video.append(picture(colours))
        moved = (grid[:, 0] + 1j * grid[:, 1]) * pose
        paths.append(np.stack([moved.real, moved.imag], -1) + centre)
    return np.stack(video), np.stack(paths)


def errors(tracker: Tracker, video: np.ndarray, paths: np.ndarray) -> tuple[np.ndarray, float]:
    """Distances from the exact paths where the tracker claims to see the point, and the share it lost."""
    tracks = tracker.track(video, paths[0].astype(np.float32))
    distances = np.hypot(*np.moveaxis(tracks.positions - paths, -1, 0))
    return distances[tracks.visible], 1 - tracks.visible[-1].mean()


# What both trackers owe


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("speed", [(0.0, 0.0), (0.37, -0.23), (1.5, 0.5), (-2.6, 1.9)])
def test_a_pan_is_followed_below_the_pixel(tracker: Tracker, speed: tuple[float, float]):
    video = pan(speed)
    points = grid_points(SIZE, 8)
    tracks = tracker.track(video, points, fps=16)
    assert tracks.fps == 16 and tracks.size == SIZE and tracks.ids.tolist() == list(range(64))
    np.testing.assert_allclose(tracks.positions[0], points)
    true = points + np.arange(13)[:, None, None] * np.array(speed)
    stays = ((true > 8) & (true < (SIZE[1] - 9, SIZE[0] - 9))).all(axis=(0, 2))
    distance = np.hypot(*np.moveaxis(tracks.positions - true, -1, 0))[:, stays]
    assert tracks.visible[:, stays].mean() > 0.97
    assert np.median(distance) < 0.05 and np.quantile(distance, 0.9) < 0.2


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda t: type(t).__name__)
def test_points_that_leave_the_picture_are_lost_for_good(tracker: Tracker):
    there = pan((4.0, 0.0), frames=9)
    video = np.concatenate([there, there[::-1]])  # out at the right, and back
    points = np.array([[SIZE[1] - 6.0, 40.0], [30.0, 40.0]], np.float32)
    tracks = tracker.track(video, points)
    assert tracks.visible[0].all() and tracks.visible[:, 1].all()
    assert not tracks.visible[3:, 0].any()
    assert np.isfinite(tracks.positions).all() and tracks.inside().all()


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda t: type(t).__name__)
def test_points_on_something_that_vanishes_are_lost_for_good(tracker: Tracker):
    rng = np.random.default_rng(0)
    video = pan((0.5, 0.0))
    video[6:9, :, :64] = rng.integers(0, 256, (3, SIZE[0], 64, 3))
    points = np.array([[x, y] for x in (20, 35, 100) for y in range(20, 80, 10)], np.float32)
    tracks = tracker.track(video, points)
    assert tracks.visible[:6].all()
    assert tracks.visible[9:, :12].mean() < 0.1 and tracks.visible[:, 12:].all()
    assert not (tracks.visible[1:] & ~tracks.visible[:-1]).any()


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda t: type(t).__name__)
def test_odd_input_is_answered(tracker: Tracker):
    video = pan((0.5, 0.0), frames=3)
    assert tracker.track(video, np.zeros((0, 2), np.float32)).count == 0
    assert tracker.track(video[:1], np.array([[5.0, 5.0]])).visible.all()
    outside = tracker.track(video, np.array([[-3.0, 5.0], [5.0, 500.0], [50.0, 50.0]]))
    assert outside.visible.tolist() == [[False, False, True]] * 3
    tiny = np.random.default_rng(0).integers(0, 256, (4, 5, 4, 3), dtype=np.uint8)
    assert tracker.track(tiny, np.array([[1.0, 2.0], [-0.5, -0.5], [3.49, 4.49]])).length == 4


@pytest.mark.parametrize("tracker", TRACKERS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    "video, points, message",
    [
        (np.zeros((3, 8, 8, 3)), np.zeros((1, 2)), r"video is float64 \(3, 8, 8, 3\)"),
        (np.zeros((3, 3, 8, 8), np.uint8), np.zeros((1, 2)), r"video is uint8 \(3, 3, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((1, 2)), r"video is uint8 \(0, 8, 8, 3\)"),
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros((2, 1, 2)), r"points are float64 \(2, 1, 2\)"),
        (np.zeros((3, 8, 8, 3), np.uint8), np.array([[1, 1], [2, np.nan]]), r"point 1 is \[2.0, nan\]"),
    ],
)
def test_bad_input_is_named(tracker: Tracker, video: np.ndarray, points: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        tracker.track(video, points)


# The measuring tracker


@pytest.mark.parametrize("turn, growth", [(0.0, 1.0), (4.0, 1.0), (0.0, 1.02), (-3.0, 0.985)])
def test_template_follows_things_that_turn_and_grow(turn: float, growth: float):
    video, paths = sprite(turn=turn, growth=growth)
    distances, lost = errors(TemplateTracker(), video, paths)
    assert np.median(distances) < 0.1 and distances.mean() < 0.3 and lost < 0.1


def test_template_is_the_better_one_on_a_sprite_over_a_still_ground():
    video, paths = sprite(turn=2.0, speed=(2.0, 1.0), radius=16)
    template, template_lost = errors(TemplateTracker(), video, paths)
    flow, flow_lost = errors(LucasKanade(), video, paths)
    assert template.mean() < 0.5 and template_lost <= 0.25
    assert flow.mean() > 3 * template.mean() or flow_lost > 2 * template_lost + 0.1


def test_template_keeps_most_points_of_a_thing_smaller_than_its_patches():
    # Half of such a patch is ground: its turn and size cannot be told, its shift can.
    distances, lost = errors(TemplateTracker(), *sprite(radius=8.0))
    assert distances.mean() < 0.75 and lost < 0.45


def test_template_does_not_mind_the_light():
    video, paths = sprite()
    light = np.linspace(1, 0.4, len(video))[:, None, None, None]
    distances, lost = errors(TemplateTracker(), picture(video * light + 10), paths)
    assert np.median(distances) < 0.1 and lost < 0.1


def test_template_finds_jumps_within_its_radius_only():
    texture = Texture(0)
    video = np.stack([picture(texture.at(pixels() - (0, 0))), picture(texture.at(pixels() - (6, -5)))])
    points = np.array([(x, y) for x in (30, 50, 70, 90) for y in (30, 45, 60)], np.float32)
    near = TemplateTracker(radius=8).track(video, points)
    np.testing.assert_allclose(near.positions[1] - points, np.broadcast_to((6, -5), points.shape), atol=0.05)
    far = TemplateTracker(radius=3).track(video, points)
    assert (np.hypot(*(far.positions[1] - points - (6, -5)).T) > 1).all()


def test_template_does_not_follow_what_has_no_texture():
    video = np.full((4, *SIZE, 3), 90, np.uint8)
    video[:, 20:40, 20:40] += np.random.default_rng(0).integers(0, 2, (4, 20, 20, 3), dtype=np.uint8) * 50
    tracks = TemplateTracker().track(np.repeat(video[:1], 4, 0), np.array([[80.0, 60.0], [30.0, 30.0]]))
    assert tracks.visible.tolist() == [[False, True]] * 4


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TemplateTracker(patch=10), "patch is 10"),
        (lambda: TemplateTracker(radius=0), "radius is 0"),
        (lambda: TemplateTracker(threshold=0.95), "threshold 0.95, search 0.9"),
        (lambda: TemplateTracker(smoothing=0), "smoothing is 0"),
        (lambda: LucasKanade(window=2), "window=2"),
        (lambda: LucasKanade(max_error=0), "max_error=0"),
    ],
)
def test_bad_settings_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_trackers_have_names():
    assert make_tracker("lucas-kanade") == LucasKanade() and make_tracker("template") == TemplateTracker()
    with pytest.raises(ValueError, match=r"tracker = 'magic': give one of lucas-kanade, .*cotracker-online"):
        make_tracker("magic")


# Grids


def test_grid_points_are_laid_out_as_cotracker_s():
    grid = grid_points((480, 832), 50)
    assert grid.shape == (2500, 2) and grid.dtype == np.float32
    assert (grid[0].tolist(), grid[-1].tolist()) == ([13, 13], [819, 467])
    np.testing.assert_allclose(np.diff(grid[:50, 0]), 806 / 49, rtol=1e-4)  # x runs fastest
    assert (grid[:50, 1] == 13).all() and grid[50, 0] == 13
    assert grid_points((480, 832), 1).tolist() == [[416, 240]]
    with pytest.raises(ValueError, match="count is 0"):
        grid_points((480, 832), 0)
