"""Small text files: reads JSON with errors that name the file, writes atomically, and compares JSON values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motionstream.media.files import atomic_path


def first_difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first difference between two JSON values, as ``name = before, now after``; None if they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{name}.{key}" if name else str(key)
            if found := first_difference(before.get(key), now.get(key), inner):
                return found
        return None
    return None if before == now else f"{name} = {json.dumps(before)}, now {json.dumps(now)}"


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError, naming the file, if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its name") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged ({error}); copy it again, or delete it to begin anew") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
