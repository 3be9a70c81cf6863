"""`esper wal`: look at, copy, put back and repair a framed log, such as Tamiyo's field reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from esper.cli.usage import Verbs, add_group, add_verb
from esper.core import wal
from esper.core.counted import counted

REMEDIES = {
    wal.Condition.CLEAN: "nothing to do",
    wal.Condition.TORN: "a write was cut off; its log repairs it when it is opened, or `esper wal repair` now",
    wal.Condition.CORRUPT: "back it up, then `esper wal repair` keeps what precedes the damage, or `esper wal restore` "
    "puts a copy back",
    wal.Condition.FOREIGN: "it doesn't begin as a log does, and `esper wal repair` leaves it alone; a service's log is "
    "RUN_DIR/services/field_reports.log",
}


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "wal", "inspect, back up, restore and repair a log")
    inspect = add_verb(group, "inspect", run_inspect, "say what state a log is in; exit code 1 unless it is clean")
    inspect.add_argument("log", type=Path, metavar="LOG", help="e.g. RUN_DIR/services/field_reports.log")
    backup = add_verb(group, "backup", run_backup, "copy a log durably; never overwrites")
    backup.add_argument("log", type=Path, metavar="LOG", help="the log to copy")
    backup.add_argument("target", type=Path, metavar="TARGET", help="the copy to write; it must not be there yet")
    restore = add_verb(group, "restore", run_restore, "put a whole copy back; what stands there is kept as .broken")
    restore.add_argument("copy", type=Path, metavar="COPY", help="what `esper wal backup` wrote")
    restore.add_argument("log", type=Path, metavar="LOG", help="where the log belongs")
    repair = add_verb(group, "repair", run_repair, "keep the whole records before the damage, and a copy of everything")
    repair.add_argument("log", type=Path, metavar="LOG", help="the damaged log, of a service that is stopped")


def run_inspect(arguments: argparse.Namespace) -> int:
    found = wal.inspect(arguments.log)
    print(_in_words(found))
    return 0 if found.condition is wal.Condition.CLEAN else 1


def run_backup(arguments: argparse.Namespace) -> int:
    wal.backup(arguments.log, arguments.target)
    print(f"{arguments.log} copied to {arguments.target}")
    return 0


def run_restore(arguments: argparse.Namespace) -> int:
    found = wal.restore(arguments.copy, arguments.log)
    print(f"{arguments.log}: {counted(found.records, 'record')} put back from {arguments.copy}")
    return 0


def run_repair(arguments: argparse.Namespace) -> int:
    wal.inspect(arguments.log)
    # Opening it, not just inspecting it, makes sure that no running service writes to it meanwhile.
    with wal.Log(arguments.log, strict=False) as log:
        kept = log.last_seq
        was_repaired = log.repaired
    lost = "cut off; the damaged file is kept beside it as .broken" if was_repaired else "nothing was damaged"
    print(f"{arguments.log}: {counted(kept, 'record')} kept; {lost}")
    return 0


def _in_words(found: wal.Inspection) -> str:
    if found.condition is wal.Condition.FOREIGN:
        return f"no log: {found.size_bytes} bytes; {REMEDIES[found.condition]}"
    whole = counted(found.records, "whole record")
    lines = [f"{found.condition.value}: {whole} in {counted(found.size_bytes, 'byte')}"]
    if found.condition is not wal.Condition.CLEAN:
        after = counted(found.records_after_damage, "whole record")
        lines.append(f"damage at byte {found.end_bytes}; {after} after it")
    return "\n".join([*lines, REMEDIES[found.condition]])
