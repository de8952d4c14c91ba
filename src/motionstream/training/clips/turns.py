"""Clips in which drags are released and resumed, as people do, and only dragged things move.

In rendered scenes every sprite moves, tracked or not, and goes on moving after its release. A student trained by
regression on such clips hedges: it blurs everything without a track. In a stream, such things are at rest, and released
ones stay where they are. So the frames of a rendered clip with a still camera are reordered into *turns*, forwards or
backwards, some beginning with a rest; in every turn each sprite is dragged by its own tracks. Pictures and positions
remain exact. Axes: T frames in the new order, S frames of the rendered clip, N of its points, M selected tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motionstream.data.procedural import Clips, SceneConfig, clear_scene
from motionstream.tracks.sampling import SampledTracks, TrackMix, integer, sample_press, subset

MOST_POINTS = 20
"""Maximum number of tracks per drag, since a clip has a drag for each sprite in every turn."""
LONGEST = 3
"""Maximum length of a turn in chunks."""


@dataclass(frozen=True)
class Turns:
    """An order of frames. ``frame`` (T,): index into the rendered clip. ``turn`` (T,): number of the turn, from 0.
    ``dragging`` (T,): bool, false while everything is released and at rest."""

    frame: Tensor
    turn: Tensor
    dragging: Tensor


def still_scene(scene: SceneConfig) -> SceneConfig:
    """The same scenes with a still camera, even light, clear air and at least one sprite, so that nothing but sprites
    moves and any order of the frames is plausible."""
    return replace(
        clear_scene(scene),
        static_camera_probability=1.0,
        parallax_probability=0.0,
        sprites=(max(1, scene.sprites[0]), max(1, scene.sprites[1])),
    )


def draw_turns(frames: int, generator: torch.Generator, *, chunks: list[int]) -> Turns:
    """Draw an order of ``frames`` frames: turns of one to ``LONGEST`` chunks, forwards or backwards frame by frame;
    about every other turn begins with a chunk of rest. ``chunks``: first frames of the chunks."""
    shown, turn, dragging = (torch.zeros(frames, dtype=kind) for kind in (torch.long, torch.long, torch.bool))
    at, way, number, left = 0, 1, 0, integer(1, LONGEST, generator)
    for first, end in zip(chunks, [*chunks[1:], frames], strict=True):
        rests = False
        if left == 0:
            number, left = number + 1, integer(1, LONGEST, generator)
            rests = integer(0, 1, generator) == 1
            way = way if integer(0, 1, generator) else -way
        for frame in range(first, end):
            if not rests and frame > 0:
                way = way if 0 <= at + way < frames else -way
                at += way
            shown[frame], turn[frame], dragging[frame] = at, number, not rests
        left -= not rests
    return Turns(shown, turn, dragging)


def reorder(clips: Clips, turns: Turns) -> Clips:
    """The rendered clips in the order of ``turns``."""
    frame = turns.frame
    return replace(
        clips, video=clips.video[:, :, frame], positions=clips.positions[:, frame], visible=clips.visible[:, frame]
    )


def sample_turns(
    clips: Clips, turns: Turns, mix: TrackMix, generator: torch.Generator, *, chunks: list[int]
) -> SampledTracks:
    """Tracks of one reordered clip: in every turn a rigid grid on each sprite, and up to two pins on the background.

    Only the number of tracks and the radius of drags of ``mix`` are used.
    """
    assert len(clips.captions) == 1
    positions, visible, layer = clips.positions[0], clips.visible[0], clips.layer[0]
    frames, count = len(positions), mix.max_tracks
    out_positions = torch.full((frames, count, 2), torch.nan)
    out_visible = torch.zeros(frames, count, dtype=torch.bool)
    birth, start = torch.zeros(count, dtype=torch.long), torch.zeros(count, 2)
    events = torch.zeros(len(chunks), dtype=torch.bool)
    events[0] = True
    used = 0

    def add(level: int, during: Tensor, born: int) -> None:
        nonlocal used
        before = max(0, chunks[born] - 1)
        members = sample_press(positions[before], visible[before] & (layer == level), layer, mix.radius, generator)
        members = subset(members, min(MOST_POINTS, count - used), generator)
        rows = slice(used, used + len(members))
        used += len(members)
        out_positions[during, rows] = positions[during][:, members]
        out_visible[during, rows] = visible[during][:, members]
        birth[rows], start[rows] = born, positions[before, members]

    for _ in range(integer(0, 2, generator)):
        add(0, torch.ones(frames, dtype=torch.bool), 0)
    levels = sorted(set(layer[layer > 0].tolist()))
    for number in range(int(turns.turn.max()) + 1):
        of_turn = turns.turn == number
        for during in (of_turn & ~turns.dragging, of_turn & turns.dragging):
            if during.any():
                born = chunks.index(int(during.nonzero()[0]))
                events[born] = True
        if (of_turn & turns.dragging).any():
            for level in levels:
                add(level, of_turn & turns.dragging, born)
    return SampledTracks(*(x[None] for x in (out_positions, out_visible, birth, start, events)))
