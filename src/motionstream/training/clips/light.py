"""Clips whose light changes as a sentence says: targets for models that carry content.

What moves in such a model is carried, so its transformer has to learn what tracks cannot express. The target is the
*carried* picture in another light, not the rendered clip: where the carried picture is wrong, nothing else is asked of
the transformer, and when no sentence asks for anything, its answer is exactly the carried picture.

The target shows the whole change at once (``carry/showing.py`` lets it come slowly). It depends on the sentence and not
on when that was said, so that nothing accumulates over a long stream. In half of the clips the sentence changes on the
way, since a student could otherwise copy the light of its own past instead of reading.

Strengths are the means of those that the renderer draws (``data/weather.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder, from_blocks
from motionstream.config import ModelConfig
from motionstream.data.captions import DARK, FOG
from motionstream.training.clips.prepared import ClipSource, PreparedClips, chunk_frames
from motionstream.training.loop.distributed import keyed_generator


@dataclass(frozen=True)
class Light:
    """A change of the whole picture. A colour in [0, 1] becomes ``matrix`` · colour + ``offset``."""

    sentences: tuple[str, ...]
    matrix: tuple[tuple[float, float, float], ...]
    offset: tuple[float, float, float]

    def change(self, video: Tensor) -> Tensor:
        """Apply to colours (3, ...) in [0, 1]."""
        offset = torch.tensor(self.offset).to(video).reshape(3, *[1] * (video.dim() - 1))
        return torch.einsum("ij,j...->i...", torch.tensor(self.matrix).to(video), video) + offset


def _dimmed(red: float, green: float, blue: float) -> tuple[tuple[float, float, float], ...]:
    return (red, 0.0, 0.0), (0.0, green, 0.0), (0.0, 0.0, blue)


_LUMA = (0.299, 0.587, 0.114)
LIGHTS = {
    "dark": Light(DARK, _dimmed(0.375, 0.375, 0.375), (0.0, 0.0, 0.0)),
    "fog": Light(FOG, _dimmed(0.4, 0.4, 0.4), (0.465, 0.465, 0.465)),
    "sunset": Light(
        ("the sun sets", "a sunset", "it gets warm", "golden evening light", "the evening sun comes out"),
        _dimmed(0.9, 0.68, 0.42),
        (0.1, 0.04, 0.0),
    ),
    "grey": Light(
        ("the colours fade", "everything turns grey", "a black and white film", "all colour drains away"),
        (_LUMA, _LUMA, _LUMA),
        (0.0, 0.0, 0.0),
    ),
}
SHARES = {"dark": 0.2, "fog": 0.2, "sunset": 0.15, "grey": 0.15}
"""Of the sentences, how many announce which change. The others announce none."""
SWITCHED = 0.5
"""Share of the clips whose sentence changes on the way."""
# fmt: off
_NOUNS = (
    "object", "thing", "ball", "cat", "dog", "car", "bird", "boat", "flower", "house", "tree", "fish", "horse",
    "balloon", "kite", "leaf", "cup", "apple", "rocket", "plane", "head", "hand", "face", "door", "cloud", "wheel",
    "robot", "toy", "lamp", "stone",
)
# fmt: on
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "grey")


@dataclass(frozen=True)
class Told:
    """A sentence, and what it asks for: a name in ``LIGHTS``, or None."""

    sentence: str
    light: str | None = None


def draw_sentence(caption: str, rng: Random) -> Told:
    """A random sentence for a clip with this ``caption``, which describes its motion alone."""
    base = caption if rng.random() < 0.6 else _about_something(rng)
    left = rng.random()
    for name, share in SHARES.items():
        if left < share:
            phrase = rng.choice(LIGHTS[name].sentences)
            return Told(phrase if rng.random() < 0.6 else _inserted(phrase, base, rng), name)
        left -= share
    return Told(base)


def _about_something(rng: Random) -> str:
    """A description without any change, like the captions of photographs; colours in it ask for nothing."""
    thing = rng.choice(_NOUNS)
    if rng.random() < 0.5:
        thing = f"{rng.choice(_COLOURS)} {thing}"
    return rng.choice(("a {}", "a photograph of a {}", "the {} moves", "a {} in front of a wall", "")).format(thing)


def _inserted(phrase: str, base: str, rng: Random) -> str:
    clauses = [clause for clause in base.split(", ") if clause]
    clauses.insert(rng.randint(0, len(clauses)), phrase)
    return ", ".join(clauses)


class LitClips:
    """A source's clips with sentences and targets in another light (``lit``), new ones each time."""

    def __init__(self, source: ClipSource, config: ModelConfig, autoencoder: LinearAutoencoder, seed: int) -> None:
        self.source, self.seed, self.batch = source, seed, source.batch
        self.config, self.autoencoder = config, autoencoder

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """See ``ClipSource``."""
        samples = range(self.batch) if samples is None else samples
        keys = [f"{self.seed}/{step}/{sample}" for sample in samples]
        clips = self.source.at(step, samples)
        with torch.autocast(clips.latents.device.type, enabled=False):  # targets are exact
            return lit(clips, self.config, self.autoencoder, keys)


@torch.no_grad()
def lit(
    clips: PreparedClips, config: ModelConfig, autoencoder: LinearAutoencoder, keys: Sequence[str]
) -> PreparedClips:
    """Give clips, whose captions announce no change of light, sentences and the targets they ask for. The sentences
    depend on ``keys`` alone, one for each clip."""
    assert config.carry is not None
    starts = chunk_frames(config, clips.positions.shape[1])
    given = clips.latents[:, :, :1]
    carried = torch.cat([given, clips.candidates[:, config.carry.carried, :, 1:]], dim=2)
    video = (from_blocks(autoencoder.decode_linear(carried)) + 1) / 2
    first, later, switch = list[str](), list[str](), list[int]()
    for row, key in enumerate(keys):
        rng = Random(keyed_generator("light", key).initial_seed())
        one = two = draw_sentence(clips.captions[row], rng)
        change, at = len(starts), video.shape[2]
        if len(starts) > 1 and rng.random() < SWITCHED:
            two, change = draw_sentence(clips.captions[row], rng), rng.randint(1, len(starts) - 1)
            at = starts[change] + GROUP - 1  # the first latent frame's group is padded with copies of the picture
        for told, span in ((one, slice(0, at)), (two, slice(at, None))):
            if told.light is not None:  # only a change is clamped, since the carried picture's code may leave 0..1
                video[row, :, span] = LIGHTS[told.light].change(video[row, :, span]).clamp(0, 1)
        first.append(one.sentence)
        later.append(two.sentence)
        switch.append(change)
    latents = autoencoder.encode_part(2 * video - 1, first=False)
    return replace(
        clips,
        latents=torch.cat([given, latents[:, :, 1:]], dim=2),
        captions=first,
        later=later,
        switch=torch.tensor(switch),
    )
