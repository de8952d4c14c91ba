"""Self-Forcing with distribution matching distillation (paper, section 3.2, appendix D).

The student generates whole clips as in inference, with rolling cache, sinks and slots, longer than sink and window
together. Two bidirectional networks evaluate the clip: the teacher (frozen, joint guidance) and the critic (a copy of
the teacher, trained on the student's clips by plain flow matching, never guided). ``dmd.py`` turns their difference
into the student's gradient. The critic is updated five times as often.

**Gradient truncation.** The paper draws a denoising step, uses "only that step's output for self-rollout" and says
that this "maintains computation graphs only for final denoised embeddings in the KV cache". Taken literally, gradients
would flow from later chunks to earlier ones through cached keys and values. Self-Forcing, whose strategy the paper
adopts, detaches the cache, and so does this code: one step is drawn for all chunks of a rollout; each chunk ends there,
with a gradient through that one evaluation (and the text encoder), not through earlier steps, other chunks or the clean
pass.

**Own content.** In models that carry content (``nano``), tracks that begin late take theirs from the rollout's own last
frame, as in a stream (``rollouts.OwnContent``), so that the student learns to cope with its own degraded content.
Teacher and critic receive the prepared clips' conditions, which describe the real clip. No gradient goes through the
pictures.

**Regression** (``regression_weight``) is ours, not the paper's: the distance between the rollout and the clip whose
tracks it follows. It assumes that the tracks determine the clip, which is nearly true of rendered ones; otherwise it
draws the student towards the mean or the median of the possible clips. Without regression, only frame 0 of the clips'
latents is used, the given picture.

**With a Gaussian prior** (``nano``) all three networks predict in units of the posterior's standard deviation around
the same fixed prior. Where the prior is certain, their x0 differ little, so an unweighted difference would train only
the few uncertain cells. It is therefore weighted as in ``x0_loss``, the metric of the other stages. Without a prior
that weight is one number per clip, which the normalisation cancels: the paper's loss.

**Below temperature 1** the teacher's own samples start from less noise and stay nearer to its mean; training the
student towards the teacher's full distribution would undo that. The noise added to generated clips is therefore scaled
by the temperature, for both scores and in the critic's training. The teacher assumes more noise than there is and
predicts nearer to its mean; the critic has learned the true amount. They agree if the student is the teacher with
deviations scaled by the temperature: exactly for Gaussians (``tests/training/test_dmd.py``), otherwise approximately.
At temperature 0 (``nano``) there is no noise, and only regression can train: the critic could compute
x0 = x_t / (1 − t) without looking, and the normalised gradient would be as large near the teacher's clip as far from
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.config import CausalConfig, ModelConfig
from motionstream.model.flow import add_noise, hold_picture, velocity_to_x0
from motionstream.model.motion_model import Conditions
from motionstream.sampler.bidirectional import guided_velocity
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.diffusion.dmd import Denoiser, dmd_gradient, dmd_loss, score_times
from motionstream.training.diffusion.flow_matching import evaluate_loss, null_conditions, x0_loss
from motionstream.training.diffusion.rollouts import keyed_conditions, roll_out, rollout_figures
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.validation import ClipView
from motionstream.training.loop.distributed import SampleDraws, keyed_generator, shard
from motionstream.training.loop.stage import Stage

SMOOTH = 0.05
"""Distance below which the median's loss is approximately quadratic."""


