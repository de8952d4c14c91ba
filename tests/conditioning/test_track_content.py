"""Latents that tracks bring along, ``ModelConfig.latents_along_tracks``."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionstream.conditioning.track_content import TrackContent, content_map, latents_at
from motionstream.config import ModelConfig
from motionstream.model.motion_model import Conditions, ImageInput, MotionInput, MotionModel
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import debug
from motionstream.tracks import Tracks
from motionstream.training.clips.prepared import PreparedClips, content_of_clips

CELL = 8


def small(still_std: float | None = None) -> ModelConfig:
    """``nano-ids`` at debug size, whose tracks bring latents along."""
    whole = debug()
    inputs = (*whole.inputs[:2], ("image", whole.latent_channels))
    transformer = replace(whole.transformer, in_channels=sum(width for _, width in inputs))
    concat = {"image_conditioning": "concat", "carry": None, "still_std": still_std, "latents_along_tracks": True}
    return replace(whole, inputs=inputs, transformer=transformer, **concat)


def test_between_cells_latents_are_mixed_by_distance():
    latents = torch.arange(16.0).reshape(1, 1, 4, 4)
    middle = CELL / 2 - 0.5  # of the first cell, in pixels
    places = torch.tensor(
        [[[middle + 8, middle], [middle + 12, middle], [middle, middle + 2], [-9.0, -9.0], [31.0, 31.0], [np.nan, 3.0]]]
    )
    assert latents_at(latents, places, CELL)[0, :, 0].tolist() == pytest.approx([1, 1.5, 1, 0, 15, 0])


def test_map_is_the_mean_over_the_frames_in_which_a_track_is_there():
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(2, 9, 5, 2, generator=generator) * 40 - 4
    visible = torch.rand(2, 9, 5, generator=generator) < 0.6
    content = torch.randn(2, 5, 3, generator=generator)
    made = content_map(positions, visible, content, size=(32, 32), cell=CELL, group=4, first=True)
    expected = torch.zeros(2, 3, 3, 4, 4)
    for row in range(2):
        for latent, frames in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
            found: dict[tuple[int, int], list[torch.Tensor]] = {}
            for frame in frames:
                cells = {}  # where tracks meet the last one wins
                for track in range(5):
                    x, y = positions[row, frame, track].tolist()
                    if visible[row, frame, track] and -0.5 <= x < 31.5 and -0.5 <= y < 31.5:
                        cells[int(max(y, 0) // CELL), int(max(x, 0) // CELL)] = content[row, track]
                for cell, value in cells.items():
                    found.setdefault(cell, []).append(value)
            for (y, x), values in found.items():
                expected[row, :, latent, y, x] = torch.stack(values).mean(dim=0)
    torch.testing.assert_close(made, expected)


def conditions(
    model: MotionModel, positions: torch.Tensor, content: torch.Tensor, image: torch.Tensor, *, first: bool
) -> Conditions:
    batch, frames, count, _ = positions.shape
    ids = torch.arange(count).expand(batch, count)
    seen = torch.ones(batch, frames, count, dtype=torch.bool)
    motion = MotionInput(positions, seen, ids, (32, 32), first, content=content)
    text = torch.zeros(batch, 1, model.config.transformer.text_dim)
    return model.conditions(motion, text, None, ImageInput(image))


def told(*given, first: bool) -> torch.Tensor:
    return conditions(*given, first=first).channels


def test_chunk_by_chunk_is_the_whole_clip_and_the_picture_stays_alone_in_its_frame():
    model = MotionModel(small()).eval()
    positions = torch.rand(1, 21, 4, 2, generator=torch.Generator().manual_seed(1)) * 32
    content, image = torch.randn(1, 4, 12), torch.randn(1, 12, 1, 4, 4)
    whole = told(model, positions, content, image, first=True)
    parts = [
        told(model, positions[:, :9], content, image, first=True),
        told(model, positions[:, 9:], content, image, first=False),
    ]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)
    slice_ = whole[:, -12:]
    assert torch.equal(slice_[:, :, :1], image), "of the picture itself"
    assert slice_[:, :, 1:].abs().sum(dim=(1, 3, 4)).gt(0).all()
    nothing = told(model, positions[:, :, :0], content[:, :0], image, first=True)[:, -12:]
    assert torch.equal(nothing[:, :, :1], image) and nothing[:, :, 1:].count_nonzero() == 0


def test_a_model_predicts_around_what_tracks_bring_and_around_the_picture_elsewhere():
    model = MotionModel(small(still_std=0.5)).eval()
    positions = torch.full((1, 12, 1, 2), 11.5)
    content, image = torch.randn(1, 1, 12), torch.randn(1, 12, 1, 4, 4)
    made = conditions(model, positions, content, image, first=False)
    expected = image.repeat(1, 1, 3, 1, 1)
    expected[..., 1, 1] = content[0, 0, :, None]
    assert made.prior is not None
    torch.testing.assert_close(made.prior.mean, expected)
    assert torch.equal(made.channels[:, -12:], made.prior.mean), "which the network sees"
    assert (made.prior.std == 0.5).all()


def test_a_stream_remembers_what_a_track_brought_along():
    first, later = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    memory = TrackContent(first, CELL)

    def at(ids: list[int], x: float) -> Tracks:
        positions = np.full((12, len(ids), 2), 11.5, np.float32)
        positions[..., 0] = x
        return Tracks(positions, np.ones((12, len(ids)), bool), (32, 32), ids=np.array(ids))

    assert torch.equal(memory.of(at([7], 11.5))[0, 0], first[0, :, 1, 1])
    memory.last = later
    both = memory.of(at([7, 9], 19.5))[0]
    assert torch.equal(both[0], first[0, :, 1, 1]), "which began where it was then"
    assert torch.equal(both[1], later[0, :, 1, 2]), "which begins now, in what was made last"
    assert memory.of(at([], 0.0)).shape == (1, 0, 3)
    assert torch.equal(memory.of(at([7], 19.5))[0, 0], later[0, :, 1, 2]), "forgotten meanwhile"


def test_training_tells_what_a_stream_would():
    """A track from the start, and one that begins in the second chunk."""
    latents = torch.randn(1, 12, 6, 4, 4)
    positions = torch.rand(1, 21, 2, 2, generator=torch.Generator().manual_seed(2)) * 32
    positions[:, :9, 1] = torch.nan
    start = torch.tensor([[[5.0, 20.0], [17.0, 9.0]]])
    positions[0, 0, 0], positions[0, 9, 1] = start[0]
    visible = positions.isfinite().all(dim=-1)
    empty = torch.zeros(1, 3, 0, 6, 4, 4)
    clips = PreparedClips(latents, positions, visible, start, torch.zeros(1, 2).bool(), empty, empty[:, 0], [""])
    brought = content_of_clips(clips, small())
    memory = TrackContent(latents[:, :, 0], CELL)
    one = Tracks(positions[0, :9, :1].numpy(), visible[0, :9, :1].numpy(), (32, 32), ids=np.array([0]))
    torch.testing.assert_close(memory.of(one)[0], brought[0, :1])
    memory.last = latents[:, :, 2]
    both = Tracks(positions[0, 9:].numpy(), visible[0, 9:].numpy(), (32, 32), ids=np.array([0, 1]))
    torch.testing.assert_close(memory.of(both), brought)


def test_a_stream_of_such_a_model_goes_on_and_restarts():
    torch.manual_seed(0)
    config = small()
    pipeline = MotionStreamPipeline.from_config(config)
    with torch.no_grad():
        pipeline.model.transformer.proj_out.weight.normal_(std=0.2)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)

    def play(content: bool) -> list[np.ndarray]:
        stream, frames = pipeline.stream(picture, seed=1), []
        for chunk in range(3):
            count = 1 + chunk // 2  # another track begins in the third chunk
            places = np.full((stream.next_frames, count, 2), 4.0 + 9 * chunk, np.float32)
            tracks = Tracks(places, np.ones(places.shape[:2], bool), (32, 32), stream.fps, ids=np.arange(count))
            if not content:
                stream.scene.content.last = torch.zeros_like(stream.scene.content.last)
            frames.append(stream.step(tracks))
        stream.restart()
        frames.append(stream.step())
        return frames

    one, again, other = play(True), play(True), play(False)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[2], other[2])


def test_needs_a_slice_of_the_picture():
    with pytest.raises(ValueError, match=r"latents_along_tracks.*'image' slice"):
        replace(debug(), latents_along_tracks=True)
    assert ModelConfig.from_dict(small().to_dict()) == small()
