"""Rollouts of a student on prepared clips, as in inference, for losses and validation.

**Own content.** Prepared clips for models that carry content (``nano``) contain content from the rendered video for
tracks that begin late. A stream takes it from its own last frame, however degraded. Given the autoencoder, a rollout
does the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder, from_blocks
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.motion_model import CarriedLatents, Conditions, ImageInput, MotionInput
from motionstream.sampler.rollout import rollout
from motionstream.tracks.sampling import draw_ids
from motionstream.training.clips.prepared import PreparedClips, chunk_frames, last_detail, streamed
from motionstream.training.diffusion.flow_matching import decibels, make_conditions, text_tokens
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.validation import ClipView


def keyed_conditions(network: Trainee, clips: PreparedClips, ids: list[int]) -> Conditions:
    """The conditions of the clips for a network; equal ``ids`` (seeds) draw equal track ids."""
    generators = [torch.Generator().manual_seed(seed) for seed in ids]
    return make_conditions(network.model, network.text, clips, generators)


def texts(network: Trainee, clips: PreparedClips, first: Tensor) -> list[Tensor]:
    """Every chunk's text tokens (B, tokens, width): the sentence may change within a clip. ``first``: those of the
    clips' captions."""
    chunks = range(len(chunk_frames(network.model.config, clips.positions.shape[1])))
    if clips.later is None or clips.switch is None:
        return [first for _ in chunks]
    later = network.text.encode(clips.later).to(first.device)
    return [torch.where((clips.switch <= chunk)[:, None, None], later, first) for chunk in chunks]


class OwnContent:
    """Conditions chunk by chunk, in which tracks that begin late take their content from what was carried until then.

    Before a clip's first event the prepared content equals the stream's and is used unchanged.
    """

    def __init__(self, network: Trainee, clips: PreparedClips, ids: list[int], autoencoder: LinearAutoencoder) -> None:
        assert clips.picture is not None, "clips for a model that carries content have their picture"
        self.model, self.clips, self.autoencoder = network.model, clips, autoencoder
        self.size = clips.picture.shape[2], clips.picture.shape[3]
        self.starts = chunk_frames(network.model.config, clips.positions.shape[1])
        self._streamed = streamed(network.model, autoencoder, clips, clips.picture)
        count, id_range = clips.visible.shape[2], network.model.config.track_head.id_range
        drawn = [draw_ids(torch.Generator().manual_seed(seed), 1, count, id_range) for seed in ids]
        self.ids = torch.cat(drawn).to(clips.visible.device)
        self.texts = texts(network, clips, text_tokens(network.text, clips))
        self.image = ImageInput(clips.latents[:, :, :1], clips.image)

    def conditions(self, chunk: int) -> Conditions:
        """The conditions of a chunk; call in order."""
        latent = self.model.config.causal.chunk_frames
        first, end = self.starts[chunk], [*self.starts, self.clips.positions.shape[1]][chunk + 1]
        frames, latents = slice(first, end), slice(latent * chunk, latent * (chunk + 1))
        last = self._last_frame() if chunk else None
        assert self.clips.detail is not None and self.clips.held is not None
        carried = CarriedLatents(
            self.clips.candidates[:, :, :, latents], self.clips.features[:, :, latents], self.clips.held[:, :, latents]
        )
        self._detail = self.clips.detail[:, chunk]
        for row, content in self._streamed.items():
            streamed_motion = content.motion(frames, None if last is None else last[row])
            if self.clips.events[row, 1 : chunk + 1].any():
                own = content.carried(streamed_motion)
                at = torch.tensor([row], device=self._detail.device)
                assert carried.held is not None and own.held is not None
                carried = CarriedLatents(
                    carried.candidates.index_copy(0, at, own.candidates),
                    carried.features.index_copy(0, at, own.features),
                    carried.held.index_copy(0, at, own.held),
                )
                self._detail = self._detail.index_copy(0, at, last_detail(own, latent - 1))
        motion = MotionInput(
            self.clips.positions[:, frames], self.clips.visible[:, frames], self.ids, size=self.size, first=chunk == 0
        )
        conditions = self.model.conditions(motion, self.texts[chunk], carried, self.image)
        assert conditions.carried is not None
        self._around = conditions.carried.around[:, :, -1:]
        return conditions

    @torch.no_grad()
    def _last_frame(self) -> Tensor:
        """The last carried frame (B, 3, H, W), without the network's additions, as in streams."""
        with torch.autocast(self._around.device.type, enabled=False):
            around = self.autoencoder.decode_linear(self._around.float())
            return from_blocks(around)[:, :, -1].add(self._detail).clamp(-1, 1)


