"""Equation 1 and the track head."""

import pytest
import torch

from motionstream.conditioning.track_head import TrackHead, embed_ids, track_map
from motionstream.config import TrackHeadConfig

SIZE, CELL, DIM = (32, 48), 8, 16


def draw(frames: int = 21, count: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(2, frames, count, 2, generator=generator) * torch.tensor([60.0, 44.0]) - 6
    visible = torch.rand(2, frames, count, generator=generator) > 0.3
    ids = torch.stack([torch.randperm(1000, generator=generator)[:count] for _ in range(2)])
    return positions, visible, ids


def literal_map(positions, visible, ids):
    """Equation 1 as a loop."""
    batch, frames, count, _ = positions.shape
    out = torch.zeros(batch, DIM, frames, SIZE[0] // CELL, SIZE[1] // CELL)
    for b in range(batch):
        for t in range(frames):
            for n in range(count):
                x, y = positions[b, t, n].tolist()
                if visible[b, t, n] and -0.5 <= x < SIZE[1] - 0.5 and -0.5 <= y < SIZE[0] - 0.5:
                    out[b, :, t, int(max(y, 0) // CELL), int(max(x, 0) // CELL)] = embed_ids(ids[b, n], DIM)
    return out


def test_map_equals_the_equation_read_literally():
    positions, visible, ids = draw()
    actual = track_map(positions, visible, embed_ids(ids, DIM), size=SIZE, cell=CELL)
    torch.testing.assert_close(actual, literal_map(positions, visible, ids), atol=0, rtol=0)


def test_hidden_outside_and_nan_points_leave_zeros():
    positions = torch.tensor([[[[5.0, 5.0], [-20.0, 3.0], [float("nan"), 2.0], [48.0, 5.0]]]])
    visible = torch.tensor([[[False, True, False, True]]])
    grid = track_map(positions, visible, embed_ids(torch.arange(4)[None], DIM), size=SIZE, cell=CELL)
    assert grid.abs().max() == 0


def test_offsets_say_where_in_its_cell_the_track_is():
    positions, visible, ids = draw()
    both = track_map(positions, visible, embed_ids(ids, DIM), size=SIZE, cell=CELL, offsets=True)
    torch.testing.assert_close(both[:, :DIM], literal_map(positions, visible, ids), atol=0, rtol=0)
    one = torch.tensor([[[[10.0, 22.0], [-20.0, 3.0]]]])
    grid = track_map(one, torch.ones(1, 1, 2).bool(), torch.empty(1, 2, 0), size=SIZE, cell=CELL, offsets=True)
    assert grid[0, :, 0, 2, 1].tolist() == [-0.5, 0.5] and grid.count_nonzero() == 2
    head = TrackHead(TrackHeadConfig(6, DIM, 8, offsets=True, hidden_map=True), spatial=CELL, temporal=4)
    made = [head(positions + shift, visible, ids, size=SIZE, first=True) for shift in (0.0, 1e-3)]
    assert made[0].isfinite().all() and not torch.equal(*made)


def test_on_a_collision_the_last_track_wins():
    positions = torch.full((1, 1, 3, 2), 9.0)
    visible = torch.tensor([[[True, True, False]]])
    grid = track_map(positions, visible, embed_ids(torch.tensor([[7, 8, 9]]), DIM), size=SIZE, cell=CELL)
    torch.testing.assert_close(grid[0, :, 0, 1, 1], embed_ids(torch.tensor(8), DIM))


def test_no_tracks_give_an_empty_map():
    grid = track_map(
        torch.zeros(2, 9, 0, 2),
        torch.zeros(2, 9, 0, dtype=torch.bool),
        torch.zeros(2, 0, DIM),
        size=SIZE,
        cell=CELL,
    )
    assert grid.shape == (2, DIM, 9, 4, 6) and grid.abs().max() == 0


def test_ids_are_told_apart():
    embedded = embed_ids(torch.arange(0, 100_000, 97), 64)
    similarity = embedded @ embedded.T / 64
    similarity.fill_diagonal_(0)
    assert similarity.max() < 0.999
    torch.testing.assert_close(embedded.square().mean(-1), torch.ones(len(embedded)))


@pytest.mark.parametrize("later", [4, 12])
def test_chunk_by_chunk_equals_whole_and_the_past_ignores_the_future(later):
    head = TrackHead(TrackHeadConfig(6, DIM, 8), spatial=CELL, temporal=4)
    positions, visible, ids = draw(frames=33)
    whole = head(positions, visible, ids, size=SIZE, first=True)
    assert whole.shape == (2, 6, 9, 4, 6)
    parts = [head(positions[:, :9], visible[:, :9], ids, size=SIZE, first=True)]
    for start in range(9, 33, later):
        cut = slice(start, start + later)
        parts.append(head(positions[:, cut], visible[:, cut], ids, size=SIZE, first=False))
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    visible[:, 21:] = False
    torch.testing.assert_close(head(positions, visible, ids, size=SIZE, first=True)[:, :, :6], whole[:, :, :6])


def test_hidden_and_unspecified_are_two_inputs_where_the_head_has_a_map_for_each():
    torch.manual_seed(0)
    ids = torch.tensor([[3, 7]])
    positions = torch.tensor([[4.0, 4.0], [20.0, 12.0]]).expand(1, 9, 2, 2).clone()
    seen = torch.ones(1, 9, 2, dtype=torch.bool)
    hidden = seen.clone()
    hidden[:, 3:, 1] = False
    absent = positions.clone()
    absent[:, 3:, 1] = torch.nan
    for hidden_map in (False, True):
        config = TrackHeadConfig(out_channels=4, id_dim=8, hidden_channels=8, hidden_map=hidden_map)
        head = TrackHead(config, spatial=8, temporal=4)
        outputs = [
            head(places, shown, ids, size=(32, 32), first=True)
            for places, shown in ((positions, seen), (positions, hidden), (absent, hidden))
        ]
        assert all(output.isfinite().all() for output in outputs)
        assert (outputs[0] - outputs[1]).abs().max() > 1e-3
        assert ((outputs[1] - outputs[2]).abs().max() > 1e-3) == hidden_map
