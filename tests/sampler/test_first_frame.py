"""The given picture while streaming and in training, for both ways of telling a model of it (docs/architecture.md)."""

import pytest
import torch

from motionstream.model.flow import add_noise
from motionstream.model.motion_model import ImageInput, MotionInput, MotionModel
from motionstream.presets import preset
from motionstream.sampler.rollout import Rollout
from motionstream.training.diffusion.teacher import evaluate_loss

LATENT = (8, 12)  # of wan2.1-debug


@pytest.fixture(scope="module", params=["wan2.1-debug", "wan2.2-debug"])
def model(request) -> MotionModel:
    torch.manual_seed(0)
    model = MotionModel(preset(request.param))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def picture(model: MotionModel) -> ImageInput:
    generator = torch.Generator().manual_seed(3)
    config = model.config
    latent = torch.randn(1, config.latent_channels, 1, *config.latent_size, generator=generator)
    tokens = None if config.image_encoder is None else torch.randn(1, 17, 24, generator=generator)
    return ImageInput(latent, tokens)


def conditions(model: MotionModel, frames: int, *, first: bool):
    generator = torch.Generator().manual_seed(4)
    positions = 20 * torch.rand(1, frames, 3, 2, generator=generator)
    motion = MotionInput(
        positions, torch.ones(1, frames, 3, dtype=bool), torch.arange(3)[None], size=model.config.size, first=first
    )
    return model.conditions(motion, torch.randn(1, 512, 32, generator=generator), None, picture(model))


class Spy:
    """Stands in front of a model and remembers what it was asked."""

    def __init__(self, model: MotionModel) -> None:
        self.model, self.config, self.device = model, model.config, model.device
        self.make_cache = model.make_cache
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, noisy, t, conditions, context):
        self.asked.append((noisy, t))
        return self.model(noisy, t, conditions, context)


def rollout(model: MotionModel) -> tuple[list[torch.Tensor], Spy]:
    spy = Spy(model)
    state = Rollout(spy, times=(1.0, 0.5), seed=1, first_latent=picture(model).latent)
    made = [state.step(conditions(model, 9, first=True)), state.step(conditions(model, 12, first=False))]
    state.settle()
    return made, spy


def test_the_picture_is_what_is_handed_out_and_what_the_sink_keeps(model):
    given = picture(model).latent
    made, spy = rollout(model)
    torch.testing.assert_close(made[0][:, :, :1], given, atol=0, rtol=0)
    assert (made[1][:, :, :1] - given).abs().max() > 0.1
    clean = [noisy for noisy, t in spy.asked if (t == 0).all()]  # the passes that write the cache
    assert len(clean) == 2
    torch.testing.assert_close(clean[0], made[0], atol=0, rtol=0)


def test_latent_zero_is_held_as_the_model_has_learned_it(model):
    given = picture(model).latent
    _, spy = rollout(model)
    for noisy, t in spy.asked[:2]:
        if model.config.image_conditioning == "first_latent":
            assert t[0, 0] == 0 and (t[0, 1:] > 0).all()
            torch.testing.assert_close(noisy[:, :, :1], given, atol=0, rtol=0)
        else:
            assert (t == t[0, 0]).all()
            noise = (noisy[:, :, :1] - (1 - t[0, 0]) * given) / t[0, 0]
            assert 0.8 < noise.std() < 1.2 and abs(noise.mean()) < 0.2


def test_later_chunks_see_zeros_and_the_tokens(model):
    begun, later = conditions(model, 9, first=True), conditions(model, 12, first=False)
    config = model.config
    if config.image_conditioning == "first_latent":
        assert begun.channels.shape[1] == 48 and begun.image is None
        return
    given = picture(model)
    assert [name for name, _ in config.inputs] == ["noise", "tracks", "image"]
    torch.testing.assert_close(begun.channels[:, 16:, :1], given.latent, atol=0, rtol=0)
    assert begun.channels[:, 16:, 1:].abs().max() == 0 and later.channels[:, 16:].abs().max() == 0
    torch.testing.assert_close(later.image, given.tokens, atol=0, rtol=0)
    assert later.channels[:, :16].abs().max() > 0


def test_a_whole_clip_in_training_says_the_same_to_every_chunk(model):
    whole = conditions(model, 21, first=True)
    start = whole.channels.shape[1] - model.config.latent_channels
    image = slice(start, None) if model.config.image_conditioning == "concat" else slice(0, 0)
    for name, part, streamed in (
        ("first", whole.frames(0, 3), conditions(model, 9, first=True)),
        ("second", whole.frames(3, 6), conditions(model, 12, first=False)),
    ):
        torch.testing.assert_close(part.channels[:, image], streamed.channels[:, image], atol=0, rtol=0, msg=name)


def test_the_loss_leaves_the_picture_out_and_noises_it_as_streaming_does(model):
    generator = torch.Generator().manual_seed(5)
    shape = (1, model.config.latent_channels, 3, *model.config.latent_size)
    x0, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    t, asked = torch.full((1, 3), 0.6), []

    class Wrong:
        """A model that errs in latent frame 0 alone, or in frame 1."""

        config = model.config

        def __init__(self, frame: int) -> None:
            self.frame = frame

        def __call__(self, noisy, t, conditions, context):
            asked.append((noisy, t))
            velocity = noise - x0
            velocity[:, :, self.frame] += 1
            return velocity

    cond = conditions(model, 9, first=True)
    assert evaluate_loss(Wrong(0), x0, t, noise, cond).item() < 1e-9
    assert evaluate_loss(Wrong(1), x0, t, noise, cond).item() > 0.1
    noisy, times = asked[0]
    clean = model.config.image_conditioning == "first_latent"
    expected = x0[:, :, :1] if clean else add_noise(x0, noise, t)[:, :, :1]
    torch.testing.assert_close(noisy[:, :, :1], expected)
    assert times[0, 0] == (0 if clean else 0.6)


def test_a_model_that_concatenates_the_picture_must_be_given_one():
    model = MotionModel(preset("wan2.1-debug"))
    motion = MotionInput(
        torch.zeros(1, 9, 0, 2), torch.zeros(1, 9, 0, dtype=bool), torch.zeros(1, 0).long(), model.config.size, True
    )
    with pytest.raises(ValueError, match="image"):
        model.conditions(motion, torch.zeros(1, 512, 32))
