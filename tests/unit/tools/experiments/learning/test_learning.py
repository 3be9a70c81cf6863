"""Episodes, their table as it was recorded, and the page of the loop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.tracing.otlp_receiver import ReceivedSpan
from tests.unit.tools.experiments.loading import FOLDER, LEARNING, load

episodes = load("episodes", LEARNING)
learning_table = load("learning_table", LEARNING)
learning_page = load("learning_page", LEARNING)
learning_trace = load("learning_trace", LEARNING)


def test_an_episode_follows_from_its_number_and_each_task_has_its_turn() -> None:
    first, again = (episodes.episodes(episodes.LEARNED_FROM, 12, first_seed=5) for _ in range(2))
    assert first == again
    assert len({each.name for each in first}) == 12
    assert {each.name.partition("-")[0] for each in first} == set(episodes.LEARNED_FROM)


def test_nothing_that_is_held_out_is_learned_from() -> None:
    def hosts(tasks: dict[str, Any]) -> set[tuple[str, str]]:
        return {(task.flags[1], width) for task in tasks.values() for width in task.widths}

    for tasks in (episodes.HELD_OUT, episodes.DEVELOPMENT):
        assert not hosts(tasks) & hosts(episodes.LEARNED_FROM)
    assert not hosts(episodes.UNSEEN_NECKS) & hosts(episodes.NECKS)
    used = {task for task, _ in hosts(episodes.LEARNED_FROM) | hosts(episodes.DEVELOPMENT)}
    assert not used & {task for task, _ in hosts(episodes.HELD_OUT)}, "no choice was made by what is held out"


WORTH = {"mean": 0.1, "error": 0.02, "test_loss": 0.4}
UNSEEN = {"values": {"learned - shuffled": {"value": 0.036, "error": 0.011}}}


def test_a_loop_says_whether_its_arms_can_be_told_apart_and_how_many_episodes_it_would_take() -> None:
    def found(difference: float, error: float) -> list[str]:
        beside = {"value": difference, "error": error, "episodes": 12.0}
        told = {"worth": WORTH, "shuffled": WORTH, "unseen": UNSEEN, "beside": beside, "beside_heuristic": beside}
        return list(learning_page.words_of({"learned": told, "shuffled1": {"worth": {**WORTH, "mean": -9.0}}}))

    assert found(0.1, 0.05)[0].endswith("test loss 0.400 (geometric mean)")
    assert found(0.1, 0.05)[1] == "shuffled: +0.1000 ± 0.0200 for each later episode", "all controls together"
    assert "+0.0360 ± 0.0110, told apart" in found(0.1, 0.05)[2]
    assert found(0.1, 0.05)[3].endswith("told apart (one-sided 95 % bound +0.0178)")
    assert "not told apart" in found(0.05, 0.05)[3]
    assert "would take 33 episodes, there were 12" in found(0.05, 0.05)[3]
    assert "would take" not in found(-0.05, 0.05)[3]


@pytest.mark.parametrize(
    ("rows", "heading", "arms"),
    [
        ("learning", "## A policy that learns", ("heuristic", "bandit", "graph", "random")),
        ("learning_loop_held_out", "### The loop's weights", ("heuristic", "learned")),
        ("learning_development", "### On the development tasks", ("heuristic", "bandit", "random")),
    ],
)
def test_the_recorded_episodes_say_what_the_page_says(rows: str, heading: str, arms: Sequence[str]) -> None:
    lines = (FOLDER / "rows" / f"{rows}.jsonl").read_text().splitlines()
    found = learning_table.table([json.loads(line) for line in lines])
    page = (FOLDER.parents[1] / "docs" / "results.md").read_text()
    told = page[page.index(heading) :]
    assert found["episodes"] >= 20
    for arm in arms:
        line, name = found["arms"][arm], {"random": "at random"}.get(arm, arm)
        row = next(row for row in told.splitlines() if row.startswith(f"| {name} |")).replace("*", "")
        for figure in (f"{line['test_loss']:.3f}", f"{line['missed']:.3f}", f"{line['worth']:+.3f}"):
            assert figure in row, f"{figure} of {arm} isn't in: {row}"


def test_the_recorded_loop_says_what_the_page_says() -> None:
    arms = json.loads((FOLDER / "rows" / "learning_loop.json").read_text())
    text = (FOLDER.parents[1] / "docs" / "results.md").read_text()
    told = text[text.index("### The loop beside shuffled outcomes") :]
    for arm, worths in arms.items():
        assert worths.keys() == arms["learned"].keys(), "the same episodes in every arm"
        mean, error = fmean(worths.values()), stdev(worths.values()) / math.sqrt(len(worths))
        row = next(row for row in told.splitlines() if row.startswith(f"| {arm} |"))
        assert f"{mean:+.3f} ± {error:.3f}" in row
    for arm in ("shuffled", "heuristic"):
        differences = [worth - arms[arm][name] for name, worth in arms["learned"].items()]
        error = stdev(differences) / math.sqrt(len(differences))
        assert f"{fmean(differences):+.3f} ± {error:.3f}" in told


def row(arm: str, episode: str, loss: float, macs: int, **changes: object) -> dict[str, object]:
    given: dict[str, object] = {
        "arm": arm,
        "episode": episode,
        "test_loss": loss,
        "test_accuracy": 0.9,
        "germinated": 0,
        "kept": 0,
        "refused": 0,
        "judgement_macs": 0,
        "training_macs": macs,
    }
    return {**given, **changes}


def test_worth_is_what_was_gained_less_what_it_cost_against_the_run_that_never_grew() -> None:
    grown = {"germinated": 2, "kept": 1, "refused": 1, "judgement_macs": 100}
    rows = [
        row("never", "e", 1.0, 100),
        row("heuristic", "e", 0.5, 300, **grown),
        row("bandit", "e", 0.25, 300, **grown),
        row("bandit", "of it alone", 0.1, 300),
    ]
    found = learning_table.table(rows)
    assert found["episodes"] == 1
    arms = found["arms"]
    assert arms["never"]["worth"] == 0.0
    assert arms["heuristic"]["worth"] == pytest.approx(0.6931 - learning_table.PRICE * 2, abs=1e-4)
    assert arms["heuristic"]["refused_cost"] == pytest.approx(0.5)
    assert arms["heuristic"]["missed"] == pytest.approx(0.6931, abs=1e-4)
    assert arms["bandit"]["missed"] == 0.0


def test_the_page_shows_what_happened_and_takes_no_markup_from_it() -> None:
    decision = {
        "run_id": "<b>r1</b>",
        "opened_step": 100,
        "policy_id": "bandit",
        "policy_version": "1.1.0",
        "slot_id": "span:fc1-fc2",
        "taken.widening": 1.6,
        "value": 0.2,
        "gain_share": 0.1,
        "outcome": "SUCCESS",
        "cost_share": 0.5,
        "reward": 0.075,
    }
    worth = {**WORTH, "episodes": {}, "decisions": [decision]}
    check = {"name": "runs", "measured": 3, "needed": "at least 10", "holds": False}
    told = {
        "gate": {"passed": False, "checks": [check]},
        "refused": "refused",
        "standing": {"versions": {"d": "1.1.0"}, "live": "", "seen": {"u": "trial"}, "withdrawn": {"d": "worse"}},
        "worth": worth,
    }
    beside = {"value": 0.1, "error": 0.05, "episodes": 12}
    told |= {"shuffled": WORTH, "unseen": UNSEEN, "beside": beside, "beside_heuristic": beside}
    span = {"service": "tamiyo", "trace": "abc", "after_s": 0.5, "took_ms": 2.0, "says": "run <i>r1</i>, step 100"}
    told["trace"] = [{**span, "name": "tamiyo.policy.swap"}, {**span, "name": "tamiyo.evaluate", "trace": "other"}]
    page = learning_page.page({"heuristic": {"worth": {**worth, "decisions": []}}, "learned": told})
    assert "<li>learned - shuffled, by later episode: +0.1000 ± 0.0500, told apart" in page
    assert "trace abc; 1 decisions by these weights that are linked to it" in page
    assert "<i>" not in page
    assert "&lt;b&gt;r1&lt;/b&gt;" in page
    assert "<b>r1</b>" not in page
    assert "rolled back" in page
    assert "Nothing was grown." in page


def span(name: str, span_id: str, trace_id: str, links: tuple[str, ...] = (), **attributes: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service="tamiyo",
        name=name,
        trace_id=trace_id,
        span_id=span_id,
        parent_id="",
        attributes=attributes,
        status=0,
        links=links,
        start_ns=10**9 * (1 + len(links)),
        end_ns=10**9 * (1 + len(links)) + 10**6,
    )


def test_the_trace_on_the_page_is_that_of_the_weights_by_which_the_arm_decided() -> None:
    run = {"esper.run.id": "learned-neck-1", "esper.step": 90}
    received = [
        span("simic.publish", "p1", "t1"),
        span("tamiyo.policy.take", "a1", "t1"),
        span("tamiyo.policy.swap", "s1", "t1"),
        span("tamiyo.policy.take", "a2", "t2"),
        span("tamiyo.evaluate", "e1", "t3", ("a1",), **run),
        span("tamiyo.evaluate", "e2", "t4", (), **run),
        span("tamiyo.evaluate", "e3", "t5", ("a2",), **{**run, "esper.run.id": "shuffled1-neck-1"}),
    ]
    spans = learning_trace.Spans(SimpleNamespace(received=lambda: received))
    told = spans.of("1.1.0", "learned")
    assert [each["name"] for each in told] == [*learning_trace.CARRYING, "tamiyo.evaluate"]
    assert told[-1]["says"] == "run learned-neck-1, step 90"
    assert (told[-1]["after_s"], told[-1]["took_ms"]) == (1.0, 1.0)
    assert learning_trace.Spans(None).of("1.1.0", "learned") == []
