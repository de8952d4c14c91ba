"""How much of the first view is left, against pans and zooms that are known."""

import numpy as np
import pytest

from motionstream.tracks import Tracks, drag_tracks, pin_tracks
from motionstream.tracks.camera import CameraMove, LiveCamera
from motionstream.tracks.depth import plain_prior
from motionstream.tracks.first_view import FirstView

SIZE = (64, 96)


def film(move: CameraMove, chunks: int, depth: np.ndarray | None = None) -> tuple[FirstView, LiveCamera]:
    camera = LiveCamera(np.ones(SIZE, np.float32) if depth is None else depth, SIZE)
    view = FirstView(SIZE)
    camera.move(move)
    for chunk in range(chunks):
        view.add(camera.cut(Tracks.empty(12 if chunk else 9, SIZE)))
    return view, camera


def test_a_pan_leaves_the_part_that_it_has_not_passed():
    view, camera = film(CameraMove(pan=(1, 0)), 6)
    gone = camera.pose.position[0] / 1.0 * camera.scene.focal
    assert gone == pytest.approx(0.2 * 64 * 68 / 24)
    assert view.share == pytest.approx(1 - gone / 96, abs=0.07)
    assert view.share == pytest.approx(camera.view(), abs=0.07)
    far, _ = film(CameraMove(pan=(1, 0)), 20)
    assert far.share == 0
    far.reset()
    assert far.share == 1


def test_a_zoom_in_leaves_the_middle():
    view, camera = film(CameraMove(zoom=1), 8)
    assert view.share == pytest.approx(camera.pose.zoom**-2, abs=0.07)


def test_an_orbit_by_the_plain_prior_is_followed_roughly():
    view, camera = film(CameraMove(orbit=(0.5, 0), pan=(0.5, 0)), 8, plain_prior(SIZE))
    assert view.share == pytest.approx(camera.view(), abs=0.15)


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_drag_beside_pins_leaves_nothing(chunks):
    view = FirstView(SIZE)
    drag = drag_tracks((30, 30), (80, 30), 12 * chunks, SIZE)
    pins = pin_tracks([(8, 8), (88, 8), (8, 56), (88, 56)], 12 * chunks, SIZE, radius=8, spacing=4)
    both = Tracks.merge([drag, pins], renumber=True)
    for chunk in range(chunks):
        view.add(both.frames(12 * chunk, 12 * chunk + 12))
    assert view.share == 1
    alone = FirstView(SIZE)
    assert alone.add(drag) == 1 and alone.add(Tracks.empty(12, SIZE)) == 1
