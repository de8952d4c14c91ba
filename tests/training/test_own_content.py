"""Rollouts that carry their own content: what they are told is what a stream would be told."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch

from motionstream.autoencoder.linear import from_blocks
from motionstream.data.photographs import TRAIN
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.pipeline import MotionStreamPipeline
from motionstream.pixels import to_float
from motionstream.tracks import Tracks
from motionstream.tracks.sampling import SampledTracks, TrackMix
from motionstream.training.clips.prepared import assemble, carrying_model
from motionstream.training.clips.rendered import frames_before, prepare
from motionstream.training.diffusion import rollouts
from motionstream.training.diffusion.rollouts import OwnContent, keyed_conditions, roll_out
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.recipes import nano as nano_recipes

SEED, STARTS = 3, [0, 9, 21, 33, 45]


@pytest.fixture(scope="module")
def pipeline():
    made = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    torch.manual_seed(1)
    with torch.no_grad():  # an answer that is not zero, and a decoder that does more than the linear one
        for parameter in made.model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        made.parts.autoencoder.outlet.weight.add_(0.02 * torch.randn_like(made.parts.autoencoder.outlet.weight))
    return made


@pytest.fixture(scope="module")
def network(pipeline):
    made = Trainee(pipeline.config, pipeline.model)
    made.text = pipeline.parts.text_encoder
    return made


@pytest.fixture(scope="module")
def rendered():
    return render(nano_recipes.debug().data.scene, 3, 5, TextureBank(TRAIN))


@pytest.fixture(scope="module")
def clips(pipeline, rendered):
    """Of three clips some have drags that begin late or are let go."""
    mix = TrackMix(dense=0, random=0, drags=1, late_birth=0.8, release=0.8)
    generator = torch.Generator().manual_seed(0)
    model = carrying_model(pipeline.config, pipeline.model.pixel_mixer)
    made = prepare(rendered, model, pipeline.parts.autoencoder, mix, generator)
    assert made.events[:, 1:].any() and not made.events.all()
    return made


def parts(conditions):
    return {"channels": conditions.channels, "text": conditions.text, "mean": conditions.prior.mean}


class TrueContent(OwnContent):
    """As if what was generated were the rendered frames, of which latents and carried detail do not hold all."""

    def __init__(self, *arguments, frames):
        super().__init__(*arguments)
        self.frames = iter(frames.unbind(1))

    def _last_frame(self):
        return next(self.frames)


@torch.no_grad()
def test_with_the_true_frames_the_conditions_are_those_of_the_prepared_clips(pipeline, network, clips, rendered):
    frames = frames_before(to_float(rendered.video), STARTS[:-1])[:, 1:]
    content = TrueContent(network, clips, [4, 5, 6], pipeline.parts.autoencoder, frames=frames)
    prepared = keyed_conditions(network, clips, [4, 5, 6])
    for chunk in range(4):
        own, expected = content.conditions(chunk), prepared.frames(3 * chunk, 3 * chunk + 3)
        for name, value in parts(own).items():
            # fewer columns of tracks round otherwise: where two are as near, or a place is at the border of a thing,
            # one of either is taken
            torch.testing.assert_close(value, parts(expected)[name], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_begins_late_is_taken_from_what_was_carried_and_nothing_else_is_changed(pipeline, network, clips):
    content = OwnContent(network, clips, [4, 5, 6], pipeline.parts.autoencoder)
    prepared = keyed_conditions(network, clips, [4, 5, 6])
    carried = None
    for chunk in range(4):
        if chunk:
            torch.testing.assert_close(content._last_frame(), carried)
        own, now = content.conditions(chunk), slice(3 * chunk, 3 * chunk + 3)
        off = (own.prior.mean - prepared.prior.mean[:, :, now]).abs().amax(dim=(1, 2, 3, 4))
        touched = clips.events[:, 1 : chunk + 1].any(dim=1)
        assert (off[~touched] < 1e-4).all() and (not chunk or (off[touched] > 1e-2).any())
        last, detail = own.carried.around[:, :, -1:], content._detail
        carried = (from_blocks(pipeline.parts.autoencoder.decode_linear(last))[:, :, -1] + detail).clamp(-1, 1)


def hand_made(masked):
    """Four tracks: a pin, a drag that is let go after the second chunk, one that begins with the third, an unused
    row. Every track begins where it is in the first frame of its first chunk. Where there are ``masked`` frames, which
    tell of none, the drag is never let go."""
    frames = torch.arange(45.0)
    still = torch.zeros(45)
    rows = [(8 + still, 24 + still), (6 + 0.3 * frames, 9 + still), (20 - 0.25 * (frames - 21), 18 + still)]
    positions = torch.stack([torch.stack(row, dim=-1) for row in [*rows, (still, still)]], dim=1)
    lives = [(0, 45), (0, 45 if masked.stop else 21), (21, 45), (0, 0)]
    visible = torch.stack([(frames >= first) & (frames < end) for first, end in lives], dim=1)
    visible[masked] = False
    start = torch.stack([positions[first, row] for row, first in enumerate(visible.int().argmax(dim=0).tolist())])
    return SampledTracks(
        positions.masked_fill(~visible[..., None], torch.nan)[None],
        visible[None],
        birth=torch.tensor([[0, 0, 2, 0]]),
        start=start[None],
        events=torch.tensor([[True, masked.stop == 21, True, masked.stop == 33]]),
    )


@pytest.mark.parametrize("masked", [slice(0, 0), slice(9, 21), slice(21, 33)], ids=["whole", "second", "third"])
def test_the_rollout_makes_the_latents_of_the_stream(pipeline, network, rendered, monkeypatch, masked):
    """The streaming path with its CarryMemory, against the batch that training rolls out; also where a whole chunk is
    masked, behind which tracks begin anew."""
    autoencoder, video = pipeline.parts.autoencoder, rendered.video[:1]
    latents, _ = autoencoder.encode(to_float(video))
    tracks = hand_made(masked)
    given = assemble(
        latents, frames_before(to_float(video), STARTS[:-1]), tracks, rendered.captions[:1], pipeline.model, autoencoder
    )
    streamed, decode = [], pipeline.parts.decode

    def spy(latents, *others):
        streamed.append(latents)
        return decode(latents, *others)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.parts, "decode", spy)
        stream = pipeline.stream(video[0, :, 0].permute(1, 2, 0).numpy(), rendered.captions[0], seed=SEED)
        for first, end in pairwise(STARTS):
            now = slice(first, end)
            shown = tracks.visible[0, now].any(dim=0).nonzero()[:, 0]
            positions, visible = tracks.positions[0, now][:, shown], tracks.visible[0, now][:, shown]
            stream.step(Tracks(positions.numpy(), visible.numpy(), stream.size, stream.fps, ids=np.asarray(shown)))
    expected = torch.cat(streamed, dim=2)

    @torch.no_grad()
    def made(autoencoder):
        return roll_out(network, given, [SEED], seed=SEED, autoencoder=autoencoder)

    torch.testing.assert_close(made(autoencoder), expected, atol=1e-5, rtol=1e-4)
    prepared = made(None)
    same = 3 * int(tracks.events[0, 1:].int().argmax() + 1)  # latent frames before the first event
    torch.testing.assert_close(prepared[:, :, :same], expected[:, :, :same], atol=1e-5, rtol=1e-4)
    assert (prepared - expected)[:, :, same:].abs().max() > 0.05


def test_no_gradient_goes_through_the_pictures(pipeline, network, clips, monkeypatch):
    """What a chunk is told of the one before it is given, and what it makes of it has a gradient."""
    seen = []
    conditions = OwnContent.conditions

    def watch(self, chunk):
        told = conditions(self, chunk)
        seen.append(told.channels.requires_grad)
        return told

    monkeypatch.setattr(rollouts.OwnContent, "conditions", watch)
    network = deepcopy(network)
    network.model.transformer.requires_grad_(True)
    made = roll_out(network, clips, [1, 2, 3], seed=0, exit_step=1, autoencoder=pipeline.parts.autoencoder)
    made.square().mean().backward()
    assert len(seen) == 4 and not any(seen)
    assert network.model.transformer.proj_out.weight.grad.abs().max() > 0
