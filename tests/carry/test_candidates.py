"""Carried content: exact where it can be, chunk by chunk, and bounded."""

import cmath
from dataclasses import replace

import pytest
import torch

from motionstream.carry.candidates import Mixture, _between, carry
from motionstream.carry.prior import CarryPrior, Prior
from motionstream.carry.relations import CarrySource, turns
from motionstream.config import CarryConfig, MixerConfig

H, W = 32, 48


def source(pictures: torch.Tensor, start: torch.Tensor, frames: int, index: int = 0, static: int = 0) -> CarrySource:
    batch, count = start.shape[:2]
    return CarrySource(
        pictures, torch.full((batch, count), index), start, torch.full((batch, frames), static, dtype=torch.long)
    )


def picture(seed: int = 0, count: int = 1) -> torch.Tensor:
    return torch.rand(1, count, 3, H, W, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_one_track_moves_the_whole_picture_by_whole_pixels_exactly():
    picture_ = picture()
    start = torch.tensor([[[20.0, 16.0]]])
    positions = start[:, None] + torch.tensor([[0.0, 0.0], [5.0, -3.0]])[None, :, None]
    carried = carry(positions, torch.ones(1, 2, 1, dtype=torch.bool), source(picture_, start, 2))
    near = carried.candidates[0, 0]
    torch.testing.assert_close(near[:, 0], picture_[0, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(near[:, 1, :-3, 5:], picture_[0, 0][:, 3:, :-5], atol=1e-4, rtol=0)
    static = carried.candidates[0, 2]
    torch.testing.assert_close(static[:, 1], picture_[0, 0], atol=1e-4, rtol=0)


def test_what_is_held_moves_with_its_picture_and_is_weighed_like_it():
    start = torch.tensor([[[20.0, 16.0]]])
    positions = start[:, None] + torch.tensor([[0.0, 0.0], [6.0, -4.0]])[None, :, None]
    held = torch.zeros(1, 1, H, W)
    held[..., 10:20, 14:26] = 1
    told = replace(source(picture(), start, 2), held=held)
    visible = torch.ones(1, 2, 1, dtype=torch.bool)
    moved = carry(positions, visible, told)
    assert moved.held.shape == (1, 1, 2, H, W)
    torch.testing.assert_close(moved.held[0, 0, 0], held[0, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.held[0, 0, 1], held[0, 0].roll((-4, 6), (0, 1)), atol=1e-4, rtol=0)
    plain = carry(positions, visible, source(picture(), start, 2))
    torch.testing.assert_close(moved.candidates, plain.candidates)
    assert plain.held.abs().max() == 0

    def half_static(candidates, relations, source):
        weights = torch.tensor([0.25, 0.0, 0.5, 0.25])[None, :, None, None, None].expand(1, 4, 2, H, W)
        return Mixture(candidates[:, 0], weights, torch.zeros(1, 3, 2, H, W))

    mixed = carry(positions, visible, told, mixer=half_static)
    expected = 0.25 * moved.held[0, 0, 1] + 0.5 * held[0, 0]
    torch.testing.assert_close(mixed.held[0, 0, 1], expected, atol=1e-4, rtol=0)


def test_every_place_follows_its_nearest_track_and_knows_the_next():
    picture_ = picture()
    start = torch.tensor([[[4.0, 16.0], [44.0, 16.0]]])
    positions = start[:, None] + torch.tensor([[[[0.0, 0.0], [4.0, 0.0]]]])
    carried = carry(positions, torch.ones(1, 1, 2, dtype=torch.bool), source(picture_, start, 1))
    near, far, _ = carried.candidates[0, :, :, 0]
    original = picture_[0, 0]
    torch.testing.assert_close(near[:, :, :16], original[:, :, :16], atol=1e-4, rtol=0)
    torch.testing.assert_close(near[:, :, 36:], original[:, :, 32:-4], atol=1e-4, rtol=0)
    torch.testing.assert_close(far[:, :, 8:16], original[:, :, 4:12], atol=1e-4, rtol=0)


def test_without_visible_tracks_everything_is_the_static_picture():
    picture_ = picture(count=2)
    start = torch.tensor([[[20.0, 16.0]]])
    for visible, count in ((torch.zeros(1, 3, 1, dtype=torch.bool), 1), (torch.zeros(1, 3, 0, dtype=torch.bool), 0)):
        positions = torch.full((1, 3, count, 2), float("nan"))
        carried = carry(positions, visible, source(picture_, start[:, :count], 3, static=1))
        for candidate in carried.candidates[0]:
            torch.testing.assert_close(candidate, picture_[0, 1][:, None].expand(-1, 3, -1, -1), atol=1e-4, rtol=0)
        assert carried.features.abs().max() < 1e-6


def test_content_comes_from_the_picture_in_which_the_track_began():
    pictures = picture(count=2)
    start = torch.tensor([[[20.0, 16.0]]])
    positions = start[:, None] + 4
    carried = carry(positions, torch.ones(1, 1, 1, dtype=torch.bool), source(pictures, start, 1, index=1))
    near = carried.candidates[0, 0, :, 0]
    torch.testing.assert_close(near[:, 4:, 4:], pictures[0, 1][:, :-4, :-4], atol=1e-4, rtol=0)


def test_frames_are_independent_so_chunks_equal_the_whole():
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(1, 5, 2, generator=generator) * 30
    positions = start[:, None] + torch.rand(1, 9, 5, 2, generator=generator) * 10
    visible = torch.rand(1, 9, 5, generator=generator) > 0.4
    whole = carry(positions, visible, source(picture(), start, 9))
    parts = [carry(positions[:, k : k + 3], visible[:, k : k + 3], source(picture(), start, 3)) for k in (0, 3, 6)]
    torch.testing.assert_close(torch.cat([p.candidates for p in parts], dim=3), whole.candidates, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([p.features for p in parts], dim=2), whole.features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mixer", [None, MixerConfig(look_widths=(4,), mix_widths=(4,), features=4, heads=2)])
def test_prior_lies_around_the_carried_candidate_and_its_likelihood_prefers_the_truth(mixer):
    prior_net = CarryPrior(CarryConfig(hidden_channels=8, mixer=mixer), 6, spatial=8, temporal=4)
    candidates = torch.randn(2, 3, 6, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    prior = prior_net(candidates, torch.rand(2, 8, 3, 4, 6))
    assert torch.equal(prior.mean, candidates[:, 0 if mixer is None else 1])
    assert (prior.std > 0).all()
    exact = Prior(prior.mean, prior.std).negative_log_likelihood(prior.mean)
    assert (exact < prior.negative_log_likelihood(prior.mean + 1)).all()


def smooth_picture() -> torch.Tensor:
    """Waves of 8 pixels and more, which sampling between pixels does not blur much."""
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    waves = [torch.sin(0.5 * x + 0.3 * y), torch.cos(0.4 * y - 0.2 * x), torch.sin(0.3 * x) * torch.cos(0.35 * y)]
    return 0.8 * torch.stack(waves)[None, None].float()


def turned_about(centre: tuple[float, float], points: torch.Tensor, factor: complex) -> torch.Tensor:
    """Points (…, 2) turned and magnified by a complex factor."""
    middle = torch.tensor(centre)
    x, y = (points - middle).unbind(-1)
    a, b = factor.real, factor.imag
    return torch.stack([a * x - b * y, a * y + b * x], dim=-1) + middle


def grid_points(x: tuple[int, ...], y: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([[[float(a), float(b)] for b in y for a in x]])


@pytest.mark.parametrize("factor", [cmath.rect(1.0, 0.4), cmath.rect(1.15, 0.0), cmath.rect(0.9, -0.3)])
def test_tracks_that_turn_and_grow_together_turn_and_scale_the_content(factor):
    picture_, centre = smooth_picture(), (24.0, 16.0)
    start = grid_points((16, 24, 32), (8, 16, 24))
    positions = turned_about(centre, start, factor)[:, None]
    visible = torch.ones(positions.shape[:3], dtype=torch.bool)
    near = carry(positions, visible, source(picture_, start, 1)).candidates[0, 0, :, 0]
    places = torch.stack(torch.meshgrid(torch.arange(14.0, 34), torch.arange(8.0, 24), indexing="xy"), dim=-1)
    from_ = turned_about(centre, places, 1 / factor)
    grid = torch.stack([2 * (from_[..., 0] + 0.5) / W - 1, 2 * (from_[..., 1] + 0.5) / H - 1], dim=-1)
    expected = torch.nn.functional.grid_sample(picture_[0], grid[None], align_corners=False)[0]
    alone = carry(positions[:, :, 4:5], visible[:, :, 4:5], source(picture_, start[:, 4:5], 1))
    moved_only = alone.candidates[0, 0, :, 0]
    error, without = ((x[:, 8:24, 14:34] - expected).abs().mean() for x in (near, moved_only))
    assert error < 0.06 and error < 0.3 * without


@pytest.mark.parametrize("turn", [0.9, 2.0, 3.1])
def test_between_look_up_places_what_turns_far_turns_smoothly(turn):
    """However far: neighbours move by many pixels more than one another, and yet together."""

    def motion(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        moved = places - turned_about((24.0, 16.0), places, cmath.rect(1.0, turn))
        moved[..., 1] += 40.0 * (places[..., 0] >= W / 2)  # beside it, what moves otherwise
        return moved.movedim(2, 0)[None]

    found = _between(motion(torch.arange(1.5, W, 4), torch.arange(1.5, H, 4)), 4, 1)
    expected = motion(torch.arange(float(W)), torch.arange(float(H)))
    inner = ..., slice(4, -4), slice(4, -4)  # up to the very edge between the two
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-3, rtol=0)


def test_what_rests_or_contradicts_does_not_turn_a_moving_thing():
    start = torch.cat([grid_points((8, 16), (8, 16)), grid_points((28, 40), (12, 24))], dim=1)
    moved = start[:, :4] + torch.tensor([6.0, 2.0])
    positions = torch.cat([moved, start[:, 4:]], dim=1)[:, None]
    visible = torch.ones(positions.shape[:3], dtype=torch.bool)
    still = source(picture(), start, 1)
    torch.testing.assert_close(turns(positions, visible, still)[0, 0], torch.tensor([[1.0, 0.0]]).expand(8, 2))
    wild = positions.clone()
    wild[0, 0, 1] += torch.tensor([3.0, -3.0])  # one of the four is lost
    assert (turns(wild, visible, still)[0, 0, 0] - torch.tensor([1.0, 0.0])).norm() < 0.12
    assert turns(wild, visible & (torch.arange(8) != 1), still)[0, 0, 0].tolist() == [1.0, 0.0]


def test_a_mixer_replaces_the_second_candidate_and_its_features():
    picture_, start = picture(), grid_points((8, 30), (12,))
    positions = start[:, None] + torch.tensor([[[[0.0, 0.0], [4.0, 0.0]]]])
    visible = torch.ones(1, 1, 2, dtype=torch.bool)

    def mixer(candidates, relations, source):
        return Mixture(candidates[:, 0] * 0.5, torch.full((1, 4, 1, H, W), 0.25), torch.zeros(1, 3, 1, H, W))

    plain = carry(positions, visible, source(picture_, start, 1))
    mixed = carry(positions, visible, source(picture_, start, 1), mixer=mixer)
    torch.testing.assert_close(mixed.candidates[:, ::2], plain.candidates[:, ::2], atol=0, rtol=0)
    torch.testing.assert_close(mixed.candidates[:, 1], plain.candidates[:, 0] * 0.5)
    torch.testing.assert_close(mixed.features[:, :4], plain.features[:, :4], atol=0, rtol=0)
    assert (mixed.features[:, 4:] == 0.25).all() and mixed.features.shape == plain.features.shape
