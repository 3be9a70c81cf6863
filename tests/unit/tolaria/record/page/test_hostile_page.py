"""Ids and messages from outside, in every field of the record, stay text in report.html."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from esper.tolaria.record.page.report import page
from tests.unit.tolaria.record.page.test_report import SUMMARY
from tests.unit.tolaria.record.page.told import GROWN, STACK

MARKUP = (
    "<span onclick=alert(1)><script>alert(1)</script>"
    '"><img src=x onerror=alert(1)>'
    "</td></table></svg></style><script>alert(1)</script><!--"
    "]]><script>alert(1)</script>&lt;"
)
ACTING = "_\x1b[2J\x00\u202e\n$\\frac$ _{a} \\input $²<script>"
# Words of the contracts, which the page's code tells apart; everything else is anybody's.
CONTRACT = ("kind", "to_stage", "stage", "gate", "verdict")
OUR_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "span", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "pre", "script"),
}


class Elements(HTMLParser):
    """Every element with its attributes, and what the page shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.comments: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def laced(value: Any, text: str, key: str = "") -> Any:
    """The record with `text` behind each of its texts, and before it."""
    if isinstance(value, dict):
        return {name: laced(each, text, name) for name, each in value.items()}
    if isinstance(value, list):
        return [laced(each, text, key) for each in value]
    return text + value + text if isinstance(value, str) and key not in CONTRACT else value


def record() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A summary and events that fill every section of the page."""
    seed = {"seed_id": "s1", "blueprint_id": "b", "slot": "l", "stage": "FOSSILIZED", "alpha": 1.0, "fate": "kept"}
    row = {"name": "static", "test_accuracy_mean": 0.5, "test_accuracy_sd": 0.1, "grown_minus_this_mean": 0.1}
    numbers = {"grown_minus_this_sd": 0.1, "parameters": 10.0, "training_macs": 1e6}
    twin = {"seed_id": "s1", "step": 1, "mode": "device", "became": "host", "became_step": 2, "why": "w"}
    missed = {"wanted": 8, "got": {"stack:blocks": 4}, "reason": "none"}
    summary = {
        **SUMMARY,
        "reproducible": False,
        "reproducible_cause": "because",
        "ended_early": "it rose",
        "depths": {"blocks": {"from": 2, "to": 4}},
        "depth_shortfall": missed,
        "seeds": [seed],
        "comparison": {"rows": [{**row, **numbers}], "repeats": 1},
        "memory": {"twins": [twin], "unmeasured": "no device"},
    }
    told = [
        {"kind": "command", "step": 1, "command_id": "c", "accepted": False, "rejection": "STALE", "detail": "d"},
        {"kind": "command", "step": 1, "command_id": "c", "accepted": True, "action": "a", "rationale": "r"},
        {"kind": "command", "step": 1, "command_id": "c", "accepted": True, "issued_by": "me", "directives": ["CULL"]},
        {"kind": "growth", "step": 1, "reason": "WAITS", "detail": "for"},
        {"kind": "failure", "step": 2, "name": "n", "detail": "d"},
        {"kind": "gate", "gate": "G0_SANITY", "seed_id": "s1", "step": 3, "verdict": "PASS", "detail": "sound"},
    ]
    return summary, [*GROWN, *STACK, *told]


@pytest.mark.parametrize("text", [MARKUP, ACTING], ids=["markup", "acting"])
def test_no_text_becomes_an_element_an_attribute_or_a_control(text: str) -> None:
    summary, events = record()
    drawn = page(laced(summary, text), laced(events, text))
    parser = Elements()
    parser.feed(drawn)
    parser.close()
    assert {tag for tag, _ in parser.found} <= OUR_TAGS
    # The view as data, and the page's own script: no text has begun another, nor ended one.
    assert [attributes.get("id") for tag, attributes in parser.found if tag == "script"] == ["esper-view", None]
    assert not [name for _, attributes in parser.found for name in attributes if name.startswith("on")]
    assert not any("alert" in (value or "") for _, attributes in parser.found for value in attributes.values())
    assert not any("alert" in comment for comment in parser.comments)
    assert all(character == "\n" or character.isprintable() or character == "\u200c" for character in drawn)


def test_a_text_that_looks_like_our_markup_is_shown_as_it_is() -> None:
    summary, _ = record()
    text = '<span class="good">kept</span>'
    shown = Elements()
    shown.feed(page({**summary, "seeds": [{**summary["seeds"][0], "slot": text}]}, []))
    assert text in shown.shown
