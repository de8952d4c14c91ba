"""Training on prepared shards: what a stage is given, and whole recipes of every kind of model at debug size."""

import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from motionstream.checkpoint_files import write_tensors
from motionstream.cli import main
from motionstream.components import Placement
from motionstream.data.encode import PrepareSettings
from motionstream.data.prepare import Execution
from motionstream.data.prepare import prepare as prepare_videos
from motionstream.data.samples import pad_text
from motionstream.data.shards import ShardFolder
from motionstream.data.sources import videos_of_folder
from motionstream.media.videos import write_video
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks.sampling import TrackMix, layers_of
from motionstream.training.clips.prepared import source_pictures
from motionstream.training.clips.shards import ShardClips
from motionstream.training.diffusion.lora import LoraSettings
from motionstream.training.export import export
from motionstream.training.recipes.named import recipe_named
from motionstream.training.recipes.recipe import check_data, with_data
from motionstream.training.sources import begin, finished, validation_clips, weights_path
from motionstream.training.stages import TRAINERS

pytest.importorskip("transformers")
MIX = TrackMix(dense=1.0, random=0.0, drags=0.0, max_tracks=12, dense_tracks=5)


def quiet(text):
    pass


def moving(frames, size, seed):
    """A texture that slides to the right, uint8 (T, H, W, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 2, 3), np.uint8)
    wide = np.kron(small, np.ones((8, 4, 1), np.uint8))
    return np.stack([np.roll(wide, frame, axis=1)[:, : size[1]] for frame in range(frames)])


@pytest.fixture(scope="module", params=["debug", "wan2.1-debug", "wan2.2-debug"])
def made(request, tmp_path_factory):
    """(recipe on prepared clips, its shards)."""
    folder = tmp_path_factory.mktemp("data")
    pipeline = MotionStreamPipeline.from_pretrained(request.param, untrained=True)
    pipeline.save_pretrained(folder / "base")
    config = pipeline.config
    (folder / "videos").mkdir()
    for index in range(3):
        video = moving(config.clip_frames + 1, config.size, index)
        write_video(folder / "videos" / f"{index}.mp4", video, config.fps)
        (folder / "videos" / f"{index}.txt").write_text(f"clip number {index}")
    settings = PrepareSettings(model=str(folder / "base"), grid=6)
    execution = Execution(placement=Placement(device="cpu"))
    prepare_videos(videos_of_folder(folder / "videos"), folder / "set", settings, execution)
    recipe = recipe_named(request.param)
    return with_data(recipe, (folder / "set",), base=str(folder / "base"), videos=folder / "videos"), folder


def source(recipe, folder, **settings):
    from motionstream.training.sources import load_autoencoder

    settings = {"batch": 2, "seed": 3, "workers": 0} | settings
    return ShardClips(recipe.model, folder / "set", MIX, load_autoencoder(recipe, folder), **settings)


@pytest.mark.usefixtures("uncollected")
def test_what_is_dropped_ends_at_once(made):
    clips = source(*made, workers=1)
    clips.at(0)
    gone = weakref.ref(clips)
    del clips
    assert gone() is None


def test_clips_are_those_of_the_shards_whatever_the_order_and_the_workers(made):
    recipe, folder = made
    clips = source(recipe, folder)
    straight = [clips.at(step) for step in range(3)]
    stored = {sample.caption: sample for sample in (ShardFolder(folder / "set")[i] for i in range(3))}
    for batch in straight:
        for row, caption in enumerate(batch.captions):
            sample = stored[caption]
            assert torch.equal(batch.latents[row], sample.latents.float())
            shown = batch.visible[row].any(dim=0)
            assert 5 <= shown.sum() <= 12
            places = {tuple(p) for p in sample.positions[0][sample.visible[0]].tolist()}
            assert all(tuple(p) in places for p in batch.positions[row, 0][batch.visible[row, 0]].tolist())
            if recipe.model.name == "debug":
                assert batch.text is None and batch.candidates.shape[2] == recipe.model.latent_channels
            else:
                assert torch.equal(batch.text[row], pad_text(sample.text, 512).float())
                assert (batch.image is None) == (recipe.model.image_encoder is None)
    assert sorted(c for batch in straight for c in batch.captions)[0] == "clip number 0"
    jumping, worker = source(recipe, folder), source(recipe, folder, workers=1)
    for other, step, samples in ((jumping, 2, range(1, 2)), (jumping, 0, None), (worker, 0, None), (worker, 1, None)):
        got = other.at(step, samples)
        expected = straight[step] if samples is None else straight[step].take([1])
        for name, value in expected.tensors().items():
            torch.testing.assert_close(got.tensors()[name], value, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("made", ["debug"], indirect=True)
def test_clips_that_are_trained_on_are_said_not_to_be_held_out(made, recwarn):
    recipe, folder = made
    validation_clips(replace(recipe, data=replace(recipe.data, held_out=folder / "set")), folder)
    assert not [one for one in recwarn if "--held-out" in str(one.message)]
    with pytest.warns(UserWarning, match=r"set, which are trained on, too: prepare others \(--held-out DIR\)"):
        validation_clips(recipe, folder)


@pytest.mark.parametrize("made", ["debug"], indirect=True)
def test_reading_goes_on_exactly_across_epochs_and_workers(made):
    """Three samples in batches of two: an epoch ends in the middle of every other step."""
    recipe, folder = made
    reading = source(recipe, folder, workers=2)
    straight = [reading.at(step) for step in range(6)]
    for epoch in range(4):
        captions = [caption for clips in straight for caption in clips.captions][3 * epoch : 3 * epoch + 3]
        assert sorted(captions) == [f"clip number {number}" for number in range(3)]
    assert len({tuple(clips.captions) for clips in straight}) > 2
    for first, workers in ((1, 2), (4, 0)):
        resumed = source(recipe, folder, workers=workers)
        for step in range(first, 6):
            for name, value in resumed.at(step).tensors().items():
                assert torch.equal(value.nan_to_num(-1), straight[step].tensors()[name].nan_to_num(-1)), name


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_what_is_carried_from_latents_is_what_a_stream_shows_before_each_chunk(chunk):
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    autoencoder, config = pipeline.parts.autoencoder, pipeline.config
    latents = torch.randn(2, config.latent_channels, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shown, _ = autoencoder.decode(latents)
    first = torch.full((2, 3, 32, 32), 0.5)
    pictures = source_pictures(first, latents, autoencoder, chunk)
    last = [config.frames_of(start) - 1 for start in range(chunk, 6, chunk)]
    assert torch.equal(pictures[:, 0], first)
    torch.testing.assert_close(pictures[:, 1:], shown[:, :, last].transpose(1, 2), atol=1e-5, rtol=0)


def test_a_recipe_of_small_rendered_clips_takes_prepared_ones_as_they_are(tmp_path):
    recipe = with_data(recipe_named("nano-ids"), (tmp_path,), base="nano")
    for phase in (0, 1):
        now = recipe.in_phase(phase)
        assert (now.data, now.batch) == (recipe.data, recipe.batch)


@pytest.mark.timeout(600)  # five stages, one after the other
def test_every_stage_trains_on_them_and_the_export_streams(made, tmp_path):
    recipe, folder = made
    before = begin(recipe, tmp_path, None).state_dict()
    for stage in ("teacher", *recipe.optional_stages, *recipe.stages[1:]):
        TRAINERS[stage](recipe, tmp_path, quiet)
    assert recipe.stages[0] == "teacher" and weights_path(tmp_path, "teacher-forcing").exists()
    teacher, student = (begin(recipe, tmp_path, stage).state_dict() for stage in ("teacher", "self-forcing"))
    for one, other in ((before, teacher), (teacher, student)):
        assert any((one[name] - other[name]).abs().max() > 0 for name in one)
    assert all(value.isfinite().all() for value in student.values())
    log = [json.loads(line) for line in (tmp_path / "self-forcing" / "log.jsonl").read_text().splitlines()]
    assert any("rollout_db" in line for line in log)
    log = [json.loads(line) for line in (tmp_path / "tiny-decoder" / "log.jsonl").read_text().splitlines()]
    assert {"l1", "judge", "adversarial", "psnr_full"} <= {name for line in log for name in line}

    arguments = ["train", "export", "--recipe", recipe.model.name, "--folder", str(tmp_path)]
    arguments += ["--shards", str(folder / "set"), "--base", str(folder / "base"), "-o", str(tmp_path / "model")]
    assert main(arguments) == 0
    picture, shown = moving(1, recipe.model.size, 9)[0], []
    for decoder in ("full", "tiny"):
        placement = Placement(device="cpu", decoder=decoder)
        loaded = MotionStreamPipeline.from_pretrained(tmp_path / "model", placement=placement)
        shown.append(loaded.stream(picture, "clip number 1").step())
        assert shown[-1].shape == (9, *recipe.model.size, 3)
    assert not np.array_equal(*shown)
    trained = load_file(weights_path(tmp_path, "tiny-decoder"))
    assert all(torch.equal(value, trained[name]) for name, value in loaded.parts.tiny.state_dict().items())


@pytest.mark.parametrize("made", ["wan2.2-debug"], indirect=True)
def test_the_tiny_decoder_needs_videos_and_a_base_alone(made, tmp_path, capsys):
    """No shards and no stage before it; an export takes the base's where none was trained."""
    recipe, folder = made
    arguments = ["--recipe", "wan2.2-debug", "--base", str(folder / "base"), "--folder", str(tmp_path / "run")]
    assert main(["train", "tiny-decoder", *arguments]) == 2
    assert "--videos DIR adds the tiny decoder" in capsys.readouterr().err
    assert main(["train", "tiny-decoder", *arguments, "--videos", str(folder / "videos")]) == 0
    said = capsys.readouterr().out
    assert "of 3 videos in" in said and "of which the last one is held out; perceptual distance: stand_in (our" in said
    trained = load_file(weights_path(tmp_path / "run", "tiny-decoder"))

    shutil.copytree(folder / "base", tmp_path / "base")
    own = replace(recipe, base=str(tmp_path / "base"))
    write_tensors(weights_path(tmp_path, "causal"), begin(own, tmp_path, None).state_dict())
    export(own, tmp_path, tmp_path / "none")
    with pytest.raises(ValueError, match="has no tiny decoder"):
        MotionStreamPipeline.from_pretrained(tmp_path / "none", placement=Placement(device="cpu", decoder="tiny"))
    write_tensors(tmp_path / "base" / "tiny_decoder.safetensors", trained)
    export(own, tmp_path, tmp_path / "theirs")
    assert all(torch.equal(v, trained[k]) for k, v in load_file(tmp_path / "theirs/tiny_decoder.safetensors").items())
    tiny = MotionStreamPipeline.from_pretrained(
        tmp_path / "theirs", placement=Placement(device="cpu", decoder="tiny")
    ).parts.tiny
    assert tiny is not None and tiny.config == recipe.model.tiny_decoder