@dataclass(frozen=True)
class SelfForcingConfig:
    """Rollouts and losses of Self-Forcing. Each step draws a sink and a window, so that one student supports them all;
    the paper distils one configuration at a time. The chunk size is the model's."""

    critic_updates: int = 5
    """Updates of the critic before each of the student."""
    critic_first: int = 0
    """Number of first steps that update only the critic, which initially knows nothing of the student."""
    sinks: tuple[int, ...] = (1,)
    windows: tuple[int, ...] = (1,)
    guided: bool = True
    """Joint guidance of the real score, with the sampler's weights. Only for teachers whose guided samples are
    better."""
    own_content: bool = True
    """Tracks that begin late take their content from the rollout's own frames, as in a stream; False: from the prepared
    clips. No effect on models that carry none."""
    score_weight: float = 1.0
    """Weight of the distribution matching loss; at 0 no critic is trained, only regression remains."""
    regression_weight: float = 0.0
    """Weight of the distance from the clips' own latents (``x0_loss``): ours, 0 in the paper."""
    regression_to: Literal["mean", "median"] = "mean"
    """What the student learns if a cell has several possible latents: their mean, by the squared distance, or their
    median, by the distance. If the carried content is usually right, it is the median, while the mean blurs it."""
    regression_evenly: bool = False
    """All cells count alike, for clips that the conditions determine everywhere; otherwise a cell counts the less the
    less sure its prior is (``x0_loss``)."""

    def __post_init__(self) -> None:
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates = {self.critic_updates}: the critic must follow the student, at least 1")
        if self.critic_first < 0:
            raise ValueError(f"critic_first = {self.critic_first}: must not be negative")
        for name, weight in (("score_weight", self.score_weight), ("regression_weight", self.regression_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} = {weight}: must be a number, not negative")
        if self.regression_to not in ("mean", "median"):
            raise ValueError(f"regression_to = {self.regression_to!r}: 'mean' or 'median'")
        if self.score_weight == self.regression_weight == 0:
            raise ValueError("score_weight and regression_weight are both 0: nothing would be trained")
        for name, sizes in (("sinks", self.sinks), ("windows", self.windows)):
            if not sizes or min(sizes) < 0:
                raise ValueError(f"{name} = {sizes}: name at least one size, none of them negative")


def check_rollouts(settings: SelfForcingConfig, config: ModelConfig, frames: int) -> None:
    """Raise ValueError if rollouts of ``frames`` latent frames cannot train the student.

    At least one of the caches must roll within a clip, and distribution matching needs a temperature above 0.
    """
    temperature = config.sampler.temperature
    if settings.score_weight > 0 and temperature == 0:
        raise ValueError(
            f"self-forcing of {config.name}: score_weight = {settings.score_weight:g} at sampler.temperature = 0 "
            "compares clips without noise, which teaches nothing; give the model a temperature above 0, or regress "
            "instead (score_weight = 0, regression_weight = 1)"
        )
    chunks = frames // config.causal.chunk_frames
    needed = min(settings.sinks) + min(settings.windows) + 2
    if chunks < needed:
        raise ValueError(
            f"self-forcing of {config.name}: clips of {chunks} chunks never roll a cache of sinks {settings.sinks} and "
            f"windows {settings.windows}; train on clips of at least {needed} chunks, "
            f"{config.frames_of(needed * config.causal.chunk_frames)} frames"
        )


@dataclass(frozen=True)
class _Drawn:
    """The random choices of one step. ``causal`` and ``exit_step`` hold for the whole global batch; the rest is drawn
    per sample: ``ids`` seed the tracks' ids, equal for all networks; ``seeds`` seed the rollout; noise levels ``t``
    (B, F); ``noise`` (B, C, F, h, w) at the sampler's temperature."""

    causal: CausalConfig
    exit_step: int
    ids: list[int]
    seeds: list[int]
    t: Tensor
    noise: Tensor


def towards(error: Tensor, to: Literal["mean", "median"]) -> Tensor:
    """A loss of squared errors (B, C, F, h, w) whose minimum, cell by cell, is the mean or the geometric median of the
    targets."""
    if to == "mean":
        return error.mean()
    return ((error.mean(dim=1) + SMOOTH**2).sqrt() - SMOOTH).mean()


class SelfForcingStage(Stage):
    """See the module's docstring. ``module`` is the student, ``opponent`` the critic. The networks are passed with
    weights: the student with the causal stage's, teacher and critic with the teacher's. ``autoencoder`` is needed by
    models that carry content, unless ``own_content`` is off."""

    def __init__(
        self,
        student: Trainee,
        teacher: Trainee,
        critic: Trainee,
        pool: ClipSource,
        validation: PreparedClips,
        long_validation: PreparedClips | None,
        settings: SelfForcingConfig,
        *,
        seed: int,
        autoencoder: LinearAutoencoder | None = None,
        view: ClipView | None = None,
    ) -> None:
        super().__init__(student)
        self.student, self.teacher, self.critic = student, teacher, critic
        self.opponent, self.frozen = critic, (teacher,)
        self.pool, self.settings, self.seed = pool, settings, seed
        self.validation, self.long_validation, self.view = validation, long_validation, view
        self.autoencoder = None
        if student.model.config.carry is not None and settings.own_content:
            assert autoencoder is not None, "own content is decoded and encoded: give the autoencoder"
            self.autoencoder = autoencoder.eval().requires_grad_(False).to(student.model.device)
        self._last: dict[str, Any] = {}
        check_rollouts(settings, student.model.config, validation.latents.shape[2])
        for network in (student, critic):
            for part in (network.model.track_head, network.model.carry_prior):
                if part is not None:
                    part.requires_grad_(False)
        teacher.eval().requires_grad_(False)

    def turn(self, step: int) -> Literal["module", "opponent"]:
        """Which network ``step`` updates: ``critic_updates`` times the critic, then the student."""
        if self.settings.score_weight == 0:
            return "module"
        cycle = self.settings.critic_updates + 1
        return "module" if step >= self.settings.critic_first and step % cycle == cycle - 1 else "opponent"

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = shard(self.pool.batch)
        clips = self.pool.at(step, samples).to(self.student.model.device)
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
        with torch.no_grad():
            told = keyed_conditions(self.teacher, clips, drawn.ids)
        settings, numbers = self.settings, {"exit_step": float(drawn.exit_step)}
        loss = x0.new_zeros(())
        if settings.score_weight:
            matching, figures = self._matching_loss(x0, clips, drawn, told)
            numbers |= {"dmd": matching.item(), **figures}
            loss = loss + settings.score_weight * matching
        if settings.regression_weight:
            if settings.regression_evenly:
                error = (x0 - clips.latents) ** 2
            else:
                level = self.student.model.config.sampler.student_times[drawn.exit_step]
                error = x0_loss(x0, clips.latents, x0.detach(), torch.full_like(drawn.t, level), told)
            regression = towards(error[:, :, 1:], settings.regression_to)
            numbers["regression"] = regression.item()
            loss = loss + settings.regression_weight * regression
        return loss, numbers

    def _matching_loss(
        self, x0: Tensor, clips: PreparedClips, drawn: _Drawn, told: Conditions
    ) -> tuple[Tensor, dict[str, float]]:
        """The distribution matching loss of generated clips ``x0``; ``told``: the teacher's conditions."""
        clean = self.student.model.config.image_conditioning == "first_latent"
        noisy = add_noise(x0.detach(), drawn.noise, drawn.t)
        noisy, t = hold_picture(noisy, drawn.t, clips.latents[:, :, :1], drawn.noise, clean=clean)
        with torch.no_grad():
            # the weight of x0_loss: its value for an error of 1
            weight = x0_loss(torch.ones_like(x0), torch.zeros_like(x0), noisy, t, told)
            real, fake = self._real(clips, told, drawn.ids), self._fake(clips, drawn.ids)
            gradient, figures = dmd_gradient(x0.detach(), noisy, t, real, fake, weight)
        return dmd_loss(x0, gradient), figures

    def _critic_loss(self, clips: PreparedClips, drawn: _Drawn) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            x0 = self._generate(clips, drawn)
        told = keyed_conditions(self.critic, clips, drawn.ids)
        loss = evaluate_loss(self.critic.model, x0, drawn.t, drawn.noise, told)
        return loss, {"critic": loss.item()}

    def _generate(self, clips: PreparedClips, drawn: _Drawn) -> Tensor:
        """The student's clips (B, C, F, h, w); latent frame 0 is the given picture's."""
        return roll_out(
            self.student,
            clips,
            drawn.ids,
            seed=drawn.seeds,
            cache=self.student.model.make_cache(
                len(clips), (clips.latents.shape[3], clips.latents.shape[4]), drawn.causal
            ),
            exit_step=drawn.exit_step,
            autoencoder=self.autoencoder,
        )

    def _real(self, clips: PreparedClips, told: Conditions, ids: list[int]) -> Denoiser:
        """The teacher's x0 prediction, under joint guidance (equation 2) if ``guided``."""
        model, guidance = self.teacher.model, None
        if self.settings.guided:
            generators = [torch.Generator().manual_seed(seed) for seed in ids]
            guidance = null_conditions(model, self.teacher.text, clips, told, generators)
        return lambda noisy, t: velocity_to_x0(noisy, guided_velocity(model, noisy, t, told, guidance), t)

    def _fake(self, clips: PreparedClips, ids: list[int]) -> Denoiser:
        """The critic's x0 prediction, never guided: guidance would make the difference meaningless (section 3.2)."""
        model, told = self.critic.model, keyed_conditions(self.critic, clips, ids)
        return lambda noisy, t: velocity_to_x0(noisy, model(noisy, t, told), t)

    def before(self) -> dict[str, float]:
        """The student's figures after the causal stage (``ode_``)."""
        figures = self.validate(self.student)
        return {f"ode_{k}": v for k, v in figures.items() if "carried" not in k and "frozen" not in k}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Figures (``rollout_figures``) of held-out rollouts at the model's own sink and window: of a clip's length,
        and several times as long (``long_``)."""
        figures = rollout_figures(self.student, self.validation, self.autoencoder, self.view)
        if self.long_validation is not None:
            long = rollout_figures(self.student, self.long_validation, self.autoencoder)
            figures |= {f"long_{name}": value for name, value in long.items()}
        return figures

    def pictures(self) -> dict[str, np.ndarray]:
        """Pictures of the last validation."""
        return {} if self.view is None else self.view.pictures()
