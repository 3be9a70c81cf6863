from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.tolaria.run_dir import occupied

SUMMARY = {
    "run_id": "run-1",
    "steps": 2100,
    "seed": 1,
    "test_accuracy": 0.9512,
    "final_parameters": 1234,
    "commands": {"issued": 3, "accepted": 2, "rejected": {"STALE_COMMAND": 1}},
    "seeds": [
        {
            "seed_id": "s1",
            "stage": "FOSSILIZED",
            "slot": "span:fc1-fc2",
            "alpha": 1.0,
            "gain": 0.0312,
            "gain_se": 0.004,
            "fate": "kept",
        },
        {"seed_id": "s2", "stage": "CULLED", "slot": "span:fc1-fc2", "alpha": 0.0, "gain": None, "gain_se": None},
    ],
    "rollbacks": 2,
    "passed_over": [13, 14],
    "reproducible": True,
    "reproducible_cause": None,
    "depths": {"blocks": {"from": 2, "to": 4}},
    "depth_shortfall": {"wanted": 8, "got": {"stack:blocks": 4}, "reason": "max_parameters 9 leaves no room"},
    "growth_reason": {"reason": "TOO_LATE", "detail": "5 steps are left", "since_step": 1270},
}

EVENTS = [
    {"time": "2026-01-01T00:00:00+00:00", "kind": "run", "run_id": "run-1", "seed": 1, "step": 0, "total_steps": 100},
    {
        "time": "2026-01-01T00:00:01+00:00",
        "kind": "boundary",
        "step": 10,
        "epoch": 0,
        "smoothed_loss": 1.25,
        "accuracy": None,
        "mode": "NORMAL",
        "seeds": [{"seed_id": "s1", "stage": 4, "alpha": 0.5, "slot_id": "span:fc1-fc2"}],
    },
    {"time": "2026-01-01T00:00:01+00:00", "kind": "growth", "step": 5, "reason": "WARMING_UP", "detail": "step 5 of 9"},
    {
        "time": "2026-01-01T00:00:01+00:00",
        "kind": "growth",
        "step": 10,
        "reason": "PAUSED",
        "detail": "by operator:ada: lunch",
    },
    {"time": "2026-01-01T00:00:02+00:00", "kind": "command", "step": 10, "command_id": "c1", "accepted": True},
    {"time": "2026-01-01T00:00:03+00:00", "kind": "command", "step": 10, "command_id": "c2", "accepted": False},
]


def write_events(run_dir: Path, tail: str = "") -> None:
    (run_dir / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + tail)


def test_a_finished_run_is_told_from_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "run run-1: finished" in printed
    assert "test accuracy          0.9512" in printed
    assert "rollbacks              2\n" in printed
    assert "passed over            the batches of steps 13, 14\n" in printed
    assert "depth                  stack:blocks 2 -> 4 equal blocks\n" in printed
    assert "depth                  wanted depth 8, got 4: max_parameters 9 leaves no room\n" in printed
    assert "growth                 too late: 5 steps are left (since step 1,270)" in printed
    assert "3 issued, 2 accepted, 1 (1 stale command) refused" in printed
    assert "seed s1                FOSSILIZED in span:fc1-fc2, alpha 1, gain +0.0312 ± 0.0040, kept" in printed
    assert "seed s2                CULLED in span:fc1-fc2, alpha 0\n" in printed


def test_a_run_under_way_is_told_from_its_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_events(tmp_path, tail='{"time": "2026-')
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "run run-1: unfinished: no process runs it; --resume" in printed
    assert "2 issued, 1 accepted, 1 refused" in printed
    assert "growth                 paused: by operator:ada: lunch (since step 10)" in printed
    assert "seed s1                BLENDING in span:fc1-fc2, alpha 0.5" in printed
    assert "last event             2026-01-01T00:00:03+00:00" in printed


def test_what_a_resume_undid_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"time": "2026-01-01T00:00:04+00:00"}
    back = [
        {"kind": "checkpoint", "step": 10},
        {"kind": "command", "step": 20, "command_id": "c3", "accepted": True},
        {"kind": "failure", "name": "tolaria.run_failed", "step": 20, "detail": "no space left"},
    ]
    write_events(tmp_path, "".join(json.dumps({**times, **event}) + "\n" for event in back))
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "run run-1: failed, no space left" in printed
    assert "3 issued, 2 accepted, 1 refused" in printed
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps({**times, "kind": "resumed", "run_id": "run-1", "step": 10}) + "\n")
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "run run-1: unfinished: no process runs it; --resume" in printed
    assert "2 issued, 1 accepted, 1 refused" in printed


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_events(tmp_path)
    assert main(["status", "--json", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["seeds"][0]["stage"]) == (10, "BLENDING")


def test_a_run_that_a_process_holds_is_starting_then_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> str:
        assert main(["status", "--json", str(tmp_path)]) == 0
        return str(json.loads(capsys.readouterr().out)["state"])

    with occupied(tmp_path):
        assert state() == "starting"
        write_events(tmp_path)
        assert state() == "running"
        assert main(["status", str(tmp_path)]) == 0
        assert f"held by                pid {os.getpid()} on " in capsys.readouterr().out
    assert state().startswith("unfinished: no process runs it")
    (tmp_path / "events.jsonl").write_text("")
    assert state().startswith("not begun: it ended before its first event")


def test_a_directory_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 78
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["summary.json", "events.jsonl"])
def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_text("{no json}\n")
    assert main(["status", str(tmp_path)]) == 78
    assert "is damaged" in capsys.readouterr().err


def test_the_reason_of_a_run_under_way_has_its_numbers_of_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = {"reason": "WARMING_UP", "detail": "step 7310 of 180000", "since_step": 20}
    events = [
        {"kind": "growth", "step": 20, "reason": "WARMING_UP", "detail": "step 10 of 180000", "since_step": 20},
        {"kind": "epoch", "step": 7320, "epoch": 406, "val_accuracy": 0.9, "growth": now},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [EVENTS[0], *events]))
    assert main(["status", str(tmp_path)]) == 0
    assert "warming up: step 7310 of 180000 (since step 20)" in capsys.readouterr().out


def test_what_a_run_was_given_does_not_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\nrun r: finished\u202e"
    seed = {**SUMMARY["seeds"][0], "seed_id": hostile, "slot": hostile, "fate": hostile}  # type: ignore[index]
    summary = {**SUMMARY, "run_id": hostile, "seeds": [seed], "machine": hostile, "mode": hostile}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert main(["status", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(character == "\n" or character.isprintable() for character in printed)
    assert sum(line.startswith("run ") for line in printed.splitlines()) == 1


def test_a_run_that_ended_before_its_first_event_has_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").touch()
    assert main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "run without a name yet: not begun: it ended before its first event; without --resume it starts anew"
    )
