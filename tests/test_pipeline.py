"""The public pipeline at debug size: determinism, chunking, memory of where tracks began."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from motionstream import LiveTracks, MotionStreamPipeline, Tracks
from motionstream.carry.memory import CarryMemory
from motionstream.components import Placement
from motionstream.config import ModelConfig
from motionstream.model.motion_model import MotionModel
from motionstream.pipeline import _placed
from motionstream.presets import PRESETS, preset
from motionstream.sampler.rollout import times_of
from motionstream.scene import thinned
from motionstream.tracks import drag_tracks, pin_tracks
from motionstream.tracks.camera import CameraMove, LiveCamera


@pytest.fixture(scope="module")
def pipeline() -> MotionStreamPipeline:
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the residual starts at zero; make the transformer count
        for parameter in pipeline.model.transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        pipeline.model.transformer.proj_out.weight.mul_(20)  # as much as is not taken for noise
    return pipeline


PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def tracks(pipeline: MotionStreamPipeline, frames: int = 33) -> Tracks:
    size = pipeline.config.size
    moved = drag_tracks((8, 8), (20, 14), frames, size, radius=6, spacing=4)
    return Tracks.merge([moved, pin_tracks([(26, 26)], frames, size, radius=4, spacing=4)], renumber=True)


def test_streaming_equals_the_whole_call_however_it_is_paced(pipeline):
    motion = tracks(pipeline)
    whole = pipeline(PICTURE, motion, prompt="it gets dark", seed=3)
    assert whole.shape == (33, 32, 32, 3) and whole.dtype == np.uint8
    stream = pipeline.stream(PICTURE, prompt="it gets dark", seed=3)
    parts = []
    for wanted in (9, 12, 12):
        assert stream.next_frames == wanted
        parts.append(stream.step(motion.frames(stream.frame, stream.frame + wanted)))
        if wanted == 9:
            stream.settle()
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_in_half_precision_the_carried_picture_stays_whole(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    half, full = (
        MotionStreamPipeline.from_pretrained(tmp_path, untrained=True, placement=Placement(dtype=dtype))
        for dtype in ("bfloat16", "float32")
    )
    assert half.model.dtype == torch.bfloat16
    motion = tracks(pipeline, 21)
    whole, halved = (p.stream(PICTURE, seed=0) for p in (full, half))
    for wanted in (9, 12):
        part = motion.frames(whole.frame, whole.frame + wanted)
        assert np.abs(whole.step(part).astype(int) - halved.step(part)).mean() < 1
    torch.testing.assert_close(halved.scene.carry.last, whole.scene.carry.last, atol=1e-5, rtol=0)


def test_seed_prompt_and_tracks_matter(pipeline):
    motion = tracks(pipeline, 21)
    base = pipeline(PICTURE, motion, seed=0).astype(int)
    np.testing.assert_array_equal(pipeline(PICTURE, motion, seed=0), base)
    assert np.abs(pipeline(PICTURE, motion, seed=1) - base).max() > 0
    assert np.abs(pipeline(PICTURE, motion, seed=0, prompt="night falls") - base).max() > 0
    assert np.abs(pipeline(PICTURE, Tracks.empty(21, pipeline.config.size), seed=0) - base).max() > 5


def test_steps_are_the_student_s_first_and_may_change_between_chunks(pipeline):
    own = pipeline.config.sampler.student_times
    assert [times_of(own, steps) for steps in (1, 2, 3)] == [own[:1], own[:2], own]
    assert times_of(own, 4) == (*own, own[-1] / 2)
    assert times_of((1.0,), 3) == (1.0, 0.5, 0.25)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=f"steps = {wrong}: a chunk takes 1 to 4"):
            pipeline.stream(PICTURE, steps=wrong)
    changed, same = pipeline.stream(PICTURE), pipeline.stream(PICTURE)
    np.testing.assert_array_equal(changed.step(), same.step())
    changed.steps = 1
    assert changed.steps == 1 and not np.array_equal(changed.step(), same.step())
    motion, one = tracks(pipeline, 9), pipeline.stream(PICTURE, steps=1)
    np.testing.assert_array_equal(pipeline(PICTURE, motion, steps=1), one.step(motion))
    assert not np.array_equal(pipeline(PICTURE, motion, steps=1), pipeline(PICTURE, motion))


def test_later_tracks_never_change_earlier_frames(pipeline):
    motion = tracks(pipeline)
    positions = motion.positions.copy()
    positions[21:] += 5
    other = Tracks(positions, motion.visible, motion.size, motion.fps, motion.ids)
    one, two = pipeline(PICTURE, motion), pipeline(PICTURE, other)
    np.testing.assert_array_equal(one[:21], two[:21])
    assert np.abs(one[21:].astype(int) - two[21:]).max() > 0


def test_any_length_is_trimmed(pipeline):
    assert pipeline(PICTURE, tracks(pipeline, 15)).shape[0] == 15


def test_live_drag_that_begins_late(pipeline):
    stream, live = pipeline.stream(PICTURE), LiveTracks(pipeline.config.size)
    stream.step(live.cut(stream.next_frames))
    drag = live.drag(10, 10, radius=5, spacing=4)
    live.move(drag, 20, 10)
    stream.step(live.cut(stream.next_frames))
    live.release(drag)
    frames = [stream.step(live.cut(stream.next_frames)) for _ in range(3)]
    assert all(f.shape == (12, 32, 32, 3) for f in frames)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda p: Tracks.empty(9, (64, 64)), "64x64"),
        (lambda p: Tracks.empty(10, p.config.size), "10 frames"),
        (lambda p: Tracks.empty(9, p.config.size, 12), "12 frames a second, the stream has 24: use tracks.resample"),
    ],
)
def test_tracks_that_do_not_fit_are_refused(pipeline, bad, message):
    with pytest.raises(ValueError, match=message):
        pipeline.stream(PICTURE).step(bad(pipeline))


def test_carry_memory_takes_content_where_and_when_a_track_begins():
    first, second = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    memory = CarryMemory(first)

    def one(ids, x):
        positions = np.full((4, len(ids), 2), x, np.float32)
        return Tracks(positions, np.ones((4, len(ids)), bool), (8, 8), 24.0, np.array(ids))

    device = torch.device("cpu")
    source = memory.source(one([0], 2.0), device)
    assert source.pictures.shape[1] == 1 and source.start[0, 0, 0] == 2
    memory.last = second
    source = memory.source(one([0, 1], 2.0), device)  # nothing has moved: the picture is what it was
    assert torch.equal(source.pictures[0], first) and source.index.tolist() == [[0, 0]]
    memory.source(one([0, 1], 5.0), device)
    source = memory.source(one([0, 1, 2], 5.0), device)
    assert source.index.tolist() == [[0, 0, 1]] and source.static.unique().tolist() == [1]
    assert source.start[0].tolist() == [[2, 2], [2, 2], [5, 5]] and torch.equal(source.pictures[0, 1], second[0])
    for _ in range(40):  # drags come and go for ever; pictures do not pile up
        memory.last = torch.rand(1, 3, 8, 8)
        memory.source(one([1], 3.0), device)
        source = memory.source(one([], 0.0), device)
    assert source.pictures.shape[1] == 1


def test_save_and_load_give_the_same_frames_and_refuse_what_is_untrained(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}) == 1
    with pytest.raises(ValueError, match="teacher, causal"):
        MotionStreamPipeline.from_pretrained(tmp_path)
    again = MotionStreamPipeline.from_pretrained(tmp_path, untrained=True)
    motion = tracks(pipeline, 9)
    difference = np.abs(again(PICTURE, motion).astype(int) - pipeline(PICTURE, motion))
    assert difference.mean() < 1, "half precision may round, no more"
    (tmp_path / "autoencoder.safetensors").unlink()
    with pytest.raises(ValueError, match=r"autoencoder\.safetensors: there is no such file"):
        MotionStreamPipeline.from_pretrained(tmp_path, untrained=True)


def test_unknown_names_are_refused_with_what_exists():
    with pytest.raises(ValueError, match="nowhere"):
        MotionStreamPipeline.from_pretrained("nowhere")
    with pytest.raises(ValueError, match="known: debug, nano"):
        preset("nowhere")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_configs_survive_json_and_name_what_is_wrong(name):
    config = preset(name)
    values = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(values) == config
    with pytest.raises(ValueError, match="no setting 'shape'"):
        ModelConfig.from_dict({**values, "shape": 1})
    with pytest.raises(ValueError, match="size"):
        ModelConfig.from_dict({**values, "size": [102, 128]})


def test_warming_up_changes_nothing(pipeline):
    motion = tracks(pipeline, 9)
    before = pipeline(PICTURE, motion)
    pipeline.warm_up()
    assert np.array_equal(pipeline(PICTURE, motion), before)


def test_of_too_many_tracks_those_never_seen_go_first():
    shown = np.zeros((2, 20), bool)
    shown[1, 5:15] = True
    many = Tracks(np.zeros((2, 20, 2), np.float32), shown, (8, 8))
    assert thinned(many, 5).ids.tolist() == [5, 7, 9, 12, 14]
    assert thinned(many, 10).ids.tolist() == list(range(5, 15))
    assert thinned(many, 12).count == 12


def test_a_restart_goes_on_from_the_last_frame_with_a_fresh_cache(pipeline):
    live, stream = LiveTracks(pipeline.config.size), pipeline.stream(PICTURE, "it gets dark", seed=3)
    stream.restart()  # nothing was made yet
    hand = live.drag(10, 10, radius=6, spacing=4)
    for _ in range(3):
        live.move(hand, 12 + stream.chunk, 10)
        frames = stream.step(live.cut(stream.next_frames))
    stream.restart()
    assert stream.next_frames == 9 and stream.frame == 33 and stream.chunk == 3
    live.move(hand, 16, 10)
    motion = live.cut(9)
    after = stream.step(motion)
    assert after.shape[0] == 9 and stream.next_frames == 12 and stream.frame == 42
    # A restart is a stream from that frame: the same picture, tracks and noise give the same frames.
    fresh = pipeline.stream(frames[-1], "it gets dark", seed=3)
    assert np.abs(fresh.step(motion).astype(int) - after).max() <= 2  # frames[-1] was rounded to eight bits
    other = pipeline.stream(PICTURE, "it gets dark", seed=3)
    for wanted in (9, 12, 12):
        other.step(Tracks.empty(wanted, other.size))
    other.restart(seed=8)
    assert other.step().shape[0] == 9


def test_nothing_jumps_at_a_restart():
    """With the shipped weights: the first frame after a restart differs from the last one as frames of a chunk do."""
    pipeline = MotionStreamPipeline.from_pretrained("nano")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BICUBIC))
    live, stream = LiveTracks(pipeline.config.size), pipeline.stream(picture)
    hand = live.drag(40, 60, radius=16)
    parts = []
    for chunk in range(4):
        if chunk == 2:
            stream.restart()
        live.move(hand, 50 + 10 * chunk, 60)
        parts.append(stream.step(live.cut(stream.next_frames)).astype(float))
    usual = max(np.abs(np.diff(part, axis=0)).mean(axis=(1, 2, 3)).max() for part in parts)
    across = [np.abs(b[0] - a[-1]).mean() for a, b in itertools.pairwise(parts)]
    assert across[1] <= usual + 0.5
    assert np.abs(parts[2][0] - picture).mean() > across[1]  # it does not go back to the given picture


def test_the_newest_chunk_becomes_the_sink(pipeline):
    stream = pipeline.stream(PICTURE, seed=3)
    with pytest.raises(ValueError, match="refresh its sink later"):
        stream.refresh_sink()
    motion = tracks(pipeline, 57)
    for _ in range(3):
        stream.step(motion.frames(stream.frame, stream.frame + stream.next_frames))
    stream.settle()
    cache = stream._rollout.cache
    window = [tensor.clone() for tensor in cache.read(0)[:2]]
    stream.refresh_sink()
    keys, values, positions = cache.read(0)
    half = keys.shape[1] // 2
    assert torch.equal(keys[:, half:], window[0][:, half:]) and torch.equal(values[:, half:], window[1][:, half:])
    assert torch.equal(values[:, :half], values[:, half:])
    # Rope turns keys but keeps their lengths: the sink's are the window's, turned for the first slot.
    assert torch.allclose(keys[:, :half].norm(dim=-1), keys[:, half:].norm(dim=-1), atol=1e-5)
    assert not torch.allclose(keys[:, :half], keys[:, half:], atol=1e-3) and positions[:3] == (0, 1, 2)
    assert np.isfinite(stream.step(motion.frames(33, 45)).astype(float)).all()


def test_an_adaptive_stream_refreshes_once_the_camera_has_left_and_a_drag_never_does(pipeline):
    size = pipeline.config.size
    for speed, expected in ((1.0, 1), (0.0, 0)):
        camera, stream = LiveCamera(np.ones(size, np.float32), size, spacing=5), pipeline.stream(PICTURE)
        stream.adaptive = True
        camera.move(CameraMove(pan=(speed, 0)))
        live = LiveTracks(size)
        hand = live.drag(10, 16, radius=3)
        for chunk in range(8):  # 20 % of the picture a second, so half of it is left after five chunks
            live.move(hand, 10 + 2 * chunk, 16)
            stream.step(camera.cut(live.cut(stream.next_frames)))
        assert stream.refreshes == expected


def test_where_blocks_are_offloaded_all_but_the_transformer_is_on_the_device(monkeypatch):
    """The meta device stands for a GPU."""
    offloaded = []
    monkeypatch.setattr("motionstream.pipeline.offload_blocks", lambda *given: offloaded.append(given))
    placement = Placement(device="meta", offload_blocks=True)
    model = _placed(MotionModel(preset("nano")), placement)
    assert offloaded == [(model.transformer, placement.torch_device)]
    places = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert {place for name, place in places.items() if name.startswith("transformer.")} == {"cpu"}
    assert {place for name, place in places.items() if not name.startswith("transformer.")} == {"meta"}
    assert any(name.startswith("pixel_mixer.") for name in places)