def roll_out(
    network: Trainee,
    clips: PreparedClips,
    ids: list[int],
    *,
    seed: int | list[int],
    cache: RollingKVCache | None = None,
    exit_step: int | None = None,
    autoencoder: LinearAutoencoder | None = None,
) -> Tensor:
    """Generate as many chunks as the clips have: latents (B, C, F, h, w).

    ``ids``: seeds of the tracks' ids, one per clip. ``autoencoder``: the rollout carries its own content, as a stream
    does; without it, or for models that carry none, the prepared clips' conditions are used.
    """
    config = network.model.config
    size = config.causal.chunk_frames
    chunks = range(clips.latents.shape[2] // size)
    made: list[Tensor] = []

    def told() -> Iterator[Conditions]:
        if autoencoder is None or config.carry is None:
            whole = keyed_conditions(network, clips, ids)
            text = texts(network, clips, whole.text)
            yield from (whole.frames(size * chunk, size * (chunk + 1)).with_text(text[chunk]) for chunk in chunks)
            return
        content = OwnContent(network, clips, ids, autoencoder)
        yield from map(content.conditions, chunks)

    for latents in rollout(
        network.model,
        told(),
        times=config.sampler.student_times,
        seed=seed,
        first_latent=clips.latents[:, :, :1],
        cache=cache,
        exit_step=exit_step,
    ):
        made.append(latents)
    return torch.cat(made, dim=2)


def rollout_figures(
    network: Trainee, clips: PreparedClips, autoencoder: LinearAutoencoder | None = None, view: ClipView | None = None
) -> dict[str, float]:
    """Compare rollouts with the clips' own latents, in dB (``decibels``; higher is nearer).

    ``rollout_db``: the whole clip; ``rollout_last_chunk_db``; ``rollout_drift_db``: how much worse the last chunk is
    than the second. ``carried_*``: the same for the prior's mean, which the model has to beat. ``frozen_db``: the given
    picture repeated. ``last_chunk_energy``: mean square of the last chunk relative to the clip's; well above 1 means
    oversaturation. ``autoencoder``: see ``roll_out``. ``view``: of the same clips; its figures are added.

    Clips are rolled out one by one, since a cache for all of them would exceed the memory that training needs.
    """
    rolled, means = list[Tensor](), list[Tensor]()
    for row in range(len(clips)):
        clip = clips.take([row]).to(network.model.device)
        rolled.append(roll_out(network, clip, [row], seed=[row], autoencoder=autoencoder))
        if network.model.carry_prior is not None:
            prior = keyed_conditions(network, clip, [row]).prior
            assert prior is not None
            means.append(prior.mean)
    made, true = torch.cat(rolled), clips.latents.to(network.model.device)
    size = network.model.config.causal.chunk_frames
    second, last = slice(size - 1, 2 * size), slice(-size - 1, None)  # one frame more, since decibels skips the first

    def compare(name: str, latents: Tensor) -> dict[str, float]:
        early, late = (decibels(latents[:, :, part], true[:, :, part]) for part in (second, last))
        return {
            f"{name}_db": decibels(latents, true),
            f"{name}_last_chunk_db": late,
            f"{name}_drift_db": early - late,
        }

    figures = compare("rollout", made)
    if means:
        figures |= compare("carried", torch.cat(means))
    figures["frozen_db"] = decibels(true[:, :, :1].expand_as(true), true)
    figures["last_chunk_energy"] = (made[:, :, -size:].square().mean() / true[:, :, -size:].square().mean()).item()
    if view is not None:
        figures |= view.look(made)[0]
    return figures
