from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.leyline import BusEnvelope, BusLane, MessagePriority, RunClosure
from esper.oona.bus import BusConfig
from esper.oona.envelope import seal
from esper.oona.log import SqliteLog

NORMAL = BusLane.BUS_LANE_NORMAL


def sealed(clock: ManualClock, event_id: str = "e1") -> BusEnvelope:
    return seal(
        Keyring.from_secret("test-secret-0123456789-abcdefghijklm"),
        clock,
        RunClosure(reason="poison"),
        source="tolaria",
        lane=NORMAL,
        priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
        event_id=event_id,
    )


async def refused_by_nissa(path: Path, envelope: BusEnvelope, clock: ManualClock) -> SqliteLog:
    """A bus on which the envelope was delivered as often as it may be, and rejected each time."""
    bus = SqliteLog(path, clock, BusConfig(max_deliveries=1))
    await bus.publish([envelope])
    await bus.fetch("nissa", "c1", [NORMAL], 1)
    await bus.reject("nissa", [envelope.event_id])
    clock.advance(60.0)
    assert await bus.fetch("nissa", "c1", [NORMAL], 1) == []
    return bus


async def looked_for(run_dir: Path, *words: str, event_id: str = "e1") -> int:
    """What `esper bus dlq` ends with beside a bus that runs and holds one dead letter of that id."""
    (run_dir / "services").mkdir()
    clock = ManualClock()
    bus = await refused_by_nissa(run_dir / "services" / "oona.db", sealed(clock, event_id), clock)
    try:
        return await asyncio.to_thread(main, ["bus", "dlq", *words, str(run_dir)])
    finally:
        await bus.close()


def test_a_dead_letter_is_named_with_its_group_also_while_a_service_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(looked_for(tmp_path, "list")) == 0
    printed = capsys.readouterr().out
    assert "NORMAL e1: esper.leyline.v1.RunClosure from tolaria, refused by nissa" in printed
    assert printed.endswith("1 dead letters\n")


def test_what_a_dead_letter_holds_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asyncio.run(looked_for(tmp_path, "show", "--id", "e1")) == 0
    assert '"reason": "poison"' in capsys.readouterr().out
    assert main(["bus", "dlq", "show", "--id", "e1", "--group", "other", str(tmp_path)]) == 78
    assert "--id = 'e1': is no dead letter of group other; `esper bus dlq list`" in capsys.readouterr().err


def test_what_is_no_bus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bus", "dlq", "list", str(tmp_path)]) == 78
    assert "services/oona.db isn't there" in capsys.readouterr().err
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database, whatever its name says")
    assert main(["bus", "dlq", "list", str(other)]) == 1
    assert "can't be read as a bus" in capsys.readouterr().err


def test_the_id_of_a_dead_letter_does_not_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(looked_for(tmp_path, "list", event_id="e\x1b[2J\n0 dead letters")) == 0
    printed = capsys.readouterr().out
    assert "e\\x1b[2J\\n0 dead letters" in printed
    assert not [line for line in printed.splitlines() if line.startswith("0 ")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("dlq", "list"), "name a RUN_DIR or --weatherlight ENDPOINT"),
        (("dlq", "show", "x"), "name the letters with --id"),
        (("dlq", "drop", "x"), "--id EVENT_ID, or all of them with --all"),
        (("dlq", "requeue", "--all", "--id", "e1", "x"), "one of both"),
        (("tail", "--count", "0", "x"), "at least 1 is needed"),
        (("tail", "--after", "-1", "x"), "positions begin at 0"),
        (("tail", "--priority", "URGENT", "x"), "invalid choice: 'URGENT'"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bus", *(str(tmp_path) if word == "x" else word for word in words)]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
