"""The transformer against independent implementations, on random weights."""

import pytest
import torch
from diffusers import SkyReelsV2Transformer3DModel, WanTransformer3DModel

from motionstream.config import CausalConfig
from motionstream.model.attention import BlockCausal
from motionstream.model.transformer import MotionTransformer

SHAPE = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 8,
    "out_channels": 4,
    "text_dim": 20,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 3,
}
TEXT_TOKENS = 512  # the independent image branch splits its tokens there


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Zero-initialised parameters would hide whole branches, so every parameter is drawn."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model.eval()


def inputs(frames: int, *, image_dim: int | None = None) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(2, 7, image_dim, generator=generator) if image_dim else None
    return {
        "latents": torch.randn(2, SHAPE["in_channels"], frames, 6, 8, generator=generator),
        "text": torch.randn(2, TEXT_TOKENS, SHAPE["text_dim"], generator=generator),
        "image": image,
    }


@pytest.mark.parametrize("image_dim", [None, 12])
def test_bidirectional_forward_equals_diffusers_wan(image_dim):
    extra = {"image_dim": image_dim, "added_kv_proj_dim": 48 if image_dim else None}
    theirs = randomised(WanTransformer3DModel(**SHAPE, **extra, rope_max_seq_len=64))
    ours = MotionTransformer(**SHAPE, **extra).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = inputs(5, image_dim=image_dim)
    t = torch.tensor([0.9, 0.25])
    with torch.no_grad():
        expected = theirs(x["latents"], t * 1000, x["text"], x["image"], return_dict=False)[0]
        actual = ours(x["latents"], t, x["text"], x["image"])
    assert expected.std() > 0.05
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_per_frame_time_equals_one_time_for_all_and_differs_from_another():
    ours = randomised(MotionTransformer(**SHAPE))
    x = inputs(4)
    with torch.no_grad():
        one = ours(x["latents"], torch.tensor([0.5, 0.5]), x["text"])
        each = ours(x["latents"], torch.full((2, 4), 0.5), x["text"])
        other = ours(x["latents"], torch.tensor([[0.0, 0.5, 0.5, 0.5]] * 2), x["text"])
    torch.testing.assert_close(one, each, atol=1e-5, rtol=1e-5)
    assert (other[:, :, 0] - one[:, :, 0]).abs().max() > 1e-2


@pytest.mark.parametrize("per_frame", [False, True])
def test_block_causal_full_history_equals_diffusers_skyreels(per_frame):
    theirs = randomised(
        SkyReelsV2Transformer3DModel(**SHAPE, num_frame_per_block=3, rope_max_seq_len=64, inject_sample_info=False)
    )
    ours = MotionTransformer(**SHAPE).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = inputs(9)
    t = torch.tensor([0.9, 0.25])
    if per_frame:
        t = torch.rand(2, 9, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(x["latents"], t * 1000, x["text"], enable_diffusion_forcing=per_frame, return_dict=False)[0]
        actual = ours(x["latents"], t, x["text"], context=BlockCausal(CausalConfig(3), full_history=True))
        whole = ours(x["latents"], t, x["text"])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert (whole - actual).abs().max() > 1e-2, "bidirectional and block-causal must differ"


def test_save_and_load(tmp_path):
    model = randomised(MotionTransformer(**SHAPE))
    model.save_pretrained(tmp_path)
    again = MotionTransformer.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)
    assert again.config["ffn_dim"] == SHAPE["ffn_dim"]
