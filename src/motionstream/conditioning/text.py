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
    """Encodes sentences; the empty one is the null condition for guidance and dropout."""

    def encode(self, sentences: list[str]) -> Tensor: ...


def clean_text(sentence: str, *, fix_encoding: bool = False) -> str:
    """Unescape HTML twice and collapse white space, as Wan cleans prompts.

    ``fix_encoding``: first repair wrongly decoded characters, as Wan does. Needs ftfy, which only the Wan models
    require; ValueError if it is missing.
    """
    if fix_encoding:
        sentence = optional_import("ftfy").fix_text(sentence)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(sentence))).strip()


def word_features(word: str, buckets: int) -> list[int]:
    """Hash buckets of a word and its 3- to 5-character n-grams, which place an unknown word near similar ones."""
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)}
    return [zlib.crc32(gram.encode()) % buckets for gram in sorted(grams | {marked})]


class HashedTextEncoder(nn.Module):
    """Each word is the mean of its hashed n-gram embeddings, plus a position embedding, followed by a small network.

    Trained with the model. Tokens after the sentence's end are zero, like the padding of the Wan models.
    """

    def __init__(self, config: TextConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.grams = nn.EmbeddingBag(config.buckets, dim, mode="mean")
        self.place = nn.Parameter(0.1 * torch.randn(config.tokens, dim))
        self.mix = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def encode(self, sentences: list[str]) -> Tensor:
        """Tokens (B, tokens, dim); further words are ignored."""
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
