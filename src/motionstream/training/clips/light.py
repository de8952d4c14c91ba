"""Clips whose light, or a thing's colour, changes as a sentence says: targets for models that carry content.

What moves in such a model is carried, so its transformer has to learn what tracks cannot express. The target is the
*carried* picture in another light, not the rendered clip: where the carried picture is wrong, nothing else is asked of
the transformer, and when no sentence asks for anything, its answer is exactly the carried picture.

The target shows the whole change at once (``carry/showing.py`` lets it come slowly). It depends on the sentence and not
on when that was said, so that nothing accumulates over a long stream. In half of the clips the sentence changes on the
way, since a student could otherwise copy the light of its own past instead of reading.

A new colour is that of all things that tracks hold or have held (``PreparedClips.held``). Strengths are the means of
those that the renderer draws (``data/weather.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from motionstream.autoencoder.linear import GROUP, LinearAutoencoder, from_blocks, to_blocks
from motionstream.config import ModelConfig
from motionstream.data.captions import DARK, FOG, TURNS, colour_word
from motionstream.data.weather import SHADING, TINTS
from motionstream.training.clips.prepared import ClipSource, PreparedClips, chunk_frames
from motionstream.training.loop.distributed import keyed_generator


@dataclass(frozen=True)
class Light:
    """A change of the whole picture, or of a thing. A colour in [0, 1] becomes ``matrix`` · colour + ``offset``."""

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
SHARES = {"dark": 0.18, "fog": 0.18, "sunset": 0.13, "grey": 0.13}
"""Of the sentences, how many announce which change of the whole picture."""
MARKED = 0.5
"""Share of the clips in which a new colour is that of a half of the picture or of all of it. Things are a tenth of it,
from which the words for colours are learnt too slowly (docs/log.md)."""
PAINTED = 0.4
"""Share of the sentences that announce a thing's new colour."""
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
_ORDERS = ("paint it {}", "make it {}", "turn it {}", "it is {} now")


def _paint(colour: tuple[float, float, float]) -> Light:
    """A new ``colour``, with some of the old one's brightness, of which 0.45 is taken for the mean of most things."""
    red, green, blue = (channel - 0.45 * SHADING for channel in colour)
    return Light(tuple(f"it {turn}" for turn in TURNS) + _ORDERS, ((SHADING / 3,) * 3,) * 3, (red, green, blue))


PAINTS = {name: _paint(colour) for colour in TINTS if (name := colour_word(colour))}
"""New colours of things, by name; the sentences lack it."""


@dataclass(frozen=True)
class Told:
    """A sentence, and what it asks for: a ``light`` in ``LIGHTS``, a ``paint`` in ``PAINTS`` for things, both or
    neither."""

    sentence: str
    light: str | None = None
    paint: str | None = None

    def change(self, video: Tensor, held: Tensor) -> Tensor:
        """What it asks for, of colours (3, T, H, W) in [0, 1] of which some are ``held`` (1, T, H, W)."""
        if self.paint is not None:
            video = torch.lerp(video, PAINTS[self.paint].change(video).clamp(0, 1), held)
        if self.light is not None:  # only a change is clamped, since the carried picture's code may leave 0..1
            video = LIGHTS[self.light].change(video).clamp(0, 1)
        return video


def draw_sentence(caption: str, rng: Random) -> Told:
    """A random sentence for a clip with this ``caption``, which describes its motion alone."""
    base = caption if rng.random() < 0.5 else _about_something(rng)
    brief, light, paint, phrases = rng.random() < 0.6, None, None, list[str]()
    left = rng.random()
    for name, share in SHARES.items():
        if 0 <= left < share:
            light = name
            phrases.append(rng.choice(LIGHTS[name].sentences))
        left -= share
    if rng.random() < PAINTED:
        paint = rng.choice(list(PAINTS))
        phrases.append(_of_some_thing(rng.choice(PAINTS[paint].sentences).format(paint), rng))
    for phrase in phrases:
        base = phrase if brief and phrase is phrases[0] else _inserted(phrase, base, rng)
    return Told(base, light, paint)


def _of_some_thing(phrase: str, rng: Random) -> str:
    """The sentence about "it", or now and then about a thing by name."""
    if not phrase.startswith("it ") or rng.random() < 0.6:
        return phrase
    noun = rng.choice(_NOUNS)
    if rng.random() < 0.3:
        noun = f"{rng.choice(_COLOURS)} {noun}"
    return f"{rng.choice(('the', 'a'))} {noun} {phrase.removeprefix('it ')}"


def _about_something(rng: Random) -> str:
    """A description without any change, like the captions of photographs; colours in it ask for nothing."""
    thing = rng.choice(_NOUNS)
    if rng.random() < 0.7:
        thing = f"{rng.choice(_COLOURS)} {thing}"
    return rng.choice(("a {}", "a photograph of a {}", "the {} moves", "a {} in front of a wall", "")).format(thing)


def _inserted(phrase: str, base: str, rng: Random) -> str:
    clauses = [clause for clause in base.split(", ") if clause]
    clauses.insert(rng.randint(0, len(clauses)), phrase)
    return ", ".join(clauses)


def _marked(held: Tensor, rng: Random) -> Tensor:
    """What is held (1, T, H, W), or in ``MARKED`` of the clips something else: everything, or one side of a line."""
    if rng.random() >= MARKED:
        return held
    height, width = held.shape[2:]
    angle, aside = rng.uniform(0, 2 * math.pi), rng.choice((math.inf, rng.uniform(-0.35, 0.35)))
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    side = (math.cos(angle) * x + math.sin(angle) * y < aside).to(held)
    return side.expand_as(held)


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
    assert clips.held is not None
    held = from_blocks(clips.held, channels=1)
    first, later, switch = list[str](), list[str](), list[int]()
    for row, key in enumerate(keys):
        rng = Random(keyed_generator("light", key).initial_seed())
        held[row] = _marked(held[row], rng)
        one = two = draw_sentence(clips.captions[row], rng)
        change, at = len(starts), video.shape[2]
        if len(starts) > 1 and rng.random() < SWITCHED:
            two, change = draw_sentence(clips.captions[row], rng), rng.randint(1, len(starts) - 1)
            at = starts[change] + GROUP - 1  # the first latent frame's group is padded with copies of the picture
        for told, span in ((one, slice(0, at)), (two, slice(at, None))):
            video[row, :, span] = told.change(video[row, :, span], held[row, :, span])
        first.append(one.sentence)
        later.append(two.sentence)
        switch.append(change)
    latents = autoencoder.encode_part(2 * video - 1, first=False)
    return replace(
        clips,
        latents=torch.cat([given, latents[:, :, 1:]], dim=2),
        held=to_blocks(held[:, :, GROUP - 1 :], autoencoder.config.patch, first=True),
        captions=first,
        later=later,
        switch=torch.tensor(switch),
    )
