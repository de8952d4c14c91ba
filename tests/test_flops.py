from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from motionstream.autoencoder.wan_checkpoint import diffusers_arguments
from motionstream.carry.prior import Prior
from motionstream.component_config import CLIPConfig, TinyAutoencoderConfig, UMT5Config
from motionstream.config import CausalConfig, ModelConfig
from motionstream.flops import (
    chunk_flops,
    clip_flops,
    clip_image_flops,
    decoder_flops,
    start_flops,
    text_flops,
    tokens_per_frame,
    transformer_flops,
)
from motionstream.model.attention import AttentionContext, Cached
from motionstream.model.backends import use_backend
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.presets import preset

META = torch.device("meta")


def counted(run):
    with torch.no_grad(), use_backend("plain"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def forward(config: ModelConfig, model: MotionModel, frames: int, context: AttentionContext | None) -> None:
    """One evaluation on the meta device of ``frames`` latent frames."""
    rows, columns = config.latent_size

    def latents(channels: int) -> torch.Tensor:
        return torch.empty(1, channels, frames, rows, columns, device=META)

    channels, encoder = config.latent_channels, config.image_encoder
    image = None if encoder is None else torch.empty(1, encoder.tokens, encoder.hidden_size, device=META)
    prior = None if config.carry is None else Prior(latents(channels), latents(channels))
    text = torch.empty(1, config.text.tokens, config.transformer.text_dim, device=META)
    conditions = Conditions(text, latents(config.transformer.in_channels - channels), image, prior)
    model(latents(channels), torch.empty(1, frames, device=META), conditions, context)


def on_meta(config: ModelConfig) -> MotionModel:
    with META:
        return MotionModel(config).eval()


@pytest.mark.parametrize("name", ["debug", "nano", "wan2.1-debug", "wan2.2-debug"])
@pytest.mark.parametrize("pattern", ["c3s1w1", "c1s2w3", "c3s0w0"])
def test_a_forward_against_the_cache_is_what_torch_counts(name, pattern):
    config = replace(preset(name), causal=CausalConfig.parse(pattern))
    model = on_meta(config)
    cache = model.make_cache(1, config.latent_size)
    cache.chunks = config.causal.sink_chunks + config.causal.window_chunks
    expected = counted(lambda: forward(config, model, config.causal.chunk_frames, Cached(cache)))
    assert chunk_flops(config).forward.total == expected > 0


@pytest.mark.parametrize("name", ["debug", "wan2.1-debug", "wan2.2-debug"])
def test_a_whole_clip_is_what_torch_counts(name):
    config = preset(name)
    model = on_meta(config)
    assert clip_flops(config, 6).total == counted(lambda: forward(config, model, 6, None)) > 0


@pytest.mark.parametrize("pattern", ["c3s0w6", "c1s1w1"])
def test_every_rope_and_size_of_the_pattern_counts_its_keys(pattern):
    causal = CausalConfig.parse(pattern, "absolute" if "s0" in pattern else "slot")
    config = replace(preset("wan2.1-debug"), causal=causal)
    tokens = causal.chunk_frames * 24
    keys = tokens * {"c3s0w6": 7, "c1s1w1": 3}[pattern]
    assert chunk_flops(config).forward.self_attention == 2 * 2 * tokens * keys * 48 * 2  # width 48, two layers
    half = chunk_flops(config, size=(64, 48)).forward.self_attention
    assert 4 * half == chunk_flops(config).forward.self_attention


@pytest.mark.parametrize(
    ("name", "tokens", "forward_tera", "attention_tera", "chunk_tera", "latent_frames", "teacher_tera"),
    [
        ("wan2.1-1.3b", 1560, 24.5, 12.1, 97.9, 21, 285),
        ("wan2.2-5b", 880, 31.1, 7.7, 124.5, 31, 517),
    ],
)
def test_the_numbers_of_the_official_sizes(
    name, tokens, forward_tera, attention_tera, chunk_tera, latent_frames, teacher_tera
):
    config = preset(name)
    assert tokens_per_frame(config) == tokens
    flops = chunk_flops(config)
    once = flops.forward.total - flops.forward.context  # those numbers have the text's keys cached
    assert once / 1e12 == pytest.approx(forward_tera, abs=0.05)
    assert flops.forward.self_attention / 1e12 == pytest.approx(attention_tera, abs=0.05)
    assert (flops.steps + 1) * once / 1e12 == pytest.approx(chunk_tera, abs=0.05)
    assert flops.generate == 3 * flops.forward.total and flops.settle == flops.forward.total
    assert clip_flops(config, latent_frames).total / 1e12 == pytest.approx(teacher_tera, abs=0.5)


@pytest.mark.parametrize("name", ["wan2.1-debug", "wan2.2-5b"])
def test_the_full_decoder_is_what_diffusers_needs_for_one_more_latent_frame(name):
    config = preset(name)
    with META:
        vae = AutoencoderKLWan(**diffusers_arguments(config.autoencoder)).eval()
    rows, columns = config.latent_size

    def decode(frames: int) -> int:
        return counted(lambda: vae.decode(torch.empty(1, vae.config.z_dim, frames, rows, columns, device=META)))

    assert decoder_flops(config) == decode(3) - decode(2) > 0
    picture = counted(lambda: vae.encode(torch.empty(1, 3, 1, *config.size, device=META)))
    assert start_flops(config).picture == picture > 0


def tiny_by_hand(config: TinyAutoencoderConfig, cells: int) -> int:
    """3×3 convolutions of TAEHV's decoder for one latent frame of ``cells`` latent cells, and what grows time."""
    widths, frames = config.decoder_channels, 1
    total = cells * 9 * config.latent_channels * widths[0]
    for width, following, growth in zip(widths, widths[1:], (1, 2, 2), strict=False):
        total += frames * cells * 9 * config.blocks * (2 + 1 + 1) * width**2
        cells *= 4
        total += frames * cells * width * width * growth
        frames *= growth
        total += frames * cells * 9 * width * following
    return 2 * (total + frames * cells * 9 * widths[-1] * 3 * config.patch_size**2)


@pytest.mark.parametrize(
    ("name", "tera"), [("wan2.1-1.3b", 1.63), ("wan2.2-5b", 0.95), ("wan2.1-debug", None), ("wan2.2-debug", None)]
)
def test_the_tiny_decoder_is_its_convolutions(name, tera):
    config = preset(name)
    rows, columns = config.latent_size
    flops = chunk_flops(config, decoder="tiny")
    assert flops.decode == 3 * tiny_by_hand(config.tiny_decoder, rows * columns)
    assert flops.total == flops.conditions + 4 * flops.forward.total + flops.decode
    if tera is not None:
        assert flops.decode / 1e12 == pytest.approx(tera, abs=0.01)


def test_the_track_head_is_two_convolutions():
    config = preset("wan2.1-debug")
    head = config.track_head
    cells = 3 * 8 * 12
    expected = 2 * cells * head.hidden_channels * (4 * head.id_dim + head.out_channels)
    assert chunk_flops(config).conditions == expected


def test_carried_content_counts_as_conditions():
    config = preset("debug")
    cells, basis = 3 * 4 * 4, 768 * config.latent_channels
    candidates = 2 * 3 * cells * basis
    assert candidates < chunk_flops(config).conditions < 20 * candidates


def test_the_text_encoder_is_what_torch_counts():
    transformers = pytest.importorskip("transformers")
    config = preset("wan2.1-debug").text
    assert isinstance(config, UMT5Config)
    settings = {k: v for k, v in asdict(config).items() if k not in ("tokens", "kind")}
    with META:
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(**settings, feed_forward_proj="gated-gelu"))
        ids = torch.zeros(1, config.tokens, dtype=torch.long)
        expected = counted(lambda: model(input_ids=ids))
    assert text_flops(config, 1) == expected > 0


