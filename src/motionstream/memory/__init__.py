"""Estimates a model's memory before anything is loaded, and finds options with which it fits."""

from motionstream.memory.budget import Budget, estimate, gib
from motionstream.memory.fitting import check_fits, remedy, switches_text
from motionstream.memory.machine import machine_memory

__all__ = ["Budget", "check_fits", "estimate", "gib", "machine_memory", "remedy", "switches_text"]
