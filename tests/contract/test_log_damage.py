"""Every truncation and every single-bit flip of a log, and kill -9 while it is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from esper.core import wal
from esper.core.errors import CorruptRecord
from esper.core.wal.format import FRAME_BYTES, HEADER_BYTES
from tests.contract.crash import acknowledged_before_kill

PAYLOADS = [bytes([n]) * (n * 23 % 50) for n in range(8)]

APPENDS_UNTIL_KILLED = """
import pathlib, sys
from esper.core import wal
log = wal.Log(pathlib.Path(sys.argv[1]))
while True:
    seq = log.append(log.last_seq % 256, str(log.last_seq + 1).encode() * 20)
    log.sync()
    print(seq, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "reports.log"
    with wal.Log(path) as log:
        for number, payload in enumerate(PAYLOADS):
            log.append(number, payload)
    return path


def ends() -> list[int]:
    """Where the header and each record end."""
    found = [HEADER_BYTES]
    for payload in PAYLOADS:
        found.append(found[-1] + FRAME_BYTES + len(payload))
    return found


def test_every_truncation_leaves_exactly_the_records_before_it(path: Path) -> None:
    raw = path.read_bytes()
    assert len(raw) == ends()[-1] > 300
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with wal.Log(path) as log:
            kept = sum(end <= size for end in ends()[1:])
            assert [record.payload for record in log.records()] == PAYLOADS[:kept], size
            assert log.repaired == (size not in ends()), size
        for broken in path.parent.glob("*.broken"):
            assert broken.read_bytes() == raw[:size]
            broken.unlink()


def test_every_bit_flip_is_found_and_damage_in_the_middle_is_never_called_torn(path: Path) -> None:
    raw = path.read_bytes()
    last = len(PAYLOADS) - 1
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        found = wal.inspect(path)
        whole = sum(end <= bit // 8 for end in ends()) - 1
        assert found.records == max(whole, 0), bit
        expected = wal.Condition.TORN if whole == last else wal.Condition.CORRUPT
        assert found.condition is expected, bit
        if whole >= 0:
            assert found.records_after_damage == last - whole, bit


def test_a_strict_log_opens_after_no_flip_before_the_last_record(path: Path) -> None:
    raw = path.read_bytes()
    for byte in range(0, ends()[-2], 7):
        changed = bytearray(raw)
        changed[byte] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(CorruptRecord):
            wal.Log(path)
        assert path.read_bytes() == bytes(changed)


def lives(path: Path, deaths: int, chance: random.Random) -> None:
    for _ in range(deaths):
        acknowledged = acknowledged_before_kill(APPENDS_UNTIL_KILLED, str(path), at_least=chance.randrange(1, 30))
        with wal.Log(path) as log:
            records = list(log.records())
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert all(record.payload == str(record.seq).encode() * 20 for record in records)
        assert len(records) >= int(acknowledged[-1])


def test_no_acknowledged_record_is_lost_to_kill_9(tmp_path: Path) -> None:
    lives(tmp_path / "reports.log", 8, random.Random(1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_acknowledged_record_is_lost_to_a_thousand_kills(tmp_path: Path) -> None:
    lives(tmp_path / "reports.log", 1000, random.Random(2))
