"""Named models. A preset is a function that returns a complete config; ``debug()`` is for tests."""

from __future__ import annotations

from dataclasses import replace

from motionstream.component_config import LinearAutoencoderConfig, TextConfig, TinyAutoencoderConfig
from motionstream.config import (
    CARRY_CANDIDATES,
    CARRY_FEATURES,
    CarryConfig,
    CausalConfig,
    MixerConfig,
    ModelConfig,
    SamplerConfig,
    TrackHeadConfig,
    TransformerConfig,
)
from motionstream.wan_presets import wan21_1_3b, wan21_14b, wan21_debug, wan22_5b, wan22_debug


def carry_channels(latent_channels: int) -> int:
    """Width of the carry slice: the candidates' latents, the prior's deviation, the features, what is held."""
    return (CARRY_CANDIDATES + 1) * latent_channels + CARRY_FEATURES + 1


def nano(*, width: int = 192, layers: int = 6, latent_channels: int = 96) -> ModelConfig:
    """The embedded model: 128×128 at 24 fps, in real time on two CPU cores."""
    heads = width // 64
    tracks = 16
    inputs = (("noise", latent_channels), ("tracks", tracks), ("carry", carry_channels(latent_channels)))
    return ModelConfig(
        name="nano",
        size=(128, 128),
        fps=24.0,
        latent_channels=latent_channels,
        inputs=inputs,
        transformer=TransformerConfig(
            num_attention_heads=heads,
            attention_head_dim=64,
            in_channels=sum(w for _, w in inputs),
            out_channels=latent_channels,
            text_dim=64,
            ffn_dim=4 * width,
            num_layers=layers,
        ),
        track_head=TrackHeadConfig(out_channels=tracks, hidden_channels=32),
        carry=CarryConfig(mixer=MixerConfig(outline_widths=(32, 64, 96, 128, 160))),
        text=TextConfig(),
        autoencoder=LinearAutoencoderConfig(latent_channels=latent_channels),
        # a ninth of the residual decoder's weights, but no faster on a CPU, where full-resolution layers are slow
        tiny_decoder=TinyAutoencoderConfig(
            latent_channels=latent_channels, encoder_channels=16, decoder_channels=(64, 32, 8, 8), blocks=1
        ),
        causal=CausalConfig(chunk_frames=3, sink_chunks=1, window_chunks=1),
        sampler=SamplerConfig(teacher_steps=12, shift=3.0, temperature=0.0, text_guidance=1.5, motion_guidance=1.5),
    )


def nano_ids() -> ModelConfig:
    """Only the paper's motion conditioning: random track ids and the picture's latents as input channels, no carried
    content. Not embedded; the baseline for carried content, and the model to try the paper's claims on.

    Made for what a CPU can train: 32×32 pixels, and a code of 4×4 pixels, since what ids bring is where in the picture
    a cell's content was, to a cell. Tokens are single cells. It samples at temperature 1 like the paper's models, since
    distribution matching needs noise.
    """
    latent_channels, tracks = 24, 64
    whole = nano(latent_channels=latent_channels)
    inputs = (("noise", latent_channels), ("tracks", tracks), ("image", latent_channels))
    return replace(
        whole,
        name="nano-ids",
        size=(32, 32),
        spatial_compression=4,
        inputs=inputs,
        transformer=replace(
            whole.transformer,
            num_attention_heads=4,
            attention_head_dim=32,
            ffn_dim=512,
            num_layers=4,
            in_channels=sum(width for _, width in inputs),
            patch_size=(1, 1, 1),
        ),
        track_head=TrackHeadConfig(out_channels=tracks, hidden_channels=2 * tracks),
        image_conditioning="concat",
        carry=None,
        still_std=0.7,
        autoencoder=LinearAutoencoderConfig(latent_channels=latent_channels, decoder_channels=96, patch=4),
        tiny_decoder=None,
        sampler=replace(whole.sampler, temperature=1.0),
    )


def nano_along() -> ModelConfig:
    """``nano-ids`` whose tracks also bring the latents from where they began along, as in Wan-Move (arXiv 2512.08765),
    and say where in a cell they are. It predicts around that. Not embedded."""
    ids = nano_ids()
    tracks = 16
    inputs = tuple((name, tracks if name == "tracks" else width) for name, width in ids.inputs)
    return replace(
        ids,
        name="nano-along",
        inputs=inputs,
        transformer=replace(ids.transformer, in_channels=sum(width for _, width in inputs)),
        track_head=TrackHeadConfig(out_channels=tracks, hidden_channels=2 * tracks, offsets=True),
        latents_along_tracks=True,
    )


def debug() -> ModelConfig:
    """``nano`` in miniature for tests: 32×32, two layers; its frames are meaningless."""
    latent_channels, tracks = 12, 4
    inputs = (("noise", latent_channels), ("tracks", tracks), ("carry", carry_channels(latent_channels)))
    return ModelConfig(
        name="debug",
        size=(32, 32),
        fps=24.0,
        latent_channels=latent_channels,
        inputs=inputs,
        transformer=TransformerConfig(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=sum(w for _, w in inputs),
            out_channels=latent_channels,
            text_dim=16,
            ffn_dim=64,
            num_layers=2,
        ),
        track_head=TrackHeadConfig(out_channels=tracks, id_dim=16, hidden_channels=8),
        carry=CarryConfig(
            hidden_channels=16,
            mixer=MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), outline_widths=(8, 8), features=4, heads=2),
        ),
        text=TextConfig(tokens=6, buckets=256),
        autoencoder=LinearAutoencoderConfig(latent_channels=latent_channels, decoder_channels=16, decoder_blocks=1),
        tiny_decoder=TinyAutoencoderConfig(
            latent_channels=latent_channels, encoder_channels=8, decoder_channels=(16, 8, 8, 8), blocks=1
        ),
        sampler=SamplerConfig(teacher_steps=4, shift=3.0, text_guidance=1.5, motion_guidance=1.5),
    )


PRESETS = {
    "nano": nano,
    "nano-ids": nano_ids,
    "nano-along": nano_along,
    "debug": debug,
    "wan2.1-1.3b": wan21_1_3b,
    "wan2.1-14b": wan21_14b,
    "wan2.2-5b": wan22_5b,
    "wan2.1-debug": wan21_debug,
    "wan2.2-debug": wan22_debug,
}


def preset(name: str) -> ModelConfig:
    """The config of a named preset."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]()
