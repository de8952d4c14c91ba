"""``motionstream evaluate``: measure a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro


@dataclass(frozen=True)
class EvaluateCommand:
    """The options of ``motionstream evaluate``."""

    HELP: ClassVar[str] = """\
Measure how well a model follows, against references that need no model.

rendered: on held-out rendered clips, whose tracks are known exactly.
long: drift of what nobody drags over a long stream, with and without an attention sink.

Examples:
  motionstream evaluate rendered
  motionstream evaluate long --seconds 60
  motionstream evaluate rendered --clips 16 --seed 1 --output results.json"""

    name: tyro.conf.Positional[Literal["rendered", "long"]]
    """Which evaluation."""
    model: str = "nano"
    """An embedded model, or a folder with one."""
    clips: int = 32
    """How many clips (rendered)."""
    seconds: float = 60.0
    """How long the stream is (long)."""
    seed: int = 0
    """Which clips, and which noise."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the numbers."""
    untrained: bool = False
    """Accept weights that were not trained."""

    def run(self) -> None:
        """Check the options, then evaluate; the evaluation prints its own table."""
        if not 1 <= self.clips <= 100_000:
            raise ValueError(f"--clips is {self.clips}; give 1 to 100000")
        if self.output is not None:
            from motionstream.media import check_output

            check_output(self.output, (".json",))
        if self.name == "long":
            from motionstream.evaluation.long import evaluate_long

            evaluate_long(self.model, self.seconds, self.seed, self.output, self.untrained)
            return
        from motionstream.evaluation.rendered import evaluate

        evaluate(model=self.model, clips=self.clips, seed=self.seed, output=self.output, untrained=self.untrained)
