"""Wan's structure at debug size: a full autoencoder, UMT5 and CLIP, through preparation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motionstream.components import Placement, random_components
from motionstream.conditioning.resident import Resident
from motionstream.data.prepare import prepare
from motionstream.data.samples import pad_text
from motionstream.data.shards import ShardFolder
from motionstream.data.sources import WanTextToVideo, videos_of_folder
from motionstream.media.videos import write_video
from motionstream.presets import preset

from .conftest import CPU, SETTINGS, moving

pytest.importorskip("transformers")


def test_chunk_by_chunk_equals_whole_and_encoders_are_loaded_once_a_unit(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(2):
        write_video(folder / f"{index}.mp4", moving(25, seed=index, size=(64, 96)), 16)
        (folder / f"{index}.txt").write_text(f"clip {index}")
    loaded, release = [], Resident.release

    def released(self):
        if self.resident:
            loaded.append(self)
        release(self)

    monkeypatch.setattr(Resident, "release", released)
    prepare(videos_of_folder(folder), tmp_path / "set", replace(SETTINGS, model="wan2.1-debug"), CPU)
    assert len(loaded) == 3  # the captions; the pictures; the null condition
    assert not any(encoder.resident for encoder in loaded)

    config = preset("wan2.1-debug")
    parts = random_components(config, Placement(device="cpu"))
    shards = ShardFolder(tmp_path / "set")
    for index in range(2):
        sample = shards[index]
        frames = torch.from_numpy(moving(25, seed=index, size=(64, 96))[:21].copy()).permute(3, 0, 1, 2)
        assert (sample.first_frame.float() - frames[:, 0]).abs().mean() < 10  # but for the codec
        first = sample.first_frame[None].float() / 127.5 - 1
        with torch.no_grad():
            alone, _ = parts.autoencoder.encode(first[:, :, None])
        assert sample.latents.shape == (16, 6, 8, 12) and sample.latents[:, 3:].std() > 0.1
        assert torch.allclose(sample.latents[:, :1].float(), alone[0], rtol=2e-3, atol=2e-3)
        assert sample.image.shape == (17, 24)
        assert torch.allclose(sample.image.float(), parts.image_encoder.encode(first)[0], rtol=2e-3, atol=2e-3)
        text = parts.text_encoder.encode([f"clip {index}"])[0]
        assert 5 < len(sample.text) < 10  # letters and an end, not 512
        assert torch.allclose(pad_text(sample.text, 512).float(), text, rtol=2e-3, atol=2e-3)
    assert not torch.equal(shards[0].image, shards[1].image) and not torch.equal(shards[0].text, shards[1].text)
    assert len(shards.fixed_text()["empty"]) == 1  # UMT5's end of sentence


def test_all_frames_are_encoded_as_one_stream(tmp_path):
    from motionstream.data.encode import Encoder

    encoder = Encoder(replace(SETTINGS, model="wan2.1-debug"), CPU.placement)
    frames = torch.from_numpy(moving(21, size=(64, 96)).copy()).permute(3, 0, 1, 2)
    with torch.no_grad():
        whole, _ = encoder.parts.autoencoder.encode(frames[None].float() / 127.5 - 1)
        later, _ = encoder.parts.autoencoder.encode(frames[None, :, 8:].float() / 127.5 - 1)
    made = encoder.latents(frames).float()
    assert torch.allclose(made, whole[0], rtol=2e-3, atol=2e-3)
    assert not torch.allclose(made[:, 3:], later[0, :, 1:], rtol=2e-3, atol=2e-2)  # the past matters


def test_diffusers_own_pipeline_makes_the_videos(tmp_path):
    """A WanPipeline with almost nothing inside, saved by diffusers and loaded by us."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
    from transformers import ByT5Tokenizer, UMT5EncoderModel

    from motionstream.conditioning.umt5 import transformers_config

    config = preset("wan2.1-debug")
    vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=config.text.d_model,
        ffn_dim=32,
        num_layers=1,
    )
    text = UMT5EncoderModel(transformers_config(config.text))
    WanPipeline(ByT5Tokenizer(), text, vae, FlowMatchEulerDiscreteScheduler(), transformer).save_pretrained(
        tmp_path / "wan"
    )
    make = WanTextToVideo.from_folder(tmp_path / "wan", "cpu", size=(32, 48), frames=5, steps=2)
    first = make("a cat", 0)
    assert first.shape == (5, 32, 48, 3) and first.dtype == np.uint8 and first.std() > 1
    assert np.array_equal(make("a cat", 0), first) and not np.array_equal(make("a cat", 1), first)
    assert make.settings["steps"] == 2 and make.settings["name"] == "wan"
