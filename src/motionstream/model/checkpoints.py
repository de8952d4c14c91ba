"""Checkpoints of Wan's transformer → ours: diffusers, official, VideoX-Fun, causal students, our own folders.

Everything that both models have is taken as it is. What ours has and the checkpoint lacks begins at zero, so that a
partly initialised model computes what its base computed; see ``fit_inputs`` and ``_fresh_image_branch``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from motionstream.checkpoint_files import State, read_state
from motionstream.config import ModelConfig
from motionstream.model.key_maps import (
    KINDS,
    LAYOUTS,
    TRANSFORMERS,
    Layout,
    Recognised,
    groups,
    guess_preset,
    is_image_branch,
    recognise,
    strip_prefixes,
    to_diffusers,
    unwrapped,
)
from motionstream.model.precision import cast_with_islands
from motionstream.model.transformer import MotionTransformer

DROPPED_PARTS = ("ref_conv", "control_adapter")
"""Parts of VideoX-Fun's control models that have no place here: a reference picture's and a camera's branch."""

STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint.

    ``fresh`` and ``dropped`` say in words what the model has of its own and what of the file was left out.
    ``track_head``: whether the model already follows tracks, true for our own folders alone.
    """

    path: Path
    source: Recognised
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def track_head(self) -> bool:
        return self.source.kind == "motionstream"

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.source.describe()}"]
        lines += [f"  fresh: {part}" for part in self.fresh]
        lines += [f"  left out: {part}" for part in self.dropped]
        return "\n".join(lines)


def load_transformer(
    path: str | Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    allow_pickle: bool = False,
) -> tuple[MotionTransformer, LoadReport]:
    """Read any Wan transformer into the one of ``config``.

    The model is built without memory of its own and takes the file's tensors one by one as they are cast.

    Args:
        path: a file or folder (see ``read_state``), with diffusers' or the official names.
        config: the model to fill; its sizes must be the checkpoint's.
        dtype: of the weights; islands of full precision stay in float32. None keeps what the file has, mapped from it.
        device: where the weights go.
        allow_pickle: see ``read_state``.

    Raises:
        ValueError: the file cannot be read, is something else, is of another size, or lacks names.
    """
    path = Path(path)
    own = own_config(path)
    raw = read_state(path, allow_pickle=allow_pickle)
    found = recognise(raw)
    if own is not None and found.kind == "diffusers":
        found = replace(found, kind="motionstream", layout=own.inputs)
    inner, prefix = strip_prefixes(raw)
    _check_size(found, config, path, raw)
    with torch.device("meta"):
        model = MotionTransformer(**asdict(config.transformer))
    expected = {name: value.shape for name, value in model.state_dict().items()}
    state, fresh, dropped = _adapted(to_diffusers(inner), found, config, expected)
    others = groups(name for name in map(unwrapped, raw) if not name.startswith(prefix))
    dropped += [f"{name} ({count} tensors)" for name, count in others.items()]
    _check_names(state, expected, path, found)
    model.load_state_dict(state, assign=True)
    if dtype is not None:
        cast_with_islands(model, dtype)
    model = model.to(device)
    if dtype is not None:
        _let_go(model, state)
    return model.eval(), LoadReport(path, found, tuple(fresh), tuple(dropped))


def _adapted(
    state: State, found: Recognised, config: ModelConfig, expected: Mapping[str, torch.Size]
) -> tuple[State, list[str], list[str]]:
    """``state`` with the input channels and the branches of ``config``'s model; what is fresh, what was left out."""
    assert found.layout is not None, "_check_size refuses unknown layouts"
    patch = "patch_embedding.weight"
    state = state | {patch: fit_inputs(state[patch], found.layout, config.inputs)}
    fresh = [f"input channels '{name}' ({width}), at zero" for name, width in _lacking(config.inputs, found.layout)]
    dropped = [f"input channels '{name}' ({width})" for name, width in _lacking(found.layout, config.inputs)]
    unneeded = {name for name in state if name.partition(".")[0] in DROPPED_PARTS}
    dropped += [f"{name} ({count} tensors)" for name, count in groups(unneeded).items()]
    branch = {name for name in state if is_image_branch(name)}
    wanted = any(is_image_branch(name) for name in expected)
    if wanted and not branch:
        state |= _fresh_image_branch(expected, state[patch].dtype)
        fresh.append("image branch, its output at zero")
    if branch and not wanted:
        dropped.append(f"image branch ({len(branch)} tensors)")
        unneeded |= branch
    return {name: value for name, value in state.items() if name not in unneeded}, fresh, dropped


