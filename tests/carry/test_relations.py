"""Which track a place follows: masks of things tell before distances do."""

from dataclasses import replace

import torch

from motionstream.carry.candidates import carry
from motionstream.carry.relations import FAR, CarrySource, relate

SIZE, GRID = 64, 2
MOVE = torch.tensor([20.0, 0.0])
THING = (slice(20, 44), slice(8, 32))
"""Rows and columns of the picture."""


def source(*, known: bool = True, frames: int = 1) -> CarrySource:
    """A square of 24 pixels with a track at its left, which goes to the right; a pin stands beside its old place, and
    another where its lower corner comes to."""
    picture = torch.zeros(1, 1, 3, SIZE, SIZE)
    picture[..., THING[0], THING[1]] = 1
    start = torch.tensor([[(19.5, 31.5), (34.0, 50.0), (50.0, 40.0)]])
    things = torch.zeros(1, 1, 2, SIZE, SIZE)
    things[:, :, 0, THING[0], THING[1]] = 1
    plain = CarrySource(picture, torch.zeros(1, 3, dtype=torch.long), start, torch.zeros(1, frames, dtype=torch.long))
    thing = torch.tensor([[[0, -1, -1]] * frames])
    return replace(plain, things=things, thing=thing) if known else plain


def moved(of: CarrySource, frames: int = 1) -> torch.Tensor:
    positions = of.start[:, None].repeat(1, frames, 1, 1)
    positions[:, :, 0] += MOVE
    return positions


def at(values: torch.Tensor, x: int, y: int) -> torch.Tensor:
    return values[0, 0, (y // GRID) * (SIZE // GRID) + x // GRID]


def test_a_place_on_a_thing_follows_it_though_another_track_is_nearer():
    seen = torch.ones(1, 1, 3, dtype=torch.bool)
    for known, track in ((False, 2), (True, 0)):
        told = source(known=known)
        near = relate(moved(told), seen, told, grid=GRID).near
        assert at(near.track, 48, 38) == track
    torch.testing.assert_close(at(near.move, 48, 38), MOVE, atol=1e-2, rtol=0)
    assert at(near.track, 55, 50) == 2, "what no mask claims follows the nearest"


def test_what_moves_otherwise_is_on_another_thing():
    told = source()
    told = replace(told, start=torch.cat([told.start, told.start[:, :1] + 4], dim=1))
    told = replace(told, index=torch.zeros(1, 4, dtype=torch.long), thing=torch.tensor([[[0, -1, -1, 0]]]))
    positions = told.start[:, None].clone()
    positions[:, :, 0] += MOVE
    positions[:, :, 3] += MOVE + torch.tensor([0.0, 3.0])  # it turns a little
    far = relate(positions, torch.ones(1, 1, 4, dtype=torch.bool), told, grid=GRID).far
    assert at(far.track, 40, 32) in (1, 2)


def test_all_of_the_thing_arrives_and_its_candidate_is_whole():
    told = source()
    near = carry(moved(told), torch.ones(1, 1, 3, dtype=torch.bool), told, grid=GRID).candidates[0, 0, 0, 0]
    assert (near[21:43, 29:51] > 0.95).all()


def test_a_thing_that_has_left_the_picture_has_left_its_place():
    told = source()
    gone = moved(told) + torch.tensor([200.0, 0.0])
    for positions in (gone, torch.full_like(gone, torch.nan)):
        home = relate(positions, torch.zeros(1, 1, 3, dtype=torch.bool), told, grid=GRID).home
        assert at(home.track, 20, 30) == 0 and at(home.move, 20, 30)[0] > SIZE / 2
        assert at(home.distance, 60, 60) >= FAR, "of what is not known, hidden tracks say nothing"
        near = relate(positions, torch.zeros(1, 1, 3, dtype=torch.bool), told, grid=GRID).near
        assert (near.distance >= FAR).all(), "nor does a hidden thing claim its old place"


def test_what_has_left_takes_its_rim_along_but_comes_without_it():
    told = source()
    relations = relate(moved(told), torch.ones(1, 1, 3, dtype=torch.bool), told, grid=GRID)
    below = THING[0].stop + 1
    assert at(relations.home.track, 28, below) == 0 and at(relations.home.track, 28, below + GRID) == 1
    assert at(relations.near.track, 48, below) == 2


def test_of_a_point_that_is_grasped_twice_the_later_counts_whoever_else_is_there():
    told = source()
    again = told.start[:, :1] + MOVE  # where the first track is now, in the second picture
    pictures, things = told.pictures.repeat(1, 2, 1, 1, 1), told.things.repeat(1, 2, 1, 1, 1)
    things[:, 1] = 0
    things[:, 1, 1, 20:44, 28:52] = 1
    for hidden in (0, 7):
        start = torch.cat([told.start, again, torch.rand(1, hidden, 2) * SIZE], dim=1)
        index = torch.tensor([[0, 0, 0, 1] + [0] * hidden])
        thing = torch.tensor([[[0, -1, -1, 1] + [-1] * hidden]])
        both = CarrySource(pictures, index, start, torch.ones(1, 1, dtype=torch.long), things=things, thing=thing)
        positions = start[:, None].clone()
        positions[:, :, 0] += MOVE
        visible = torch.ones(1, 1, 4 + hidden, dtype=torch.bool)
        visible[..., 4:] = False
        near = relate(positions, visible, both, grid=GRID).near
        assert at(near.track, 40, 32) == 3 and at(near.picture, 40, 32) == 1
