"""The recipes by name, as ``motionstream train --recipe`` takes them."""

from __future__ import annotations

from collections.abc import Callable

from motionstream.training.nano_recipes import IDS_TEACHER, debug, nano, nano_debug, nano_ids
from motionstream.training.recipes import Recipe, part
from motionstream.training.wan_recipes import affordable, debug_wan, wan21, wan22

RECIPES: dict[str, Callable[[float | None], Recipe]] = {
    "nano": nano,
    "nano-ids": nano_ids,
    "nano-debug": nano_debug,
    "debug": debug,
    "wan2.1-1.3b": wan21,
    "wan2.2-5b": wan22,
    "wan2.1-1.3b-lora": lambda minutes: affordable(wan21(minutes)),
    "wan2.2-5b-lora": lambda minutes: affordable(wan22(minutes)),
    "wan2.1-debug": lambda minutes: debug_wan("wan2.1-debug", minutes),
    "wan2.2-debug": lambda minutes: debug_wan("wan2.2-debug", minutes),
}


def recipe_named(name: str, minutes: float | None = None, stage: str = "all") -> Recipe:
    """A recipe; ``minutes`` bounds the wall clock of all of its stages together, each of which has its share whatever
    ``stage`` is trained. But the teacher of nano-ids, which is mostly trained alone, then has all of them. ValueError
    for a name that there is none of."""
    if name not in RECIPES:
        raise ValueError(f"--recipe is {name!r}; known: {', '.join(sorted(RECIPES))}")
    if (name, stage) == ("nano-ids", "teacher"):
        return nano_ids(part(minutes, 1 / IDS_TEACHER))
    return RECIPES[name](minutes)
