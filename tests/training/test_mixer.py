"""training/parts/mixer.py: what a batch holds, that the truth wins, that it learns, and that steps are keyed."""

from dataclasses import replace

import pytest
import torch

from motionstream.carry.candidates import warp_all
from motionstream.carry.pixel_mixer import Mixed, PixelMixer
from motionstream.carry.relations import relate
from motionstream.config import MixerConfig
from motionstream.data.photographs import HELD_OUT, TRAIN
from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.tracks.sampling import TrackMix, sample_tracks
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.parts.mixer import MixerStage, picture_loss, point_logits, take_frames
from motionstream.training.recipes import nano as nano_recipes

SCENE = nano_recipes.debug().data.scene
CHUNKS = [0, 9, 21, 33]
MIX = TrackMix(dense=0.1, random=0.2, drags=0.7)
CONFIG = MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), features=4, heads=2)


@pytest.fixture(scope="module")
def rendered():
    clips = render(SCENE, 3, 5, TextureBank(()))
    generator = torch.Generator().manual_seed(0)
    tracks = sample_tracks(clips.positions, clips.visible, clips.layer, MIX, generator, chunks=CHUNKS)
    return clips, tracks, take_frames(clips, tracks, generator, chunks=CHUNKS, count=4)


def make_stage(**settings) -> MixerStage:
    torch.manual_seed(0)
    settings = {"batch": 2, "frames": 2, "seed": 1, "workers": 0} | settings
    mixer = PixelMixer(CONFIG, grid=4)
    return MixerStage(mixer, SCENE, MIX, TRAIN, HELD_OUT, chunks=CHUNKS, **settings)


def test_frames_are_the_clips_and_tracks_are_of_the_things_they_began_on(rendered):
    clips, tracks, taken = rendered
    assert taken.video.shape == (3, 3, 4, 32, 32) and taken.source.pictures.shape == (3, 4, 3, 32, 32)
    video = clips.video.float() / 127.5 - 1
    for clip in range(3):
        for frame in range(4):
            found = [t for t in range(45) if torch.equal(video[clip, :, t], taken.video[clip, :, frame])]
            assert found, "a frame that is none of the clip's"
            assert any(
                torch.equal(tracks.positions[clip, t].nan_to_num(-9), taken.positions[clip, frame].nan_to_num(-9))
                for t in found
            )
    before = torch.tensor([0, 8, 20, 32])
    counted = 0
    for clip, track in taken.visible.any(dim=1).nonzero().tolist():
        points = clips.positions[clip, before[tracks.birth[clip, track]]]
        same = (points == tracks.start[clip, track]).all(dim=-1) & (clips.layer[clip] >= 0)
        assert taken.track_layer[clip, track] in clips.layer[clip][same]
        counted += 1
    assert counted > 10


def test_points_are_told_apart_by_their_things(rendered):
    _, _, taken = rendered
    relations = relate(taken.positions, taken.visible, taken.source, grid=4)
    shape = (3, 3, 4, 16, 16)
    mixed = Mixed(taken.video, torch.zeros(()), torch.zeros(()), torch.full(shape, 2.5))
    logits, wanted, counted = point_logits(mixed, relations, taken, grid=4)
    assert (logits[counted] == 2.5).all() and wanted.dtype == torch.bool and counted.sum() > 50
    assert 0.05 < wanted[counted].float().mean() < 1  # of some points the nearest track is another thing's


def test_the_true_choice_costs_least(rendered):
    _, _, taken = rendered
    relations = relate(taken.positions, taken.visible, taken.source, grid=4)
    candidates = warp_all(relations, taken.source, grid=4)
    best = (candidates - taken.video[:, None]).abs().mean(dim=2).argmin(dim=1)
    fill = torch.zeros_like(taken.video)

    def cost(choice: torch.Tensor) -> float:
        weights = torch.nn.functional.one_hot(choice, 4).movedim(-1, 1).float()
        pictures = (weights[:, :3, None] * candidates).sum(dim=1)
        return float(picture_loss(Mixed(pictures, weights, fill, fill), candidates, taken.video))

    assert cost(best) < min(cost(torch.full_like(best, k)) for k in range(3))
    thirds = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0])[:, None, None, None].expand(3, -1, 4, 32, 32)
    ghost = Mixed(candidates.mean(dim=1), thirds, fill, fill)
    assert cost(best) < float(picture_loss(ghost, candidates, taken.video))


def test_it_learns_what_moves_along(tmp_path):
    stage = make_stage()
    stage._clips = lambda step: stage.held  # the same frames again and again
    before = stage.validate(stage.mixer)
    run = Run(stage, TrainConfig(steps=25, lr=1e-2, warmup=3, ema=0.8), tmp_path)
    for _ in range(25):
        run.update()
    after = run.validate()
    assert after["psnr"] > before["psnr"] + 0.5 and after["alike_right"] > before["alike_right"] + 0.03
    assert after["psnr_best"] == before["psnr_best"] and after["psnr_static"] == before["psnr_static"]


def test_a_steps_clips_depend_on_the_step_alone():
    jumped, straight = make_stage(), make_stage(workers=1)
    for step in range(3):
        expected = straight.loss(step)[1]
    assert jumped.loss(2)[1] == expected and jumped.loss(0)[1] != expected


def test_weather_is_none_of_its_business():
    from motionstream.data.procedural import clear_scene

    scene = clear_scene(replace(SceneConfig(), snow_probability=0.5, dark_probability=0.3))
    assert scene.snow_probability == scene.dark_probability == 0
