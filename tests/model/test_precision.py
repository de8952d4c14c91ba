"""Half precision: what stays in float32, and that the forward uses it."""

from dataclasses import asdict

import torch

from motionstream.model.precision import cast_with_islands, is_island
from motionstream.model.rope import apply_rope, rope_table
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset


def transformer(name: str = "wan2.1-debug") -> MotionTransformer:
    generator = torch.Generator().manual_seed(0)
    model = MotionTransformer(**asdict(preset(name).transformer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(one + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(1, 48, 3, 4, 6, generator=generator),
        "t": torch.tensor([[0.0, 0.7, 0.7]]),
        "text": torch.randn(1, 512, 32, generator=generator),
        "image": torch.randn(1, 17, 24, generator=generator),
    }


def half(name: str, value: torch.Tensor) -> torch.Tensor:
    return value if name == "t" else value.bfloat16()


def test_only_the_islands_stay_in_full_precision():
    model = transformer()
    cast_with_islands(model, torch.bfloat16)
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if is_island(name)}
    for part in ("norm_q", "norm2", "scale_shift_table", "time_embedder", "time_proj", "image_embedder.norm1"):
        assert any(part in name for name in kept), part
    for part in ("to_q", "ffn", "patch_embedding", "proj_out", "text_embedder"):
        assert not any(part in name for name in kept), part


def test_bfloat16_stays_near_float32_and_the_islands_bring_it_nearer():
    x = inputs()
    islands, flat = transformer(), transformer().bfloat16()
    with torch.no_grad():
        exact = transformer()(**x)
        cast_with_islands(islands, torch.bfloat16)
        halves = {name: half(name, value) for name, value in x.items()}
        errors = [(model(**halves).float() - exact).square().mean().sqrt() for model in (islands, flat)]
    assert exact.std() > 0.1
    assert errors[0] < 0.02 * exact.std()
    assert errors[0] < errors[1]


def test_mixed_precision_computes_what_half_precision_with_its_islands_does():
    """The time embedding's layers are linear, which autocast runs in bfloat16 whatever their weights are in."""
    plain, islands = transformer("wan2.2-debug"), transformer("wan2.2-debug")
    cast_with_islands(islands, torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    x = {
        "latents": torch.randn(1, plain.config["in_channels"], 3, 4, 6, generator=generator),
        "t": torch.tensor([[0.0, 0.7, 0.909]]),
        "text": torch.randn(1, 512, plain.config["text_dim"], generator=generator),
    }
    with torch.no_grad():
        exact, expected = plain.condition_embedder.time(x["t"]), islands(**{k: half(k, v) for k, v in x.items()})
        with torch.autocast("cpu", torch.bfloat16):
            found, mixed = plain.condition_embedder.time(x["t"]), plain(**x)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    torch.testing.assert_close(mixed, expected, atol=0, rtol=0)
    assert expected.dtype == torch.bfloat16 and expected.float().std() > 0.1


def test_a_folder_is_loaded_with_its_islands(tmp_path):
    model = transformer()
    model.save_pretrained(tmp_path)
    again = MotionTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for name, parameter in again.named_parameters():
        assert parameter.dtype == (torch.float32 if is_island(name) else torch.bfloat16), name
        if is_island(name):
            torch.testing.assert_close(parameter, model.get_parameter(name), atol=0, rtol=0)


def test_rope_is_float32_whatever_it_turns():
    table = rope_table(24, (0, 7, 500), 2, 3, torch.device("cpu"))
    assert all(part.dtype == torch.float32 for part in table)
    x = torch.randn(1, 18, 2, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = apply_rope(x, table)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.float(), apply_rope(x.float(), table), atol=0.02, rtol=0.01)
