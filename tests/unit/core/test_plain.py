"""Text that came from somewhere can't act where it is drawn."""

from __future__ import annotations

import io
import logging

import pytest

from esper.core.plain import PlainFormatter, clause, plain, plain_lines
from esper.core.process.streams import say

ACTING = ["\x1b[2J", "\n", "\r", "\x07", "\x00", "\x9b31m", "\x7f", "\u202e", "\u2028", "\udc80", "\x1b]0;title\x07"]


@pytest.mark.parametrize("text", ACTING, ids=ascii)
def test_what_acts_is_shown_by_its_escape(text: str) -> None:
    shown = plain(f"a{text}b")
    assert shown.isprintable()
    assert shown[0] + shown[-1] == "ab"
    assert len(shown) > len(text) + 2


@pytest.mark.parametrize("text", ["s1", "stack:blocks → 4 ±", "漢字 é 𝔘", "a\\b 'c'", "👩\u200d💻"])
def test_what_does_not_act_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert plain(plain(text + "\x1b")) == plain(text + "\x1b")


def test_only_lines_that_we_made_stay_lines() -> None:
    assert plain_lines("one\ntwo\x1b") == "one\ntwo\\x1b"


def test_what_is_said_does_not_act() -> None:
    stream = io.StringIO()
    say("esper: run \x1b[2J is missing\nits remedy", stream)
    assert stream.getvalue() == "esper: run \\x1b[2J is missing\nits remedy\n"


def test_a_log_record_is_one_line_and_its_traceback_does_not_act() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("envelope %s refused", "e1\nERROR: forged\x1b[2J")
    assert stream.getvalue() == "WARNING: envelope e1\\nERROR: forged\\x1b[2J refused\n"
    try:
        raise ValueError("\x1b[2J\udc80")
    except ValueError:
        log.exception("it failed")
    assert stream.getvalue().endswith("ValueError: \\x1b[2J\\udc80\n")


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("Connection closed by server.", "Connection closed by server"),
        ("Cannot invoke RPC on closed channel!", "Cannot invoke RPC on closed channel"),
        ("expected one of:\n", "expected one of"),
        ("no such file", "no such file"),
        (ValueError("of version 1.2."), "of version 1.2"),
        ("", ""),
    ],
)
def test_words_of_others_close_no_sentence(said: object, part: str) -> None:
    assert clause(said) == part
