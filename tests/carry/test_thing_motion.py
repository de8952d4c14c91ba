"""All of a thing moves by one smooth field that its tracks tell."""

import math

import pytest
import torch

from motionstream.carry.relations import grid_places
from motionstream.carry.thing_motion import source_places

PLACES = grid_places((64, 64), 2, torch.device("cpu"))
TRACKS = torch.tensor([(20.0, 20.0), (36.0, 18.0), (38.0, 34.0), (22.0, 36.0), (29.0, 27.0)])


def found(now: torch.Tensor, then: torch.Tensor, on_it: torch.Tensor | None = None) -> torch.Tensor:
    """Source places (G, 2) for tracks (N, 2) in one frame of one clip."""
    on_it = torch.ones(len(now), dtype=torch.bool) if on_it is None else on_it
    return source_places(PLACES, now[None, None], then[None], on_it[None, None])[0, 0]


@pytest.mark.parametrize(("angle", "growth"), [(0.0, 1.0), (35.0, 1.0), (-120.0, 1.3), (10.0, 0.7)])
def test_a_rigid_thing_moves_rigidly_far_from_its_tracks_too(angle, growth):
    real, imaginary = growth * math.cos(math.radians(angle)), growth * math.sin(math.radians(angle))
    turn = torch.tensor([[real, imaginary], [-imaginary, real]])
    then = (TRACKS - 30) @ turn + torch.tensor([25.0, 33.0])
    wanted = (PLACES - 30) @ turn + torch.tensor([25.0, 33.0])
    assert (found(TRACKS, then) - wanted).norm(dim=-1).max() < 0.03 * (wanted - PLACES).norm(dim=-1).max() + 0.01


def test_one_track_alone_moves_everything_without_a_turn():
    there = found(TRACKS[:1], TRACKS[:1] - torch.tensor([5.0, -2.0]))
    torch.testing.assert_close(there, PLACES - torch.tensor([5.0, -2.0]), atol=1e-2, rtol=0)


def test_a_track_that_goes_its_own_way_is_followed_and_bends_what_is_around_it_smoothly():
    then = TRACKS.clone()
    then[4, 0] -= 3
    bend = (found(TRACKS, then) - PLACES)[:, 0].unflatten(0, (32, 32))
    at = (PLACES - TRACKS[4]).norm(dim=-1).argmin()
    assert bend.flatten()[at] < -2.3
    assert max(bend.diff(dim=0).abs().max(), bend.diff(dim=1).abs().max()) < 1.5, "2 pixels apart: nothing is folded"
    assert bend.abs()[:4].max() < 1, "far from it the others count"


def test_hidden_tracks_say_nothing_and_none_leave_all_in_place():
    then = TRACKS - 4
    then[2] = 1e4
    on_it = torch.tensor([True, True, False, True, True])
    torch.testing.assert_close(found(TRACKS, then, on_it), PLACES - 4, atol=1e-2, rtol=0)
    torch.testing.assert_close(found(TRACKS, then, on_it & False), PLACES)
