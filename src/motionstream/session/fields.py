"""What a field of a message may hold. A message's dataclass says it, ``Annotated`` with one of these rules.

What arrives is not trusted: every value is checked, and what is wrong is said in a sentence that names it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints


class Rule(Protocol):
    """Tells whether a value of a JSON object is allowed."""

    def check(self, name: str, value: Any) -> Any:
        """The value as the message holds it. ValueError, naming the field and the value, where it is not allowed."""
        ...


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``."""

    low: float
    high: float

    def check(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"{name} is {short(value)}; give a number from {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True)
class Whole:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def check(self, name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueError(f"{name} is {short(value)}; give a whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True)
class Text:
    """A text of at most ``longest`` characters."""

    longest: int

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > self.longest:
            raise ValueError(f"{name} is {short(value)}; give a text of at most {self.longest} characters")
        return value


@dataclass(frozen=True)
class Words:
    """At most ``most`` texts of at most ``longest`` characters: a tuple."""

    most: int
    longest: int

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > self.most:
            raise ValueError(f"{name} is {short(value)}; give a list of at most {self.most} texts")
        return tuple(Text(self.longest).check(f"{name}' text", each) for each in value)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{name} is {short(value)}; give {' or '.join(self.words)}")
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {short(value)}; give true or false")
        return value


@dataclass(frozen=True)
class Row:
    """``length`` numbers from ``low`` to ``high``, or null where it is optional: a tuple."""

    length: int
    low: float
    high: float

    def check(self, name: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != self.length:
            raise ValueError(f"{name} is {short(value)}; give {self.length} numbers")
        return tuple(Number(self.low, self.high).check(name, number) for number in value)


@dataclass(frozen=True)
class Wholes:
    """``length`` whole numbers from ``low`` to ``high``: a tuple."""

    length: int
    low: int
    high: int

    def check(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) != self.length:
            raise ValueError(f"{name} is {short(value)}; give {self.length} whole numbers")
        return tuple(Whole(self.low, self.high).check(name, number) for number in value)


@dataclass(frozen=True)
class Rows:
    """``low`` to ``high`` rows of numbers, one for each of ``columns``, within ``most``: a tuple of tuples."""

    columns: str
    high: int
    most: tuple[float, ...]
    low: int = 1

    def check(self, name: str, value: Any) -> tuple[tuple[float, ...], ...]:
        form = f"[{', '.join(self.columns)}]"
        if not isinstance(value, list) or not self.low <= len(value) <= self.high:
            raise ValueError(f"{name} is {short(value)}; give {self.low} to {self.high} of {form}")
        for row in value:
            if not isinstance(row, list) or len(row) != len(self.columns):
                raise ValueError(f"{name} has {short(row)}; one is {form}")
        axes = [
            (f"{name}' {column}", Number(-most, most)) for column, most in zip(self.columns, self.most, strict=True)
        ]
        return tuple(
            tuple(rule.check(axis, number) for (axis, rule), number in zip(axes, row, strict=True)) for row in value
        )


def short(value: Any) -> str:
    """A value as a message may show it."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


@functools.cache
def rules(kind: type) -> dict[str, Rule]:
    """The rule of every field that is ``Annotated`` with one."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def read_fields(kind: type, content: Mapping[str, Any], besides: tuple[str, ...] = ("type",)) -> dict[str, Any]:
    """The checked fields of a dataclass from a JSON object; those with a default may be missing.

    ``besides``: what else the object may hold. ValueError names what is missing, wrong or unknown.
    """
    allowed, values = rules(kind), {}
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, rule in allowed.items():
        default = defaults[name]
        if name not in content:
            if default is dataclasses.MISSING:
                raise ValueError(f"the message lacks {name!r}")
        elif content[name] is not None or default is not None:
            values[name] = rule.check(name, content[name])
    unknown = sorted(set(content) - set(allowed) - set(besides))
    if unknown:
        raise ValueError(f"unknown field {short(unknown[0])}")
    return values
