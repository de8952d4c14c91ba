"""``motionstream train``: the stages of a recipe, and the export of what they made."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import check_positive

if TYPE_CHECKING:
    from motionstream.training.recipes import Recipe


@dataclass(frozen=True)
class TrainCommand:
    """The options of ``motionstream train``."""

    HELP: ClassVar[str] = """\
Train a model from nothing, stage by stage; a stage called again goes on where it stopped.

Examples:
  motionstream train all --recipe nano --folder work/nano --minutes 120
  motionstream train teacher --recipe nano --folder work/nano
  motionstream train export --recipe nano --folder work/nano -o work/nano/model
  motionstream stream photo.jpg --model work/nano/model --drag 0.3,0.5:0.7,0.5"""

    stage: tyro.conf.Positional[Literal["autoencoder", "teacher", "causal", "self-forcing", "decoder", "all", "export"]]
    """What to train; all: every stage in order; export: make a model's folder of the finished stages."""
    recipe: str = "nano"
    """The numbers of the run: nano, or debug (everything once, for tests)."""
    folder: Path = Path("work/nano")
    """Where checkpoints, logs and weights are."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="M")] = None
    """Budget of all stages together, shared out among them; without it every stage takes all its steps."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None
    """Of export alone: the folder to write."""

    def run(self) -> None:
        """Train the stage, or all of them, or export."""
        check_positive("--minutes", self.minutes, "minutes")
        if (self.output is not None) != (self.stage == "export"):
            needs = "needs -o DIR, the folder to write" if self.output is None else "takes no -o; only export does"
            raise ValueError(f"train {self.stage} {needs}")
        from motionstream.training import recipes

        if self.recipe not in recipes.RECIPES:
            raise ValueError(f"--recipe is {self.recipe!r}; known: {', '.join(sorted(recipes.RECIPES))}")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--folder {self.folder} is a file; name a folder")
        recipe = recipes.RECIPES[self.recipe](self.minutes)
        if self.output is not None:
            recipes.export(recipe, self.folder, self.output)
            print(f"{self.output}: the model; use it with --model {shlex.quote(str(self.output))}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for stage in recipes.STAGES if self.stage == "all" else (self.stage,):
            self._train(stage, recipe)

    def _train(self, stage: str, recipe: Recipe) -> None:
        from motionstream.training import recipes
        from motionstream.training.distributed import process_group

        with process_group():
            recipes.TRAINERS[stage](recipe, self.folder, lambda line: print(line, flush=True))
        print(f"{recipes.weights_path(self.folder, stage)}: the {stage} stage is done")
