"""Following a run: what was written, once it is whole, and nothing that was undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from esper.tolaria.record.course.reading import read_events
from esper.ui.following import Following

AT = "2026-01-01T00:00:{:02}.000+00:00".format
BEGAN_S = 1767225600.0  # of the first second above


def line(kind: str, second: int = 0, **fields: Any) -> bytes:
    return json.dumps({"time": AT(second), "kind": kind, **fields}).encode() + b"\n"


def boundary(step: int, second: int = 0) -> bytes:
    told = {"loss": 1.0, "smoothed_loss": 1.0, "seeds": [], "timings": {"step_ms": 1.0}}
    return line("boundary", second, step=step, **told)


START = line("run", run_id="r", step=0, total_steps=100)


class Run:
    """A directory that a trainer writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self.now = BEGAN_S
        self.following = Following(path, now=lambda: self.now)

    def write(self, *lines: bytes) -> None:
        with self.events.open("ab") as file:
            file.write(b"".join(lines))

    @property
    def steps(self) -> list[int]:
        self.following._took_s = 0.0  # however slow the machine is: nothing waits
        _, view = self.following.look()
        return [step for step, _ in view["loss"]["measured"]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_line_counts_once_it_is_whole(run: Run) -> None:
    whole = boundary(20)
    run.write(START, boundary(10), whole[:30])
    assert run.steps == [10]
    run.write(whole[30:])
    assert run.steps == [10, 20]
    assert run.following.liveness()["damaged_lines"] == 0


def test_a_run_that_was_started_anew_is_read_from_its_start(run: Run) -> None:
    run.write(START, boundary(10), boundary(20))
    assert run.steps == [10, 20]
    run.events.unlink()
    run.write(START, boundary(5))
    assert run.steps == [5]
    run.events.write_bytes(START)  # shorter than what was read
    assert run.steps == []


def test_another_run_in_the_place_of_a_shorter_one_is_not_taken_for_its_end(run: Run) -> None:
    run.write(START, boundary(10))
    assert run.steps == [10]
    # The same file to the system: cut and written anew, longer than before, between two looks.
    other = line("run", run_id="other", step=0, total_steps=100)
    run.events.write_bytes(other + boundary(5) + boundary(15) + boundary(25))
    assert run.steps == [5, 15, 25]


def test_what_a_rollback_undid_is_gone(run: Run) -> None:
    run.write(START, boundary(10), line("checkpoint", step=10), boundary(20))
    assert run.steps == [10, 20]
    run.write(line("rollback", name="tolaria.rollback", step=10, detail="d"), boundary(15))
    assert run.steps == [10, 15]


def test_damaged_lines_are_counted_and_left_out(run: Run) -> None:
    run.write(START, b"\xff\xfe\n", b"[1]\n", boundary(10))
    assert run.steps == [10]
    assert run.following.liveness()["damaged_lines"] == 2


@pytest.mark.parametrize(
    "damaged",
    [b"[" * 100_000, b'{"kind": "rollback"}', b'{"kind": "resumed", "step": "x"}', b'{"kind": []}'],
    ids=["nested", "back to nowhere", "back to no number", "of no kind"],
)
def test_a_line_that_is_no_event_is_damaged_whatever_it_holds(run: Run, damaged: bytes) -> None:
    run.write(START, boundary(10), damaged + b"\n", boundary(20))
    assert run.steps == [10, 20]
    assert run.following.liveness()["damaged_lines"] == 1
    assert len(read_events(run.path)) == 3


def test_a_view_has_a_version_that_changes_with_it_and_only_then(run: Run) -> None:
    run.write(START, boundary(10))
    first, _ = run.following.look()
    assert run.following.look()[0] == first
    run.write(boundary(20))
    run.following._took_s = 0.0
    assert run.following.look()[0] != first


def test_a_view_that_is_dear_is_not_made_at_every_look(run: Run) -> None:
    run.write(START, boundary(10))
    first, _ = run.following.look()
    run.following._took_s = 3600.0
    run.write(boundary(20))
    assert run.following.look()[0] == first


def test_the_age_of_the_newest_event_grows_and_a_long_pause_is_told_from_a_usual_one(run: Run) -> None:
    run.write(START, boundary(10, 1), boundary(20, 2), boundary(30, 9))
    assert run.steps == [10, 20, 30]
    run.now = BEGAN_S + 11
    live = run.following.liveness()
    assert live["last_event_age_s"] == pytest.approx(2.0)
    assert live["silent_after_s"] == pytest.approx(21.0)  # three times its longest pause
    run.now = BEGAN_S + 100
    assert run.following.liveness()["last_event_age_s"] == pytest.approx(91.0)


def test_a_directory_without_a_run_is_told_as_not_begun(run: Run) -> None:
    _, view = run.following.look()
    assert view["state"]["word"] == "not begun"
    live = run.following.liveness()
    assert (live["last_event_age_s"], live["is_held"]) == (None, False)


def test_the_summary_of_a_finished_run_is_taken_and_a_damaged_one_is_not(run: Run) -> None:
    run.write(START, line("finished", step=100))
    (run.path / "summary.json").write_text('{"test_acc')
    assert run.following.look()[1]["outcome"] is None
    (run.path / "summary.json").write_text('{"test_accuracy": 0.5, "finished": true}')
    run.following._took_s = 0.0
    assert run.following.look()[1]["outcome"]["test_accuracy"] == 0.5
