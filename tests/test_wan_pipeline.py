"""Wan's structure at debug size through the whole pipeline: stream, teacher, shapes, files, what saves memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionstream import MotionStreamPipeline, Tracks
from motionstream.components import Placement
from motionstream.config import CausalConfig
from motionstream.model.precision import is_island
from motionstream.presets import preset
from motionstream.tracks import drag_tracks

NAMES = ("wan2.1-debug", "wan2.2-debug")
CPU = Placement(device="cpu")


def shaken(pipeline: MotionStreamPipeline) -> MotionStreamPipeline:
    """No parameter zero, or whole branches would be hidden."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pipeline


@pytest.fixture(scope="module", params=NAMES)
def pipeline(request) -> MotionStreamPipeline:
    return shaken(MotionStreamPipeline.from_pretrained(request.param, untrained=True, placement=CPU))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def drag(size: tuple[int, int], frames: int, fps: float) -> Tracks:
    return drag_tracks((16, 16), (48, 32), frames, size, fps, radius=8, spacing=8)


def test_streaming_equals_the_whole_call_and_everything_matters(pipeline):
    size = pipeline.config.size
    fps = pipeline.config.fps
    motion, image = drag(size, 21, fps), picture(*size)
    whole = pipeline(image, motion, prompt="a dog runs", seed=1)
    assert whole.shape == (21, *size, 3) and whole.dtype == np.uint8
    stream = pipeline.stream(image, prompt="a dog runs", seed=1)
    first = stream.step(motion.frames(0, 9))
    stream.settle()
    second = stream.step(motion.frames(9, 21))
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    for other in (
        pipeline(image, motion, prompt="a cat sits", seed=1),
        pipeline(image, motion, prompt="a dog runs", seed=2),
        pipeline(image, Tracks.empty(21, size, fps), prompt="a dog runs", seed=1),
        pipeline(image[::-1].copy(), motion, prompt="a dog runs", seed=1),
    ):
        assert np.abs(other.astype(int) - whole).max() > 0


def test_the_first_frame_is_the_picture_through_the_autoencoder(pipeline):
    image = picture(*pipeline.config.size)
    stream = pipeline.stream(image)
    with torch.no_grad():
        coded, _ = pipeline.parts.autoencoder.decode(stream.scene.image.latent)
    first = stream.step()[0]
    expected = ((coded[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    np.testing.assert_allclose(first, expected, atol=1)


def test_frames_are_handed_out_latent_frame_by_latent_frame(pipeline):
    image = picture(*pipeline.config.size)
    whole, parted, parts = pipeline.stream(image), pipeline.stream(image), []
    for _ in range(2):
        expected = whole.step()
        np.testing.assert_array_equal(parted.step(on_frames=parts.append), expected)
    assert [len(part) for part in parts] == [1, 4, 4, 4, 4, 4]
    np.testing.assert_array_equal(np.concatenate(parts)[-12:], expected)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (75, 75), (20, 200)])
def test_any_picture_is_fitted_to_the_nearest_shape_and_mapped_back(pipeline, shape):
    stream = pipeline.stream(picture(*shape))
    wide, high, square = pipeline.config.all_sizes
    expected = square if shape[0] == shape[1] else wide if shape[1] > shape[0] else high
    assert stream.size == expected
    assert stream.step().shape == (9, *expected, 3)
    inside = np.array([[shape[1] / 2, shape[0] / 2], [shape[1] / 2 + 5, shape[0] / 2 - 4]])
    np.testing.assert_allclose(stream.fit.to_original(stream.fit.to_fitted(inside)), inside, atol=1e-9)


def test_another_size_is_taken_if_the_latents_can_have_it(pipeline):
    multiple = 2 * pipeline.config.spatial_compression
    size = (3 * multiple, 5 * multiple)
    assert pipeline(picture(40, 60), drag(size, 9, pipeline.config.fps), size=size).shape == (9, *size, 3)
    with pytest.raises(ValueError, match=f"multiples of {multiple}"):
        pipeline.stream(picture(40, 60), size=(3 * multiple + 1, 5 * multiple))


def test_two_streams_of_different_shapes_do_not_disturb_each_other(pipeline):
    alone = [pipeline.stream(picture(60, 90), seed=1), pipeline.stream(picture(90, 60), seed=2)]
    expected = [np.concatenate([stream.step(), stream.step()]) for stream in alone]
    wide, high = pipeline.stream(picture(60, 90), seed=1), pipeline.stream(picture(90, 60), seed=2)
    made = [[stream.step() for stream in (wide, high)] for _ in range(2)]
    for index in range(2):
        np.testing.assert_array_equal(np.concatenate([made[0][index], made[1][index]]), expected[index])


@pytest.mark.parametrize("causal", ["c1s0w1", "c3s2w1", "c2s1w0"])
def test_any_chunk_sink_and_window(causal):
    pipeline = MotionStreamPipeline.from_pretrained("wan2.2-debug", untrained=True, causal=causal, placement=CPU)
    config = CausalConfig.parse(causal)
    stream = pipeline.stream(picture(60, 90))
    lengths = [len(stream.step()) for _ in range(3)]
    assert lengths == [4 * config.chunk_frames - 3, *[4 * config.chunk_frames] * 2]


def test_the_teacher_makes_any_length_under_guidance(pipeline):
    size = pipeline.config.size
    image, motion = picture(*size), drag(size, 14, pipeline.config.fps)
    done = []
    guided = pipeline.teacher(image, motion, "a dog runs", after_step=lambda: done.append(1))
    assert guided.shape == (14, *size, 3) and len(done) == pipeline.config.sampler.teacher_steps
    plain = pipeline.teacher(image, motion, "a dog runs", guided=False)
    masked = pipeline.teacher(image, motion, "a dog runs", causal=CausalConfig(3, 1, 1))
    stronger = replace(pipeline.config.sampler, motion_guidance=4.0)
    for other in (plain, masked, pipeline.teacher(image, motion, "a dog runs", sampler=stronger)):
        assert other.shape == guided.shape and np.abs(other.astype(int) - guided).max() > 0
    # the tracks reach the model: without guidance, too
    still = pipeline.teacher(image, Tracks.empty(14, size, pipeline.config.fps), "a dog runs", guided=False)
    assert np.abs(still.astype(int) - plain).max() > 0


def test_a_saved_folder_streams_the_same_and_says_what_it_lacks(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    written = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in written}) == 1, "whoever may read one file may read all"
    with pytest.raises(ValueError, match=r"teacher, causal \(no trained track head, not distilled"):
        MotionStreamPipeline.from_pretrained(tmp_path / "model")
    again = MotionStreamPipeline.from_pretrained(tmp_path / "model", untrained=True, placement=CPU)
    image, motion = picture(*pipeline.config.size), drag(pipeline.config.size, 9, pipeline.config.fps)
    difference = np.abs(again(image, motion, "a dog").astype(int) - pipeline(image, motion, "a dog"))
    assert difference.mean() < 1, "half precision may round, no more"


