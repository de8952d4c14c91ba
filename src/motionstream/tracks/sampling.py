"""Samples the tracks that condition a training clip: their number and ids, drags like people's, mid-frame masking.

Batches have positions (B, T, N, 2), visible (B, T, N) and layer (B, N): 0 for the background, k for the k-th object,
−1 for unused rows. Randomness comes from one ``torch.Generator`` on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.tracks.hasty import HastyConfig, make_hasty


@dataclass(frozen=True)
class TrackMix:
    """Probability of each kind of conditioning; the rest up to 1 is "no tracks at all".

    ``dense`` and ``random`` take tracks from anywhere. ``drags`` imitates users: one to five compact groups of tracks,
    drags of objects and pins or pushes of the background; everything else is unspecified.
    """

    dense: float = 0.2
    random: float = 0.2
    drags: float = 0.52
    max_tracks: int = 160
    dense_tracks: int | None = None
    """``dense`` draws a number from this to ``max_tracks`` (the paper: 1,000 to 2,500); None: always ``max_tracks``."""
    radius: tuple[float, float] = (4.0, 22.0)
    """Smallest and largest radius of one gesture of ``drags``, in pixels."""
    late_birth: float = 0.35
    """Probability that a drag begins with a later chunk instead of the first."""
    release: float = 0.3
    """Probability that a drag is released before the clip ends."""
    mask_probability: float = 0.0
    """Stochastic mid-frame masking (paper, section 3.1): 0.2 in the second phase of the teacher."""
    hasty: HastyConfig | None = None
    """Augmentation of the chosen tracks by flaws of hasty input; None: none."""

    def __post_init__(self) -> None:
        total = self.dense + self.random + self.drags
        if not 0 <= total <= 1 + 1e-9:
            raise ValueError(f"track mix dense + random + drags = {total}: must lie in 0..1")
        if self.max_tracks < 1:
            raise ValueError(f"max_tracks = {self.max_tracks}: must be at least 1")
        if self.dense_tracks is not None and not 1 <= self.dense_tracks <= self.max_tracks:
            raise ValueError(f"dense_tracks = {self.dense_tracks}: must lie in 1..max_tracks = {self.max_tracks}")
        if not 0 < self.radius[0] <= self.radius[1]:
            raise ValueError(f"radius = {self.radius}: give the least and the most, both positive")


@dataclass(frozen=True)
class SampledTracks:
    """Conditioning tracks (B, T, M, …).

    ``positions`` are NaN where a track is unspecified (not begun, released, masked, an unused row), but finite where it
    is hidden. ``birth`` (B, M): the chunk in which each track begins; its content is taken from ``start`` (B, M, 2) in
    the frame before that chunk (frame 0 for chunk 0). ``events`` (B, chunks): whether the static picture is renewed at
    that chunk, because a track begins (also after a mask) or ended in the chunk before.
    """

    positions: Tensor
    visible: Tensor
    birth: Tensor
    start: Tensor
    events: Tensor


def chunk_starts(frames: int, first: int, later: int) -> list[int]:
    """First frames of the chunks in a clip: 0, 9, 21, 33 for the usual sizes."""
    return [0, *range(first, frames, later)]


def draw_ids(generator: torch.Generator, batch: int, count: int, id_range: int) -> Tensor:
    """Random ids (B, N), distinct within a clip."""
    return torch.stack([torch.randperm(id_range, generator=generator)[:count] for _ in range(batch)])


def sample_tracks(
    positions: Tensor,
    visible: Tensor,
    layer: Tensor,
    mix: TrackMix,
    generator: torch.Generator,
    *,
    chunks: list[int],
) -> SampledTracks:
    """Choose tracks clip by clip. ``chunks``: first frames of the chunks, see ``chunk_starts``."""
    picked = [_pick_clip(positions[b], visible[b], layer[b], mix, generator, chunks) for b in range(len(positions))]
    fields = [torch.stack(parts) for parts in zip(*picked, strict=True)]
    return SampledTracks(*fields)


def layers_of(positions: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """Layers (N,) of one clip's tracked points, positions (T, N, 2), without known objects: 1 for points with motion of
    their own, 0 for the others, −1 for points visible in less than two frames or not in the first.

    The median displacement of each frame is taken as the camera's motion. A point that ever deviates from it by more
    than 2 % of the picture's height has motion of its own.
    """
    together = visible & visible[:1]
    moves = torch.where(together[..., None], positions - positions[:1], torch.nan)
    camera = moves.nanmedian(dim=1, keepdim=True).values
    away = (moves - camera).norm(dim=-1).nan_to_num(nan=0.0).amax(dim=0)
    layer = (away > 0.02 * size[0]).long()
    return torch.where(visible[0] & (visible.sum(dim=0) > 1), layer, -1)


def _chance(probability: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator).item() < probability


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """A uniform random integer in low … high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def subset(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A random choice of at most ``count`` of ``indices``, in their order."""
    order = torch.randperm(len(indices), generator=generator)[:count].to(indices.device)
    return indices[order.sort().values]


def _pick_clip(
    positions: Tensor,
    visible: Tensor,
    layer: Tensor,
    mix: TrackMix,
    generator: torch.Generator,
    chunks: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One clip: positions (T, M, 2), visible (T, M), birth (M,), start (M, 2), events (chunks,)."""
    frames = len(positions)
    before = [max(0, start - 1) for start in chunks]
    kind = torch.rand((), generator=generator).item()
    used = layer >= 0
    groups: list[tuple[Tensor, int, int]] = []  # track indices, chunk of birth, first frame after release
    if kind < mix.dense + mix.random:
        if kind < mix.dense:
            count = mix.max_tracks
            if mix.dense_tracks is not None:
                count = integer(mix.dense_tracks, count, generator)
        else:
            count = integer(1, max(1, mix.max_tracks // 2), generator)
        groups.append((subset((used & visible[0]).nonzero()[:, 0], count, generator), 0, frames))
    elif kind < mix.dense + mix.random + mix.drags:
        for object_wanted in _drag_plan(layer, generator):
            birth = integer(1, len(chunks) - 1, generator) if _later(mix, chunks, generator) else 0
            seen = used & visible[before[birth]]
            area = seen & (layer > 0 if object_wanted else layer == 0)
            members = sample_press(positions[before[birth]], area, layer, mix.radius, generator)
            end = frames
            if _chance(mix.release, generator):
                end = integer(min(chunks[birth] + 4, frames), frames, generator)
            groups.append((members, birth, end))
    return _assemble(positions, visible, groups, mix, generator, chunks, before)


def _later(mix: TrackMix, chunks: list[int], generator: torch.Generator) -> bool:
    return len(chunks) > 1 and _chance(mix.late_birth, generator)


def _drag_plan(layer: Tensor, generator: torch.Generator) -> list[bool]:
    """One to five gestures; True wants an object, False the background (a pin, or a push of the camera)."""
    has_objects = bool((layer > 0).any())
    drags = integer(1, 3, generator) if has_objects else 0
    pins = integer(0 if has_objects else 1, 2, generator)
    return [True] * drags + [False] * pins


def sample_press(
    places: Tensor, area: Tensor, layer: Tensor, reach: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Indices of the tracks that a random press would hold: those of one layer within a random radius of a random track
    of the ``area`` (N,), thinned at random. ``reach``: smallest and largest radius in pixels."""
    candidates = area.nonzero()[:, 0]
    if len(candidates) == 0:
        return candidates
    centre = candidates[integer(0, len(candidates) - 1, generator)]
    radius = reach[0] + (reach[1] - reach[0]) * torch.rand((), generator=generator).item()
    near = ((places[candidates] - places[centre]) ** 2).sum(-1) <= radius**2
    members = candidates[near & (layer[candidates] == layer[centre])]
    return subset(members, integer(1, max(1, len(members)), generator), generator)


def _assemble(
    positions: Tensor,
    visible: Tensor,
    groups: list[tuple[Tensor, int, int]],
    mix: TrackMix,
    generator: torch.Generator,
    chunks: list[int],
    before: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    frames, count, device = len(positions), mix.max_tracks, positions.device
    out_positions = torch.full((frames, count, 2), torch.nan, device=device)
    out_visible = torch.zeros(frames, count, dtype=torch.bool, device=device)
    birth = torch.zeros(count, dtype=torch.long, device=device)
    start = torch.zeros(count, 2, device=device)
    events = torch.zeros(len(chunks), dtype=torch.bool, device=device)
    at = 0
    for members, born, end in groups:
        members = members[: count - at]
        if len(members) == 0:
            continue
        rows = slice(at, at + len(members))
        at += len(members)
        out_positions[:, rows] = positions[:, members]
        out_visible[:, rows] = visible[:, members]
        for absent in (slice(0, chunks[born]), slice(end, frames)):
            out_visible[absent, rows] = False
            out_positions[absent, rows] = torch.nan
        birth[rows] = born
        start[rows] = positions[before[born], members]
        events[born] = True
        after_release = [k for k, first in enumerate(chunks) if first >= end]
        if after_release:
            events[after_release[0]] = True
    events[0] = True
    if mix.hasty is not None:  # before masking, because a hold could otherwise repeat a masked position
        out_positions, out_visible = make_hasty(out_positions, out_visible, mix.hasty, generator)
    if _chance(mix.mask_probability, generator):
        first = integer(1, max(1, frames - 4), generator)
        length = integer(4, max(4, frames // 2), generator)
        out_visible[first : first + length] = False
        out_positions[first : first + length] = torch.nan
        birth, start = _begun_behind_mask(out_positions, birth, start, chunks)
    return out_positions, out_visible, birth, start, events | _changes(out_positions, chunks)


def _begun_behind_mask(positions: Tensor, birth: Tensor, start: Tensor, chunks: list[int]) -> tuple[Tensor, Tensor]:
    """``birth`` and ``start`` after masking of positions (T, M, 2): a track whose first chunk is masked completely
    begins in the first chunk that has a position, at that position, as in a stream."""
    told = positions.isfinite().all(dim=-1)
    first = told.int().argmax(dim=0)
    chunk = torch.bucketize(first, torch.tensor(chunks, device=first.device), right=True) - 1
    later = told.any(dim=0) & (chunk > birth)
    here = positions[first, torch.arange(len(first), device=first.device)]
    return torch.where(later, chunk, birth), torch.where(later[:, None], here, start)


def _changes(positions: Tensor, chunks: list[int]) -> Tensor:
    """Which chunks (chunks,) have other tracks, positions (T, M, 2), than the chunk before, as a stream sees it."""
    told = torch.stack([part.isfinite().all(dim=-1).any(dim=0) for part in positions.tensor_split(chunks[1:])])
    return torch.cat([torch.zeros_like(told[:1, 0]), (told[1:] != told[:-1]).any(dim=1)])
