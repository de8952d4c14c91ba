"""How much memory a model takes, before any of it is loaded, and what makes it fit."""

from motionstream.memory.budget import Budget, estimate, gib
from motionstream.memory.fitting import check_fits, remedy, switches_text
from motionstream.memory.machine import machine_memory

__all__ = ["Budget", "check_fits", "estimate", "gib", "machine_memory", "remedy", "switches_text"]
