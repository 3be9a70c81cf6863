"""What befalls a framed log in a soak, and what must be true of it afterwards: a table of faults.

A fault is given the log's path and what was acknowledged so far, by sequence; it gives what must still be there, and a
line for each promise that was broken.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from esper.core import wal
from esper.core.errors import CorruptRecord, StorageError
from esper.core.wal.format import HEADER_BYTES
from tools.harness.drills.wal_writer import FULL
from tools.harness.faults.replaced import replaced

Records = dict[int, str]
Fault = Callable[[Path, Records, random.Random], tuple[Records, list[str]]]
FEWEST = 3
LONGEST_S = 0.05
TIMEOUT_S = 60.0


def killed(path: Path, acked: Records, draw: random.Random) -> tuple[Records, list[str]]:
    """kill -9 while it writes: everything acknowledged is there, and at most one record more."""
    acked = acked | _written(path, draw, None)
    kept, failures = _opened(path)
    failures += [f"{seq} was acknowledged and is lost" for seq in acked if kept.get(seq) != acked[seq]]
    if len(kept) > len(acked) + 1:
        failures.append(f"{len(kept)} records after {len(acked)} acknowledgements")
    return kept, failures


def torn(path: Path, acked: Records, draw: random.Random) -> tuple[Records, list[str]]:
    """The end of the file never came to the disk: whole records stay, the cut one goes, the damaged file is kept."""
    size = path.stat().st_size
    cut = draw.randint(max(1, size - 200), size - 1)
    os.truncate(path, cut)
    found = wal.inspect(path)
    kept, failures = _opened(path)
    if len(kept) != found.records or _differ(kept, acked):
        failures.append(f"cut at byte {cut} of {size}, {found.records} whole records, {len(kept)} kept")
    if found.condition is wal.Condition.TORN and not list(path.parent.glob(path.name + ".broken*")):
        failures.append("a torn end was cut off without a copy")
    return kept, failures


def flipped(path: Path, acked: Records, draw: random.Random) -> tuple[Records, list[str]]:
    """A bit is wrong: it is found; a log with whole records behind it is refused until it is repaired."""
    acked = acked | _written(path, draw, None)
    raw = bytearray(path.read_bytes())
    place = draw.randrange(HEADER_BYTES, len(raw))
    raw[place] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)
    found, failures = wal.inspect(path), list[str]()
    if found.condition is wal.Condition.CLEAN:
        failures.append(f"a flipped bit at byte {place} was not found")
    if found.condition is wal.Condition.CORRUPT:
        try:
            wal.Log(path).close()
            failures.append(f"a log with damage at byte {place} and records behind it was opened")
        except CorruptRecord:
            wal.repair(path)
    kept, more = _opened(path)
    if len(kept) != found.records or _differ(kept, acked):
        failures.append(f"a flip at byte {place}: {found.records} whole records before it, {len(kept)} kept")
    return kept, failures + more


def full_disk(path: Path, acked: Records, draw: random.Random) -> tuple[Records, list[str]]:
    """No room for a whole record: its append fails, and leaves no half of it behind."""
    acked = acked | _written(path, draw, path.stat().st_size + draw.randint(100, 2000))
    found, failures = wal.inspect(path), list[str]()
    if found.condition is not wal.Condition.CLEAN:
        failures.append(f"a full disk left the log {found.condition.value}")
    kept, more = _opened(path)
    return kept, failures + more + ([] if kept == acked else ["a full disk changed what is kept"])


def rename_fails(path: Path, acked: Records, draw: random.Random) -> tuple[Records, list[str]]:
    """A copy can't be put in the log's place: the log stays as it was, and nothing is left beside it."""
    before, copy, failures = path.read_bytes(), path.with_name("copy"), list[str]()
    wal.backup(path, copy)

    def fails(source: object, target: object) -> None:
        raise OSError(5, "Input/output error", str(source), None, str(target))

    with replaced(os, "replace", fails):
        try:
            wal.restore(copy, path)
            failures.append("a rename that failed was not told")
        except StorageError:
            pass
    copy.unlink()
    left = [each.name for each in path.parent.glob(f".{path.name}.*")]
    if path.read_bytes() != before or left:
        failures.append(f"a rename that failed changed the log or left {left}")
    kept, more = _opened(path)
    return kept, failures + more + ([] if kept == acked else ["a rename that failed changed what is kept"])


FAULTS: Mapping[str, Fault] = {
    "kill -9": killed,
    "torn write": torn,
    "flipped bit": flipped,
    "full disk": full_disk,
    "failed rename": rename_fails,
}


def _written(path: Path, draw: random.Random, limit_bytes: int | None) -> Records:
    """What a process acknowledged until it was killed, or until its disk was full."""
    words = [sys.executable, "-m", "tools.harness.drills.wal_writer", str(path)]
    limit = [] if limit_bytes is None else [str(limit_bytes)]
    with subprocess.Popen([*words, *limit], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdout is not None
        lines: list[str] = []
        if limit_bytes is None:
            lines = [writer.stdout.readline() for _ in range(FEWEST)]
            time.sleep(draw.uniform(0.0, LONGEST_S))
            writer.kill()
        lines += writer.stdout.readlines()
        code = writer.wait(TIMEOUT_S)
    if limit_bytes is not None and code != FULL:
        raise AssertionError(f"the writer ended with {code}, a full disk should have ended it with {FULL}")
    told = [line.split() for line in lines if line.endswith("\n")]
    return {int(seq): payload for seq, payload in told}


def _differ(kept: Records, acked: Records) -> bool:
    """Whether something that was acknowledged is kept as something else."""
    return any(kept[seq] != acked[seq] for seq in kept.keys() & acked.keys())


def _opened(path: Path) -> tuple[Records, list[str]]:
    """What a log holds that is opened again, and whether it then is whole."""
    with wal.Log(path) as log:
        kept = {record.seq: record.payload.decode() for record in log.records()}
        failures = [] if list(kept) == list(range(1, log.last_seq + 1)) else ["sequences have a gap"]
    return kept, failures
