"""Self-Forcing with distribution matching distillation (paper, section 3.2, appendix D).

The student makes whole clips by the rollout of inference, rolling cache, sinks and slots included, longer than sink and
window together. Two bidirectional networks then see the clip as continuous frames: the teacher (frozen, joint guidance)
and the critic (a copy of the teacher, kept trained on what the student makes by plain flow matching, never guided).
``training/dmd.py`` turns their difference into the student's gradient. The critic is updated five times as often.

**Gradient truncation.** The paper draws a denoising step, uses "only that step's output for self-rollout" and says
that this "maintains computation graphs only for final denoised embeddings in the KV cache". Taken by the letter, later
chunks would reach earlier ones through cached keys and values. Self-Forcing, whose strategy it adopts, detaches the
cache, and so does this: one step is drawn for all chunks of a rollout; each chunk ends there and has a gradient through
that one evaluation (and the text encoder), none through the steps before it, the other chunks, or the clean pass.

**What it leaves out.** Conditions are those of the prepared clips. For models that carry content (``nano``) a track
that begins later thus takes its content from the rendered video, seen through the autoencoder, where a stream takes it
from its own last frame: the student does not learn to live with content that it has itself worn out. The clips' latents
are otherwise used in their frame 0 alone, the given picture, which no loss counts.

**With a Gaussian prior** (``nano``) all three networks predict in units of the posterior's deviation around the same
prior, which stays as it is. The difference of their x0 is small where the prior is sure, so unweighted it would be
spent on the few uncertain cells. It is weighted as in ``x0_loss``, the metric of the other stages; without a prior that
weight is one number a clip, which the normalisation cancels: the loss of the paper.

**Below temperature 1** (``nano``) the teacher's own samples begin with less noise and stay nearer its mean; to pull the
student to all that the teacher deems possible would undo that. So the noise put on generated clips is scaled alike, for
the scores and for the critic. The teacher takes the noise for more than it is and answers nearer to its mean; the
critic has learned what it is. They agree where the student is the teacher with deviations scaled by the temperature:
exactly so for Gaussians (``tests/training/test_dmd.py``), otherwise about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from motionstream.config import CausalConfig
from motionstream.model.flow import add_noise, hold_picture, velocity_to_x0
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.motion_model import Conditions
from motionstream.sampler.bidirectional import Guidance, guided_velocity
from motionstream.sampler.rollout import rollout
from motionstream.training.clips import ClipPool, PreparedClips
from motionstream.training.distributed import SampleDraws, keyed_generator, shard
from motionstream.training.dmd import Denoiser, dmd_gradient, dmd_loss, score_times
from motionstream.training.teacher import decibels, evaluate_loss, make_conditions, x0_loss
from motionstream.training.trainee import Trainee


@dataclass(frozen=True)
class SelfForcingConfig:
    """What a rollout of training is drawn from. Several sinks and windows make one student that takes them all; the
    paper distils one configuration at a time. The chunk is the model's."""

    critic_updates: int = 5
    """Updates of the critic before each of the student."""
    critic_first: int = 0
    """Steps at the beginning that are all the critic's: a copy of the teacher knows nothing of the student yet."""
    sinks: tuple[int, ...] = (1,)
    windows: tuple[int, ...] = (1,)
    guided: bool = True
    """Joint guidance of the real score by the sampler's weights. Only for a teacher whose guided samples are better."""

    def __post_init__(self) -> None:
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates = {self.critic_updates}: the critic must follow the student, at least 1")
        if self.critic_first < 0:
            raise ValueError(f"critic_first = {self.critic_first}: must not be negative")
        for name, sizes in (("sinks", self.sinks), ("windows", self.windows)):
            if not sizes or min(sizes) < 0:
                raise ValueError(f"{name} = {sizes}: name at least one size, none of them negative")


@dataclass(frozen=True)
class _Drawn:
    """The random choices of one step. ``causal`` and ``exit_step`` are those of the whole global batch; all else is
    drawn sample by sample: ``ids`` seeds the tracks' ids, which all networks are told alike, ``seeds`` the rollout;
    noise levels ``t`` (B, F), ``noise`` (B, C, F, h, w) at the sampler's temperature."""

    causal: CausalConfig
    exit_step: int
    ids: list[int]
    seeds: list[int]
    t: Tensor
    noise: Tensor