def _let_go(model: nn.Module, state: State) -> None:
    """Copy what needed no cast: one tensor that still lies in the file would keep all of it mapped."""
    for name, parameter in model.named_parameters():
        if parameter.data_ptr() == state[name].data_ptr():
            parameter.data = parameter.data.clone()


def own_config(path: str | Path) -> ModelConfig | None:
    """The config of the MotionStream folder that ``path`` is, or is the transformer of; None for anything else."""
    path = Path(path)
    inside = [folder.parent for folder in (path, path.parent) if folder.name == "transformer"]
    for folder in (path, *inside):
        file = folder / "model.json"
        if file.is_file():
            try:
                return ModelConfig.from_dict(json.loads(file.read_text())["config"])
            except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    return None


def fit_inputs(weight: Tensor, source: Layout, target: Layout) -> Tensor:
    """The patch embedding's weight (width, C, 1, 2, 2) for another order of input channels; C as in ``target``.

    Slices of the same name are copied. A new slice is zero: the model begins as its base, whatever the new channels
    hold. It still learns: the slice's gradient is the product of its input and of what flows back, neither of them
    zero, and once the slice has moved, the track head behind it gets gradients, too.
    """
    total = sum(width for _, width in source)
    if weight.shape[1] != total:
        raise ValueError(f"the patch embedding takes {weight.shape[1]} channels, its layout names {total}")
    parts = dict(zip((name for name, _ in source), weight.split([width for _, width in source], dim=1), strict=True))
    pieces = []
    for name, width in target:
        piece = parts.get(name)
        if piece is None:
            piece = weight.new_zeros(weight.shape[0], width, *weight.shape[2:])
        if piece.shape[1] != width:
            raise ValueError(f"input channels {name!r}: the checkpoint has {piece.shape[1]}, the model takes {width}")
        pieces.append(piece)
    return torch.cat(pieces, dim=1)


def _lacking(layout: Layout, other: Layout) -> Layout:
    names = {name for name, _ in other}
    return tuple((name, width) for name, width in layout if name not in names)


def _fresh_image_branch(expected: Mapping[str, torch.Size], dtype: torch.dtype) -> State:
    """An image branch as the official code initialises it, but for the values: at zero, they silence its output.

    ``add_v_proj`` alone gets gradients in the first step, everything before it from the second on.
    """
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in expected.items():
        if not is_image_branch(name):
            continue
        value = torch.zeros(shape)
        if name.endswith(".weight") and len(shape) == 1:
            nn.init.ones_(value)
        elif name.endswith(".weight") and "add_v_proj" not in name:
            nn.init.xavier_uniform_(value, generator=generator)
        state[name] = value.to(dtype)
    return state


def _check_size(found: Recognised, config: ModelConfig, path: Path, state: State) -> None:
    """Refuse what is no transformer, or one of other sizes, and say what it is and where it would fit."""
    if found.kind not in TRANSFORMERS:
        raise ValueError(f"{path} looks like {found.describe()} (names such as {_some(state)}); give a Wan transformer")
    if found.in_channels == 0:
        raise ValueError(f"{path} looks like {KINDS[found.kind]} but lacks patch_embedding or proj_out (head.head)")
    ours = config.transformer
    sizes = (found.width, found.layers, found.out_channels)
    if sizes != (ours.width, ours.num_layers, ours.out_channels):
        name = guess_preset(found)
        remedy = f"it would fit the preset {name!r}" if name else "no preset has these sizes"
        raise ValueError(
            f"{path} is {found.describe()}; {config.name!r} has width {ours.width}, {ours.num_layers} layers and "
            f"{ours.out_channels} output channels: {remedy}"
        )
    if found.layout is None:
        known = ", ".join(str(inputs) for outputs, inputs in sorted(LAYOUTS) if outputs == found.out_channels)
        raise ValueError(
            f"{path} is {found.describe()}: what its input channels are is only known of {known} channels, or from the "
            "model.json of a MotionStream folder"
        )


def _check_names(state: State, expected: Mapping[str, torch.Size], path: Path, found: Recognised) -> None:
    """Every name there, none unknown, every shape right, every tensor a plain floating-point one."""
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unknown {_some(unknown)}"] * bool(unknown)
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    problems += [f"{'; '.join(wrong[:2])} ({len(wrong)} of other shapes)"] * bool(wrong)
    stored = {str(value.dtype).removeprefix("torch.") for value in state.values() if value.dtype not in STORED}
    problems += [f"is stored as {', '.join(sorted(stored))}: give the 16- or 32-bit file"] * bool(stored)
    if problems:
        fits = guess_preset(found)
        raise ValueError(
            f"{path} looks like {found.describe()}, of the sizes of {fits!r}, but {' and '.join(problems)}"
        )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
