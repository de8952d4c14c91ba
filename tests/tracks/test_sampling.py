"""What training clips are conditioned on."""

import pytest
import torch

from motionstream.tracks.sampling import TrackMix, chunk_starts, draw_ids, sample_tracks

CHUNKS = chunk_starts(45, 9, 12)


def scene(batch: int = 6):
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(batch, 1, 80, 2, generator=generator) * 128
    positions = start + torch.randn(batch, 45, 80, 2, generator=generator).cumsum(1) * 0.5
    visible = torch.rand(batch, 45, 80, generator=generator) > 0.1
    layer = torch.cat([torch.zeros(40), torch.ones(20), torch.full((20,), 2)]).long().expand(batch, -1).clone()
    layer[:, -5:] = -1
    return positions, visible, layer


def draw(mix: TrackMix, seed: int = 0, batch: int = 6):
    return sample_tracks(*scene(batch), mix, torch.Generator().manual_seed(seed), chunks=CHUNKS)


def test_chunk_starts():
    assert CHUNKS == [0, 9, 21, 33]


def test_chosen_tracks_are_tracks_of_the_scene_and_never_unused_rows():
    positions, visible, layer = scene()
    tracks = draw(TrackMix(dense=1, random=0, drags=0, max_tracks=30))
    for b in range(6):
        for m in range(30):
            match = (positions[b] == tracks.positions[b, :, m, None]).all(-1).all(0).nonzero()
            assert len(match) == 1 and layer[b, match[0, 0]] >= 0
            assert (tracks.visible[b, :, m] <= visible[b, :, match[0, 0]]).all()


def test_drags_begin_late_end_early_and_take_their_start_from_the_frame_before():
    mix = TrackMix(dense=0, random=0, drags=1, late_birth=1.0, release=1.0)
    late = released = 0
    positions, visible, _ = scene()
    for seed in range(10):
        tracks = draw(mix, seed)
        for b, m in (tracks.visible.any(1)).nonzero().tolist():
            birth = int(tracks.birth[b, m])
            assert birth >= 1 and not tracks.visible[b, : CHUNKS[birth], m].any()
            assert tracks.events[b, birth]
            source = (positions[b, CHUNKS[birth] - 1] == tracks.start[b, m]).all(-1).nonzero()[0, 0]
            told = tracks.positions[b, :, m].isfinite().all(-1)
            torch.testing.assert_close(tracks.positions[b, told, m], positions[b, told, source], atol=0, rtol=0)
            # hidden is a number, unspecified is none: before it begins and after its release
            assert not told[: CHUNKS[birth]].any() and told[CHUNKS[birth]]
            assert torch.equal(tracks.visible[b, told, m], visible[b, told, source])
            late += 1
            released += not tracks.visible[b, -4:, m].any()
    assert late > 50 and released > 10


def test_masking_hides_everything_for_a_while():
    tracks = draw(TrackMix(dense=1, random=0, drags=0, mask_probability=1.0))
    shown = tracks.visible.any(-1)
    assert shown[:, 0].all() and ((~shown).sum(1) >= 4).all()


def test_behind_a_masked_chunk_tracks_begin_anew():
    """Every chunk is an event before which other tracks were told of, and what is first told of behind a mask begins
    there."""
    moved = 0
    for seed in range(20):
        mix = TrackMix(dense=0.3, random=0, drags=0.7, late_birth=0.8, release=0.3, mask_probability=1.0)
        tracks = draw(mix, seed, batch=2)
        told = tracks.positions.isfinite().all(-1)
        by_chunk = torch.stack([part.any(1) for part in told.tensor_split(CHUNKS[1:], dim=1)], dim=1)
        assert (tracks.events[:, 1:] | (by_chunk[:, 1:] == by_chunk[:, :-1]).all(-1)).all()
        for b, m in told.any(1).nonzero().tolist():
            birth, first = int(tracks.birth[b, m]), int(told[b, :, m].int().argmax())
            assert by_chunk[b, birth, m] and not by_chunk[b, :birth, m].any()
            moved += torch.equal(tracks.start[b, m], tracks.positions[b, first, m]) and birth > 0
    assert moved > 5


def test_no_tracks_at_all_and_ids():
    tracks = draw(TrackMix(dense=0, random=0, drags=0))
    assert not tracks.visible.any() and tracks.events[:, 0].all() and not tracks.events[:, 1:].any()
    ids = draw_ids(torch.Generator().manual_seed(0), 3, 50, 10_000)
    assert all(len(row.unique()) == 50 for row in ids)
    with pytest.raises(ValueError, match="track mix"):
        TrackMix(dense=0.9, random=0.9)
