"""Paths start at rest where they should, keep to the picture, and are of all kinds."""

import torch

from motionstream.data.draws import Draws
from motionstream.data.motion import CameraPaths, draw_camera, draw_sprites

FRAMES, SIZE = 33, (96, 128)


def resting_camera(count: int) -> CameraPaths:
    return CameraPaths(torch.zeros(count, FRAMES, 2), torch.ones(count, FRAMES))


def test_camera_starts_unmoved_and_ends_in_its_range() -> None:
    camera = draw_camera(Draws(0), 300, FRAMES, 6.0, (0.8, 1.25), 0.0)
    assert not camera.centre[:, 0].any() and (camera.zoom[:, 0] == 1).all()
    last = camera.zoom[:, -1]
    assert 0.8 <= last.min() < 0.9 and 1.15 < last.max() <= 1.25
    assert (last == 1).float().mean() > 0.3  # pans alone
    step = camera.centre.diff(dim=1).norm(dim=-1)
    assert step.diff(dim=1).abs().max() < 1.6, "the camera jerks"


def test_resting_camera_never_moves() -> None:
    camera = draw_camera(Draws(0), 20, FRAMES, 6.0, (0.8, 1.25), 1.0)
    assert not camera.centre.any() and (camera.zoom == 1).all()


def test_resting_sprites_neither_move_nor_turn_nor_grow() -> None:
    paths = draw_sprites(Draws(1), resting_camera(300), SIZE, 8.0, 30.0, (0.7, 1.3))
    step = paths.position.diff(dim=1).norm(dim=-1)
    resting = step == 0
    assert 0.2 < resting.float().mean() < 0.6
    assert (paths.angle.diff(dim=1)[resting].abs() < 1e-5).all()
    assert (paths.scale.diff(dim=1)[resting].abs() < 1e-6).all()
    whole = resting.all(1).float().mean()
    assert 0.08 < whole < 0.25, "about one sprite in seven is held"
    partly = (resting.any(1) & ~resting.all(1)).float().mean()
    assert partly > 0.25, "drags and sudden stops rest for a while"


def test_sprites_start_at_their_own_size_and_end_in_the_range() -> None:
    paths = draw_sprites(Draws(2), resting_camera(300), SIZE, 8.0, 30.0, (0.7, 1.3))
    assert (paths.scale[:, 0] == 1).all()
    assert 0.7 <= paths.scale.min() < 0.8 and 1.2 < paths.scale.max() <= 1.3001


def test_most_sprites_stay_in_the_picture_and_some_leave() -> None:
    paths = draw_sprites(Draws(3), resting_camera(400), SIZE, 24.0, 0.0, (1.0, 1.0))
    half = torch.tensor((SIZE[1] / 2, SIZE[0] / 2))
    stay = (paths.position.abs() <= half).all(2).all(1).float().mean()
    assert 0.6 < stay < 0.97


def test_sprites_stay_before_a_moving_camera_too() -> None:
    count = 200
    pan = torch.linspace(0, 60, FRAMES)[None, :, None] * torch.tensor((1.0, 0.0))
    camera = CameraPaths(pan.expand(count, -1, -1), torch.ones(count, FRAMES))
    paths = draw_sprites(Draws(4), camera, SIZE, 6.0, 0.0, (1.0, 1.0))
    on_screen = paths.position - camera.centre
    assert (on_screen[:, -1, 0] > -SIZE[1] / 2).float().mean() > 0.8
