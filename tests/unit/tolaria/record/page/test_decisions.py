"""The decision card: figures, a sentence, who was refused last and why, and why nothing grows now."""

from __future__ import annotations

from typing import Any

import pytest

from esper.tolaria.record.page.decisions import growth_now, last_refused, looks
from tests.unit.tolaria.record.page.told import looked, moved

REASON = {"kind": "growth", "step": 20, "reason": "WARMING_UP", "detail": "step 10 of 500", "since_step": 20}


def test_a_look_is_told_with_its_figures_and_in_one_sentence() -> None:
    (look,) = looks([looked("s1", "FAIL", step=60, look=2, z=2.4)])
    assert look["sentence"] == (
        "s1 refused at look 2: the gain over its twin is +0.0200 and the margin 0.0080; that is 2.40 standard errors "
        "(0.0050) beyond the margin, and 2.33 beyond it are needed"
    )
    (short,) = looks([looked("s1", "FAIL", step=60, z=-1.5)])
    assert "1.50 standard errors (0.0050) short of the margin" in short["sentence"]


def test_a_look_that_measured_no_gain_is_told_in_the_judges_words() -> None:
    gate = {"kind": "gate", "gate": "G4_SYSTEM_IMPACT", "seed_id": "s1", "step": 9, "verdict": "FAIL", "detail": "NaN"}
    (look,) = looks([gate])
    assert look["sentence"] == "s1 refused: NaN"
    assert look["look"] == 1


def test_who_waits_at_the_gate_was_not_looked_at() -> None:
    assert looks([looked("s1", "WAIT", step=9)]) == []


def test_the_last_refused_seed_is_told_with_its_reason_and_the_look_that_decided() -> None:
    culled = {**moved(60, "s2", "CULLED"), "reason": "culled: look 2: z = 2.38 against 2.71, undecided"}
    events = [looked("s1", "PASS", step=30), looked("s2", "FAIL", step=50, look=2), culled]
    found = last_refused(events, looks(events))
    assert found is not None
    assert (found["seed_id"], found["step"]) == ("s2", 60)
    assert found["reason"] == "look 2: z = 2.38 against 2.71, undecided"
    assert found["look"]["look"] == 2


def test_a_seed_that_an_operator_culled_was_refused_by_no_look() -> None:
    culled = {**moved(60, "s1", "CULLED"), "reason": "culled: by operator:ann"}
    events = [looked("s1", "EXTEND", step=50), culled]
    found = last_refused(events, looks(events))
    assert found is not None
    assert (found["reason"], found["look"]) == ("by operator:ann", None)
    assert last_refused([], []) is None


def seed(stage: str) -> dict[str, Any]:
    return {"seed_id": "s1", "slot_id": "span:a-b", "stage": stage, "is_paused": False}


@pytest.mark.parametrize(
    ("seeds", "ended", "headline", "is_growing"),
    [
        ([], None, "Nothing grows now: warming up: step 90 of 500.", False),
        ([seed("DORMANT")], None, "Nothing grows now: warming up: step 90 of 500.", False),
        ([seed("SHADOWING")], None, "s1 is on trial in span:a-b (shadowing).", True),
        ([seed("SHADOWING")], "was stopped", "Nothing grows: the run was stopped.", False),
    ],
)
def test_why_nothing_grows_now_is_told_with_the_numbers_of_now(
    seeds: list[dict[str, Any]], ended: str | None, headline: str, is_growing: bool
) -> None:
    epoch = {"kind": "epoch", "step": 100, "growth": {**REASON, "detail": "step 90 of 500"}}
    found = growth_now([REASON, epoch], seeds, ended)
    assert (found["headline"], found["is_growing"]) == (headline, is_growing)
    assert (found["reason"]["since_step"], found["reason"]["as_of_step"]) == (20, 100)


def test_before_the_first_answer_nothing_is_claimed() -> None:
    assert growth_now([], [], None)["headline"] == "Nothing grows yet: no decision has been heard."
