"""The small text encoder."""

import torch

from motionstream.component_config import TextConfig
from motionstream.conditioning.text import HashedTextEncoder, clean_text, word_features


def encoder() -> HashedTextEncoder:
    torch.manual_seed(0)
    return HashedTextEncoder(TextConfig(tokens=6, buckets=4096), 32)


def test_shapes_padding_and_the_empty_sentence():
    tokens = encoder().encode(["a dog runs", "", "one two three four five six seven eight"])
    assert tokens.shape == (3, 6, 32)
    assert tokens[0, 3:].abs().max() == 0 and tokens[0, :3].abs().min() > 0
    assert tokens[1].abs().max() == 0
    assert tokens[2, 5].abs().max() > 0


def test_cleaning():
    assert clean_text("  a &amp;amp; b\n\t c ") == "a & b c"
    text = encoder()
    torch.testing.assert_close(text.encode(["It  gets\nDARK!"]), text.encode(["it gets dark"]))


def test_an_unknown_word_lies_near_its_relatives():
    def share(a: str, b: str) -> float:
        first, second = set(word_features(a, 4096)), set(word_features(b, 4096))
        return len(first & second) / len(first | second)

    assert share("darkening", "darkens") > 0.3
    assert share("darkening", "bright") < 0.05
    assert word_features("dark", 4096) == word_features("dark", 4096)
