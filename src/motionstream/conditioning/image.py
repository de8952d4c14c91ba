"""The CLIP image encoder of Wan 2.1: the first picture as 257 tokens from the second-to-last layer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.component_config import CLIPConfig
from motionstream.conditioning.pretrained import (
    Device,
    WeightSource,
    assemble,
    check_folder,
    check_settings,
    check_shapes,
    existing_folder,
    folder_weights,
    optional_import,
    random_weights,
    write_folder,
)
from motionstream.conditioning.resident import Resident

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_NOT_IN_SHAPES = ("num_attention_heads", "hidden_act", "layer_norm_eps", "image_size", "patch_size")
# Official names (Wan-Video/Wan2.1, wan/modules/clip.py) → those of transformers' files.
_ENDS = {
    "patch_embedding": "embeddings.patch_embedding",
    "pre_norm": "pre_layrnorm",
    "post_norm": "post_layernorm",
}
_LAYER = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}


class CLIPImageEncoder:
    """Pictures → (B, tokens, hidden_size) from the second-to-last layer, as Wan uses it, the class token first.

    The last 16 pictures are cached; the model is in memory only while another is encoded, longer only with ``keep``. It
    may be on another device than its output.
    """

    def __init__(
        self,
        config: CLIPConfig,
        weights: WeightSource,
        dtype: torch.dtype,
        device: Device,
        *,
        keep: bool = False,
        output_device: Device | None = None,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.output_device = torch.device(output_device or device)
        self._weights = weights
        self._resident = Resident(self._load, keep=keep)

    @classmethod
    def random(
        cls,
        config: CLIPConfig,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
        *,
        keep: bool = False,
        output_device: Device | None = None,
    ) -> CLIPImageEncoder:
        """Random weights, reproducible from ``seed``."""
        weights = partial(random_weights, seed=seed)
        return cls(config, weights, dtype, device, keep=keep, output_device=output_device)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        config: CLIPConfig,
        dtype: torch.dtype = torch.bfloat16,
        device: Device = "cpu",
        *,
        keep: bool = False,
        output_device: Device | None = None,
    ) -> CLIPImageEncoder:
        """Load weights as transformers saves them. Only file headers are read until a picture is encoded.

        Raises:
            ValueError: folder or library missing, files damaged or of another model.
        """
        path = existing_folder(folder, "image encoder")
        check_settings(path, transformers_config(config), _NOT_IN_SHAPES)
        check_folder(_skeleton(config), path, _canonical)
        weights = partial(folder_weights, folder=path, canonical=_canonical)
        return cls(config, weights, dtype, device, keep=keep, output_device=output_device)

    @property
    def resident(self) -> bool:
        """Whether the model is in memory now."""
        return self._resident.resident

    def release(self) -> None:
        """Free the model's memory; encoded pictures stay cached."""
        self._resident.release()

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] → tokens (B, tokens, hidden_size) on ``output_device``."""
        assert pictures.ndim == 4 and pictures.shape[1] == 3, f"pictures are B 3 H W, not {tuple(pictures.shape)}"
        pixels = preprocess(pictures, self.config)
        keys = [hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in pixels]
        return torch.stack(self._resident.outputs(keys, lambda model, index: self._encode_one(model, pixels[index])))

    def save(self, folder: str | Path) -> None:
        """Write a folder that ``from_folder`` and transformers read."""
        with self._resident.borrowed() as model:
            write_folder(folder, cast(Any, model).save_pretrained)

    def _encode_one(self, model: nn.Module, pixels: Tensor) -> Tensor:
        inputs = pixels[None].to(self.device, self.dtype)
        hidden = model(pixel_values=inputs, output_hidden_states=True).hidden_states[-2][0]
        return hidden.to(self.output_device)

    def _load(self) -> nn.Module:
        skeleton = _skeleton(self.config)
        return assemble(skeleton, self._weights(skeleton, self.dtype, self.device), self.device)


def preprocess(pictures: Tensor, config: CLIPConfig) -> Tensor:
    """Pictures (B, 3, H, W) in [−1, 1] → CLIP's input (B, 3, side, side), float32 on the CPU.

    On the CPU because Apple's devices lack the antialiased resize, and a small picture takes no time.
    """
    pictures, side = pictures.detach().to("cpu", torch.float32), config.image_size
    if config.preprocess == "squash":
        small = F.interpolate(pictures, (side, side), mode="bicubic", align_corners=False) * 0.5 + 0.5
    else:
        small = _crop(pictures * 0.5 + 0.5, side)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (small - mean[:, None, None]) / std[:, None, None]


def _crop(pictures: Tensor, side: int) -> Tensor:
    """Resize the shorter side to ``side`` and crop the centre square, in 8-bit levels like CLIPImageProcessor; values
    in [0, 1]."""
    height, width = pictures.shape[-2:]
    short = min(height, width)
    size = (side * height // short, side * width // short)
    levels = (pictures * 255).round().clamp(0, 255).to(torch.uint8)
    small = F.interpolate(levels, size, mode="bicubic", align_corners=False, antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return small[..., top : top + side, left : left + side] / 255


def transformers_config(config: CLIPConfig) -> Any:
    """The transformers config of this encoder; its ``save_pretrained`` writes the folder's ``config.json``."""
    return optional_import("transformers").CLIPVisionConfig(
        architectures=["CLIPVisionModel"],
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        projection_dim=config.projection_dim,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )


