"""Checks whether a model fits in memory, and finds options with which it does."""

from __future__ import annotations

from typing import Any, get_args

import torch

from motionstream.component_config import TextPlacement, UMT5Config, WanAutoencoderConfig
from motionstream.config import ModelConfig
from motionstream.memory.budget import Budget, estimate, gib
from motionstream.memory.machine import machine_memory

TILES = (32, 16)
"""Sides of autoencoder tiles to try, in latent cells."""

SMALLER = (0.75, 0.5)
"""Lower resolutions to try, as factors of height and width."""


def check_fits(config: ModelConfig, device: torch.device | str, **switches: Any) -> Budget:
    """The budget of a model about to be loaded. ``switches`` are the arguments of ``estimate``.

    Raises:
        ValueError: it needs more than is free. The message has the budget and options with which it fits.
    """
    device = torch.device(device)
    budget = estimate(config, device=device.type, **switches)
    total, free = machine_memory(device)
    if budget.peak <= free:
        return budget
    found = remedy(config, free, device.type, **switches)
    advice = "nothing here makes it fit, take a smaller model"
    if found is not None:
        advice = f"it fits with {switches_text(found)}"
    height, width = switches.get("size") or config.size
    raise ValueError(
        f"{config.name} at {width}x{height} needs {gib(budget.peak)} on {device}, which has {gib(free)} free of "
        f"{gib(total)}; {advice} (while {budget.worst}: {budget})"
    )


def remedy(config: ModelConfig, free: int, device: str, **switches: Any) -> dict[str, Any] | None:
    """The mildest changes of ``switches`` with which a model fits into ``free`` bytes; None if none suffice.

    Added one by one in this order, then those that are not needed are removed again: tiny decoder; text encoder
    released, in 8 bits, on the CPU; smaller tiles; offloaded blocks; a lower resolution.
    """

    def budget(chosen: dict[str, Any]) -> Budget:
        return estimate(config, device=device, **{**switches, **chosen})

    def fits(chosen: dict[str, Any]) -> bool:
        return budget(chosen).peak <= free

    chosen: dict[str, Any] = {}
    ladder = _ladder(config, device, switches)
    for name, level in ((name, level) for name, levels in ladder.items() for level in levels):
        # small tiles may cost more than they save, since each has its own state
        if not fits(chosen) and budget({**chosen, name: level}).sum < budget(chosen).sum:
            chosen[name] = level
    if not fits(chosen):
        return None
    for name in reversed(list(chosen)):  # the harshest first
        others = {key: value for key, value in chosen.items() if key != name}
        milder = [others, *({**others, name: level} for level in ladder[name])]
        chosen = next(choice for choice in milder if fits(choice))
    return {name: chosen[name] for name in ladder if name in chosen}


def _ladder(config: ModelConfig, device: str, switches: dict[str, Any]) -> dict[str, list[Any]]:
    """The options not used yet, mildest first."""
    ladder: dict[str, list[Any]] = {}
    if config.tiny_decoder is not None and switches.get("decoder") != "tiny":
        ladder["decoder"] = ["tiny"]
    if isinstance(config.text, UMT5Config):
        places = get_args(TextPlacement)
        now = places.index(switches.get("text_encoder", "released"))
        ladder["text_encoder"] = [place for place in places[now + 1 :] if (place, device) != ("cpu", "cpu")]
    if isinstance(config.autoencoder, WanAutoencoderConfig):
        largest = switches.get("tile") or max(config.latents_of(switches.get("size") or config.size))
        ladder["tile"] = [tile for tile in TILES if tile < largest]
    if device != "cpu" and not switches.get("offload_blocks"):
        ladder["offload_blocks"] = [True]
    multiple = config.spatial_compression * config.transformer.patch_size[1]
    size = switches.get("size") or config.size
    ladder["size"] = [tuple(max(1, round(side * part / multiple)) * multiple for side in size) for part in SMALLER]
    return ladder


def switches_text(switches: dict[str, Any]) -> str:
    """Switches as command-line options."""
    words = []
    for name, value in switches.items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(f"{value[1]}x{value[0]}" if name == "size" else str(value))
    return " ".join(words)
