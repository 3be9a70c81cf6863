"""Text that came from somewhere, made safe to draw: no character in it acts on a terminal or on the lines around it."""

from __future__ import annotations

import logging
import unicodedata

# Controls, formats (they turn the direction of writing), surrogates, line and paragraph separators.
_ACTING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_JOINERS = "\u200c\u200d"  # parts of words, and of emoji


def plain(text: object) -> str:
    """The text in one line: characters that act are shown by their escapes, as Python writes them."""
    text = str(text)
    return text if text.isprintable() else "".join(map(_shown, text))


def plain_lines(text: object) -> str:
    """The same, line by line."""
    return "\n".join(map(plain, str(text).split("\n")))


def clause(text: object) -> str:
    """Words of others, such as an error of a library, as a part of a sentence: nothing at their end closes it."""
    return str(text).rstrip(" \n.;:,!")


class PlainFormatter(logging.Formatter):
    """One record, one line; only a traceback, which is ours, has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of logging
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802 - the name of logging
        return plain_lines(super().formatException(ei))  # type: ignore[arg-type]


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ACTING or character in _JOINERS:
        return character
    return ascii(character)[1:-1]
