"""The interface of a verb of ``motionstream``: a dataclass of options to run, or a group of such subcommands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol


class Verb(Protocol):
    """A parsed command line, a dataclass of options. HELP: a description, a blank line, examples."""

    HELP: ClassVar[str]

    def run(self) -> int | None:
        """Run the verb. Returns the exit code, None for 0; raises ValueError and OSError for user errors."""
        ...


class Group:
    """A verb with subcommands, each with its own options: ``motionstream VERB KIND``."""

    HELP: ClassVar[str]
    KINDS: ClassVar[Mapping[str, type[Verb]]]
