"""The race of recorded candidates: who leads when, and what one more of them costs."""

from __future__ import annotations

import pytest

from tests.unit.tools.experiments.loading import JUDGING, load

recorded = load("recorded", JUDGING)
race = load("arm_race", JUDGING)
SERIES = recorded.load()


def test_who_leads_early_is_not_who_ends_best() -> None:
    lines = race.candidates(SERIES)
    assert min(lines, key=lambda line: line["end"])["candidate"] == "stack"
    first, second = race.winners(lines)
    assert (first[40], first[300]) == ("interleaved", "interleaved")
    assert (second[100], second[300]) == ("interleaved", "stack")


def test_one_more_candidate_costs_its_steps_at_the_depth_that_it_has() -> None:
    # In steps of twelve blocks: 500 of 3, 700 of 6 and 1,800 of 12; a candidate of 6 and one of 12 for 300 steps each.
    run, candidate = 500 / 4 + 700 / 2 + 1800, 300 / 2 + 300
    costs = race.cost_of_one_more(SERIES)
    assert costs[300] == pytest.approx(candidate / run, rel=0.02)
    assert costs[60] == pytest.approx(costs[300] / 5)


def test_the_table_has_a_line_for_each_candidate_and_graft() -> None:
    told = race.table(race.candidates(SERIES), race.cost_of_one_more(SERIES))
    assert told.count("| 3 -> 6 |") == len(race.RUNS)
    assert told.endswith("* stack ended best.")
