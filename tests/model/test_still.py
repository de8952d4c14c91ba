"""Models that predict around the given picture standing still, ``ModelConfig.still_std``."""

from dataclasses import replace

import pytest
import torch

from motionstream.config import ModelConfig
from motionstream.model.flow import velocity_to_x0
from motionstream.model.motion_model import ID_GAIN, ImageInput, MotionInput, MotionModel
from motionstream.presets import debug, preset

STD = 0.5


def small() -> ModelConfig:
    """``nano-ids`` at debug size."""
    whole = debug()
    inputs = (*whole.inputs[:2], ("image", whole.latent_channels))
    transformer = replace(whole.transformer, in_channels=sum(width for _, width in inputs))
    concat = {"image_conditioning": "concat", "carry": None, "still_std": STD}
    return replace(whole, inputs=inputs, transformer=transformer, **concat)


def told(model: MotionModel, image: torch.Tensor | None, *, first: bool = True):
    frames = 9 if first else 12
    ids = torch.arange(3)[None].expand(2, 3)
    motion = MotionInput(torch.full((2, frames, 3, 2), 9.0), torch.ones(2, frames, 3).bool(), ids, (32, 32), first)
    text = torch.zeros(2, 1, model.config.transformer.text_dim)
    return model.conditions(motion, text, None, None if image is None else ImageInput(image))


def test_an_untrained_model_answers_with_the_picture_and_what_the_noise_says():
    torch.manual_seed(0)
    model = MotionModel(small()).eval()
    image, x0, noise = torch.randn(2, 12, 1, 4, 4), torch.randn(2, 12, 3, 4, 4), torch.randn(2, 12, 3, 4, 4)
    for first in (True, False):
        conditions = told(model, image, first=first)
        assert conditions.prior is not None
        assert torch.equal(conditions.prior.mean, image.expand_as(x0)) and (conditions.prior.std == STD).all()
        for level in (1.0, 0.6):
            t = torch.full((2, 3), level)
            noisy = (1 - level) * x0 + level * noise
            made = velocity_to_x0(noisy, model(noisy, t, conditions), t)
            # the mean of a Gaussian of this mean and deviation, seen through the noise
            gain = (1 - level) * STD**2 / ((1 - level) ** 2 * STD**2 + level**2)
            torch.testing.assert_close(made, image + gain * (noisy - (1 - level) * image))


def test_the_picture_is_told_wherever_it_is_predicted_around():
    torch.manual_seed(0)
    config, image = small(), torch.randn(2, 12, 1, 4, 4)
    before = sum(width for name, width in config.inputs[1:] if name != "image")
    for first in (True, False):
        slices = {
            std: told(MotionModel(replace(config, still_std=std)), image, first=first).channels[:, before:]
            for std in (STD, None)
        }
        assert torch.equal(slices[STD], image.expand(-1, -1, 3, -1, -1))
        assert torch.equal(slices[None][:, :, :1], image if first else torch.zeros_like(image))
        assert not slices[None][:, :, 1:].any()


def test_the_deviation_is_worth_most_where_it_is_the_true_one():
    """Of x0 = picture + STD · noise nobody can tell more than the posterior's mean does, also from far away."""
    torch.manual_seed(1)
    image = torch.randn(64, 12, 1, 4, 4)
    x0, noise = image + STD * torch.randn(64, 12, 3, 4, 4), torch.randn(64, 12, 3, 4, 4)
    errors = {}
    for std in (0.1, STD, 2.0):
        model = MotionModel(replace(small(), still_std=std)).eval()
        conditions = told(model, image[:2])
        prior = replace(conditions.prior, mean=image.expand_as(x0), std=torch.full_like(x0, std))
        both = replace(
            conditions,
            prior=prior,
            text=conditions.text[:1].expand(64, -1, -1),
            channels=conditions.channels[:1].expand(64, -1, -1, -1, -1),
        )
        t = torch.full((64, 3), 0.5)
        noisy = 0.5 * x0 + 0.5 * noise
        errors[std] = (velocity_to_x0(noisy, model(noisy, t, both), t) - x0).square().mean().item()
    assert errors[STD] < min(errors[0.1], errors[2.0])
    assert errors[STD] == pytest.approx(1 / (1 / STD**2 + 1), rel=0.05)


def test_attention_begins_by_likeness_and_ids_are_loud():
    torch.manual_seed(0)
    alike = MotionModel(small())
    torch.manual_seed(0)
    usual = MotionModel(replace(small(), still_std=None))
    for one, other in zip(alike.transformer.blocks, usual.transformer.blocks, strict=True):
        assert torch.equal(one.attn1.to_k.weight, one.attn1.to_q.weight)
        assert not torch.equal(other.attn1.to_k.weight, other.attn1.to_q.weight)
    kernel = alike.track_head.compress.weight
    assert torch.equal(kernel, kernel[:, :, -1:].expand_as(kernel)), "whichever frame of a group an id is in"
    louder = alike.transformer.patch_embedding.weight / usual.transformer.patch_embedding.weight
    assert torch.allclose(louder[:, 12:16], torch.full_like(louder[:, 12:16], ID_GAIN))
    assert torch.equal(louder[:, :12], torch.ones_like(louder[:, :12]))
    assert torch.equal(louder[:, 16:], torch.ones_like(louder[:, 16:]))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="predicts around the picture"):
        told(_without_slice(), None)
    with pytest.raises(ValueError, match=r"still_std.*-1"):
        replace(small(), still_std=-1.0)
    with pytest.raises(ValueError, match=r"still_std.*carry content"):
        replace(debug(), still_std=STD)
    ids = preset("nano-ids")
    assert ids.still_std is not None and ids.carry is None and ids.transformer.patch_size == (1, 1, 1)


def _without_slice() -> MotionModel:
    """Told the picture by frame 0 alone, as Wan 2.2 is."""
    config = small()
    inputs = config.inputs[:2]
    transformer = replace(config.transformer, in_channels=sum(width for _, width in inputs))
    return MotionModel(replace(config, inputs=inputs, transformer=transformer, image_conditioning="first_latent"))
