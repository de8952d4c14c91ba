"""Clumsy tracks for training: each kind alone, and what must never change."""

import pytest
import torch

from motionstream.tracks.hasty import HastyConfig, make_hasty
from motionstream.tracks.sampling import TrackMix, sample_tracks

FRAMES, COUNT = 45, 20


def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """Tracks that move a pixel a frame; half of them begin at frame 9."""
    time = torch.arange(FRAMES, dtype=torch.float32)[:, None]
    positions = torch.stack([time + torch.arange(COUNT), time.expand(-1, COUNT)], dim=-1)
    visible = torch.ones(FRAMES, COUNT, dtype=torch.bool)
    visible[:9, COUNT // 2 :] = False
    return positions, visible


def hasty(seed: int = 0, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    return make_hasty(*clip(), HastyConfig(**settings), torch.Generator().manual_seed(seed))


def test_nothing_by_default_and_the_same_for_the_same_seed():
    for one, two in zip(hasty(), clip(), strict=True):
        assert torch.equal(one, two)
    settings = {"jitter": 1.0, "hold": 1.0, "tail_dropout": 0.3}
    for one, two in zip(hasty(1, **settings), hasty(1, **settings), strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=0, equal_nan=True)
    assert not torch.equal(hasty(1, **settings)[0], hasty(2, **settings)[0])


def test_a_tremble_is_shared_small_and_leaves_the_beginnings():
    positions, visible = clip()
    moved = hasty(jitter=2.0)[0] - positions
    assert moved[0].abs().max() == 0 and moved[9, COUNT // 2 :].abs().max() == 0
    assert 1.0 < moved[10:].std() < 3.0
    assert torch.allclose(moved[20, 0], moved[20, 5]), "the points under one pointer tremble together"
    steps = moved[11:, 0] - moved[10:-1, 0]
    assert steps.std() < moved[10:, 0].std(), "a hand is smooth, white noise is not"
    assert torch.equal(hasty(jitter=2.0)[1], visible)


@pytest.mark.parametrize("seed", range(8))
def test_a_hold_stops_and_catches_up(seed):
    positions, _ = clip()
    moved = hasty(seed, hold=1.0, longest_hold=6)[0]
    assert torch.equal(moved[9, COUNT // 2 :], positions[9, COUNT // 2 :]), "tracks begin where they begin"
    told = hasty(seed, hold=1.0, longest_hold=6)[0][:, 0, 1]  # the frame whose positions are told
    late = torch.arange(FRAMES) - told
    assert late[0] == 0 and (late >= 0).all() and 1 <= late.max() <= 6
    speed = told.diff()
    assert set(speed.tolist()) <= {0.0, 1.0, 2.0} and (speed == 0).sum() == late.max()
    assert (speed == 2).any() or late[-1] > 0, "it catches up unless the clip ends first"
    assert torch.equal(hasty(seed, hold=0.0)[0], positions)


def test_tails_are_dropped_track_by_track():
    _, visible = clip()
    places, told = hasty(tail_dropout=0.5)
    assert torch.equal(places.isnan().all(-1) & visible, visible & ~told), "what has ended is unspecified, not hidden"
    assert (told <= visible).all()
    ended = visible[-1] & ~told[-1]
    assert 4 <= ended.sum() <= 16
    for track in ended.nonzero()[:, 0].tolist():
        shown = told[:, track].int()
        assert (shown.diff() < 0).sum() <= 1, "it ends once and does not come back"
    assert told[0, : COUNT // 2].all(), "a track that begins with the clip is seen at least once"


def test_sampling_applies_it_and_never_invents_tracks():
    positions, visible = (x[None] for x in clip())
    layer = torch.zeros(1, COUNT, dtype=torch.long)
    chosen = {}
    for name, config in (("clean", HastyConfig()), ("hasty", HastyConfig(jitter=1.0, tail_dropout=0.5))):
        mix = TrackMix(dense=1.0, random=0.0, drags=0.0, max_tracks=COUNT, hasty=config)
        chosen[name] = sample_tracks(
            positions, visible, layer, mix, torch.Generator().manual_seed(3), chunks=[0, 9, 21, 33]
        )
    assert torch.equal(chosen["clean"].start, chosen["hasty"].start)
    assert (chosen["hasty"].visible <= chosen["clean"].visible).all()
    assert not torch.equal(chosen["hasty"].positions, chosen["clean"].positions)


def test_settings_are_checked():
    for wrong in ({"jitter": -1.0}, {"hold": 1.5}, {"tail_dropout": -0.1}, {"longest_hold": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HastyConfig(**wrong)