@pytest.mark.parametrize("name", NAMES)
def test_what_saves_memory_changes_no_frame(name):
    image, motion = picture(64, 96), drag(preset(name).size, 21, preset(name).fps)
    plain = MotionStreamPipeline.from_pretrained(name, untrained=True, placement=CPU)
    expected = plain(image, motion, "a dog", size=motion.size)
    for placement in (
        replace(CPU, offload_blocks=True),
        replace(CPU, text_encoder="resident"),
        replace(CPU, text_encoder="cpu"),
    ):
        other = MotionStreamPipeline.from_pretrained(name, untrained=True, placement=placement)
        made = other(image, motion, "a dog", size=motion.size)
        np.testing.assert_array_equal(made, expected, err_msg=str(placement))
        assert other.parts.text_encoder.resident == (placement.text_encoder == "resident")


def test_the_tiny_decoder_stands_in_for_the_full_one():
    image = picture(64, 96)
    frames = {}
    for decoder in ("full", "tiny"):
        placement = replace(CPU, decoder=decoder)
        pipeline = MotionStreamPipeline.from_pretrained("wan2.1-debug", untrained=True, placement=placement)
        stream = pipeline.stream(image)
        frames[decoder] = np.concatenate([stream.step(), stream.step()])
    assert frames["tiny"].shape == frames["full"].shape == (21, 64, 96, 3)
    assert np.abs(frames["tiny"].astype(int) - frames["full"]).mean() > 1
    with pytest.raises(ValueError, match="no tiny decoder"):
        MotionStreamPipeline.from_pretrained("nano", placement=replace(CPU, decoder="tiny"))


def test_bfloat16_streams_with_its_islands(pipeline):
    placement = replace(CPU, dtype="bfloat16")
    half = MotionStreamPipeline.from_pretrained(pipeline.config.name, untrained=True, placement=placement)
    for name, parameter in half.model.named_parameters():
        assert parameter.dtype == (torch.float32 if is_island(name) else torch.bfloat16), name
    stream = half.stream(picture(64, 96))
    frames = np.concatenate([stream.step(), stream.step()])
    assert len(frames) == 21 and frames.std() > 0


def test_placements_that_mean_nothing_are_refused():
    for wrong, message in (
        ({"device": "tpu"}, "tpu"),
        ({"decoder": "huge"}, "full, tiny"),
        ({"text_encoder": "gone"}, "released"),
        ({"dtype": "float8"}, "float8"),
        ({"tile": 2}, "at least 8"),
    ):
        with pytest.raises(ValueError, match=message):
            _ = Placement(**wrong).torch_device
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="this machine has none"):
            _ = Placement(device="cuda").torch_device
