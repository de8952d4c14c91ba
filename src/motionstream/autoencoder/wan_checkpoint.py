"""Files of Wan autoencoders: diffusers' ``vae/`` folders, and conversion of the official checkpoints' names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from motionstream.component_config import WanAutoencoderConfig

_OURS = ("tile", "tile_overlap", "kind")

# A residual block of the official code is a Sequential: norm, SiLU, conv, norm, SiLU, dropout, conv.
_BLOCK = {
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
}
_ENDS = {
    "conv1.": "conv_in.",
    "middle.0.": "mid_block.resnets.0.",
    "middle.1.": "mid_block.attentions.0.",
    "middle.2.": "mid_block.resnets.1.",
    "head.0.": "norm_out.",
    "head.2.": "conv_out.",
}
_RESAMPLE = ("resample.", "time_conv.")


def diffusers_arguments(config: WanAutoencoderConfig) -> dict[str, Any]:
    """Constructor arguments of ``AutoencoderKLWan``; tuples become lists, as in its ``config.json``."""
    values = {name: value for name, value in asdict(config).items() if name not in _OURS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of ``Wan2.1_VAE.pth`` or ``Wan2.2_VAE.pth`` to diffusers' names; nothing is copied.

    Names follow wan/modules/vae2_1.py and vae2_2.py of github.com/Wan-Video/Wan2.2. The version and the number of
    blocks are inferred from the names.

    Raises:
        ValueError: the state is not that of an official autoencoder.
    """
    if "decoder.middle.0.residual.0.gamma" not in state or "conv2.weight" not in state:
        raise ValueError(
            f"not an official Wan autoencoder: it has no decoder.middle.* (first key: {min(state, default='none')})"
        )
    resamples = {int(m[1]) for m in (re.match(r"decoder\.upsamples\.(\d+)\.resample\.", key) for key in state) if m}
    return {_diffusers_name(key, sorted(resamples)): value for key, value in state.items()}


def _diffusers_name(key: str, resamples: list[int]) -> str:
    """``resamples``: indices of the upsamplers in 2.1's flat ``decoder.upsamples``; each ends a stage."""
    top, _, rest = key.partition(".")
    if top in ("conv1", "conv2"):
        return f"{'quant_conv' if top == 'conv1' else 'post_quant_conv'}.{rest}"
    if match := re.fullmatch(r"(down|up)samples\.(\d+)\.\1samples\.(\d+)\.(.*)", rest):  # 2.2: blocks of blocks
        direction, stage, index, rest = match.groups()
        resampler = rest.startswith(_RESAMPLE)
        rest = f"{direction}_blocks.{stage}." + (f"{direction}sampler." if resampler else f"resnets.{index}.") + rest
    elif match := re.fullmatch(r"downsamples\.(\d+\..*)", rest):
        rest = f"down_blocks.{match[1]}"
    elif match := re.fullmatch(r"upsamples\.(\d+)\.(.*)", rest):
        index, rest = int(match[1]), match[2]
        ended = [place for place in resamples if place < index]
        within = index - (ended[-1] + 1 if ended else 0)
        rest = f"up_blocks.{len(ended)}." + ("upsamplers.0." if index in resamples else f"resnets.{within}.") + rest
    else:
        for official, ours in _ENDS.items():
            if rest.startswith(official):
                rest = ours + rest.removeprefix(official)
    for official, ours in _BLOCK.items():
        rest = rest.replace(f".{official}", f".{ours}")
    return f"{top}.{rest}"


def read_config(folder: Path) -> WanAutoencoderConfig:
    """The config from ``config.json`` of a ``vae/`` folder.

    Raises:
        ValueError: no such file, or it does not describe an ``AutoencoderKLWan`` that our config can express.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: give diffusers' vae/ folder of a Wan model")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from error
    kind = found.get("_class_name") if isinstance(found, dict) else None
    if kind != "AutoencoderKLWan":
        raise ValueError(f"{path} describes {kind!r}, not an AutoencoderKLWan")
    if found.get("attn_scales"):
        raise ValueError(f"{path}: attn_scales = {found['attn_scales']} is not supported; Wan's autoencoders have none")
    known = {field.name for field in fields(WanAutoencoderConfig)} - set(_OURS)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known}
    try:
        return WanAutoencoderConfig(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a Wan autoencoder: {error}") from error


def check_config(found: WanAutoencoderConfig, wanted: WanAutoencoderConfig, source: Path) -> None:
    """Raise ValueError if a folder's settings differ from the model's."""
    for name, value in diffusers_arguments(found).items():
        expected = diffusers_arguments(wanted)[name]
        same = value == expected
        if name in ("latents_mean", "latents_std") and len(value) == len(expected):
            same = all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(value, expected, strict=True))
        if not same:
            raise ValueError(f"{source}: {name} = {value}, but this model needs {expected}: another autoencoder")


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError naming what is missing, unknown or of another shape in ``state``."""

    def listed(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        found = [f"lacks {listed(missing)}"] * bool(missing) + [f"has unknown {listed(unknown)}"] * bool(unknown)
        raise ValueError(f"{source} does not fit this autoencoder: it {' and '.join(found)}")
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"{source} does not fit this autoencoder: {listed(wrong)}")
