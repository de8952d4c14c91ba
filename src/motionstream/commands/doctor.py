"""``motionstream doctor``: what is here, what is missing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import ClassVar

# Import names of what pyproject.toml requires.
NEEDED = (
    *("av", "cv2", "diffusers", "einops", "fastapi", "numpy", "PIL", "rich", "safetensors", "simplejpeg"),
    *("skimage", "torch", "torchmetrics", "tyro", "uvicorn", "websockets"),
)


@dataclass(frozen=True)
class DoctorCommand:
    """``motionstream doctor`` has no options."""

    HELP: ClassVar[str] = """\
Say what this installation has and what it lacks; exit code 1 if anything needed is missing.

Examples:
  motionstream doctor"""

    def run(self) -> int:
        """Print one line a finding."""
        from importlib.util import find_spec

        from motionstream import __version__

        print(f"motionstream {__version__}")
        print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
        packages = [name for name in NEEDED if find_spec(name) is None]
        missing = [f"the package {name} (make setup installs it)" for name in packages]
        if not packages:
            missing += self._look()
        for line in missing or ["nothing"]:
            print(f"missing      {line}")
        return 1 if missing else 0

    def _look(self) -> list[str]:
        """Print what there is; returns what is missing."""
        import av
        import torch

        from motionstream.environment import processor
        from motionstream.pipeline import WEIGHTS
        from motionstream.presets import PRESETS

        print(f"torch        {torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} cores")
        print(f"device       {processor()}; the embedded models run on the CPU")
        models = sorted(path.parent.name for path in WEIGHTS.glob("*/model.json"))
        print(f"models       {', '.join(models) or 'none'} embedded; presets: {', '.join(sorted(PRESETS))}")
        missing = []
        if "nano" not in models:
            missing.append("the weights of nano (motionstream train makes them; --untrained does without)")
        if "libx264" not in av.codecs_available:
            missing.append("libx264 in PyAV, which writes videos (install av from its wheel)")
        return missing
