"""The command line's own errors: one line that names the nearest known word, and exit code 64."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from esper.core.errors import ConfigError
from esper.core.nearest import nearest

Run = Callable[[argparse.Namespace], int]
Verbs = Any  # argparse's own type for a set of subcommands is private


class UsageError(Exception):
    """The command line can't be understood."""


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and takes no abbreviations: a typo must not become another flag."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`, or raise UsageError."""
        self._require_known_verb(argv)
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            flags = [flag for parser in _chosen(self, argv) for flag in parser._option_string_actions]
            raise UsageError(f"unknown argument {unknown[0]!r}; {_hint(unknown[0].split('=')[0], flags, self.prog)}")
        return namespace

    def _require_known_verb(self, argv: Sequence[str]) -> None:
        parser: argparse.ArgumentParser = self
        for word in argv:
            verbs = _verbs(parser)
            if word.startswith("-") or not verbs:
                return
            if word not in verbs:
                raise UsageError(f"unknown command {word!r}; {_hint(word, verbs, parser.prog)}")
            parser = verbs[word]


def words(text: str) -> str:
    """A flag's text that people will read. Raises ArgumentTypeError where it says nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; say in a few words why")
    return text


def run_directory(text: str) -> Path:
    """An argument that names a run's directory, or a file of it. Raises ConfigError where there is nothing."""
    place = Path(text)
    if not place.exists():
        raise ConfigError("RUN_DIR", text, "is not there; give the directory of a run")
    return place


def add_verb(verbs: Verbs, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    """Declare one verb; `summary` is its line in the help of its group."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def add_group(verbs: Verbs, name: str, summary: str) -> Verbs:
    """Declare a verb that has verbs of its own."""
    parser = verbs.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(required=True, metavar="VERB")


def _chosen(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Iterable[argparse.ArgumentParser]:
    yield parser
    for word in argv:
        if word in _verbs(parser):
            parser = _verbs(parser)[word]
            yield parser


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _hint(word: str, known: Iterable[str], program: str) -> str:
    near = nearest(word, known)
    return f"did you mean {near!r}?" if near else f"see {program} --help"
