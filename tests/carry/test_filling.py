"""What is missing is filled with what is around it."""

import torch

from motionstream.carry.filling import surroundings


def test_what_has_left_is_replaced_by_what_is_around_it():
    picture = torch.full((1, 3, 16, 24), 0.25)
    picture[:, :, 6:10, 8:14] = -0.75  # a thing
    gone = torch.zeros(1, 1, 16, 24)
    gone[:, :, 6:10, 8:14] = 1
    torch.testing.assert_close(surroundings(picture, gone), torch.full_like(picture, 0.25))
    torch.testing.assert_close(surroundings(picture, torch.zeros_like(gone)), picture)
    half = surroundings(picture, gone / 2)[0, 0, 7, 10]
    assert -0.75 < half < 0.25
    assert torch.isfinite(surroundings(picture, torch.ones_like(gone))).all()  # nothing is left to tell
