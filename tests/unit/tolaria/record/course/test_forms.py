"""A line that lacks what its readers need, or holds something else there, is damage and not a page that breaks."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from esper.tolaria.record.course.forms import FORMS, is_event
from esper.tolaria.record.page.view import view
from tests.unit.tolaria.record.page.told import GROWN

LAYER = {"path": "blocks.0.fc1", "kind": "Linear", "width": 6, "parameters": 390}
NETWORK = {"layers": [LAYER], "slots": [{"slot_id": "span:a-b"}], "refused": ["blocks.0: it is shared"]}
GROWTH = {"reason": "WARMING_UP", "detail": "step 10 of 72"}
EVENTS: list[dict[str, Any]] = [
    {"kind": "run", "step": 0, "run_id": "a", "smoothing": 0.05},
    {"kind": "network", "step": 0, "parameters": 502, **NETWORK},
    *GROWN[1:9],
    {**GROWN[1], "step": 45, "macs": {"main": 5, "twin": 4, "side": 3, "undone": 0}},
    {"kind": "twin", "seed_id": "s1", "step": 50, "from_step": 46, "losses": [1.0, None, 2.0]},
    {"kind": "command", "step": 50, "command_id": "c1", "accepted": True, "directives": ["CULL"], "reasons": ["X"]},
    {"kind": "directive", "step": 50, "seed_id": "s1", "directive": "INSTALL_TWIN", "succeeded": True},
    {"kind": "evaluation", "step": 50, "seed_id": "s1", "gain": 0.1, "standard_error": 0.01},
    {"kind": "epoch", "step": 50, "val_loss": 1.0, "growth": GROWTH},
    {"kind": "growth", "step": 50, **GROWTH},
    {"kind": "checkpoint", "step": 50},
    {"kind": "rollback", "step": 50, "detail": "back"},
    {"kind": "resumed", "step": 50, "run_id": "a"},
]
OTHERS: tuple[Any, ...] = ("x", None, {}, 1.5, [], True)


def changes(value: Any) -> Iterator[Any]:
    """The value with one thing in it left out, or put something else in the place of."""
    places = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for place in places:
        if place == "kind" and value[place] in FORMS:
            continue
        less = copy.copy(value)
        del less[place]
        yield less
        for other in (*OTHERS, *changes(value[place])):
            changed = copy.copy(value)
            changed[place] = other
            yield changed


def test_every_kind_is_tried() -> None:
    assert {event["kind"] for event in EVENTS} >= set(FORMS)
    assert all(map(is_event, EVENTS))


@pytest.mark.parametrize("place", range(len(EVENTS)))
def test_whatever_a_line_holds_it_is_damage_or_is_shown(place: int) -> None:
    damaged = 0
    for changed in changes(EVENTS[place]):
        if is_event(changed):
            json.dumps(view([*EVENTS[:place], changed, *EVENTS[place + 1 :]]))
        else:
            damaged += 1
    assert damaged or EVENTS[place]["kind"] not in FORMS


@pytest.mark.parametrize("found", [None, [], "run", {}, {"kind": 3}, {"kind": ["run"]}])
def test_what_has_no_kind_is_no_event(found: Any) -> None:
    assert not is_event(found)
