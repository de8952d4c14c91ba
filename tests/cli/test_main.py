import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from motionstream import __version__, cli
from motionstream.cli import COMMANDS, main
from motionstream.commands.doctor import DoctorCommand
from motionstream.commands.verbs import Group


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"motionstream {__version__}\n"


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"• {verb} " in said for verb in COMMANDS)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_has_help_with_examples(capsys, verb):
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Examples:\n  motionstream {verb}" in said


@pytest.mark.parametrize("verb", [verb for verb, command in COMMANDS.items() if issubclass(command, Group)])
def test_every_kind_has_help_with_examples(capsys, verb):
    kinds = COMMANDS[verb].KINDS
    assert main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"• {kind} " in said for kind in kinds)
    for kind in kinds:
        assert main([verb, kind, "--help"]) == 0
        assert f"Examples:\n  motionstream {verb} {kind}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no verb given; give one of stream, teacher, track"),
        (["strem"], "there is no verb 'strem'; give one of stream, teacher, track"),
        (["stream"], "IMAGE"),
        (["bench", "critic"], "'critic'"),
        (["train", "critic"], "'critic'"),
        (["evaluate"], "no kind given; give one of rendered, drift, compare"),
        (["evaluate", "renderd"], "there is no kind 'renderd'; give one of rendered, drift"),
        (["evaluate", "--clips", "8", "rendered"], "the kind comes before --clips; give one of rendered, drift"),
        (["evaluate", "rendered", "--clip", "8"], "--clip"),
        (["track", "film.mp4", "--drag", "0,0:1,1"], "track takes no --drag; it is an option of stream, teacher, edit"),
        (["doctor", "--all"], "--all"),
    ],
)
def test_wrong_command_lines_are_one_line(capsys, arguments, words):
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("motionstream: ") and "--help" in said.err
    assert said.err.count("\n") == 1 and said.out == ""


def test_the_commands_that_made_the_results_still_parse():
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    text = "".join(path.read_text() for path in results.rglob("*.json"))
    commands = re.findall(r'"command": "motionstream (.+)"', text)
    assert {command.split()[0] for command in commands} >= {"bench", "evaluate"}
    for command in commands:
        assert not isinstance(cli._parse(shlex.split(command)), int), command


def raising(monkeypatch, error: BaseException) -> None:
    def run(self: object) -> int:
        raise error

    monkeypatch.setattr(DoctorCommand, "run", run)


def test_whose_mistake_it_was(capsys, monkeypatch):
    for error, code, words in (
        (ValueError("x is 3;\n  give 4"), 2, "motionstream: x is 3; give 4\n"),
        (PermissionError(13, "Permission denied", "a.mp4"), 2, "motionstream: a.mp4: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "motionstream: No space left on device\n"),
        (KeyboardInterrupt(), 130, "motionstream: stopped\n"),
    ):
        raising(monkeypatch, error)
        assert main(["doctor"]) == code
        assert capsys.readouterr().err == words
    raising(monkeypatch, AssertionError("odd"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("motionstream: AssertionError: odd") and "MOTIONSTREAM_DEBUG=1" in said


def test_the_traceback_comes_when_asked_for(capsys, monkeypatch):
    raising(monkeypatch, ValueError("odd"))
    monkeypatch.setenv("MOTIONSTREAM_DEBUG", "1")
    assert main(["doctor"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("motionstream: odd\n")


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from motionstream.cli import main; main(['--help']); main(['stream', '--help']);"
        "print([m for m in ('torch', 'cv2', 'av', 'diffusers', 'skimage') if m in sys.modules])"
    )
    source = str(Path(__file__).parents[2] / "src")
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_doctor_says_what_is_here(capsys, monkeypatch, tmp_path):
    import motionstream.pipeline as pipeline

    monkeypatch.setattr(pipeline, "WEIGHTS", tmp_path)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "torch " in said and "missing      the weights of nano" in said
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "model.json").write_text("{}")
    assert main(["doctor", "--preset", "nano"]) == 0
    said = capsys.readouterr().out
    assert "nano embedded" in said and "missing      nothing" in said


@pytest.mark.parametrize(
    ("arguments", "host", "token", "port"),
    [
        (["demo", "--port", "8123", "--no-browser"], "127.0.0.1", False, 8123),
        (["demo", "--host", "0.0.0.0"], "0.0.0.0", True, 7860),
        (["serve"], "127.0.0.1", True, 8000),
        (["serve", "--no-token", "--port", "0"], "127.0.0.1", False, 0),
        (["serve", "--host", "0.0.0.0", "--name", "studio.example.org"], "0.0.0.0", True, 8000),
    ],
)
def test_only_this_machine_is_served_without_a_token(monkeypatch, arguments, host, token, port):
    from motionstream.server import serving

    asked = []
    monkeypatch.setattr(serving, "serve", lambda *given, **options: asked.append(given))
    monkeypatch.delenv("MOTIONSTREAM_TOKEN", raising=False)
    assert main(arguments) == 0
    _, access, asked_port = asked[0]
    assert (access.host, asked_port) == (host, port)
    assert (access.token is not None) == token
    assert access.names == (("studio.example.org",) if "--name" in arguments else ())


def test_the_environment_chooses_the_token_and_it_is_needed_beyond_this_machine(monkeypatch, capsys):
    from motionstream.server import serving

    asked = []
    monkeypatch.setattr(serving, "serve", lambda *given, **options: asked.append(given))
    monkeypatch.setenv("MOTIONSTREAM_TOKEN", "a-token-of-the-test")
    assert main(["serve"]) == 0
    assert asked[0][1].token == "a-token-of-the-test"
    assert main(["serve", "--host", "0.0.0.0", "--no-token"]) == 2
    assert "0.0.0.0 can be reached from other machines; a token is needed there" in capsys.readouterr().err
    assert main(["serve", "--sessions", "0"]) == 2
    assert "--sessions is 0" in capsys.readouterr().err


def test_demo_refuses_addresses_it_cannot_have(capsys):
    import socket

    assert main(["demo", "--port", "0"]) == 2
    assert "--port is 0" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
        assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_evaluate_hands_its_options_on(monkeypatch, capsys, tmp_path):
    asked = []
    rendered = types.ModuleType("motionstream.evaluation.rendered")
    rendered.evaluate = lambda **options: asked.append(options)
    monkeypatch.setitem(sys.modules, "motionstream.evaluation.rendered", rendered)
    output = tmp_path / "out.json"
    assert main(["evaluate", "rendered", "--clips", "3", "--seed", "4", "-o", str(output), "--model", "debug"]) == 0
    assert asked == [{"model": "debug", "clips": 3, "seed": 4, "output": output, "untrained": False, "speed": 6.0}]
    assert main(["evaluate", "rendered", "--speed", "12"]) == 0 and asked.pop()["speed"] == 12
    assert main(["evaluate", "rendered", "--speed", "0"]) == 2
    assert "--speed is 0" in capsys.readouterr().err
    assert main(["evaluate", "drift", "--speed", "6"]) == 2
    assert "evaluate drift takes no --speed; it is an option of rendered, compare, release" in capsys.readouterr().err
    assert main(["evaluate", "drift", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--held" in said and "--speed" not in said
    assert main(["evaluate", "rendered", "--clips", "0"]) == 2
    assert "--clips is 0" in capsys.readouterr().err
    assert main(["evaluate", "rendered", "-o", str(tmp_path / "out.txt")]) == 2
    assert len(asked) == 1
