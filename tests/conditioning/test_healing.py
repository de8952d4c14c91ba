"""What was behind a thing: copied from elsewhere in the picture, smoothly joined."""

import numpy as np
import pytest
import torch

from motionstream.conditioning.healing import heal, surroundings

SIZE = 96
Y, X = torch.meshgrid(torch.arange(SIZE) + 0.0, torch.arange(SIZE) + 0.0, indexing="ij")


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    """A mask at half the picture's size."""
    return (((X - x) ** 2 + (Y - y) ** 2)[::2, ::2] <= radius**2).float()


def covered(picture: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.repeat_interleave(2, 0).repeat_interleave(2, 1) > 0, 1.0, picture)


def stripes(period: float = 10.0) -> torch.Tensor:
    """Slanted ones, as a weave has."""
    return (0.5 * torch.sin(2 * np.pi * (X + 0.5 * Y) / period))[None].repeat(3, 1, 1) - 0.2


def error(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    inside = mask.repeat_interleave(2, 0).repeat_interleave(2, 1) > 0
    return float((one - other)[:, inside].square().mean().sqrt())


@pytest.mark.parametrize("place", [(48, 48), (40, 62), (90, 50)])
def test_texture_goes_on_behind_what_has_been_taken_out(place):
    truth, mask = stripes(), disc(*place, 12)
    found = heal(covered(truth, mask), mask)
    smooth = surroundings(covered(truth, mask)[None], mask.repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None])
    assert error(found, truth, mask) < 0.6 * error(smooth[0], truth, mask)
    assert torch.equal(found, heal(covered(truth, mask), mask))


def test_light_that_changes_across_the_picture_is_joined_smoothly():
    truth = (0.01 * X - 0.5)[None].repeat(3, 1, 1)
    mask = disc(50, 48, 12)
    assert error(heal(covered(truth, mask), mask), truth, mask) < 0.05


def test_only_the_hole_and_a_pixel_around_it_are_changed():
    mask = disc(30, 50, 10)
    before = covered(stripes(), mask)
    kept = (
        torch.nn.functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    assert torch.equal(heal(before, mask)[:, kept == 0], before[:, kept == 0])


@pytest.mark.parametrize("mask", [torch.zeros(SIZE // 2, SIZE // 2), disc(48, 48, 60)])
def test_nothing_and_nearly_everything_are_left_as_they_are(mask):
    assert torch.equal(heal(stripes(), mask), stripes())


def test_a_hole_that_nothing_fits_is_filled_smoothly():
    mask = torch.zeros(SIZE // 2, SIZE // 2)
    mask[13:35, 3:45] = 1  # shifted as far as it would have to be, too little of the rim is in the picture
    found = heal(covered(torch.full((3, SIZE, SIZE), 0.25), mask), mask)
    assert error(found, torch.full_like(found, 0.25), mask) < 1e-3