def from_official(state: Mapping[str, Tensor], config: CLIPConfig) -> dict[str, Tensor]:
    """The image encoder of ``models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`` under transformers' names.

    The text encoder and the projection into the common space are left out: Wan does not use them.

    Raises:
        ValueError: the state is not that of the official model, or of another size than ``config``.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("visual.") and key != "visual.head":
            renamed |= {f"vision_model.{name}": part for name, part in _transformers(key[len("visual.") :], value)}
    if not renamed:
        raise ValueError(
            f"this is not the official CLIP of Wan: it has no 'visual.' (first: {min(state, default='')!r})"
        )
    shapes = {key: value.shape for key, value in renamed.items()}
    check_shapes(_skeleton(config), shapes, _canonical, "the official CLIP state")
    return renamed


def _transformers(key: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Names and values for one official weight; the official code joins queries, keys and values in one matrix."""
    if key == "cls_embedding":
        return [("embeddings.class_embedding", value.flatten())]
    if key == "pos_embedding":
        return [("embeddings.position_embedding.weight", value.flatten(0, -2))]
    name, _, kind = key.rpartition(".")
    if name in _ENDS:
        return [(f"{_ENDS[name]}.{kind}", value)]
    match = re.fullmatch(r"transformer\.(\d+)\.(.+)", name)
    if match and match[2] == "attn.to_qkv":
        parts = zip("qkv", value.chunk(3), strict=True)
        return [(f"encoder.layers.{match[1]}.self_attn.{part}_proj.{kind}", rows) for part, rows in parts]
    if match and match[2] in _LAYER:
        return [(f"encoder.layers.{match[1]}.{_LAYER[match[2]]}.{kind}", value)]
    raise ValueError(f"this is not the official CLIP of Wan: it has 'visual.{key}'")


def _skeleton(config: CLIPConfig) -> nn.Module:
    transformers = optional_import("transformers")
    with torch.device("meta"):
        return transformers.CLIPVisionModel(transformers_config(config))


def _canonical(name: str) -> str | None:
    """See ``Canonical``. transformers 4 and most files prefix names with ``vision_model.``, transformers 5 does not."""
    if name.startswith(("text_model.", "text_projection.", "visual_projection.", "logit_scale")):
        return None
    return None if name.endswith("position_ids") else name.removeprefix("vision_model.")
