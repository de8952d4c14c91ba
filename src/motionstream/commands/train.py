"""``motionstream train``: runs the stages of a recipe, and exports the resulting model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import check_positive

if TYPE_CHECKING:
    from motionstream.training.recipes.recipe import Recipe


@dataclass(frozen=True)
class TrainCommand:
    """The options of ``motionstream train``."""

    HELP: ClassVar[str] = """\
Train a model from scratch, stage by stage; calling a stage again resumes it.

Examples:
  motionstream train all --recipe nano --folder work/nano --minutes 120
  motionstream train teacher --recipe nano --folder work/nano
  motionstream train teacher --recipe nano --shards work/clips --base nano --folder work/mine
  motionstream train tiny-decoder --recipe wan2.1-1.3b-lora --base wan-folder --videos films --folder work/tiny
  motionstream train all --recipe wan2.1-1.3b --dry-run --gpus 8 --gpu H100 --gpu-memory 80
  motionstream train export --recipe nano --folder work/nano -o work/nano/model
  motionstream stream photo.jpg --model work/nano/model --drag 0.3,0.5:0.7,0.5"""

    stage: tyro.conf.Positional[
        Literal[
            "autoencoder",
            "mixer",
            "teacher",
            "teacher-forcing",
            "causal",
            "self-forcing",
            "decoder",
            "tiny-decoder",
            "all",
            "export",
        ]
    ]
    """The stage to train. all: every stage in order except teacher-forcing, whose weights causal starts from if they
    exist; export: write a model's folder from the finished stages."""
    recipe: str = "nano"
    """The numbers of the run: nano; nano-ids, nano-along (32x32, the paper's track ids, and latents along tracks);
    wan2.1-1.3b, wan2.2-5b (the paper's); wan2.1-1.3b-lora, wan2.2-5b-lora (affordable); nano-debug, debug,
    wan2.1-debug, wan2.2-debug (everything once, for tests)."""
    folder: Path = Path("work/nano")
    """Folder of checkpoints, logs and weights."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="M")] = None
    """Budget of all stages together; a stage called separately gets its share, teacher-forcing an additional
    one. By default every stage runs all its steps."""
    shards: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")] = ()
    """Folders written by `motionstream prepare`: one, or one per phase of the teacher, of which distillation uses the
    last. By default clips are rendered, if the recipe supports it."""
    held_out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Prepared clips for validation; by default clips of the last folder of --shards, which are also trained on."""
    base: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """A model, by name or folder, whose autoencoder and encoders are used; shards must have been prepared with it. If
    its transformer has the same sizes, the teacher starts from its weights."""
    student: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Transformer from which the student starts instead of the teacher's weights, such as a public causal student (any
    checkpoint that `motionstream convert` reads)."""
    videos: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of videos for the tiny decoder; the last tenth by name, at most eight videos, is held out for validation.
    By default clips are rendered, if the recipe supports it."""
    lpips: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """LPIPS weights for the tiny decoder, written by `motionstream convert lpips`; by default our stand-in is used."""
    accumulate: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Gradient accumulation: divide batches into this many micro-batches, to save memory. By default as in the recipe:
    Wan's process one clip at a time per GPU."""
    dry_run: bool = False
    """Print parameters, memory per GPU and hours of the diffusion stages without training."""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """For --dry-run: number of GPUs; by default torchrun's number of processes, or one."""
    gpu: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """For --dry-run: type of GPU, such as H100; by default this machine's device."""
    gpu_memory: Annotated[float | None, tyro.conf.arg(metavar="GIB")] = None
    """For --dry-run: memory per GPU, to show which settings would make the recipe fit."""
    share: float = 0.4
    """For --dry-run: share of the peak speed that is reached."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Only for export: the folder to write."""
    through: Literal["teacher", "causal"] | None = None
    """Only for export: the last stage to include, for comparisons (`evaluate compare`)."""

    def run(self) -> None:
        """Train one or all stages, or export."""
        check_positive("--minutes", self.minutes, "minutes")
        if (self.output is not None) != (self.stage == "export"):
            needs = "needs -o DIR, the folder to write" if self.output is None else "takes no -o; only export does"
            raise ValueError(f"train {self.stage} {needs}")
        if self.through is not None and self.stage != "export":
            raise ValueError(f"train {self.stage} takes no --through; only export does")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--folder {self.folder} is a file; name a folder")
        from motionstream.training.diffusion.self_forcing import check_rollouts
        from motionstream.training.recipes.named import recipe_named
        from motionstream.training.recipes.recipe import check_data

        recipe = self._recipe()
        if self.output is not None:
            from motionstream.training.export import export

            export(recipe, self.folder, self.output, self.through)
            print(f"{self.output}: the model; use it with --model {shlex.quote(str(self.output))}")
            return
        if self.stage != "all" and self.stage not in (*recipe.stages, *recipe.optional_stages):
            hint = f", and the rest is of --base {self.base}" if self.stage in recipe_named(self.recipe).stages else ""
            if self.stage == "tiny-decoder":
                hint = "; --videos DIR adds the tiny decoder"
            raise ValueError(f"train {self.stage}: recipe {self.recipe} has {', '.join(recipe.stages)}{hint}")
        stages = recipe.stages if self.stage == "all" else (self.stage,)
        if self.dry_run:
            self._tell(recipe, stages)
            return
        check_data(recipe)
        check_rollouts(recipe.rollouts, recipe.model, recipe.latent_frames)  # before hours of the earlier stages
        self.folder.mkdir(parents=True, exist_ok=True)
        from motionstream.hardware import bfloat16_pays
        from motionstream.training.loop.distributed import device, process_group, world_size
        from motionstream.training.recipes.recipe import in_float32, on_gpus

        if recipe != in_float32(recipe) and not bfloat16_pays(device()):
            recipe = in_float32(recipe)
            print("training in float32: this processor is slower in bfloat16", flush=True)
        with process_group():  # once for all stages: creating a second group right after the first is racy
            recipe = on_gpus(recipe, world_size())
            _check_batches(recipe, stages)
            for stage in stages:
                self._train(stage, recipe)

    def _tell(self, recipe: Recipe, stages: tuple[str, ...]) -> None:
        """Print the plan of a dry run."""
        import os

        from motionstream.training.planning.plan import PLANNED, Machine, plan

        memory = None if self.gpu_memory is None else int(self.gpu_memory * 2**30)
        gpus = int(os.environ.get("WORLD_SIZE", 1)) if self.gpus is None else self.gpus
        machine = Machine(gpus, self.gpu, memory, self.share)
        for stage in plan(recipe, stages, machine):
            print("\n".join(stage.lines(machine)))
        if others := [stage for stage in stages if stage not in PLANNED]:
            print(f"not planned, small beside these: {', '.join(others)}")

    def _recipe(self) -> Recipe:
        """The named recipe with the changes by options."""
        from motionstream.training.recipes.named import recipe_named
        from motionstream.training.recipes.recipe import in_parts, with_data

        recipe = with_data(
            recipe_named(self.recipe, self.minutes),
            self.shards,
            self.held_out,
            self.base,
            videos=self.videos,
            lpips=self.lpips,
        )
        if self.accumulate is not None:
            recipe = in_parts(recipe, self.accumulate)
        return recipe if self.student is None else replace(recipe, student=self.student)

    def _train(self, stage: str, recipe: Recipe) -> None:
        from motionstream.training.loop.distributed import rank
        from motionstream.training.run_folder import stage_run
        from motionstream.training.sources import weights_path
        from motionstream.training.stages import TRAINERS

        with stage_run(self.folder, stage):
            TRAINERS[stage](recipe, self.folder, lambda line: print(line, flush=True))
        if rank() == 0:
            print(f"{weights_path(self.folder, stage)}: the {stage} stage is done", flush=True)


