"""Reading events: the run as it stands after kills, resumes and rollbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper.tolaria.record.course.reading import cut_torn_line, read_events, standing


def steps_of(events: list[Any]) -> list[tuple[str, int]]:
    return [(event["kind"], event["step"]) for event in events]


def made(*events: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"kind": kind, "step": step} for kind, step in events]


@pytest.mark.parametrize("kind", ["resumed", "rollback"])
def test_what_was_done_after_the_checkpoint_is_left_out_and_what_happened_is_kept(kind: str) -> None:
    before = made(("run", 0), ("boundary", 10), ("transition", 8), ("checkpoint", 10))
    undone = made(("boundary", 20), ("transition", 9), ("timeout", 20), ("command", 20))
    after = made((kind, 10), ("boundary", 20), ("transition", 9))
    assert steps_of(list(standing([*before, *undone, *after]))) == [
        *steps_of(before),
        ("timeout", 20),
        *steps_of(after),
    ]


def test_a_run_that_went_back_twice_keeps_each_step_once() -> None:
    events = made(("boundary", 10), ("checkpoint", 10), ("boundary", 20), ("checkpoint", 20), ("boundary", 30))
    again = made(("resumed", 20), ("boundary", 30), ("rollback", 10), ("boundary", 20), ("boundary", 30))
    found = standing([*events, *again])
    assert [event["step"] for event in found if event["kind"] == "boundary"] == [10, 20, 30]


def test_a_checkpoint_that_was_written_later_is_of_the_boundary_at_which_it_was_due() -> None:
    events = made(("boundary", 10), ("snapshot", 10), ("boundary", 20), ("checkpoint", 10), ("boundary", 30))
    found = standing([*events, *made(("resumed", 10), ("boundary", 20))])
    assert steps_of(found) == [
        ("boundary", 10),
        ("snapshot", 10),
        ("checkpoint", 10),
        ("resumed", 10),
        ("boundary", 20),
    ]


def test_a_run_that_went_back_to_memory_tells_no_step_twice() -> None:
    events = made(("boundary", 10), ("snapshot", 10), ("boundary", 20), ("rollback", 10), ("boundary", 20))
    assert [event["step"] for event in standing(events) if event["kind"] == "boundary"] == [10, 20]


def test_a_run_that_never_went_back_is_told_whole() -> None:
    events = made(("run", 0), ("boundary", 10), ("checkpoint", 10), ("boundary", 20), ("finished", 20))
    assert standing(events) == events


@pytest.mark.parametrize(
    ("content", "left"),
    [(b'{"a": 1}\n{"b"', b'{"a": 1}\n'), (b'{"a": 1}\n', b'{"a": 1}\n'), (b'{"a"', b""), (b"", b"")],
)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, content: bytes, left: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == left


@pytest.mark.parametrize(
    "damaged", [b"\xff\xfe", b'{"kind": "boundary", "step"', b"7", b'{"step": 3}', b'{"kind": "boundary"}']
)
def test_a_damaged_line_is_left_out_and_takes_no_other_with_it(damaged: bytes, tmp_path: Path) -> None:
    lines = [b'{"kind": "run", "step": 0}', damaged, b'{"kind": "epoch", "step": 10}']
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert steps_of(list(read_events(tmp_path))) == [("run", 0), ("epoch", 10)]
