"""Sentences → text tokens. One interface for every encoder: ``encode(list of str) → (B, tokens, text_dim)``."""

from __future__ import annotations

import html
import re
import zlib
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.component_config import TextConfig
from motionstream.conditioning.pretrained import optional_import


class TextEncoder(Protocol):
    """Encodes sentences; the empty sentence is the null condition of guidance and dropout."""

    def encode(self, sentences: list[str]) -> Tensor: ...


def clean_text(sentence: str, *, fix_encoding: bool = False) -> str:
    """Unescape HTML twice and collapse white space, as Wan cleans prompts.

    ``fix_encoding``: repair wrongly decoded letters first, as Wan also does. It needs ftfy, which only the Wan models
    require; a ValueError says so where it is missing.
    """
    if fix_encoding:
        sentence = optional_import("ftfy").fix_text(sentence)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(sentence))).strip()


def word_features(word: str, buckets: int) -> list[int]:
    """Buckets of a word: itself and its 3- to 5-character n-grams, so that an unknown word is near its relatives."""
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)}
    return [zlib.crc32(gram.encode()) % buckets for gram in sorted(grams | {marked})]


class HashedTextEncoder(nn.Module):
    """A word is the mean of hashed n-gram embeddings; a place embedding and a small network follow.

    Trained with the model. Places beyond the sentence are zero, as the Wan models' padding is.
    """

    def __init__(self, config: TextConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.grams = nn.EmbeddingBag(config.buckets, dim, mode="mean")
        self.place = nn.Parameter(0.1 * torch.randn(config.tokens, dim))
        self.mix = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def encode(self, sentences: list[str]) -> Tensor:
        """Tokens (B, tokens, dim); words beyond ``tokens`` are left out."""
        device = self.place.device
        out = torch.zeros(len(sentences), self.config.tokens, self.dim, device=device, dtype=self.place.dtype)
        for row, sentence in enumerate(sentences):
            words = re.findall(r"\w+", clean_text(sentence).lower())[: self.config.tokens]
            if not words:
                continue
            features = [word_features(word, self.config.buckets) for word in words]
            flat = torch.tensor([f for word in features for f in word], device=device)
            starts = torch.tensor([0, *(len(word) for word in features[:-1])], device=device).cumsum(0)
            tokens = F.layer_norm(self.grams(flat, starts), (self.dim,)) + self.place[: len(words)]
            out[row, : len(words)] = tokens + self.mix(tokens)
        return out