class SelfForcingStage:
    """See the module's docstring. ``module`` is the student, ``opponent`` the critic; all three begin with weights:
    the student with the causal stage's, teacher and critic with the teacher's."""

    def __init__(
        self,
        student: Trainee,
        teacher: Trainee,
        critic: Trainee,
        pool: ClipPool,
        validation: PreparedClips,
        long_validation: PreparedClips,
        settings: SelfForcingConfig,
        *,
        seed: int,
    ) -> None:
        self.student, self.teacher, self.critic = student, teacher, critic
        self.module: nn.Module = student
        self.opponent: nn.Module = critic
        self.frozen: tuple[nn.Module, ...] = (teacher,)
        self.pool, self.settings, self.seed = pool, settings, seed
        self.validation, self.long_validation = validation, long_validation
        self.rng = torch.Generator()  # the loop saves it; random numbers here are keyed by step and sample
        self._last: dict[str, Any] = {}
        self._check_length(validation.latents.shape[2])
        for network in (student, critic):
            for part in (network.model.track_head, network.model.carry_prior):
                if part is not None:
                    part.requires_grad_(False)
        teacher.eval().requires_grad_(False)
        with torch.no_grad():  # before any update, and before a checkpoint is read
            self.before = {
                f"ode_{k}": v for k, v in self._figures().items() if "carried" not in k and "frozen" not in k
            }

    def _check_length(self, frames: int) -> None:
        """Some cache must roll within a clip, or the student never meets what it is trained for."""
        chunks = frames // self.student.model.config.causal.chunk_frames
        needed = min(self.settings.sinks) + min(self.settings.windows) + 2
        if chunks < needed:
            raise ValueError(
                f"clips of {chunks} chunks never roll a cache of sinks {self.settings.sinks} and windows "
                f"{self.settings.windows}; train on clips of at least {needed} chunks"
            )

    def turn(self, step: int) -> Literal["module", "opponent"]:
        """Whose update ``step`` is: the critic's ``critic_updates`` times, then the student's."""
        cycle = self.settings.critic_updates + 1
        return "module" if step >= self.settings.critic_first and step % cycle == cycle - 1 else "opponent"

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = shard(self.pool.batch)
        clips = self.pool.at(step, samples)
        self._last = vars(clips) | {"samples": list(samples)}
        drawn = self._draw(step, samples, clips)
        return self._student_loss(clips, drawn) if self.turn(step) == "module" else self._critic_loss(clips, drawn)

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def _draw(self, step: int, samples: range, clips: PreparedClips) -> _Drawn:
        config, settings = self.student.model.config, self.settings
        shared, each = keyed_generator(self.seed, step), SampleDraws(self.seed, step, samples)

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=shared))

        sink, window = (sizes[below(len(sizes))] for sizes in (settings.sinks, settings.windows))
        frames, device = clips.latents.shape[2], clips.latents.device
        return _Drawn(
            CausalConfig(config.causal.chunk_frames, sink, window),
            exit_step=below(len(config.sampler.student_times)),
            ids=each.randint(2**31).tolist(),
            seeds=each.randint(2**31).tolist(),
            t=score_times(each.rand(1), config.sampler.shift).expand(-1, frames).to(device),
            noise=config.sampler.temperature * each.randn(*clips.latents.shape[1:]).to(device),
        )

    def _student_loss(self, clips: PreparedClips, drawn: _Drawn) -> tuple[Tensor, dict[str, float]]:
        x0 = self._generate(clips, drawn)
        clean = self.student.model.config.image_conditioning == "first_latent"
        noisy = add_noise(x0.detach(), drawn.noise, drawn.t)
        noisy, t = hold_picture(noisy, drawn.t, clips.latents[:, :, :1], drawn.noise, clean=clean)
        with torch.no_grad():
            told = _conditions(self.teacher, clips, drawn.ids)
            # the weight of x0_loss: what it makes of an error of 1
            weight = x0_loss(torch.ones_like(x0), torch.zeros_like(x0), noisy, t, told)
            real, fake = self._real(clips, told, drawn.ids), self._fake(clips, drawn.ids)
            gradient, figures = dmd_gradient(x0.detach(), noisy, t, real, fake, weight)
        loss = dmd_loss(x0, gradient)
        return loss, {"dmd": loss.item(), "exit_step": float(drawn.exit_step), **figures}

    def _critic_loss(self, clips: PreparedClips, drawn: _Drawn) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            x0 = self._generate(clips, drawn)
        told = _conditions(self.critic, clips, drawn.ids)
        loss = evaluate_loss(self.critic.model, x0, drawn.t, drawn.noise, told)
        return loss, {"critic": loss.item()}

    def _generate(self, clips: PreparedClips, drawn: _Drawn) -> Tensor:
        """The student's clips (B, C, F, h, w), latent frame 0 being the given picture's."""
        return _roll_out(
            self.student,
            clips,
            _conditions(self.student, clips, drawn.ids),
            seed=drawn.seeds,
            cache=self.student.model.make_cache(
                len(clips), (clips.latents.shape[3], clips.latents.shape[4]), drawn.causal
            ),
            exit_step=drawn.exit_step,
        )

    def _real(self, clips: PreparedClips, told: Conditions, ids: list[int]) -> Denoiser:
        """The teacher under joint guidance (equation 2), or its plain conditional prediction."""
        model, settings = self.teacher.model, self.teacher.model.config.sampler
        guidance = None
        if self.settings.guided:
            everywhere = torch.ones(len(clips), dtype=torch.bool, device=clips.visible.device)
            no_text = told.with_text(self.teacher.text.encode([settings.negative_prompt] * len(clips)))
            no_motion = _conditions(self.teacher, clips.without_tracks(everywhere), ids)
            guidance = Guidance(no_text, no_motion, settings.text_guidance, settings.motion_guidance)
        return lambda noisy, t: velocity_to_x0(noisy, guided_velocity(model, noisy, t, told, guidance), t)

    def _fake(self, clips: PreparedClips, ids: list[int]) -> Denoiser:
        """The critic as it is: guidance would take the meaning from the difference (section 3.2)."""
        model, told = self.critic.model, _conditions(self.critic, clips, ids)
        return lambda noisy, t: velocity_to_x0(noisy, model(noisy, t, told), t)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Held-out rollouts at the model's own sink and window, of a clip's length and (``long_``) of many, beside the
        student this began with (``ode_``); see ``rollout_figures``."""
        return self._figures() | self.before

    def _figures(self) -> dict[str, float]:
        long = rollout_figures(self.student, self.long_validation)
        return rollout_figures(self.student, self.validation) | {f"long_{name}": v for name, v in long.items()}


def _conditions(network: Trainee, clips: PreparedClips, ids: list[int]) -> Conditions:
    """What a network is told about the clips; the same ``ids`` make the same ids of the tracks."""
    generators = [torch.Generator().manual_seed(seed) for seed in ids]
    return make_conditions(network.model, network.text, clips, clips.captions, generators)


def _roll_out(
    network: Trainee,
    clips: PreparedClips,
    conditions: Conditions,
    *,
    seed: int | list[int],
    cache: RollingKVCache | None = None,
    exit_step: int | None = None,
) -> Tensor:
    """As many chunks as the clips have, (B, C, F, h, w)."""
    config = network.model.config
    size = config.causal.chunk_frames
    made = rollout(
        network.model,
        (conditions.frames(k, k + size) for k in range(0, clips.latents.shape[2], size)),
        times=config.sampler.student_times,
        seed=seed,
        first_latent=clips.latents[:, :, :1],
        cache=cache,
        exit_step=exit_step,
    )
    return torch.cat(list(made), dim=2)


def rollout_figures(network: Trainee, clips: PreparedClips) -> dict[str, float]:
    """How a rollout compares with the rendered latents, in dB (``decibels``; higher is nearer).

    ``rollout_db`` of the whole, ``rollout_last_chunk_db``; ``rollout_drift_db``, how much worse the last chunk is than
    the second; the same of the carried mean, which the model has to beat; ``frozen_db`` of the given picture. Then
    ``last_chunk_energy``, the mean square of the last chunk over the rendered one's: oversaturated where well above 1.
    """
    conditions = _conditions(network, clips, ids=list(range(len(clips))))
    made, true = _roll_out(network, clips, conditions, seed=0), clips.latents
    size = network.model.config.causal.chunk_frames
    second, last = slice(size - 1, 2 * size), slice(-size - 1, None)  # one more, for decibels leaves out the first

    def compare(name: str, latents: Tensor) -> dict[str, float]:
        early, late = (decibels(latents[:, :, part], true[:, :, part]) for part in (second, last))
        return {
            f"{name}_db": decibels(latents, true),
            f"{name}_last_chunk_db": late,
            f"{name}_drift_db": early - late,
        }

    figures = compare("rollout", made)
    if conditions.prior is not None:
        figures |= compare("carried", conditions.prior.mean)
    figures["frozen_db"] = decibels(true[:, :, :1].expand_as(true), true)
    figures["last_chunk_energy"] = (made[:, :, -size:].square().mean() / true[:, :, -size:].square().mean()).item()
    return figures
