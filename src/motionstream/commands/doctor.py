"""``motionstream doctor``: reports what is installed, what is missing, and which models fit into memory."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from motionstream.commands.common import check_positive

if TYPE_CHECKING:
    from motionstream.config import ModelConfig
    from motionstream.memory import Budget

# Import names of the packages that pyproject.toml requires.
NEEDED = (
    *("accelerate", "av", "cv2", "diffusers", "einops", "fastapi", "numpy", "PIL", "rich", "safetensors", "simplejpeg"),
    *("skimage", "torch", "torchmetrics", "tyro", "uvicorn", "websockets"),
)

OPTIONAL = {
    "transformers": "the text and image encoders of the Wan models",
    "ftfy": "prompts cleaned as Wan's are",
}

GIB = 2**30


@dataclass(frozen=True)
class DoctorCommand:
    """The options of ``motionstream doctor``."""

    HELP: ClassVar[str] = """\
Report what this installation has and lacks, and which models fit into memory; the exit code is 1 if anything required
is missing.

Examples:
  motionstream doctor
  motionstream doctor --preset wan2.1-1.3b --memory 16
  motionstream doctor --memory 24 --causal c3s1w2 --json"""

    preset: str | None = None
    """Show the memory of only this model; by default of all models except those for tests."""
    memory: Annotated[float | None, tyro.conf.arg(metavar="GIB")] = None
    """For planning: assume an empty CUDA GPU with this much memory."""
    causal: str | None = None
    """Attention pattern, written like c3s1w1; by default the models' own."""
    json: bool = False
    """Print one JSON object, with all numbers in bytes."""

    def run(self) -> int:
        """Check the options, examine the installation, and print the findings."""
        from motionstream import __version__
        from motionstream.config import CausalConfig

        check_positive("--memory", self.memory, "GiB")
        if self.causal is not None:
            CausalConfig.parse(self.causal)
        facts: dict[str, Any] = {
            "motionstream": __version__,
            "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            "missing": [f"the package {name} (make setup installs it)" for name in absent(NEEDED)],
            "optional": {name: OPTIONAL[name] for name in absent(OPTIONAL)},
        }
        if not facts["missing"]:
            self._look(facts)
        if self.json:
            print(json.dumps(facts))
        else:
            show(facts)
        return 1 if facts["missing"] else 0

    def _look(self, facts: dict[str, Any]) -> None:
        """Add the facts that need all required packages."""
        import av
        import torch

        from motionstream.environment import processor
        from motionstream.model.backends import describe
        from motionstream.pipeline import WEIGHTS
        from motionstream.presets import PRESETS

        facts["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"
        facts["processor"] = processor()
        facts["devices"] = devices()
        facts["attention"] = describe()
        facts["models"] = sorted(path.parent.name for path in WEIGHTS.glob("*/model.json"))
        facts["presets"] = sorted(PRESETS)
        if "nano" not in facts["models"]:
            facts["missing"].append("the weights of nano (motionstream train makes them; --untrained does without)")
        if "libx264" not in av.codecs_available:
            facts["missing"].append("libx264 in PyAV, which writes videos (install av from its wheel)")
        device = facts["devices"][0]
        if self.memory is not None:
            device = {"name": f"a CUDA card of {self.memory:g} GiB", "kind": "cuda", "free": int(self.memory * GIB)}
        facts["memory"] = {"device": device, "models": self._memory(device, facts["optional"])}

    def _memory(self, device: dict[str, Any], lacking: Iterable[str]) -> list[dict[str, Any]]:
        """A row for every model and picture shape: the budget on ``device`` and the options that would make it fit."""
        from motionstream.component_config import TextConfig
        from motionstream.config import CausalConfig
        from motionstream.memory import estimate, remedy, switches_text
        from motionstream.presets import PRESETS, preset

        names = [self.preset] if self.preset else [name for name in PRESETS if "debug" not in name]
        switches = {} if self.causal is None else {"causal": CausalConfig.parse(self.causal)}
        rows = []
        for config in (preset(name) for name in names):
            if "transformers" in lacking and not isinstance(config.text, TextConfig):
                continue
            for sizes in shapes(config):
                options: dict[str, Any] = {"size": sizes[0], **switches}
                budget = estimate(config, device=device["kind"], **options)
                found = remedy(config, device["free"], device["kind"], **options)
                rows.append(
                    {
                        "preset": config.name,
                        "sizes": [f"{width}x{height}" for height, width in sizes],
                        "peak": budget.peak,
                        "worst": budget.worst,
                        "resident": budget.resident,
                        "moments": budget.moments,
                        "columns": columns(budget),
                        "fits": found == {},
                        "fits_with": None if found is None else switches_text(found),
                    }
                )
        return rows


def absent(packages: Iterable[str]) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def devices() -> list[dict[str, Any]]:
    """All devices with their total and free bytes; the default device is first."""
    import torch

    from motionstream.memory import machine_memory

    found = [(f"cuda:{i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(("mps", "Metal"))
    rows = []
    for device, name in [*found, ("cpu", "the processor")]:
        total, free = machine_memory(device)
        rows.append({"name": f"{device} ({name})", "kind": device.partition(":")[0], "total": total, "free": free})
    return rows


def shapes(config: ModelConfig) -> list[list[tuple[int, int]]]:
    """The sizes of a model; portrait and landscape are grouped, since they need the same memory."""
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for size in config.all_sizes:
        groups.setdefault(tuple(sorted(size)), []).append(size)
    return list(groups.values())


def columns(budget: Budget) -> dict[str, int]:
    """A budget as few numbers: the first four are resident and add up; of the others only the largest is added."""
    stays, moments = dict(budget.resident), dict(budget.moments)
    weights = stays.pop("transformer") + stays.pop("conditioning")
    cache, overhead = stays.pop("key-value cache"), stays.pop("overhead")
    generate = max(moments.pop("generating"), moments.pop("writing the cache"))
    decode = moments.pop("decoding")
    return {
        "weights": weights,
        "cache": cache,
        "decoder": sum(stays.values()),
        "overhead": overhead,
        "generate": generate,
        "decode": decode,
        "encode": max(moments.values()),
    }


def show(facts: dict[str, Any]) -> None:
    """Print one line per finding, and the table of models."""
    print(f"motionstream {facts['motionstream']}")
    print(f"python       {facts['python']}")
    if "torch" in facts:
        print(f"torch        {facts['torch']}")
        print(f"processor    {facts['processor']}")
        for device in facts["devices"]:
            print(f"device       {device['name']}: {size(device['free'])} GiB free of {size(device['total'])}")
        for line in facts["attention"]:
            print(f"attention    {line}")
        print(f"models       {', '.join(facts['models']) or 'none'} embedded; presets: {', '.join(facts['presets'])}")
    for name, purpose in facts["optional"].items():
        print(f'optional     {name} is not here, for {purpose} (pip install -e ".[wan]")')
    for line in facts["missing"] or ["nothing"]:
        print(f"missing      {line}")
    if facts.get("memory", {}).get("models"):
        print_table(**facts["memory"])


def print_table(device: dict[str, Any], models: list[dict[str, Any]]) -> None:
    """Print the memory of every model and whether it fits."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    table = Table(title=f"Memory in GiB on {device['name']}, {size(device['free'])} free", title_justify="left")
    table.add_column("model")
    table.add_column("video")
    for name in (*models[0]["columns"], "peak"):
        table.add_column(name, justify="right")
    table.add_column("fits")
    for row in models:
        fits = "yes" if row["fits"] else f"with {row['fits_with']}" if row["fits_with"] else "no"
        numbers = [size(value) for value in (*row["columns"].values(), row["peak"])]
        table.add_row(row["preset"], ", ".join(row["sizes"]), *numbers, fits)
    console.print(table)
    console.print(
        "Peak: weights, cache, decoder (autoencoder and stream state) and overhead stay; generate, decode and encode "
        "follow one another, and only the largest counts. These are estimates: see docs/memory.md."
    )


def size(count: int) -> str:
    """Bytes in GiB."""
    return f"{count / GIB:.1f}"
