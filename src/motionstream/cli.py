"""The command ``motionstream``: finds the verb, runs it, and turns every failure into one line.

Exit codes: 0 done, 1 our mistake, 2 the user's (bad values, paths, options), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import operator
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import tyro

from motionstream import __version__
from motionstream.commands.bench import BenchCommand
from motionstream.commands.camera import CameraCommand
from motionstream.commands.convert import ConvertCommand
from motionstream.commands.demo import DemoCommand
from motionstream.commands.doctor import DoctorCommand
from motionstream.commands.edit import EditCommand
from motionstream.commands.evaluate import EvaluateCommand
from motionstream.commands.prepare import PrepareCommand
from motionstream.commands.replay import ReplayCommand
from motionstream.commands.serve import ServeCommand
from motionstream.commands.stream import StreamCommand
from motionstream.commands.teacher import TeacherCommand
from motionstream.commands.track import TrackCommand
from motionstream.commands.train import TrainCommand
from motionstream.commands.verbs import Group, Verb

DESCRIPTION = f"""\
MotionStream {__version__}: drag anything in a picture and stream the video in which it moves.

Examples:
  motionstream demo
  motionstream stream photo.jpg --drag 0.3,0.5:0.7,0.5 -o out.mp4
  motionstream VERB --help"""

Commands = Mapping[str, type[Verb] | type[Group]]

COMMANDS: dict[str, type[Verb] | type[Group]] = {
    "stream": StreamCommand,
    "teacher": TeacherCommand,
    "track": TrackCommand,
    "edit": EditCommand,
    "camera": CameraCommand,
    "demo": DemoCommand,
    "serve": ServeCommand,
    "replay": ReplayCommand,
    "prepare": PrepareCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
    "bench": BenchCommand,
    "convert": ConvertCommand,
    "doctor": DoctorCommand,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``argv`` is without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"motionstream {__version__}")
        return 0
    try:
        verb = _parse(arguments)
        if isinstance(verb, int):
            return verb
        with _plain_warnings():
            code = verb.run()
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `head` does; without this, Python's exit complains on stderr.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _report(error)


@dataclass(frozen=True)
class _Listed:
    """Stands for a verb where --help lists them all: their options are not read for that."""


def _parse(
    arguments: list[str],
    commands: Commands = COMMANDS,
    program: str = "motionstream",
    description: str = DESCRIPTION,
) -> Verb | int:
    """The verb with its options, or the exit code when help was asked for or something is wrong."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        listed = [
            Annotated[_Listed, tyro.conf.subcommand(name, description=command.HELP.partition("\n\n")[0])]
            for name, command in commands.items()
        ]
        every: Any = functools.reduce(operator.or_, listed)
        return _tyro(every, program, description, arguments)
    if name not in commands:
        what = "verb" if commands is COMMANDS else "kind"
        wrong = f"there is no {what} {name!r}" if name else f"no {what} given"
        if name.startswith("-"):
            wrong = f"the {what} comes before {name}"
        _say(f"{wrong}; give one of {', '.join(commands)}, or see {program} --help")
        return 2
    command, program = commands[name], f"{program} {name}"
    if issubclass(command, Group):
        return _parse(arguments[1:], command.KINDS, program, command.HELP)
    return _tyro(command, program, command.HELP, arguments[1:], commands)


def _tyro(
    form: Any, program: str, description: str, arguments: list[str], others: Commands | None = None
) -> Verb | int:
    """``arguments`` as ``form`` reads them. ``others``: the forms beside it, one of which may know a strange option."""
    said = io.StringIO()
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    try:
        with contextlib.redirect_stderr(said):
            parsed: Verb = tyro.cli(form, prog=program, description=description, args=arguments, config=config)
        return parsed
    except SystemExit as exit_:
        if exit_.code:
            wrong = _misplaced(form, program, arguments, others or {}) or _message(said.getvalue())
            _say(f"{wrong.rstrip('. ')}; see {program} --help")
        return int(exit_.code or 0)


def _misplaced(form: Any, program: str, arguments: list[str], others: Commands) -> str | None:
    """What to say of an option that ``form`` has not, but one of the ``others`` has; None where there is none such."""
    own = _options(form)
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        takers = [name for name, other in others.items() if option in _options(other)]
        if takers and option not in own:
            return f"{program.removeprefix('motionstream ')} takes no {option}; it is an option of {', '.join(takers)}"
    return None


def _options(form: Any) -> set[str]:
    """How the options of a form are written; what has no default is given by its place."""
    fields = dataclasses.fields(form) if dataclasses.is_dataclass(form) else ()
    return {f"--{field.name.replace('_', '-')}" for field in fields if field.default is not dataclasses.MISSING}


def _message(box: str) -> str:
    """What tyro drew as a box, as one line: its message, without the help below the rule."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rules = [number for number, line in enumerate(lines) if line and set(line) == {"─"}]
    return " ".join(" ".join(lines[: rules[0] if rules else None]).split()).partition(" Got errors:")[0]


def _say(message: str) -> None:
    print(f"motionstream: {message}", file=sys.stderr)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our warnings are one line without the place in the code; other people's are theirs to show."""
    show = warnings.showwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        if category is UserWarning and f"{os.sep}motionstream{os.sep}" in filename:
            _say(f"warning: {message}")
        else:
            show(message, category, filename, lineno, *rest)

    with warnings.catch_warnings():
        warnings.showwarning = cast(Any, plain)
        yield


def _report(error: Exception) -> int:
    """One line about ``error`` on stderr and the exit code; the traceback, too, with MOTIONSTREAM_DEBUG=1."""
    debug = os.environ.get("MOTIONSTREAM_DEBUG", "") not in ("", "0")
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ValueError | OSError):
        _say(message or type(error).__name__)
        return 2
    if isinstance(error, MemoryError | FloatingPointError) and message:  # training's, which say what to do
        _say(message)
        return 1
    hint = "" if debug else "; run it again with MOTIONSTREAM_DEBUG=1 to see where"
    _say(f"{type(error).__name__}: {message}{hint}")
    return 1
