"""Carried pictures that are known more finely than the model sees them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from motionstream.carry.candidates import Mixture, carry, enlarge
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import CarrySource
from motionstream.carry.things import with_things
from motionstream.config import MixerConfig
from motionstream.model.motion_model import FinePicture
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset
from motionstream.scene import usual_scale
from motionstream.tracks import Tracks

H = W = 32
SCALE = 2


def picture(size: int = SCALE * H) -> torch.Tensor:
    """Finer than the model's grid: stripes of two of its own pixels, over waves."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    waves = torch.stack([torch.sin(0.2 * x), torch.cos(0.15 * y), torch.sin(0.1 * (x + y))])
    return 0.5 * waves[None] + 0.3 * (x // 2 % 2)


def source(fine: torch.Tensor, start: torch.Tensor, frames: int) -> CarrySource:
    count = start.shape[1]
    return CarrySource(
        F.avg_pool2d(fine, SCALE)[:, None],
        torch.zeros(1, count, dtype=torch.long),
        start,
        torch.zeros(1, frames, dtype=torch.long),
        fine=fine[:, None],
    )


def test_what_moves_by_whole_pixels_moves_finely_without_loss():
    start = torch.tensor([[[12.0, 12.0]]])
    positions = start[:, None] + torch.arange(4.0).reshape(1, 4, 1, 1) * torch.tensor([2.0, -1.0])
    visible = torch.ones(1, 4, 1, dtype=torch.bool)
    fine = carry(positions, visible, source(picture(), start, 4)).fine.picture(0, 4)
    assert fine.shape == (1, 3, 4, SCALE * H, SCALE * W)
    for frame in range(4):
        expected = picture().roll((-SCALE * frame, 2 * SCALE * frame), dims=(2, 3))
        inside = (..., slice(0, -10), slice(20, None))
        torch.testing.assert_close(fine[:, :, frame][inside], expected[inside], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_mixer_chooses_alike_at_both_sizes():
    torch.manual_seed(0)
    mixer = PixelMixer(MixerConfig((8, 8), (8, 8), features=4, heads=2), grid=2)
    for parameter in mixer.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    generator = torch.Generator().manual_seed(1)
    smooth = enlarge(torch.rand(1, 3, 1, 8, 8, generator=generator), 8)[:, :, 0] - 0.5  # both sizes can hold it
    start = torch.rand(1, 5, 2, generator=generator) * 30
    positions = start[:, None] + torch.rand(1, 4, 5, 2, generator=generator) * 6
    visible = torch.ones(1, 4, 5, dtype=torch.bool)
    made = carry(positions, visible, source(smooth, start, 4), mixer=mixer)
    mixed, fine = made.candidates[:, 1], made.fine.picture(0, 4)
    assert (mixed - made.candidates[:, 0]).abs().mean() > 0.01
    assert (F.avg_pool3d(fine, (1, SCALE, SCALE)) - mixed).abs().mean() < 0.02


def test_what_is_behind_a_thing_is_as_fine_as_the_picture():
    """Stripes of one fine pixel, which the model does not see, go on where a square was."""
    size = 96
    ground = (0.3 * (torch.arange(SCALE * size) % 2) - 0.4).expand(1, 3, SCALE * size, -1).clone()
    waves = 0.2 * torch.sin(0.4 * torch.arange(SCALE * size))[:, None]
    before = ground + waves
    before[..., 60:100, 70:110] = 0.8
    start = torch.tensor([[[45.0, 40.0], [40.0, 36.0], [50.0, 44.0]]])
    positions = start[:, None] + torch.tensor([30.0, 20.0])
    visible = torch.ones(1, 1, 3, dtype=torch.bool)
    told = with_things(source(before, start, 1), positions, visible, [0])
    assert told.healed is not None and told.fine_healed is not None and told.things[0, 0, 0, 40, 45] == 1
    made = carry(positions, visible, told)
    fill = told.healed.transpose(1, 2)
    weights = torch.zeros(1, 4, 1, size, size)
    weights[:, 3] = 1
    fine = replace(made.fine, mixture=Mixture(fill, weights, fill)).picture(0, 1)[:, :, 0]
    hole = (..., slice(64, 96), slice(74, 106))
    assert (fine - (ground + waves))[hole].abs().mean() < 0.05
    assert (enlarge(fill, SCALE)[:, :, 0] - (ground + waves))[hole].abs().mean() > 0.1, "or nothing is shown"
    torch.testing.assert_close(F.avg_pool2d(told.fine_healed[0], SCALE), told.healed[0], atol=0.05, rtol=0)


def test_no_seam_is_seen_between_a_pin_and_what_rests_beside_it():
    """Left of the middle a pin holds what is there; on the right a drag is nearer, and all is left as it is."""
    start = torch.tensor([[[4.0, 16.0], [27.0, 16.0]]])
    positions = start[:, None] + torch.tensor([[[[0.0, 0.0], [0.0, -9.0]]]])
    made = carry(positions, torch.ones(1, 1, 2, dtype=torch.bool), source(picture(), start, 1))
    held = (made.fine.relations.near.track == 0).unflatten(2, (H // 2, W // 2))[:, :, :, :, None]
    held = held.repeat_interleave(2, 2).expand(-1, -1, -1, -1, 2).flatten(3).float()
    assert 0.3 < held.mean() < 0.7
    weights = torch.stack([held, 0 * held, 1 - held, 0 * held], dim=1)
    still = F.avg_pool2d(picture(), SCALE)[:, :, None]
    fine = replace(made.fine, mixture=Mixture(still, weights, still)).picture(0, 1)
    torch.testing.assert_close(fine[:, :, 0], picture())


def test_darkness_falls_on_what_only_the_fine_picture_shows():
    fine = picture()
    still = CarrySource(
        F.avg_pool2d(fine, SCALE)[:, None],
        torch.zeros(1, 0, dtype=torch.long),
        torch.zeros(1, 0, 2),
        torch.zeros(1, 4, dtype=torch.long),
        fine=fine[:, None],
    )
    made = carry(torch.zeros(1, 4, 0, 2), torch.zeros(1, 4, 0, dtype=torch.bool), still)
    base = made.candidates[:, 0]
    shown = FinePicture(base, made.held, made.fine, begins=False)
    torch.testing.assert_close(shown.show(base, 0), made.fine.picture(0, 4))
    dark = shown.show(0.4 * (base + 1) - 1, 0)
    torch.testing.assert_close(dark, 0.4 * (made.fine.picture(0, 4) + 1) - 1, atol=0.03, rtol=0)


@pytest.fixture(scope="module")
def pipeline() -> MotionStreamPipeline:
    made = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def dragged(stream, frames, done):
    """A drag and, from the second chunk on, another one."""
    ids = [0] if done == 0 else [0, 1]
    t = np.arange(done, done + frames)
    places = np.stack([np.stack([8 + 0.2 * t, 9 + 0 * t], -1), np.stack([20 - 0.1 * t, 22 + 0 * t], -1)], 1)
    return Tracks(places[:, ids].astype(np.float32), np.ones((frames, len(ids)), bool), stream.size, stream.fps, ids)


def test_a_finer_stream_is_the_same_stream(pipeline):
    """What is finer than the model's pixels is shown, also by drags that take up the stream's own frames, and changes
    nothing of what the model does."""
    image = np.random.default_rng(0).integers(40, 200, (64, 64, 3)).astype(np.uint8)
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 60 - 30)[..., None]  # nothing, in the mean of two by two
    plain, fine = (pipeline.stream(made.astype(np.uint8), scale=SCALE) for made in (image, image + checks))
    assert fine.frame_size == (64, 64) and fine.size == (32, 32)
    for _ in range(3):
        frames = fine.next_frames
        tracks = dragged(fine, frames, fine.frame)
        with_checks, without = fine.step(tracks), plain.step(tracks)
        assert with_checks.shape == (frames, 64, 64, 3)
        torch.testing.assert_close(fine.scene.carry.last, plain.scene.carry.last, atol=1e-4, rtol=0)
        seen = (with_checks.astype(int) - without)[-1, 8:-8, 8:-8]
        assert np.abs(seen).mean() > 2 and abs(seen.mean()) < 1
    fine.restart()
    again = fine.step()
    np.testing.assert_allclose(again[0].astype(int), with_checks[-1].astype(int), atol=1)


def test_latent_frame_by_latent_frame_is_the_same(pipeline):
    image = (255 * np.random.default_rng(0).random((64, 64, 3))).astype(np.uint8)
    one, other = (pipeline.stream(image, scale=SCALE) for _ in range(2))
    for _ in range(2):
        tracks, parts = dragged(one, one.next_frames, one.frame), []
        whole = one.step(tracks)
        other.step(tracks, on_frames=parts.append)
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_what_cannot_be_shown_is_refused(pipeline):
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="scale = 5: frames can be shown 1 to 4 times"):
        pipeline.stream(image, scale=5)
    wan = MotionStreamPipeline.from_config(preset("wan2.1-debug"))
    with pytest.raises(ValueError, match="carries no picture content"):
        wan.stream(image, scale=2)


def test_watched_frames_are_as_large_as_the_processor_can_make_them(pipeline, monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for threads, shown in ((1, 1), (2, 1), (4, 2)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert usual_scale(pipeline.config, cpu) == shown
        assert usual_scale(pipeline.config) == usual_scale(pipeline.config, gpu) == 2
    assert usual_scale(preset("wan2.1-debug"), gpu) == 1
