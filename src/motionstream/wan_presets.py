"""The Wan presets (paper, section 4.1): official sizes, and tiny ones with the same structure for tests.

Sizes are from the official configs; ``docs/checkpoints.md`` says what was checked.
"""

from __future__ import annotations

from dataclasses import replace

from motionstream.component_config import CLIPConfig, TinyAutoencoderConfig, UMT5Config, WanAutoencoderConfig
from motionstream.config import ModelConfig, SamplerConfig, TrackHeadConfig, TransformerConfig

# Statistics of the official autoencoders' latents (Wan2.1 and Wan2.2, wan/modules/vae.py and vae2_2.py).
WAN21_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN21_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)
WAN22_MEAN = (
    *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
    *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
    *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
    *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
)
WAN22_STD = (
    *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
    *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
    *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
    *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
)

WAN21_AUTOENCODER = WanAutoencoderConfig(latents_mean=WAN21_MEAN, latents_std=WAN21_STD)
WAN22_AUTOENCODER = WanAutoencoderConfig(
    base_dim=160,
    decoder_base_dim=256,
    z_dim=48,
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=16,
    latents_mean=WAN22_MEAN,
    latents_std=WAN22_STD,
)

TINY_WAN22 = TinyAutoencoderConfig(latent_channels=48, patch_size=2)
"""The community's ``taew2_2``."""

TINY_WAN22_LARGE = replace(TINY_WAN22, decoder_channels=(576, 352, 192, 96))
"""The size of the paper's decoder for Wan 2.2 (56,716,844 parameters; 56.7M in appendix A). The widths are ours."""


def _transformer(
    heads: int, layers: int, ffn_dim: int, channels: tuple[int, int], *, head_dim: int = 128, text_dim: int = 4096
) -> TransformerConfig:
    return TransformerConfig(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels[0],
        out_channels=channels[1],
        text_dim=text_dim,
        ffn_dim=ffn_dim,
        num_layers=layers,
    )


def _with_image_branch(transformer: TransformerConfig, image_dim: int) -> TransformerConfig:
    return replace(transformer, image_dim=image_dim, added_kv_proj_dim=transformer.width)


def _wan21(name: str, transformer: TransformerConfig) -> ModelConfig:
    return ModelConfig(
        name=name,
        size=(480, 832),
        sizes=((832, 480), (624, 624)),
        fps=16.0,
        clip_frames=81,
        latent_channels=16,
        # the channel order of VideoX-Fun's Control models, with the track head instead of the control video
        inputs=(("noise", 16), ("tracks", 16), ("image", 16)),
        image_conditioning="concat",
        transformer=_with_image_branch(transformer, 1280),
        track_head=TrackHeadConfig(out_channels=16),
        text=UMT5Config(),
        image_encoder=CLIPConfig(),
        autoencoder=WAN21_AUTOENCODER,
        tiny_decoder=TinyAutoencoderConfig(),
        sampler=SamplerConfig(teacher_steps=50, shift=5.0),
        dtype="bfloat16",
    )


def wan21_1_3b() -> ModelConfig:
    """The paper's main model: Wan 2.1 1.3B in the Fun-Control layout, 480p at 16 fps."""
    return _wan21("wan2.1-1.3b", _transformer(12, 30, 8960, (48, 16)))


def wan21_14b() -> ModelConfig:
    """Wan 2.1 14B with the same layout. The paper has no results for it."""
    return _wan21("wan2.1-14b", _transformer(40, 40, 13_824, (48, 16)))


def wan22_5b() -> ModelConfig:
    """The paper's large model: Wan 2.2 TI2V 5B, 720p at 24 fps.

    Clips have 117 frames (30 latent frames, ten chunks), since Wan's 121 frames are 31 latent frames, not whole chunks.
    """
    return ModelConfig(
        name="wan2.2-5b",
        size=(704, 1280),
        sizes=((1280, 704), (960, 960)),
        fps=24.0,
        clip_frames=117,
        latent_channels=48,
        inputs=(("noise", 48), ("tracks", 48)),
        image_conditioning="first_latent",
        transformer=_transformer(24, 30, 14_336, (96, 48)),
        track_head=TrackHeadConfig(out_channels=48),
        text=UMT5Config(),
        autoencoder=WAN22_AUTOENCODER,
        tiny_decoder=TINY_WAN22,
        sampler=SamplerConfig(teacher_steps=50, shift=5.0),
        spatial_compression=16,
        dtype="bfloat16",
    )


_TEXT = UMT5Config(tokens=512, vocab_size=384, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)


def wan21_debug() -> ModelConfig:
    """A tiny model with the structure of ``wan2.1-1.3b``, 96×64 pixels, for tests."""
    return replace(
        wan21_1_3b(),
        name="wan2.1-debug",
        size=(64, 96),
        sizes=((96, 64), (80, 80)),
        transformer=_with_image_branch(_transformer(2, 2, 64, (48, 16), head_dim=24, text_dim=_TEXT.d_model), 24),
        track_head=TrackHeadConfig(out_channels=16, id_dim=16, hidden_channels=8),
        text=_TEXT,
        image_encoder=CLIPConfig(
            image_size=56, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        ),
        autoencoder=replace(WAN21_AUTOENCODER, base_dim=8, num_res_blocks=1),
        tiny_decoder=TinyAutoencoderConfig(encoder_channels=8, decoder_channels=(16, 8, 8, 8), blocks=1),
        sampler=SamplerConfig(teacher_steps=2, shift=5.0),
        clip_frames=21,
        dtype="float32",
    )


def wan22_debug() -> ModelConfig:
    """A tiny model with the structure of ``wan2.2-5b``, 128×96 pixels, for tests."""
    return replace(
        wan22_5b(),
        name="wan2.2-debug",
        size=(96, 128),
        sizes=((128, 96), (96, 96)),
        transformer=_transformer(2, 2, 64, (96, 48), head_dim=24, text_dim=_TEXT.d_model),
        track_head=TrackHeadConfig(out_channels=48, id_dim=16, hidden_channels=8),
        text=_TEXT,
        autoencoder=replace(WAN22_AUTOENCODER, base_dim=8, decoder_base_dim=8, num_res_blocks=1),
        tiny_decoder=replace(TINY_WAN22, encoder_channels=8, decoder_channels=(16, 8, 8, 8), blocks=1),
        sampler=SamplerConfig(teacher_steps=2, shift=5.0),
        clip_frames=21,
        dtype="float32",
    )
