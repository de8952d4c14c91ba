"""What the diffusion stages train together."""

from __future__ import annotations

from torch import nn

from motionstream.component_config import TextConfig
from motionstream.conditioning.text import HashedTextEncoder
from motionstream.config import ModelConfig
from motionstream.model.motion_model import MotionModel


class Trainee(nn.Module):
    """The model and its text encoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not isinstance(config.text, TextConfig):
            raise ValueError(f"model {config.name!r} has no trainable text encoder; this recipe needs one")
        self.model = MotionModel(config)
        self.text = HashedTextEncoder(config.text, config.transformer.text_dim)
