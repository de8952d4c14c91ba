"""What makes the mixer fast changes nothing: sources seen once, sampling without repeats, no tracks at all."""

import itertools

import numpy as np
import torch
from torch import Tensor

from motionstream.carry.candidates import left_in_place, sampling_points, warp, warp_all
from motionstream.carry.memory import CarryMemory
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import CarrySource, relate
from motionstream.config import MixerConfig
from motionstream.tracks import Tracks

H, W, GRID = 32, 48, 4
CONFIG = MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), features=4, heads=2)


def make_mixer() -> PixelMixer:
    torch.manual_seed(0)
    mixer = PixelMixer(CONFIG, grid=GRID)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return mixer.requires_grad_(False)


def make_case(tracks: int = 5) -> tuple[Tensor, Tensor, CarrySource]:
    g = torch.Generator().manual_seed(1)
    start = torch.rand(2, tracks, 2, generator=g) * torch.tensor([W - 1.0, H - 1.0])
    turn = torch.tensor([[0.9, 0.2], [-0.2, 0.9]])  # so that content turns and shrinks
    positions = (start[:, None] @ turn + 2 * torch.arange(3)[:, None, None]).repeat(1, 1, 1, 1)
    visible = torch.rand(2, 3, tracks, generator=g) < 0.8
    source = CarrySource(
        2 * torch.rand(2, 2, 3, H, W, generator=g) - 1,
        torch.randint(2, (2, tracks), generator=g),
        start,
        torch.randint(2, (2, 3), generator=g),
    )
    return positions, visible, source


def test_sampling_points_are_those_told_pixel_by_pixel():
    positions, visible, source = make_case()
    positions[:, :, ::2] += 14.0  # neighbours that part
    near = relate(positions, visible, source, grid=GRID).near
    fast = sampling_points(near, source, grid=GRID)
    rows, columns = H // GRID, W // GRID

    def moved(clip: int, frame: int, row: int, column: int) -> complex:
        """What a look-up place has moved by, its turn included; the outermost ones go on beyond the picture."""
        row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
        place = row * columns + column
        at, move, turned = (v[clip, frame, place].tolist() for v in (near.position, near.move, near.turned))
        centre = complex(column * GRID + (GRID - 1) / 2, row * GRID + (GRID - 1) / 2)
        offset = centre - complex(*at)
        return complex(*move) + offset - offset * complex(*turned)

    def bend(values: list[complex]) -> float:
        before, here, after = values
        return max(abs((before + after - 2 * here).real), abs((before + after - 2 * here).imag))

    def slope(line: list[complex]) -> complex:
        """The smaller of the changes along a line, of x and y each for itself."""
        changes = [after - before for before, after in itertools.pairwise(line)]
        return complex(min((z.real for z in changes), key=abs), min((z.imag for z in changes), key=abs))

    parted = 0
    for clip, frame, y, x in itertools.product((0, 1), (0, 1, 2), range(0, H, 5), range(0, W, 5)):

        def at(row: int, column: int, clip: int = clip, frame: int = frame) -> complex:
            return moved(clip, frame, row, column)

        row, column = y // GRID, x // GRID
        lines = [[at(row + k * r, column + k * c) for k in (-1, 0, 1)] for r, c in ((0, 1), (1, 0), (1, 1), (1, -1))]
        together = max(bend(line) for line in lines) <= 2 * GRID
        parted += not together
        places = [(v + 0.5) / GRID - 0.5 for v in (y, x)]
        (first_row, down), (first_column, right) = (divmod(place, 1) for place in places)
        between, found = 0j, []
        for r, c in itertools.product((0, 1), (0, 1)):
            place = int(first_row) + r, int(first_column) + c
            between += (down if r else 1 - down) * (right if c else 1 - right) * at(*place)
            i, j = min(max(place[0], 0), rows - 1), min(max(place[1], 0), columns - 1)
            column_of = [at(k, j) for k in range(max(i - 1, 0), min(i + 2, rows))]
            row_of = [at(i, k) for k in range(max(j - 1, 0), min(j + 2, columns))]
            found.append(at(i, j) + (places[0] - i) * slope(column_of) + (places[1] - j) * slope(row_of))
        origin = complex(x, y) - (between if together else min(found, key=lambda z, b=between: abs(z - b)))
        picture = int(near.picture[clip, frame, (y // GRID) * columns + x // GRID])
        tall = min(max(origin.imag, 0), H - 1) + picture * H
        wanted = [2 * (min(max(origin.real, 0), W - 1) + 0.5) / W - 1, 2 * (tall + 0.5) / (2 * H) - 1]
        torch.testing.assert_close(fast[clip, frame, y, x], torch.tensor(wanted), atol=1e-5, rtol=0)
    assert 10 < parted < 200  # of 420


def test_what_is_left_in_place_is_what_sampling_there_gives():
    _, _, source = make_case()
    x, y = torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy")
    tall = y + source.static[:, :, None, None] * H
    points = torch.stack([(2 * (x + 0.5) / W - 1).expand(tall.shape), 2 * (tall + 0.5) / (2 * H) - 1], dim=-1)
    torch.testing.assert_close(
        left_in_place(source.pictures, source.static), warp(source.pictures, points), atol=1e-5, rtol=0
    )


def test_sources_seen_before_are_mixed_alike():
    mixer = make_mixer()
    positions, visible, source = make_case()
    relations = relate(positions, visible, source, grid=GRID)
    candidates = warp_all(relations, source, grid=GRID)
    with torch.no_grad():
        known = CarrySource(**{**vars(source), "seen": mixer.see(source.pictures)})
        first, second = (mixer.mix_all(candidates, relations, s).picture for s in (source, known))
    assert torch.equal(first, second)
    # in place without gradients, out of place with them
    torch.testing.assert_close(mixer.mix_all(candidates, relations, source).picture, first)


def test_without_any_track_nothing_is_computed_and_the_same_comes_out():
    mixer = make_mixer()
    positions, visible, source = make_case(tracks=0)
    relations = relate(positions, visible, source, grid=GRID)
    candidates = warp_all(relations, source, grid=GRID)
    nothing, mixed = mixer(candidates, relations, source), mixer.mix_all(candidates, relations, source)
    assert torch.equal(nothing.picture, mixed.picture)
    assert torch.equal(nothing.weights, mixed.weights)


def test_a_stream_sees_every_picture_once():
    calls: list[Tensor] = []

    def see(pictures: Tensor) -> Tensor:
        calls.append(pictures)
        return pictures[:, :, :1, ::2, ::2]

    memory = CarryMemory(torch.zeros(1, 3, H, W), see)

    def source(ids: list[int], x: float) -> CarrySource:
        places = np.full((4, len(ids), 2), x, np.float32)
        return memory.source(Tracks(places, np.ones((4, len(ids)), bool), (H, W), 24, ids=np.array(ids)), "cpu")

    assert source([], 8).seen is None and not calls  # nothing moves: nobody asks
    steps = (([1], 8, 1), ([1], 8, 1), ([1, 2], 8, 1), ([1, 2], 8.5, 1), ([1, 2], 12, 1), ([2], 12, 2), ([2], 12, 2))
    for ids, x, asked in steps:  # and again only when what has moved is of the picture
        made = source(ids, x)
        assert made.seen.shape == (1, 1, 1, H // 2, W // 2) and len(calls) == asked
        assert torch.equal(made.seen[:, :, 0], made.pictures[:, :, 0, ::2, ::2])
        memory.last = memory.last + 1
