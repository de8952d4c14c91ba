"""With the embedded weights: what has been moved turns red when a sentence says so, and nothing else does."""

from pathlib import Path

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import LiveTracks

PICTURE = Path(__file__).parents[2] / "examples/chelsea.png"
TOLD, LET_GO, CHUNKS = 5, 3, 9
"""Chunks that are told the sentence, the one in which the cat's eye is let go, and all."""


def last_frames(pipeline: MotionStreamPipeline, sentence: str, scale: int) -> np.ndarray:
    """The cat's eye is dragged and let go; the sentence is replaced by another on the way. The last frame of each
    chunk, (chunks, H, W, 3)."""
    stream = pipeline.stream(PICTURE, sentence, seed=0, scale=scale)
    live, frames = LiveTracks(stream.size), []
    live.pin(10, 118)
    eye = live.drag(50, 70)
    for chunk in range(CHUNKS):
        if chunk == LET_GO:
            live.release(eye)
        elif chunk < LET_GO:
            live.move(eye, 50 + 5 * chunk, 70)
        if chunk == TOLD:
            stream.prompt = "a cat"
        frames.append(stream.step(live.cut(stream.next_frames))[-1])
    return np.array(frames, dtype=np.float32)


@pytest.mark.parametrize("scale", [1, 2])
def test_what_has_been_moved_turns_red_and_nothing_else_also_when_it_is_let_go(scale):
    pipeline = MotionStreamPipeline.from_pretrained("nano")
    plain = last_frames(pipeline, "a cat", scale)
    added = last_frames(pipeline, "it turns red", scale) - plain
    for chunk in (LET_GO - 1, TOLD - 1):
        changed = np.abs(added[chunk]).max(axis=-1) > 20
        assert 0.02 < changed.mean() < 0.3
        red, green, blue = added[chunk][changed].mean(axis=0)
        assert red > 30 and green < -20 and blue < -10
        assert np.abs(added[chunk][~changed]).mean() < 0.5
    assert np.abs(added[-1]).max() < 20, "the colour goes with the sentence"


def test_the_colour_of_something_is_no_order():
    pipeline = MotionStreamPipeline.from_pretrained("nano")
    said, plain = (last_frames(pipeline, sentence, 1) for sentence in ("a red cat", "a cat"))
    assert np.abs(said - plain)[:TOLD].mean() < 0.5