def _check_batches(recipe: Recipe, stages: tuple[str, ...]) -> None:
    """Raise ValueError, before hours of training, if a batch of any stage does not divide among the ranks."""
    from motionstream.training.loop.distributed import micro_batch, shard

    distilled = recipe.self_forcing_batch or recipe.batch
    runs = {
        "teacher": [(recipe.batch, phase.train) for phase in recipe.teacher],
        "teacher-forcing": [(recipe.batch, recipe.forcing.train)] if recipe.forcing is not None else [],
        "causal": [(recipe.batch, recipe.causal)],
        "self-forcing": [(distilled, recipe.self_forcing)],
        "tiny-decoder": [(recipe.tiny.loss.batch, recipe.tiny.train)] if recipe.tiny is not None else [],
    }
    if recipe.autoencoder is not None:
        runs["autoencoder"] = [(recipe.autoencoder.batch, recipe.autoencoder.train)]
        runs["decoder"] = [(recipe.autoencoder.batch, recipe.autoencoder.decoder)]
    if recipe.mixer is not None:
        own = recipe.mixer
        parts = [(own.outline_batch, own.outline), (own.batch, own.look), (own.batch, own.train)]
        runs["mixer"] = [(batch, run) for batch, run in parts if run is not None]
    for stage in stages:
        for batch, config in runs[stage]:
            with micro_batch(0, config.accumulate):
                try:
                    shard(batch)
                except ValueError as error:
                    raise ValueError(f"{stage}: {error}") from None
