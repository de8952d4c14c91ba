"""Teacher forcing against its streaming twin: a noisy chunk on a cache that clean passes have written."""

import pytest
import torch

from motionstream.config import CausalConfig
from motionstream.model.attention import BlockCausal, Cached, TeacherForced
from motionstream.model.flow import add_noise, hold_picture
from motionstream.model.motion_model import CarriedLatents, Conditions, ImageInput, MotionInput, MotionModel
from motionstream.presets import preset
from motionstream.sampler.rollout import Rollout
from motionstream.training.diffusion.teacher_forcing import twice

CHUNKS = 6  # c3s1w2 rolls from the fifth on


@pytest.fixture(scope="module", params=["debug", "wan2.1-debug", "wan2.2-debug"])
def model(request) -> MotionModel:
    torch.manual_seed(0)
    model = MotionModel(preset(request.param))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def draw(model: MotionModel, frames: int) -> tuple[torch.Tensor, Conditions]:
    """A clean clip and its conditions: tracks, text, and what the model is told of the picture."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    config = model.config
    channels, size = config.latent_channels, config.latent_size
    clean = randn(1, channels, frames, *size)
    count = 1 + config.temporal_compression * (frames - 1)
    positions = 20 * torch.rand(1, count, 3, 2, generator=generator)
    visible = torch.ones(1, count, 3, dtype=torch.bool)
    motion = MotionInput(positions, visible, torch.arange(3)[None], size=config.size, first=True)
    carried = CarriedLatents(randn(1, 3, channels, frames, *size), randn(1, 8, frames, *size))
    tokens = None if config.image_encoder is None else randn(1, 17, 24)
    text = randn(1, 512 if tokens is not None else 6, config.transformer.text_dim)
    return clean, model.conditions(motion, text, carried, ImageInput(clean[:, :, :1], tokens))


def forced(model, causal, clean, noisy, t, conditions):
    """Velocities of the clean clip and of the noisy one, from one forward."""
    both, times = torch.cat([clean, noisy]), torch.cat([torch.zeros_like(t), t])
    return model(both, times, twice(conditions), TeacherForced(causal)).chunk(2)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("pattern", ["c1s0w1", "c1s2w1", "c3s0w2", "c3s1w1", "c3s1w2", "c3s2w3"])
@torch.no_grad()
def test_every_noisy_chunk_is_what_streaming_behind_the_clean_ones_makes(model, pattern):
    causal = CausalConfig.parse(pattern)
    size = causal.chunk_frames
    clean, conditions = draw(model, CHUNKS * size)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    t = torch.linspace(0.2, 1, CHUNKS).flip(0).repeat_interleave(size)[None]  # a level for each chunk
    first = model.config.image_conditioning == "first_latent"
    noisy, t = hold_picture(add_noise(clean, noise, t), t, clean[:, :, :1], noise, clean=first)
    past, made = forced(model, causal, clean, noisy, t, conditions)
    cache = model.make_cache(1, model.config.latent_size, causal)
    for chunk in range(CHUNKS):
        part = slice(chunk * size, (chunk + 1) * size)
        told = conditions.frames(part.start, part.stop)
        streamed = model(noisy[:, :, part], t[:, part], told, Cached(cache))
        written = model(clean[:, :, part], torch.zeros(1, size), told, Cached(cache, write=True))
        cache.commit()
        assert relative(made[:, :, part], streamed) < 1e-5, chunk
        torch.testing.assert_close(past[:, :, part], written, atol=1e-5 * float(written.std()), rtol=1e-5)
    # and not what it is behind noisy ones, as long as anything is behind it
    own = model(noisy, t, conditions, BlockCausal(causal))
    torch.testing.assert_close(made[:, :, :size], own[:, :, :size], atol=1e-4, rtol=1e-4)
    assert relative(made[:, :, size:], own[:, :, size:]) > 1e-3


class Listener:
    """Stands in front of a model and keeps what its noisy passes were asked and answered."""

    def __init__(self, model: MotionModel) -> None:
        self.model, self.config, self.device, self.make_cache = model, model.config, model.device, model.make_cache
        self.heard: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, noisy, t, conditions, context):
        velocity = self.model(noisy, t, conditions, context)
        if not context.write:
            self.heard.append((noisy, t, velocity))
        return velocity


@torch.no_grad()
def test_it_is_the_rollout_that_is_learned(model):
    """THE chunk loop in one step: behind the chunks it made, teacher forcing answers what the loop was answered. Thus
    the given picture is in both what the clean pass of frame 0 sees, however the model is told of it."""
    causal = model.config.causal
    size = causal.chunk_frames
    clean, conditions = draw(model, CHUNKS * size)
    listener = Listener(model)
    state = Rollout(listener, times=(0.9,), seed=0, first_latent=clean[:, :, :1])
    made = torch.cat([state.step(conditions.frames(k * size, (k + 1) * size)) for k in range(CHUNKS)], dim=2)
    asked, times, answers = zip(*listener.heard, strict=True)
    noisy, t, velocity = torch.cat(asked, dim=2), torch.cat(times, dim=1), torch.cat(answers, dim=2)
    assert (t[0, 0] == 0) == (model.config.image_conditioning == "first_latent")
    _, answered = forced(model, causal, made, noisy, t, conditions)
    assert relative(answered, velocity) < 1e-5


def test_it_wants_clean_and_noisy_clips_and_whole_chunks(model):
    causal = CausalConfig.parse("c3s1w1")
    clean, conditions = draw(model, 6)
    with pytest.raises(ValueError, match="a batch of 1 cannot be clean clips and as many noisy ones"):
        model(clean, torch.zeros(1, 6), conditions, TeacherForced(causal))
    with pytest.raises(ValueError, match="4 latent frames do not divide into chunks of 3"):
        forced(model, causal, clean[:, :, :4], clean[:, :, :4], torch.ones(1, 4), conditions.frames(0, 4))