def test_the_image_encoder_is_what_torch_counts():
    transformers = pytest.importorskip("transformers")
    config = preset("wan2.1-debug").image_encoder
    assert isinstance(config, CLIPConfig)
    settings = {k: v for k, v in asdict(config).items() if k != "preprocess"}
    with META:
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**settings))
        expected = counted(lambda: model(torch.empty(1, 3, config.image_size, config.image_size)))
    assert clip_image_flops(config) == expected > 0


def test_image_tokens_cost_attention_and_context_alone():
    config = preset("wan2.1-1.3b").transformer
    with_all = transformer_flops(config, tokens=10, keys=10, times=1, text_tokens=512, image_tokens=257)
    without_image = transformer_flops(config, tokens=10, keys=10, times=1, text_tokens=512)
    assert with_all.context > without_image.context > 0
    assert with_all.cross_attention * 512 == without_image.cross_attention * (512 + 257)
    assert with_all.linear == without_image.linear and with_all.self_attention == without_image.self_attention


def test_what_a_model_does_not_have_cannot_be_counted():
    with pytest.raises(ValueError, match="no tiny decoder"):
        chunk_flops(replace(preset("debug"), tiny_decoder=None), decoder="tiny")
    with pytest.raises(ValueError, match="no autoencoder"):
        chunk_flops(replace(preset("wan2.1-debug"), autoencoder=None))
