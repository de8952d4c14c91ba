"""What was behind a thing: copied from elsewhere in the picture, smoothly joined."""

import numpy as np
import pytest
import torch

from motionstream.carry.filling import surroundings
from motionstream.carry.healing import _fill, heal

SIZE = 96
Y, X = torch.meshgrid(torch.arange(SIZE) + 0.0, torch.arange(SIZE) + 0.0, indexing="ij")


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    return ((X - x) ** 2 + (Y - y) ** 2 <= radius**2).float()


def covered(picture: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask > 0, 1.0, picture)


def stripes(period: float = 10.0) -> torch.Tensor:
    """Slanted ones, as a weave has."""
    return (0.5 * torch.sin(2 * np.pi * (X + 0.5 * Y) / period))[None].repeat(3, 1, 1) - 0.2


def error(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    return float((one - other)[:, mask > 0].square().mean().sqrt())


@pytest.mark.parametrize("place", [(48, 48), (40, 62), (90, 50)])
def test_texture_goes_on_behind_what_has_been_taken_out(place):
    truth, mask = stripes(), disc(*place, 12)
    (found,) = heal([covered(truth, mask)], mask)
    smooth = surroundings(covered(truth, mask)[None], mask[None, None])
    assert error(found, truth, mask) < 0.6 * error(smooth[0], truth, mask)
    assert torch.equal(found, heal([covered(truth, mask)], mask)[0])


def test_light_that_changes_across_the_picture_is_joined_smoothly():
    truth = (0.01 * X - 0.5)[None].repeat(3, 1, 1)
    mask = disc(50, 48, 12)
    assert error(heal([covered(truth, mask)], mask)[0], truth, mask) < 0.05


def test_only_the_hole_and_a_pixel_around_it_are_changed():
    mask = disc(30, 50, 10)
    before = covered(stripes(), mask)
    kept = torch.nn.functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0]
    assert torch.equal(heal([before], mask)[0][:, kept == 0], before[:, kept == 0])


@pytest.mark.parametrize("mask", [torch.zeros(SIZE, SIZE), disc(48, 48, 60)])
def test_nothing_and_nearly_everything_are_left_as_they_are(mask):
    assert torch.equal(heal([stripes()], mask)[0], stripes())


def test_a_hole_that_nothing_fits_is_filled_smoothly():
    mask = torch.zeros(SIZE, SIZE)
    mask[26:70, 6:90] = 1  # shifted as far as it would have to be, too little of the rim is in the picture
    (found,) = heal([covered(torch.full((3, SIZE, SIZE), 0.25), mask)], mask)
    assert error(found, torch.full_like(found, 0.25), mask) < 1e-3


@pytest.mark.parametrize("scale", [1, 2])
def test_a_thing_that_a_shift_shows_is_not_copied_into_even_ground(scale):
    larger = lambda maps: maps.repeat_interleave(scale, -1).repeat_interleave(scale, -2)  # noqa: E731
    ground = -0.5 + 0.02 * stripes(7.0)
    picture = larger(torch.where(disc(66, 48, 6) > 0, 0.8, ground))
    hole = larger(disc(30, 48, 10)) > 0
    found = _fill(picture, hole.numpy(), scale * np.array([[0, 36]]), scale)
    assert (found - larger(ground))[:, hole].abs().max() < 0.1


def test_rough_ground_goes_on_rough():
    torch.manual_seed(0)
    rough = torch.nn.functional.avg_pool2d(torch.randn(1, 3, SIZE + 2, SIZE + 2), 3, 1)[0] * 0.6
    mask = disc(48, 48, 10)
    found = heal([covered(rough, mask)], mask)[0][:, mask > 0]
    assert found.std() > 0.5 * rough.std()
