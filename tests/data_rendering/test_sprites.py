"""Outlines and their distances, against shapes whose distances are known."""

import math

import torch

from motionstream.data.draws import Draws
from motionstream.data.sprites import (
    ANGLES,
    LARGEST,
    distance_maps,
    draw_outlines,
    grid_points,
    signed_distance,
)


def test_distance_to_a_circle_and_to_an_ellipse() -> None:
    angle = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    points = Draws(0).uniform(-20.0, 20.0, 1, 500, 2)
    circle = torch.full((1, ANGLES), 10.0)
    assert torch.allclose(signed_distance(circle, points), points.norm(dim=-1) - 10, atol=1e-4)

    a, b = 12.0, 7.0
    ellipse = (a * b / ((b * angle.cos()) ** 2 + (a * angle.sin()) ** 2).sqrt())[None]
    edge = torch.stack((a * angle.cos(), b * angle.sin()), -1)[None]
    normal = torch.nn.functional.normalize(edge / torch.tensor((a * a, b * b)), dim=-1)
    for offset in (-0.5, 0.0, 0.5):  # the band in which pixels are partly covered
        found = signed_distance(ellipse, edge + offset * normal)
        assert (found - offset).abs().max() < 0.05


def test_outlines_have_the_radius_asked_for_and_a_limit() -> None:
    outlines = draw_outlines(Draws(0), 200, (9.0, 9.0))
    assert outlines.shape == (200, ANGLES)
    size = outlines.square().mean(1).sqrt()
    assert (size - 9).abs().mean() < 0.1
    assert outlines.max() <= 9 * LARGEST + 1e-4 and outlines.min() > 0
    assert draw_outlines(Draws(0), 0, (9.0, 9.0)).shape == (0, ANGLES)
    # The curve is closed and has no jumps.
    assert (outlines - outlines.roll(1, 1)).abs().max() < 2.5


def test_distance_map_is_centred() -> None:
    circle = torch.full((1, ANGLES), 5.0)
    square = distance_maps(circle, 15)[0]
    assert torch.allclose(square[7, 7], torch.tensor(-5.0), atol=1e-4)
    assert torch.allclose(square[7, 12], torch.tensor(0.0), atol=1e-4)
    assert torch.allclose(square, square.flip(0), atol=1e-4)
    assert torch.allclose(square, square.T, atol=1e-4)


def test_grid_points_are_upright_at_the_start_and_inside() -> None:
    outlines = draw_outlines(Draws(1), 30, (8.0, 24.0))
    angle = Draws(2).angle(30)
    points, inside = grid_points(Draws(3), outlines, angle, 8)
    assert inside.any(dim=1).all()
    assert (signed_distance(outlines, points)[inside] < -1).all()
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x = cos * points[..., 0] - sin * points[..., 1]
    columns = x.unflatten(1, (8, 8))
    assert (columns - columns[:, :1]).abs().max() < 1e-4
    spacing = columns.diff(dim=2)
    assert spacing.min() > 3.999 and spacing.max() < 8.001