@pytest.mark.parametrize("made", ["wan2.1-debug"], indirect=True)
def test_low_rank_training_leaves_plain_weights_that_differ_where_they_should(made, tmp_path):
    pytest.importorskip("peft")
    recipe, _ = made
    lora = LoraSettings(rank=2, alpha=2.0, base_dtype="float32")
    recipe = replace(recipe, lora=lora)
    before = begin(recipe, tmp_path, None).state_dict()
    TRAINERS["teacher"](recipe, tmp_path, quiet)
    after = begin(recipe, tmp_path, "teacher").state_dict()
    assert before.keys() == after.keys() and not any("lora" in name for name in after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == {"transformer", "track_head"}
    assert all("patch_embedding" in n or ".to_" in n or ".ffn." in n for n in changed if "transformer" in n)
    assert any("to_q.weight" in n for n in changed) and not any(n.endswith("to_q.bias") for n in changed)
    delta = (
        after["model.transformer.blocks.0.attn1.to_q.weight"] - before["model.transformer.blocks.0.attn1.to_q.weight"]
    )
    assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= 2


@pytest.mark.parametrize("made", ["wan2.1-debug"], indirect=True)
def test_what_does_not_fit_is_named(made, tmp_path):
    recipe, folder = made
    with pytest.raises(ValueError, match="cannot be trained on"):
        source(recipe, folder, frames=9)
    with pytest.raises(ValueError, match="whose latent_channels is 16"):
        ShardClips(recipe_named("debug").model, folder / "set", MIX, batch=2, seed=0)
    with pytest.raises(ValueError, match="--shards needs --base"):
        with_data(recipe_named("wan2.1-debug"), (folder / "set",))
    with pytest.raises(ValueError, match="needs --shards"):
        check_data(recipe_named("wan2.2-5b"))
    without = with_data(recipe_named("wan2.1-debug"), (folder / "set",), base=str(folder / "base"))
    assert without.stages == ("teacher", "causal", "self-forcing")
    with pytest.raises(ValueError, match=r"the tiny decoder of wan2.1-debug is trained on videos: .* \(--videos\)"):
        TRAINERS["tiny-decoder"](without, tmp_path, quiet)
    other = with_data(recipe_named("wan2.2-debug"), (folder / "set",), base=str(folder / "base"))
    with pytest.raises(ValueError, match="of other sizes than"):
        begin(other, tmp_path, None)
    with pytest.raises(ValueError, match="train the teacher stage first"):
        finished(tmp_path, "teacher")
    assert weights_path(tmp_path, "teacher").name == "teacher.safetensors"


@pytest.mark.parametrize("made", ["debug"], indirect=True)
def test_a_damaged_shard_stops_a_run_or_is_passed_over(made, tmp_path):
    recipe, folder = made
    shutil.copytree(folder / "set", tmp_path / "set")
    shutil.copytree(folder / "base", tmp_path / "base")
    path = next((tmp_path / "set").glob("*.tar"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    said = []
    for workers in (0, 2):
        clips = source(recipe, tmp_path, workers=workers)
        with pytest.raises(ValueError, match=r"\.tar is damaged .*: delete it and run") as caught:
            for step in range(3):
                clips.at(step)
        said.append(str(caught.value))
    assert said[0] == said[1]  # in a worker as here
    with pytest.warns(UserWarning, match="replaced by the next"):
        tolerant = source(recipe, tmp_path, damaged="skip")
        captions = {caption for step in range(3) for caption in tolerant.at(step).captions}
    assert len(captions) == 2


def test_points_that_move_otherwise_than_most_are_told_from_the_camera():
    frames, camera = torch.arange(10.0), torch.tensor([1.0, 0.5])
    start = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 100
    positions = start + frames[:, None, None] * camera
    positions[:, :5] += frames[:, None, None] * torch.tensor([0.0, 1.0])
    visible = torch.ones(10, 20, dtype=torch.bool)
    visible[1:, 19] = False
    layer = layers_of(positions, visible, (100, 100))
    assert layer.tolist() == [1] * 5 + [0] * 14 + [-1]
