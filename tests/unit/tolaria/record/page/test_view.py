"""The page's view: whole for runs in every state, plain JSON whatever is in the events."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from esper.tolaria.record.page.view import LAST_ROWS, view
from tests.unit.tolaria.record.page.test_hostile_page import ACTING, MARKUP, laced, record
from tests.unit.tolaria.record.page.told import GROWN, STACK, boundary

START = {"kind": "run", "run_id": "r", "step": 0, "total_steps": 100, "time": "2026-01-01T00:00:00.000+00:00"}
FAILED = {"kind": "failure", "name": "tolaria.run_failed", "detail": "the loss is NaN", "step": 9}
STOPPED = {"kind": "stopped", "name": "tolaria.stopped", "detail": "SIGINT after step 9", "step": 9}
FINISHED = {"kind": "finished", "step": 9}
RESUMED = {"kind": "resumed", "run_id": "r", "step": 5}


@pytest.mark.parametrize(
    ("events", "is_held", "word"),
    [
        ([], False, "not begun"),
        ([], True, "starting"),
        ([START], True, "training"),
        ([START], False, "killed"),
        ([START, FINISHED], False, "finished"),
        ([START, STOPPED, FINISHED], False, "stopped"),
        ([START, FAILED], False, "failed"),
        ([START, STOPPED, FINISHED, RESUMED], True, "training"),
        ([START, STOPPED, FINISHED, RESUMED, FINISHED], False, "finished"),
        ([START, FAILED, RESUMED], False, "killed"),
    ],
)
def test_each_state_of_a_run_has_its_word(events: list[dict[str, Any]], is_held: bool, word: str) -> None:
    assert view(events, is_held=is_held)["state"]["word"] == word


@pytest.mark.parametrize("text", ["", MARKUP, ACTING], ids=["plain", "markup", "acting"])
def test_whatever_stands_in_the_events_the_view_is_plain_json(text: str) -> None:
    summary, events = record()
    shown = view(laced(events, text), laced(summary, text))
    json.dumps(shown, allow_nan=False)
    for each in texts(shown):
        assert all(character == "\n" or character.isprintable() for character in each)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for each in value.values() for text in texts(each))]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_null(loss: float) -> None:
    shown = view([START, {**boundary(10), "loss": loss, "smoothed_loss": loss}, boundary(20)])
    assert json.loads(json.dumps(shown, allow_nan=False))["loss"]["measured"] == [[20, 2.0]]


def test_the_clock_says_what_had_been_spent_in_work_and_time_at_each_step() -> None:
    at = "2026-01-01T00:00:{:02}.000+00:00".format
    steps = [{**boundary(10 * place), "time": at(place), "training_macs": 100 * place} for place in (1, 2, 3)]
    clock = view([START, *steps])["loss"]["clock"]
    assert clock == {"step": [0, 10, 20, 30], "macs": [0, 100, 200, 300], "seconds": [0.0, 1.0, 2.0, 3.0]}


def test_both_arms_of_each_graft_are_in_the_view_with_their_window() -> None:
    loss = view([START, *STACK])["loss"]
    (fork,) = loss["forks"]
    assert fork["fate"] == "CULLED"
    assert len(fork["grown"]) > 1
    assert len(fork["twin"]) > 1


def test_the_lists_of_a_long_run_hold_its_newest_rows() -> None:
    told = [{"kind": "timeout", "name": "t", "detail": str(place), "step": place} for place in range(3 * LAST_ROWS)]
    shown = view([START, *told])["incidents"]
    assert len(shown) == LAST_ROWS
    assert shown[-1]["detail"] == str(3 * LAST_ROWS - 1)


def test_seeds_are_told_with_fate_and_gain() -> None:
    found = {seed["seed_id"]: (seed["fate"], seed["gain"]) for seed in view(GROWN)["seeds"]}
    assert found == {"s1": ("FOSSILIZED", 0.02), "s2": ("CULLED", -0.01), "s3": ("", None)}
