"""Clips in which drags are let go and taken up anew, as people do it, and nothing moves but what is dragged.

In a rendered scene every sprite moves, whether a track says so or not, and one that is let go moves on. A student that
regresses to such clips learns to hedge: it blurs what no track speaks of. In a stream that rests, and what is let go
stays where it is. So a rendered clip, before a still camera, is shown in another order of its frames: in *turns*, on or
back, with a rest in between or none; in every turn each sprite is dragged by tracks of its own. Everything in it is as
exact as in the clip. Axes: T frames of the new order, S of the rendered clip, N its points, M tracks chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motionstream.data.procedural import Clips, SceneConfig
from motionstream.tracks.sampling import SampledTracks, TrackMix, integer, sample_press, subset

MOST_POINTS = 20
"""Tracks of one drag, thinned to as many: a clip has a drag for each sprite in every turn."""
LONGEST = 3
"""Chunks of a turn at most."""


@dataclass(frozen=True)
class Turns:
    """``frame`` (T,) of the rendered clip that is shown; ``turn`` (T,), counted up from 0; ``dragging`` (T,) bool,
    false where all is let go and rests."""

    frame: Tensor
    turn: Tensor
    dragging: Tensor


def still_scene(scene: SceneConfig) -> SceneConfig:
    """The same scenes before a still camera, in even light and clear air, with a sprite at least: what is then still,
    is truly so, and every order of the frames is one that may be."""
    return replace(
        scene,
        static_camera_probability=1.0,
        parallax_probability=0.0,
        dark_probability=0.0,
        snow_probability=0.0,
        fog_probability=0.0,
        tint_probability=0.0,
        sprites=(max(1, scene.sprites[0]), max(1, scene.sprites[1])),
    )


def draw_turns(frames: int, generator: torch.Generator, *, chunks: list[int]) -> Turns:
    """An order of as many ``frames`` as were rendered: turns of one to ``LONGEST`` chunks, on or back frame by frame;
    about every other one begins with a chunk of rest. ``chunks``: first frames of the chunks."""
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
    """Tracks of one reordered clip: in every turn a rigid grid on each sprite, and up to two pins that stay.

    Of ``mix`` the number of tracks and the radius of drags are used.
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
