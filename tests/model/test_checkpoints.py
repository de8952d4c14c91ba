"""Checkpoints of every kind become our transformer: channel by channel, against diffusers, and with clear errors."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from motionstream.config import TrackHeadConfig
from motionstream.model.checkpoints import fit_inputs, load_transformer, own_config, read_state
from motionstream.model.key_maps import to_official
from motionstream.model.precision import is_island
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset

WAN21, WAN22 = preset("wan2.1-debug"), preset("wan2.2-debug")
PATCH = "patch_embedding.weight"


def transformer(config, **changes):
    """A diffusers model of a preset's transformer, with every parameter drawn: zeros would hide branches."""
    model = WanTransformer3DModel(**(asdict(config.transformer) | changes), rope_max_seq_len=64)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator) + ("norm" in name and "weight" in name))
    return model.eval()


def video(config, channels, frames=3, seed=2):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 512, config.transformer.text_dim, generator=generator)
    return torch.randn(1, channels, frames, 4, 6, generator=generator), text


def write(path, state):
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def test_diffusers_folder_loads_and_agrees(tmp_path):
    theirs = transformer(WAN21, in_channels=48)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="100KB")
    assert len(list((tmp_path / "transformer").glob("*-of-*.safetensors"))) > 1
    ours, report = load_transformer(tmp_path, WAN21, dtype=torch.float32)
    assert report.source.kind == "diffusers" and not report.track_head and not ours.training
    x, text = video(WAN21, 48)
    image = torch.randn(1, WAN21.image_encoder.tokens, WAN21.image_encoder.hidden_size)
    x[:, 16:32] = 0  # the channels that were a control video and are tracks now
    with torch.no_grad():
        expected = theirs(x, torch.tensor([700.0]), text, image, return_dict=False)[0]
        made = ours(x, torch.tensor([0.7]), text, image)
        other = ours(x, torch.tensor([0.7]), text, -image)
    assert expected.std() > 0.05 and (other - made).abs().max() > 1e-3
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("per_token", [False, True])
def test_wan22_agrees_with_diffusers_for_one_time_and_for_one_per_token(tmp_path, per_token):
    theirs = transformer(WAN22, in_channels=48)
    write(tmp_path / "model.safetensors", to_official(theirs.state_dict()))
    ours, report = load_transformer(tmp_path, WAN22, dtype=torch.float32)
    assert report.source.kind == "official" and report.fresh == ("input channels 'tracks' (48), at zero",)
    x, text = video(WAN22, 96)
    t = torch.tensor([[0.0, 0.4, 0.9]]) if per_token else torch.tensor([0.6])
    tokens_per_frame = x.shape[3] * x.shape[4] // 4
    tokens = t.repeat_interleave(tokens_per_frame, dim=1) if per_token else t
    with torch.no_grad():
        expected = theirs(x[:, :48], tokens * 1000, text, return_dict=False)[0]
        made = ours(x, t, text)
        later = ours(x, t + 0.05, text)
    assert expected.std() > 0.05 and (later - made).abs().max() > 1e-3
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "layout", "dropped"),
    [
        (WAN21, (("noise", 16),), ()),
        (WAN21, (("noise", 16), ("mask", 4), ("image", 16)), ("mask",)),
        (WAN21, (("noise", 16), ("control", 16), ("image", 16)), ("control",)),
        (WAN22, (("noise", 48),), ()),
        (
            WAN22,
            (("noise", 48), ("control", 48), ("mask", 4), ("masked video", 48)),
            ("control", "mask", "masked video"),
        ),
    ],
)
def test_input_channels_one_by_one(tmp_path, config, layout, dropped):
    channels = sum(width for _, width in layout)
    branch = {} if channels in (36, 48) and config is WAN21 else {"image_dim": None, "added_kv_proj_dim": None}
    official = to_official(transformer(config, in_channels=channels, **branch).state_dict())
    weight = torch.arange(channels, dtype=torch.float32)[None, :, None, None, None] + 1
    official[PATCH] = weight.expand_as(official[PATCH])
    ours, report = load_transformer(write(tmp_path / "a.safetensors", official), config, dtype=torch.float32)
    first = dict(zip((name for name, _ in layout), torch.tensor([0, *(w for _, w in layout)]).cumsum(0), strict=False))
    made, start = ours.state_dict()[PATCH], 0
    assert made.std(dim=(0, 2, 3, 4)).max() == 0
    for name, width in config.inputs:
        expected = torch.arange(width) + first[name] + 1 if name in first else torch.zeros(width)
        assert made[0, start : start + width, 0, 0, 0].tolist() == expected.tolist()
        start += width
    fresh = [name for name, _ in config.inputs if name not in first]
    assert all(any(f"'{name}'" in line for line in report.fresh) for name in fresh)
    assert all(any(f"'{name}'" in line for line in report.dropped) for name in dropped)
    assert sum("input channels" in line for line in report.dropped) == len(dropped)


