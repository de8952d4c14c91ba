"""Files and names of Wan's autoencoders: damaged folders, official checkpoints."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.autoencoder.wan_checkpoint import check_state, from_official
from motionstream.component_config import WanAutoencoderConfig
from motionstream.presets import preset
from motionstream.wan_presets import WAN21_AUTOENCODER, WAN22_AUTOENCODER

VERSIONS = ("wan2.1-debug", "wan2.2-debug")


def config(version: str) -> WanAutoencoderConfig:
    found = preset(version).autoencoder
    assert isinstance(found, WanAutoencoderConfig)
    return found


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def edit_config(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(settings))


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path):
    model = WanAutoencoder.from_config(config(VERSIONS[0]))

    def refused(match: str, settings: WanAutoencoderConfig | None = None) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            WanAutoencoder.load(tmp_path, settings)
        assert "\n" not in str(caught.value)

    refused(r"config\.json is missing")
    model.save(tmp_path)
    settings = (tmp_path / "config.json").read_text()
    refused("z_dim|base_dim", config(VERSIONS[1]))
    edit_config(tmp_path, latents_mean=[0.0] * 16)
    refused(r"latents_mean = .* another autoencoder", model.config)
    edit_config(tmp_path, latents_std=[1.0] * 3)
    refused("latents_std.*needs z_dim = 16 numbers")
    edit_config(tmp_path, _class_name="AutoencoderKL")
    refused("'AutoencoderKL', not an AutoencoderKLWan")
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1")
    refused("is not JSON")
    (tmp_path / "config.json").write_text(settings)

    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("damaged or not fully downloaded")
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    refused(r"diffusion_pytorch_model\.bin is a pickle.*motionstream convert")
    (tmp_path / "diffusion_pytorch_model.bin").unlink()
    refused("holds no weights")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    refused(r"lacks 1 of 1 shards \(part-1\.safetensors\)")
    index.write_text("{}")
    refused(r"index\.json is no index of shards")


def test_weights_that_do_not_fit_are_named():
    model = WanAutoencoder.from_config(config(VERSIONS[0]))
    state = dict(model.vae.state_dict())
    first = state.pop("quant_conv.weight")
    with pytest.raises(ValueError, match=r"^a file does not fit.* lacks quant_conv\.weight$"):
        WanAutoencoder.from_state(state, model.config, source="a file")
    with pytest.raises(ValueError, match=r"lacks quant_conv\.weight and has unknown quant\.weight"):
        WanAutoencoder.from_state(state | {"quant.weight": first}, model.config)
    with pytest.raises(ValueError, match=r"quant_conv\.weight \(16, 32, 1, 1, 1\) instead of \(32, 32, 1, 1, 1\)"):
        WanAutoencoder.from_state(state | {"quant_conv.weight": first[:16]}, model.config)


def official_shapes(settings: WanAutoencoderConfig) -> dict[str, tuple[int, ...]]:
    """Parameters of the official code's ``WanVAE_``, module by module as its constructors make them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inner: int, outer: int, *kernel: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outer, inner, *kernel), (outer,)

    def block(name: str, inner: int, outer: int) -> None:
        shapes[f"{name}.residual.0.gamma"], shapes[f"{name}.residual.3.gamma"] = (inner, 1, 1, 1), (outer, 1, 1, 1)
        conv(f"{name}.residual.2", inner, outer, 3, 3, 3)
        conv(f"{name}.residual.6", outer, outer, 3, 3, 3)
        if inner != outer:
            conv(f"{name}.shortcut", inner, outer, 1, 1, 1)

    def ends(part: str, inlet: int, width: int, wide: int, outlet: int, last: int) -> None:
        conv(f"{part}.conv1", inlet, width, 3, 3, 3)
        block(f"{part}.middle.0", wide, wide)
        shapes[f"{part}.middle.1.norm.gamma"] = (wide, 1, 1)
        conv(f"{part}.middle.1.to_qkv", wide, 3 * wide, 1, 1)
        conv(f"{part}.middle.1.proj", wide, wide, 1, 1)
        block(f"{part}.middle.2", wide, wide)
        shapes[f"{part}.head.0.gamma"] = (last, 1, 1, 1)
        conv(f"{part}.head.2", last, outlet, 3, 3, 3)

    def stages(part: str, way: str, dims: list[int], blocks: int, in_time: tuple[bool, ...]) -> None:
        flat = 0
        for stage, (inner, outer) in enumerate(itertools.pairwise(dims)):
            if way == "up" and stage > 0 and not settings.is_residual:
                inner //= 2  # the upsampler before has halved it
            for place in range(blocks + (stage < len(dims) - 2)):
                nested = f"{stage}.{way}samples.{place}" if settings.is_residual else f"{flat}"
                name, flat = f"{part}.{way}samples.{nested}", flat + 1
                if place < blocks:
                    block(name, inner, outer)
                    inner = outer
                    continue
                halved = way == "up" and not settings.is_residual
                conv(f"{name}.resample.1", outer, outer // 2 if halved else outer, 3, 3)
                if in_time[stage]:
                    conv(f"{name}.time_conv", outer, outer * (2 if way == "up" else 1), 3, 1, 1)

    z, mult, blocks = settings.z_dim, settings.dim_mult, settings.num_res_blocks
    down = [settings.base_dim * m for m in (1, *mult)]
    up = [(settings.decoder_base_dim or settings.base_dim) * m for m in (mult[-1], *mult[::-1])]
    ends("encoder", settings.in_channels, down[0], down[-1], 2 * z, down[-1])
    stages("encoder", "down", down, blocks, settings.temperal_downsample)
    ends("decoder", z, up[0], up[0], settings.out_channels, up[-1])
    stages("decoder", "up", up, blocks + 1, settings.temperal_downsample[::-1])
    conv("conv1", 2 * z, 2 * z, 1, 1, 1)
    conv("conv2", z, z, 1, 1, 1)
    return shapes


def on_meta(settings: WanAutoencoderConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """An official state and the parameters of diffusers' model, shapes only."""
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in official_shapes(settings).items()}
        return official, WanAutoencoder(settings).vae.state_dict()


@pytest.mark.parametrize("settings", [WAN21_AUTOENCODER, WAN22_AUTOENCODER, *map(config, VERSIONS)])
def test_official_names_fit_diffusers_model_one_to_one(settings: WanAutoencoderConfig):
    official, expected = on_meta(settings)
    check_state(from_official(official), expected, "the renamed state")
    assert len(official) == len(expected)


def test_official_names_of_2_1_are_renamed_as_diffusers_does():
    official, _ = on_meta(WAN21_AUTOENCODER)  # its converter knows two blocks a stage, as the checkpoint has, only
    theirs, ours = convert_wan_vae_to_diffusers(dict(official)), from_official(official)
    assert theirs.keys() == ours.keys()
    assert all(theirs[name] is ours[name] for name in ours)


def test_official_names_of_2_2_go_where_the_same_module_is():
    official, _ = on_meta(WAN22_AUTOENCODER)
    ours = from_official(official)
    for theirs, name in {
        "encoder.downsamples.0.downsamples.0.residual.0.gamma": "encoder.down_blocks.0.resnets.0.norm1.gamma",
        "encoder.downsamples.1.downsamples.0.shortcut.weight": "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        "encoder.downsamples.2.downsamples.1.residual.6.bias": "encoder.down_blocks.2.resnets.1.conv2.bias",
        "encoder.downsamples.1.downsamples.2.resample.1.bias": "encoder.down_blocks.1.downsampler.resample.1.bias",
        "encoder.downsamples.2.downsamples.2.time_conv.weight": "encoder.down_blocks.2.downsampler.time_conv.weight",
        "encoder.middle.2.residual.3.gamma": "encoder.mid_block.resnets.1.norm2.gamma",
        "decoder.upsamples.0.upsamples.2.residual.2.weight": "decoder.up_blocks.0.resnets.2.conv1.weight",
        "decoder.upsamples.1.upsamples.3.time_conv.bias": "decoder.up_blocks.1.upsampler.time_conv.bias",
        "decoder.upsamples.3.upsamples.0.shortcut.bias": "decoder.up_blocks.3.resnets.0.conv_shortcut.bias",
        "decoder.middle.1.proj.weight": "decoder.mid_block.attentions.0.proj.weight",
        "decoder.head.2.weight": "decoder.conv_out.weight",
        "conv1.weight": "quant_conv.weight",
        "conv2.bias": "post_quant_conv.bias",
    }.items():
        assert ours[name] is official[theirs], theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_an_official_state_becomes_a_working_autoencoder(version: str):
    settings = config(version)
    official = {name: 0.1 * torch.randn(shape) for name, shape in official_shapes(settings).items()}
    model = WanAutoencoder.from_state(from_official(official), settings)
    same(model.vae.decoder.conv_in.weight, official["decoder.conv1.weight"])
    assert model.decode(torch.randn(1, settings.z_dim, 2, 2, 3))[0].std() > 1e-3
    with pytest.raises(ValueError, match="not an official Wan autoencoder"):
        from_official(model.vae.state_dict())
