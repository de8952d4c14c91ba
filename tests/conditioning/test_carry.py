"""Carried content: exact where it can be, chunk by chunk, and bounded."""

import torch

from motionstream.conditioning.carry import CarryPrior, CarrySource, Prior, carry
from motionstream.config import CarryConfig

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


def test_prior_is_a_mixture_and_its_likelihood_prefers_the_truth():
    prior_net = CarryPrior(CarryConfig(hidden_channels=8), 6, spatial=8, temporal=4)
    candidates = torch.randn(2, 3, 6, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    prior = prior_net(candidates, torch.rand(2, 8, 3, 4, 6))
    torch.testing.assert_close(prior.mean, candidates.mean(dim=1))  # untrained: an even mixture
    assert (prior.std > 0).all()
    exact = Prior(prior.mean, prior.std).negative_log_likelihood(prior.mean)
    assert (exact < prior.negative_log_likelihood(prior.mean + 1)).all()
