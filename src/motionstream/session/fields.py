"""Rules for the values of message fields; a message's dataclass annotates its fields with them (``Annotated``).

Messages are not trusted: every value is checked, and errors name the field and the value.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints


class Rule(Protocol):
    """Checks a value of a JSON object."""

    def check(self, name: str, value: Any) -> Any:
        """The value in the dataclass's form. ValueError naming the field and the value if it is not allowed."""
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
    """At most ``most`` texts of at most ``longest`` characters each; read as a tuple."""

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
    """``length`` numbers from ``low`` to ``high``; read as a tuple."""

    length: int
    low: float
    high: float

    def check(self, name: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != self.length:
            raise ValueError(f"{name} is {short(value)}; give {self.length} numbers")
        return tuple(Number(self.low, self.high).check(name, number) for number in value)


@dataclass(frozen=True)
class Wholes:
    """``length`` whole numbers from ``low`` to ``high``; read as a tuple."""

    length: int
    low: int
    high: int

    def check(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or len(value) != self.length:
            raise ValueError(f"{name} is {short(value)}; give {self.length} whole numbers")
        return tuple(Whole(self.low, self.high).check(name, number) for number in value)


@dataclass(frozen=True)
class Rows:
    """``low`` to ``high`` rows with one number per character of ``columns``, each within ± its limit in ``most``; read
    as a tuple of tuples."""

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
    """A value, shortened for an error message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."


@functools.cache
def rules(kind: type) -> dict[str, Rule]:
    """The rule of every field that is ``Annotated`` with one."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def read_fields(kind: type, content: Mapping[str, Any], besides: tuple[str, ...] = ("type",)) -> dict[str, Any]:
    """Read and check a dataclass's fields from a JSON object; those with a default may be missing.

    ``besides``: further keys that the object may have. ValueError names a missing, wrong or unknown field.
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
