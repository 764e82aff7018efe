"""Every command and subcommand explains itself: `--help` ends in code 0 with an example, and its examples are accepted as written."""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest

from analogist.cli.main import build_parser, main


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words that lead to a parser and to all those below it."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands(below, (*path, name))


COMMANDS = [" ".join(path) for path in commands(build_parser())]


@cache
def help_of(command: str) -> str:
    """What `analogist COMMAND --help` prints; it must end in code 0."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    return output.getvalue()


def examples(command: str) -> list[list[str]]:
    """Arguments of the examples in a command's help: lines that begin with `analogist`, after variables such as HF_ENDPOINT=...

    Several commands on one line are separated by semicolons; a comment stands after three spaces.
    """
    _, _, epilog = help_of(command).rpartition("\nexample")
    lines = re.findall(r"^ +(?:[A-Z_]+=\S+ +)*analogist (.+)$", epilog, flags=re.MULTILINE)
    return [shlex.split(words) for line in lines for words in re.split(r"; (?:then: )?analogist ", re.split(r" {3,}", line)[0])]


def test_commands_below_commands_are_found() -> None:
    assert {"", "run", "weights list", "weights fetch", "data check"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_well_and_shows_an_example_of_its_own(command: str) -> None:
    assert "Traceback" not in help_of(command)
    assert any(words[: len(command.split())] == command.split() for words in examples(command)), help_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_help_are_accepted_as_written(command: str) -> None:
    for words in examples(command):
        assert build_parser().parse_args(words).run, words
