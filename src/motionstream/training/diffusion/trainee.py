"""The model and text encoder that the diffusion stages train together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from motionstream.component_config import TextConfig, UMT5Config
from motionstream.conditioning.text import HashedTextEncoder, TextEncoder
from motionstream.config import ModelConfig
from motionstream.data.samples import pad_text
from motionstream.data.shards import ShardFolder
from motionstream.model.motion_model import MotionModel


class StoredText:
    """A large text encoder's stored tokens of the two sentences that training needs besides captions: the empty
    sentence and the negative prompt. Tokens of captions are in the shards."""

    def __init__(self, config: ModelConfig, empty: Tensor, negative: Tensor) -> None:
        assert isinstance(config.text, UMT5Config)
        tokens = config.text.tokens
        # in this order: if the negative prompt is empty, both keys are the same
        self.rows = {config.sampler.negative_prompt: pad_text(negative, tokens), "": pad_text(empty, tokens)}

    @classmethod
    def of_shards(cls, config: ModelConfig, folder: str | Path) -> StoredText:
        """Read the tokens written by ``motionstream prepare``. Raises ValueError if they are missing or damaged."""
        return cls(config, **ShardFolder(folder).fixed_text())

    def encode(self, sentences: list[str]) -> Tensor:
        """Tokens (B, tokens, width) on the CPU, float32. Raises ValueError for any other sentence."""
        for sentence in sentences:
            if sentence not in self.rows:
                raise ValueError(
                    f"the text {sentence[:60]!r} was not encoded beforehand: captions come with their clips' tokens"
                )
        return torch.stack([self.rows[sentence].float() for sentence in sentences])


class Trainee(nn.Module):
    """The model and its text encoder, which is trained too if it is small (``nano``).

    Args:
        model: with weights; a randomly initialised one when None.
        text: encodes the null sentence if the model's text encoder is not trained.
    """

    text: TextEncoder

    def __init__(self, config: ModelConfig, model: MotionModel | None = None, text: TextEncoder | None = None) -> None:
        super().__init__()
        self.model = MotionModel(config) if model is None else model
        if isinstance(config.text, TextConfig):
            self.text = HashedTextEncoder(config.text, config.transformer.text_dim)
        elif text is None:
            raise ValueError(f"the text encoder of {config.name!r} is not trained: give its stored tokens (StoredText)")
        else:
            self.text = text
