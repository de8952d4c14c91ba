"""Training of the tiny decoder: who learns from which loss, that it learns, that it is exact, where clips come from."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from motionstream import metrics
from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.component_config import LinearAutoencoderConfig, TinyAutoencoderConfig
from motionstream.data.procedural import SceneConfig
from motionstream.data.textures import TextureBank
from motionstream.media.videos import write_video
from motionstream.presets import preset
from motionstream.training.clips.videos import ClipBatches, VideoFolder, rendered_clips
from motionstream.training.loop import distributed
from motionstream.training.loop.run import TrainConfig, train
from motionstream.training.parts.perceptual import ContrastStandIn
from motionstream.training.parts.tiny_autoencoder import TinyDecoderStage, TinyTraining, paper_recipe, train_tiny

TINY = preset("wan2.1-debug").tiny_decoder
SCENE = SceneConfig(
    height=32, width=32, frames=9, sprite_radius=(5.0, 10.0), background_grid=2, sprite_grid=2, sprites=(1, 2)
)
GAN = TinyTraining(
    batch=2, adversarial_weight=0.5, adversarial_start=2, adversarial_ramp=2, discriminator_channels=8, replay=1
)
PLAIN = TinyTraining(batch=2, adversarial_weight=0, perceptual_weight=0)


def wan() -> WanAutoencoder:
    torch.manual_seed(0)
    return WanAutoencoder.from_config(preset("wan2.1-debug").autoencoder)


def linear() -> LinearAutoencoder:
    return LinearAutoencoder(LinearAutoencoderConfig(latent_channels=16, decoder_channels=8, decoder_blocks=1))


def tiny(config: TinyAutoencoderConfig = TINY, seed: int = 0) -> TinyAutoencoder:
    torch.manual_seed(seed)
    return TinyAutoencoder(config)


def waves(generator: torch.Generator, frames: int = 9, side: int = 32) -> torch.Tensor:
    """A clip of smooth moving waves, uint8."""
    phase, tilt, speed = torch.rand(3, 3, 1, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    t = torch.arange(frames)[:, None, None] / 8
    return (127.5 + 120 * torch.sin(6.28 * (phase + x + tilt * y + speed * t))).to(torch.uint8)


def held_out(frames: int = 9) -> torch.Tensor:
    return torch.stack([waves(torch.Generator().manual_seed(1000 + i), frames) for i in range(2)])


def stage_of(settings=PLAIN, *, autoencoder=None, decoder=None, draw=waves, **arguments) -> TinyDecoderStage:
    autoencoder = linear() if autoencoder is None else autoencoder
    torch.manual_seed(3)
    return TinyDecoderStage(decoder or tiny(), autoencoder, draw, held_out(), settings, **arguments)


def has_gradient(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_every_loss_reaches_its_own_player_alone():
    autoencoder, decoder = wan(), tiny()
    stage = stage_of(GAN, autoencoder=autoencoder, decoder=decoder)
    players = {"module": stage.module, "opponent": stage.opponent}
    before = {k: v.clone() for k, v in autoencoder.state_dict().items()}
    turns = [stage.turn(step) for step in range(6)]
    assert turns == ["module", "module", "opponent", "module", "opponent", "module"]
    for step, turn in enumerate(turns):
        loss, numbers = stage.loss(step)
        loss.backward()
        assert {name for name, player in players.items() if has_gradient(player)} == {turn}
        assert not has_gradient(autoencoder) and not has_gradient(decoder.encoder)
        assert ("stand_in" in numbers) == (turn == "module") and ("judge" in numbers) == (turn == "opponent")
        assert all(p.requires_grad for player in players.values() for p in player.parameters())
        for player in players.values():
            player.zero_grad()
    assert all(torch.equal(v, before[k]) for k, v in autoencoder.state_dict().items())
    assert stage.module is decoder.decoder


def test_the_adversary_is_ramped_in_and_counted():
    stage = stage_of(GAN)
    weights = [stage.adversarial_weight(step) for step in (0, 1, 3, 5, 7, 99)]
    assert weights == [0, 0, 0.25, 0.5, 0.5, 0.5]
    without, _ = stage_of(replace(GAN, adversarial_weight=0)).loss(3)
    loss, numbers = stage.loss(3)
    assert numbers["adversarial_weight"] == 0.25 and abs(numbers["adversarial"]) > 1e-4
    assert (loss - without).item() == pytest.approx(0.25 * numbers["adversarial"], abs=1e-6)
    for updates in (1, 2, 10):
        turns = [stage.turn(step) for step in range(GAN.loop_steps(updates))]
        assert turns.count("module") == updates
    assert PLAIN.loop_steps(10) == 10 and stage_of(PLAIN).opponent is None and stage_of(PLAIN).turn(99) == "module"


def test_pixels_out_of_range_have_a_gradient():
    stage = stage_of()
    with torch.no_grad():
        stage.tiny.decoder[-1].bias.fill_(5.0)
    stage.loss(0)[0].backward()
    assert has_gradient(stage.module)
    assert stage.tiny.decode(stage._held_latents)[0].max() == 1, "inference is clamped as before"


def small_steps(stage: TinyDecoderStage, steps: range, lr: float = 1e-2) -> list[float]:
    optimisers = {
        name: torch.optim.Adam(player.parameters(), lr=lr)
        for name, player in (("module", stage.module), ("opponent", stage.opponent))
        if player is not None
    }
    losses = []
    for step in steps:
        loss, _ = stage.loss(step)
        player = optimisers[stage.turn(step)]
        player.zero_grad()
        loss.backward()
        player.step()
        losses.append(loss.item())
    return losses


def test_l1_alone_learns_a_clip_by_heart_and_gets_its_pictures_back():
    clip = waves(torch.Generator().manual_seed(5), frames=5)
    stage = stage_of(replace(PLAIN, batch=1), draw=lambda generator: clip)
    losses = small_steps(stage, range(240), lr=3e-3)
    assert losses[-1] < losses[0] / 5
    video = clip[None].float() / 127.5 - 1
    latents, _ = stage.autoencoder.encode(video)
    decoded, _ = stage.tiny.decode(latents)
    assert metrics.psnr(decoded.detach(), video) > 17


def test_the_target_may_be_the_full_decoders_picture():
    autoencoder = wan()
    stage = stage_of(replace(PLAIN, target="decoder"), autoencoder=autoencoder)
    loss, _ = stage.loss(0)
    video = stage._clips.at(0, range(2))
    with torch.no_grad():
        latents, _ = autoencoder.encode(video)
        decoded, _ = stage.tiny.decode(latents, clamp=False)
        expected = F.l1_loss(decoded, autoencoder.decode(latents)[0])
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert abs(F.l1_loss(decoded, video).item() - expected.item()) > 0.01


def test_what_is_trained_is_what_a_stream_shows():
    """In chunks, with the state carried on, the same pictures as in the loss; a lead-in as a stream that goes on."""
    decoder = tiny(replace(TINY, blocks=3))
    stage = stage_of(replace(PLAIN, lead_in=2), decoder=decoder)
    latents = torch.randn(1, 16, 6, 4, 4)
    whole = stage._decode(latents, 0)
    state, parts = None, []
    for chunk in latents.split((1, 3, 2), dim=2):
        part, state = decoder.decode(chunk, state, clamp=False)
        parts.append(part)
    assert torch.equal(torch.cat(parts, dim=2), whole) and whole.std() > 0.01
    after = stage._decode(latents, 2)
    assert after.shape[2] == 13 and torch.equal(after, whole[:, :, -13:])
    assert not torch.allclose(stage._decode(latents[:, :, 2:], 0), after, atol=1e-4), "the lead-in changes nothing"


def test_the_memory_reaches_eight_latent_frames_back():
    decoder = tiny(replace(TINY, blocks=3))
    for p in decoder.decoder.parameters():
        p.data.abs_()  # no ReLU is ever off: everything that can matter does
    latents = torch.rand(1, 16, 11, 1, 1).double().requires_grad_()
    video, _ = decoder.double().decode(latents, clamp=False)
    (gradient,) = torch.autograd.grad(video[:, :, -4:].sum(), latents)
    assert (gradient.abs().amax(dim=(0, 1, 3, 4)) > 0).tolist() == [False] * 2 + [True] * 9


def test_lead_ins_vary_by_step_and_leave_as_many_frames():
    settings = replace(GAN, lead_in=2, adversarial_start=0, perceptual_weight=0)
    lengths: set[tuple[str, int]] = set()
    leads = set()
    stage = stage_of(settings, draw=lambda generator: waves(generator, frames=21))
    decode = stage._decode

    def watched(latents, lead):
        decoded = decode(latents, lead)
        lengths.add((stage.turn(step), decoded.shape[2]))
        assert latents.shape[2] == 4 + lead
        leads.add(lead)
        return decoded

    stage._decode = watched
    for step in range(12):
        assert torch.isfinite(stage.loss(step)[0])
    assert leads == {0, 1, 2} and lengths == {("module", 13), ("opponent", 13)}
    with pytest.raises(ValueError, match=r"3 latent frames leave nothing .* lead_in = 3"):
        stage_of(replace(PLAIN, lead_in=3)).loss(0)


def test_the_loop_trains_both_players_and_goes_on_exactly(tmp_path):
    # a discriminator that has won has no gradient left: it must learn slowly
    config = TrainConfig(steps=1, lr=3e-4, opponent_lr=1e-5, warmup=1, ema=0.5, log_every=1, final_lr=1.0)
    said: list[str] = []

    def run(folder, steps, settings=GAN):
        stage = stage_of(settings, decoder=tiny())
        return train(stage, replace(config, steps=steps), tmp_path / folder, say=said.append), stage

    straight, first = run("straight", 20)
    run("cut", 7)
    resumed, second = run("cut", 20)
    for name, value in straight.average.items():
        assert torch.equal(resumed.average[name], value)
    for name, value in first.opponent.state_dict().items():
        assert torch.equal(second.opponent.state_dict()[name], value)
    assert not torch.equal(first.opponent.state_dict()["body.0.weight"], stage_of(GAN).opponent.body[0].weight)
    assert any("judge" in line and "real_right" in line for line in said)
    # the test can fail: without its history the discriminator becomes another
    _, forgetful = run("forgetful", 20, replace(GAN, replay=0))
    name = "body.0.weight"
    assert not torch.equal(forgetful.opponent.state_dict()[name], first.opponent.state_dict()[name])
    assert second.last_batch()["video"].shape == (2, 3, 9, 32, 32)


def test_a_batch_may_be_split():
    """Ranks and micro-batches see what one process does, the replay included."""
    whole, parts = stage_of(GAN), stage_of(GAN)
    for step in range(12):
        expected, losses = whole.loss(step)[0].item(), []
        for index in range(2):
            with distributed.micro_batch(index, 2):
                losses.append(parts.loss(step)[0].item())
        assert sum(losses) / 2 == pytest.approx(expected, abs=1e-6) and losses[0] != losses[1]
    histories = whole.state_dict()["replay"]
    assert histories.keys() == {"0", "1"}
    for sample, history in histories.items():  # some processors round a batch of one otherwise
        torch.testing.assert_close(history, parts.replay.kept[int(sample)], atol=2e-3, rtol=0)


def test_validation_sets_the_full_decoder_beside(tmp_path):
    autoencoder = linear()
    stage = stage_of(autoencoder=autoencoder)
    with torch.no_grad():
        figures = stage.validate(stage.module)
        full, _ = autoencoder.decode(autoencoder.encode(held_out().float() / 127.5 - 1)[0])
    assert figures.keys() == {"psnr", "ssim", "stand_in", "psnr_full", "ssim_full", "stand_in_full"}
    assert figures["psnr_full"] == pytest.approx(float(metrics.psnr(full, held_out()).mean()), abs=1e-3)
    assert figures["psnr"] < figures["psnr_full"] and figures["stand_in"] > figures["stand_in_full"] > 0
    assert figures["ssim"] < figures["ssim_full"] <= 1


def test_mixed_precision_is_for_the_decoder_alone():
    stage = stage_of()
    with torch.no_grad():
        video, latents = stage._clips.at(0, [0, 1]), stage._held_latents
        expected, plain = stage.validate(stage.module), stage.tiny.decode(latents)[0]
        stage._full = None
        with torch.autocast("cpu", torch.bfloat16):
            assert not torch.equal(stage._encode(video), stage.autoencoder.encode(video)[0]), "autocast rounds nothing"
            figures, rounded = stage.validate(stage.module), stage.tiny.decode(latents)[0]
        assert torch.equal(stage._encode(video), stage.autoencoder.encode(video)[0])
    assert not torch.equal(rounded, plain)
    for name, value in figures.items():
        exact = name.endswith("_full")
        assert value == pytest.approx(expected[name], rel=1e-9 if exact else 1e-2), name


def test_a_run_leaves_a_file_that_loads(tmp_path):
    decoder, autoencoder, said = tiny(), linear(), []
    start = {k: v.clone() for k, v in decoder.state_dict().items()}
    config = TrainConfig(steps=30, lr=1e-2, warmup=5, ema=0.9, log_every=20, validate_every=30)
    draw = rendered_clips(SCENE, TextureBank(()))
    settings = replace(PLAIN, batch=1, perceptual_weight=0.1)
    run = train_tiny(decoder, autoencoder, draw, held_out(), tmp_path, config, settings, say=said.append)
    loaded = TinyAutoencoder.load(tmp_path / "tiny-decoder.safetensors", TINY)
    for name, value in loaded.state_dict().items():
        if name.startswith("decoder."):
            assert torch.equal(value, run.average[name.removeprefix("decoder.")])
            assert value.dim() < 2 or not torch.equal(value, start[name])
        else:
            assert torch.equal(value, start[name]), "the encoder was not trained"
    with torch.no_grad():
        latents, _ = autoencoder.encode(held_out().float() / 127.5 - 1)
        before = TinyAutoencoder(TINY)
        before.load_state_dict(start)
        psnrs = [float(metrics.psnr(m.decode(latents)[0], held_out()).mean()) for m in (before, loaded)]
    assert psnrs[1] > psnrs[0] + 3
    assert any("psnr_full" in line for line in said)


def test_clips_are_the_same_whenever_they_are_asked_for():
    plain = ClipBatches(waves, seed=0, workers=0)
    ahead = ClipBatches(waves, seed=0, workers=2)
    for step in (0, 1, 2, 7):
        batch = plain.at(step, [0, 3])
        assert batch.shape == (2, 3, 9, 32, 32) and batch.min() < -0.5 < 0.5 < batch.max() <= 1
        assert torch.equal(ahead.at(step, [0, 3]), batch)
        assert torch.equal(plain.at(step, [3]), batch[1:]) and not torch.equal(batch[0], batch[1])
    assert not torch.equal(plain.at(0, [0]), plain.at(1, [0]))
    assert not torch.equal(plain.at(0, [0]), ClipBatches(waves, seed=1, workers=0).at(0, [0]))
    rendered = rendered_clips(SCENE, TextureBank(()))
    clips = [rendered(distributed.keyed_generator(0, step)) for step in (0, 0, 1)]
    assert clips[0].shape == (3, 9, 32, 32) and clips[0].dtype == torch.uint8
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])
    with pytest.raises(ValueError, match=r"shape \(3, 8, 32, 32\): draw \(3, 1 \+ 4k"):
        ClipBatches(lambda generator: waves(generator, 8), seed=0, workers=1).at(0, [0])


def test_clips_are_cut_out_of_videos(tmp_path):
    y, x = np.meshgrid(np.arange(48), np.arange(80), indexing="ij")
    for name, frames in (("long", 30), ("short", 5)):
        video = np.stack([np.stack([3 * x, 5 * y, np.full_like(x, 8 * t)], axis=-1) for t in range(frames)])
        write_video(tmp_path / f"{name}.mp4", video.astype(np.uint8), 24, crf=0)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    folder = VideoFolder(tmp_path, frames=9, side=32, reach=20)
    assert len(folder.paths) == 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clips = torch.stack([folder(torch.Generator().manual_seed(seed)) for seed in range(12)])
        assert torch.equal(folder(torch.Generator().manual_seed(3)), clips[3])
    said = " ".join(str(w.message) for w in caught)
    assert "short.mp4 has 5 frames of 48×80, fewer" in said and "broken.mp4: it is no video" in said
    assert clips.shape == (12, 3, 9, 32, 32) and clips.dtype == torch.uint8
    numbers = clips.float()
    times = numbers[:, 2].mean(dim=(2, 3)) / 8
    assert ((times.diff(dim=1) - 1).abs() < 0.2).all(), "frames follow one another"
    assert times[:, 0].min() > -0.3 and times[:, -1].max() < 20 and times[:, 0].std() > 1
    across = numbers[:, 0].mean(dim=1).diff(dim=-1).mean(dim=(1, 2)) / 3  # pixels of the video to one of the clip
    down = numbers[:, 1].mean(dim=1).diff(dim=-2).mean(dim=(1, 2)) / 5
    assert (across - down).abs().max() < 0.1 and across.min() > 0.9 and 1.2 < across.max() < 1.6
    assert numbers[:, 0].mean(dim=(1, 2, 3)).std() > 5, "from other places"
    parts = folder.split(8)
    assert [[path.stem for path in part.paths] for part in parts] == [["broken", "long"], ["short"]]
    many = VideoFolder(tmp_path, frames=9, side=32)
    many.paths = [tmp_path / f"{index:03}.mp4" for index in range(100)]
    assert [len(part.paths) for most in (8, 20) for part in many.split(most)] == [92, 8, 90, 10]
    assert many.split(8)[1].paths == many.paths[-8:] and len(many.paths) == 100
    many.paths = many.paths[:1]
    with pytest.raises(ValueError, match=r"000\.mp4 is alone in its folder"):
        many.split(8)

    (tmp_path / "long.mp4").unlink()
    with warnings.catch_warnings(), pytest.raises(ValueError, match="20 videos in a row cannot be used, the last"):
        warnings.simplefilter("ignore")
        folder = VideoFolder(tmp_path, frames=9, side=32)
        folder(torch.Generator())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        VideoFolder(tmp_path / "empty")
    with pytest.raises(ValueError, match="reach = 10"):
        VideoFolder(tmp_path, reach=10)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="latents of 16 channels, the autoencoder's have 12"):
        stage_of(autoencoder=LinearAutoencoder(preset("debug").autoencoder))
    with pytest.raises(ValueError, match="makes 64×64 pixels where the video has 32×32: its patch_size is 2"):
        stage_of(decoder=tiny(replace(TINY, patch_size=2)))
    for name, value in (
        ("batch", 0),
        ("adversarial_ramp", 0),
        ("adversarial_weight", -1.0),
        ("lead_in", -1),
        ("target", "latents"),
    ):
        with pytest.raises(ValueError, match=f"{name} = {value!r}"):
            replace(PLAIN, **{name: value})


def test_the_papers_numbers():
    config, settings = paper_recipe()
    assert (config.lr, settings.batch, ContrastStandIn.name) == (3e-4, 16, "stand_in")
    stage = stage_of(replace(settings, workers=0, discriminator_channels=8, batch=1))
    turns = config.steps - sum(stage.turn(step) == "opponent" for step in range(config.steps))
    assert turns == 200_000
