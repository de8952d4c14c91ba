"""Settings that check themselves: Wan's presets, their sizes, and errors that name the setting."""

from dataclasses import replace

import pytest

from motionstream.config import CausalConfig, ModelConfig
from motionstream.presets import preset

WAN = ("wan2.1-1.3b", "wan2.1-14b", "wan2.2-5b")


def test_clips_are_cut_to_whole_chunks():
    config = preset("wan2.2-5b")
    assert [config.whole_chunks(frames) for frames in (117, 121, 237, 241, 81)] == [117, 117, 237, 237, 81]
    assert config.clip_frames == 117 and preset("wan2.1-1.3b").clip_frames == 81
    assert replace(config, causal=CausalConfig(1, 1, 1)).whole_chunks(121) == 121
    with pytest.raises(ValueError, match="clip_frames = 121: must be whole chunks: 117 are"):
        replace(config, clip_frames=121)


@pytest.mark.parametrize("name", WAN)
def test_the_shapes_have_the_models_budget_of_pixels(name):
    config = preset(name)
    wide, high, square = config.all_sizes
    assert wide == high[::-1] and square[0] == square[1]
    for height, width in config.all_sizes:
        assert abs(height * width / (wide[0] * wide[1]) - 1) < 0.03
    assert config.nearest_size(1080, 1920) == wide
    assert config.nearest_size(1000, 1001) == square
    assert config.nearest_size(4000, 2200) == high


def test_layouts_are_those_of_the_models_they_come_from():
    small, large = preset("wan2.1-1.3b"), preset("wan2.2-5b")
    assert small.inputs == (("noise", 16), ("tracks", 16), ("image", 16)) and small.image_conditioning == "concat"
    assert large.inputs == (("noise", 48), ("tracks", 48)) and large.image_conditioning == "first_latent"
    assert small.latent_size == (60, 104) and large.latent_size == (44, 80)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wan2.1-1.3b", {"image_conditioning": "first_latent"}, "image_conditioning"),
        (
            "wan2.1-1.3b",
            {"image_encoder": None},
            "image_encoder.hidden_size = None: the transformer's image_dim is 1280",
        ),
        ("wan2.2-5b", {"image_conditioning": "concat"}, "'concat' needs an 'image' slice"),
        ("wan2.2-5b", {"size": (720, 1280)}, "size = .720, 1280.: .* multiples of 32"),
        ("wan2.2-5b", {"sizes": ((1280, 720),)}, "size = .1280, 720.: .* multiples of 32"),
        ("wan2.2-5b", {"inputs": (("noise", 48), ("depth", 48))}, "may only name noise, tracks, image, carry"),
        ("wan2.2-5b", {"autoencoder": preset("wan2.1-1.3b").autoencoder}, "latent_channels = 16: the model's are 48"),
        ("wan2.2-5b", {"tiny_decoder": preset("wan2.1-1.3b").tiny_decoder}, "latent_channels = 16: the model's are 48"),
        ("wan2.2-5b", {"dtype": "float8"}, "dtype = 'float8'"),
        ("nano-ids", {"spatial_compression": 8}, "autoencoder.patch = 4: must be the model's spatial_compression, 8"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        replace(preset(name), **change)


def test_files_say_which_kind_of_part_they_mean():
    values = preset("wan2.1-debug").to_dict()
    assert values["text"]["kind"] == "umt5" and values["autoencoder"]["kind"] == "wan"
    values["autoencoder"] = {**values["autoencoder"], "kind": "fourier"}
    with pytest.raises(ValueError, match="kind 'fourier' is unknown; known: linear, wan"):
        ModelConfig.from_dict(values)
