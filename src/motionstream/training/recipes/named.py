"""The recipes by name, for ``motionstream train --recipe``."""

from __future__ import annotations

from collections.abc import Callable

from motionstream.training.recipes.nano import debug, nano, nano_debug, nano_ids
from motionstream.training.recipes.recipe import Recipe
from motionstream.training.recipes.wan import affordable, debug_wan, wan21, wan22

RECIPES: dict[str, Callable[[float | None], Recipe]] = {
    "nano": nano,
    "nano-ids": nano_ids,
    "nano-along": lambda minutes: nano_ids(minutes, "nano-along"),
    "nano-debug": nano_debug,
    "debug": debug,
    "wan2.1-1.3b": wan21,
    "wan2.2-5b": wan22,
    "wan2.1-1.3b-lora": lambda minutes: affordable(wan21(minutes)),
    "wan2.2-5b-lora": lambda minutes: affordable(wan22(minutes), shard=True),
    "wan2.1-debug": lambda minutes: debug_wan("wan2.1-debug", minutes),
    "wan2.2-debug": lambda minutes: debug_wan("wan2.2-debug", minutes),
}


def recipe_named(name: str, minutes: float | None = None) -> Recipe:
    """The recipe of a name.

    ``minutes``: wall-clock budget of all stages together; each has a fixed share of it, even if only one stage is
    trained. Raises ValueError for an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"--recipe is {name!r}; known: {', '.join(sorted(RECIPES))}")
    return RECIPES[name](minutes)
