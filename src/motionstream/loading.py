"""Finds and loads a model's weights by name: embedded models, folders, others' checkpoints, hub repositories."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from motionstream.checkpoint_files import read_state
from motionstream.components import Placement
from motionstream.config import ModelConfig
from motionstream.model.checkpoints import guess_preset, load_transformer, recognise
from motionstream.model.motion_model import MotionModel
from motionstream.model.precision import cast_with_islands, is_island
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset

WEIGHTS = Path(__file__).parent / "weights"
STAGES = {"teacher": "no trained track head", "causal": "not distilled into a streaming student"}
"""The training stages that streaming needs, with a description of a checkpoint that lacks one."""


@dataclass(frozen=True)
class Found:
    """A model's files: ``folder`` with all its parts, ``transformer`` (a folder or file), its config and stages.
    ``ours``: a folder with model.json, not others' checkpoint."""

    folder: Path
    transformer: Path
    config: ModelConfig
    stages: tuple[str, ...]
    ours: bool


def locate(name: str | Path) -> Found | None:
    """Find a model's files by name or path; None if there are none (a preset without weights, or an unknown name).

    Raises:
        ValueError: the files are not a model's, or a repository cannot be downloaded.
    """
    embedded = WEIGHTS / name if isinstance(name, str) else None
    path = embedded if embedded is not None and embedded.is_dir() else Path(name).expanduser()
    if not path.exists() and isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        path = _download(name)
    if (path / "model.json").is_file():
        config, stages = _read_settings(path / "model.json")
        return Found(path, path / "transformer", config, stages, ours=True)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        return _foreign(path)
    return None


def refuse_missing(name: str, missing: Iterable[str]) -> None:
    """ValueError that names the missing training stages, if any: without them a model's video is meaningless."""
    missing = list(missing)
    if missing:
        why = ", ".join(STAGES[stage] for stage in missing)
        raise ValueError(
            f"{name!r} has not been through: {', '.join(missing)} ({why}). Its video would mean nothing; train it, or "
            "ask for it with --untrained (untrained=True)"
        )


def load_model(found: Found, config: ModelConfig, placement: Placement) -> MotionModel:
    """Load the transformer and its conditioning; parts that a foreign checkpoint lacks are random."""
    dtype = placement.torch_dtype(config)
    transformer, report = load_transformer(found.transformer, config, dtype=dtype)
    model = attach(transformer, config, dtype)
    if not found.ours:
        warnings.warn(str(report), stacklevel=2)
        return model
    path = found.folder / "conditioning.safetensors"
    try:
        result = model.load_state_dict(read_state(path), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} is of another model ({' '.join(str(error).split())[:200]})") from error
    lost = [key for key in result.missing_keys if not key.startswith("transformer.")]
    if lost or result.unexpected_keys:
        raise ValueError(f"{path} does not fit: missing {lost}, unknown {result.unexpected_keys}")
    return model


def attach(transformer: MotionTransformer, config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> MotionModel:
    """A model with this ``transformer`` and random conditioning in ``dtype``."""
    with torch.device("meta"):
        model = MotionModel(config)
    model.transformer = transformer
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name in ("track_head", "carry_prior", "pixel_mixer"):
            part = getattr(model, name)
            if part is not None:
                part.to_empty(device="cpu")
                for module in part.modules():
                    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                        module.reset_parameters()
                cast_with_islands(part, torch.float32 if is_island(name) else dtype)
    return model


@torch.no_grad()
def random_model(config: ModelConfig, placement: Placement, seed: int = 0) -> MotionModel:
    """A model with random weights, filled directly in their final precision and on their device unless float32."""
    dtype, device = placement.torch_dtype(config), placement.torch_device
    device = torch.device("cpu") if placement.offload_blocks else device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if dtype == torch.float32:
            return MotionModel(config)
        with torch.device("meta"):
            model = MotionModel(config)
        for name, parameter in model.named_parameters():
            parent, _, leaf = name.rpartition(".")
            filled = torch.empty(parameter.shape, dtype=torch.float32 if is_island(name) else dtype, device=device)
            if "norm" in name and leaf == "weight":
                filled.fill_(1)
            elif leaf == "bias":
                filled.zero_()
            else:
                filled.normal_(std=0.02)
            setattr(model.get_submodule(parent), leaf, nn.Parameter(filled))
        return model


def _read_settings(path: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    try:
        settings = json.loads(path.read_text())
        return ModelConfig.from_dict(settings["config"]), tuple(settings["stages"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); copy or download it again") from error


def _foreign(path: Path) -> Found:
    """Others' checkpoint: diffusers' pipeline or transformer folder, official files, VideoX-Fun."""
    transformer = path / "transformer" if (path / "transformer").is_dir() else path
    seen = recognise(read_state(transformer))
    name = guess_preset(seen)
    if name is None:
        raise ValueError(f"{path} is no model of a known size: {seen.describe()}")
    return Found(path if path.is_dir() else path.parent, transformer, preset(name), (), ours=False)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer/*", "*.model"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"there is no folder {name!r}, and the hub gave none of that name ({reason})") from error
