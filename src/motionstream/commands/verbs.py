"""What a verb of ``motionstream`` is: a form that the command line fills in and runs, or a group of such forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol


class Verb(Protocol):
    """A parsed command line, a dataclass of options. HELP: what it does, a blank line, examples."""

    HELP: ClassVar[str]

    def run(self) -> int | None:
        """Do it. Returns the exit code, None for 0; raises ValueError and OSError for the user's mistakes."""
        ...


class Group:
    """A verb of several kinds, each a form with options of its own: ``motionstream VERB KIND``."""

    HELP: ClassVar[str]
    KINDS: ClassVar[Mapping[str, type[Verb]]]