def test_fit_inputs_says_which_slice_does_not_fit():
    weight = torch.ones(8, 20, 1, 2, 2)
    with pytest.raises(ValueError, match="'noise': the checkpoint has 20, the model takes 16"):
        fit_inputs(weight, (("noise", 20),), (("noise", 16), ("tracks", 16)))
    with pytest.raises(ValueError, match="takes 20 channels, its layout names 16"):
        fit_inputs(weight, (("noise", 16),), (("noise", 16),))


def test_a_fresh_slice_and_the_head_behind_it_learn(tmp_path):
    path = write(tmp_path / "a.safetensors", transformer(WAN22, in_channels=48).state_dict())
    ours, _ = load_transformer(path, WAN22, dtype=torch.float32)
    x, text = video(WAN22, 96)
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.1)
    tracks = x[:, 48:].clone().requires_grad_()
    for step in range(2):
        optimiser.zero_grad()
        ours(torch.cat([x[:, :48], tracks], dim=1), torch.tensor([0.5]), text).square().mean().backward()
        assert ours.get_parameter(PATCH).grad[:, 48:].abs().max() > 0
        assert (tracks.grad.abs().max() > 0) == (step == 1)
        optimiser.step()


def test_an_image_branch_that_the_source_lacks_is_silent_and_learns(tmp_path):
    theirs = transformer(WAN21, in_channels=16, image_dim=None, added_kv_proj_dim=None)
    path = write(tmp_path / "student.safetensors", {f"generator.model.{k}": v for k, v in
                 to_official(theirs.state_dict()).items()} | {"critic.a": torch.ones(1)})  # fmt: skip
    ours, report = load_transformer(path, WAN21, dtype=torch.float32)
    assert report.source.kind == "student" and "critic (1 tensors)" in report.dropped
    assert "image branch, its output at zero" in report.fresh
    x, text = video(WAN21, 48)
    image = torch.randn(1, WAN21.image_encoder.tokens, WAN21.image_encoder.hidden_size)
    made = ours(x, torch.tensor([0.7]), text, image)
    with torch.no_grad():
        expected = theirs(x[:, :16], torch.tensor([700.0]), text, return_dict=False)[0]
    torch.testing.assert_close(made.detach(), expected, atol=1e-4, rtol=1e-4)
    made.square().mean().backward()
    block = ours.blocks[0].attn2
    assert block.add_v_proj.weight.grad.abs().max() > 0 and block.add_k_proj.weight.std() > 0
    again, _ = load_transformer(path, WAN21, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_an_image_branch_that_the_target_lacks_and_known_extras_are_left_out(tmp_path):
    changes = {"in_channels": 48, "image_dim": 24, "added_kv_proj_dim": 48}
    theirs = transformer(WAN22, **changes)
    official = to_official(theirs.state_dict()) | {"ref_conv.weight": torch.ones(2), "ref_conv.bias": torch.ones(2)}
    ours, report = load_transformer(write(tmp_path / "a.safetensors", official), WAN22, dtype=torch.float32)
    assert "ref_conv (2 tensors)" in report.dropped and any("image branch" in line for line in report.dropped)
    assert report.source.kind == "control" and not any("add_k" in name for name in ours.state_dict())
    assert "left out: ref_conv" in str(report) and "VideoX-Fun" in str(report)


def write_ours(folder, config, model):
    model.save_pretrained(folder / "transformer")
    (folder / "model.json").write_text(json.dumps({"config": config.to_dict(), "stages": ["teacher"]}))


def test_our_own_folder_keeps_its_tracks(tmp_path):
    own = MotionTransformer(**asdict(WAN21.transformer))
    own.load_state_dict(transformer(WAN21).state_dict())
    write_ours(tmp_path, WAN21, own)
    for path in (tmp_path, tmp_path / "transformer"):
        ours, report = load_transformer(path, WAN21)
        assert report.track_head and report.fresh == () and report.dropped == ()
        assert all(torch.equal(value, own.state_dict()[name]) for name, value in ours.state_dict().items())
    assert own_config(tmp_path) == WAN21 and own_config(tmp_path / "transformer" / "config.json") == WAN21
    assert own_config(tmp_path.parent) is None
    # without model.json the 48 channels can only be VideoX-Fun's
    (tmp_path / "model.json").rename(tmp_path / "elsewhere.json")
    ours, report = load_transformer(tmp_path, WAN21)
    assert not report.track_head and ours.state_dict()[PATCH][:, 16:32].abs().max() == 0


def test_our_own_folder_of_another_model_or_damaged(tmp_path):
    write_ours(tmp_path, WAN22, MotionTransformer(**asdict(WAN22.transformer)))
    head = TrackHeadConfig(out_channels=40)
    narrow = replace(
        WAN22,
        inputs=(("noise", 48), ("tracks", 40)),
        transformer=replace(WAN22.transformer, in_channels=88),
        track_head=head,
    )
    with pytest.raises(ValueError, match="'tracks': the checkpoint has 48, the model takes 40"):
        load_transformer(tmp_path, narrow)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        load_transformer(tmp_path, WAN22)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_islands_stay_in_full_precision(tmp_path, stored):
    state = {name: value.to(stored) for name, value in transformer(WAN21).state_dict().items()}
    ours, _ = load_transformer(write(tmp_path / "a.safetensors", state), WAN21, dtype=torch.bfloat16)
    dtypes = {name: value.dtype for name, value in ours.named_parameters()}
    assert all(dtype == (torch.float32 if is_island(name) else torch.bfloat16) for name, dtype in dtypes.items())
    assert dtypes["blocks.0.norm2.weight"] == torch.float32 and dtypes["proj_out.weight"] == torch.bfloat16
    stored_at = {value.untyped_storage().data_ptr() for value in ours.parameters()}
    assert len(stored_at) == len(dtypes), "a tensor that shares the file's mapping keeps the whole file"
    kept, _ = load_transformer(tmp_path / "a.safetensors", WAN21)
    assert {value.dtype for value in kept.parameters()} == {stored}
    assert not any(value.is_meta for value in ours.parameters())


def test_pickles_only_when_allowed_and_nested(tmp_path):
    state = to_official(transformer(WAN22, in_channels=48).state_dict())
    nested = {"generator_ema": {f"model.{k}": v for k, v in state.items()}, "step": 3, "optimizer": {"state": {0: 1}}}
    torch.save(nested, tmp_path / "student.pt")
    with pytest.raises(ValueError, match="is a pickle, which is only read by motionstream convert"):
        load_transformer(tmp_path / "student.pt", WAN22)
    ours, report = load_transformer(tmp_path / "student.pt", WAN22, allow_pickle=True, dtype=torch.float32)
    assert report.source.kind == "student" and report.dropped == ()
    assert torch.equal(ours.state_dict()["proj_out.weight"], state["head.head.weight"])


def test_pickles_that_run_code_are_refused(tmp_path):
    torch.save({"a": torch.ones(1), "evil": pytest.raises}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="refused as unsafe"):
        read_state(tmp_path / "evil.pth", allow_pickle=True)
    torch.save({"step": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        read_state(tmp_path / "none.pth", allow_pickle=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 5, 200, 0.5])
def test_truncated_files(tmp_path, suffix, kept):
    state, path = transformer(WAN22).state_dict(), tmp_path / f"a{suffix}"
    write(path, state) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="damaged") as error:
        read_state(path, allow_pickle=True)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def sharded(folder):
    transformer(WAN22).save_pretrained(folder, max_shard_size="100KB")
    return folder / "diffusion_pytorch_model.safetensors.index.json"


def test_missing_shards_and_damaged_indices(tmp_path):
    index = sharded(tmp_path)
    assert set(read_state(tmp_path)) == set(read_state(index)) == set(transformer(WAN22).state_dict())
    shards = sorted(tmp_path.glob("*-of-*.safetensors"))
    shards[1].rename(tmp_path / "away")
    with pytest.raises(ValueError, match=f"lacks 1 of {len(shards)} shards \\({shards[1].name}\\)"):
        read_state(tmp_path)
    write(shards[1], {"other": torch.ones(1)})
    with pytest.raises(ValueError, match="that no shard holds"):
        read_state(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="shards must lie beside their index"):
        read_state(tmp_path)
    index.write_text("{")
    with pytest.raises(ValueError, match="is no index of shards"):
        read_state(tmp_path)
    index.unlink()
    with pytest.raises(ValueError, match="holds shards but no"):
        read_state(tmp_path)


def test_half_downloaded_folders_and_pointers(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        read_state(tmp_path)
    cache = tmp_path / ".cache" / "huggingface" / "download"
    cache.mkdir(parents=True)
    (cache / "abc.incomplete").touch()
    with pytest.raises(ValueError, match=r"not fully downloaded \(abc.incomplete\)"):
        read_state(tmp_path)
    with pytest.raises(ValueError, match="not fully downloaded"):
        read_state(cache / "abc.incomplete")
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5676070424\n")
    with pytest.raises(ValueError, match=r"git-lfs pointer.*git lfs pull"):
        read_state(tmp_path)
    pointer.unlink()
    pointer.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="is a link to nothing"):
        read_state(pointer)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        read_state(tmp_path / "none.safetensors")
    write(tmp_path / "x.gguf", {"a": torch.ones(1)})
    with pytest.raises(ValueError, match=r"weights are \.safetensors files"):
        read_state(tmp_path / "x.gguf")


def test_a_folder_with_several_files_asks_for_one(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", {"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"holds 2 weight files \(a.safetensors, b.safetensors"):
        read_state(tmp_path)


def changed(state, name, value=None):
    """``state`` with one tensor renamed, or another value."""
    state = dict(state)
    old = state.pop(name)
    return state | ({f"{name}x": old} if value is None else {name: value})


def refused(tmp_path, config, state):
    """The message of the error that loading ``state`` gives; one line."""
    with pytest.raises(ValueError) as error:
        load_transformer(write(tmp_path / "a.safetensors", state), config)
    message = str(error.value)
    assert "\n" not in message and "a.safetensors" in message
    return message


def test_wrong_names_and_shapes_are_listed(tmp_path):
    state = transformer(WAN22, in_channels=48).state_dict()
    said = refused(tmp_path, WAN22, changed(state, "blocks.1.attn1.to_q.weight"))
    assert "lacks blocks.1.attn1.to_q.weight and has unknown blocks.1.attn1.to_q.weightx" in said
    assert "wan2.2-debug" in said and "a Wan transformer with diffusers' names" in said
    said = refused(tmp_path, WAN22, changed(state, "blocks.0.ffn.net.2.weight", torch.ones(48, 32)))
    assert "blocks.0.ffn.net.2.weight is (48, 32), not (48, 64)" in said and "1 of other shapes" in said
    lost = {k: v for k, v in state.items() if "attn1" not in k}
    assert "and 17 more" in refused(tmp_path, WAN22, lost)
    assert "lacks patch_embedding or proj_out" in refused(tmp_path, WAN22, changed(state, PATCH))
    eight = changed(state, "proj_out.weight", state["proj_out.weight"].to(torch.float8_e4m3fn))
    assert "stored as float8_e4m3fn: give the 16- or 32-bit file" in refused(tmp_path, WAN22, eight)


def test_other_models_are_called_by_their_name_and_their_preset(tmp_path):
    state = transformer(WAN22, in_channels=48).state_dict()
    assert "it would fit the preset 'wan2.2-debug'" in refused(tmp_path, WAN21, state)
    shorter = {k: v for k, v in state.items() if not k.startswith("blocks.1.")}
    assert "1 layers" in refused(tmp_path, WAN22, shorter) and "no preset" in refused(tmp_path, WAN22, shorter)
    odd = transformer(WAN22, in_channels=49).state_dict()
    assert "only known for 48, 148 channels" in refused(tmp_path, WAN22, odd)
    lora = {"blocks.0.self_attn.q.lora_A.weight": torch.ones(1)}
    assert "looks like a LoRA" in refused(tmp_path, WAN22, lora)
    unknown = refused(tmp_path, WAN22, {"model.norm.weight": torch.ones(1)})
    assert "no model known here (names such as model.norm.weight)" in unknown
