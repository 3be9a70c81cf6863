"""`esper status`: what a run is doing or has done, from the files in its directory alone."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from esper.cli.usage import Verbs, add_verb, run_directory
from esper.core.enums import short_name
from esper.core.errors import ConfigError
from esper.core.plain import plain
from esper.core.security.run_line import LOCK
from esper.core.storage.file_lock import says_held, who
from esper.core.storage.files import open_regular
from esper.leyline import SeedStage
from esper.tolaria.record.course.reading import Record, standing
from esper.tolaria.record.growth_reason import in_words
from esper.tolaria.record.terminal.depth_words import became, missed


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "status", run, "show a run's progress, seeds and commands")
    parser.add_argument("run_dir", type=run_directory, metavar="RUN_DIR", help="a run's directory, such as runs/latest")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    found = read(arguments.run_dir)
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(map(plain, lines(found))))
    return 0


def read(run_dir: Path) -> dict[str, Any]:
    """The finished run's summary, or what its events say so far and whether a process holds its directory."""
    summary = run_dir / "summary.json"
    if summary.exists():
        try:
            found = json.loads(summary.read_text(encoding="utf-8"))
            return {"state": "finished" if found.get("finished", True) else f"stopped, {found['stop_reason']}", **found}
        except ValueError as error:
            raise ConfigError("RUN_DIR", str(run_dir), f"summary.json is damaged: {error}") from error
    events, is_held = run_dir / "events.jsonl", says_held(run_dir / LOCK)
    if not events.exists() and not is_held:
        raise ConfigError("RUN_DIR", str(run_dir), "holds no run: neither summary.json nor events.jsonl is there")
    found = from_events(standing(_events(events)) if events.exists() else (), is_held=is_held)
    return {**found, "held_by": who(run_dir / LOCK)} if is_held else found


def from_events(events: Iterable[Record], *, is_held: bool) -> dict[str, Any]:
    """What a run that is under way, or was killed, has written."""
    state = STARTING if is_held else NOT_BEGUN
    found: dict[str, Any] = {"state": state, "seeds": [], "commands": {"issued": 0, "accepted": 0}}
    for event in events:
        kind = event["kind"]
        if kind in ("run", "resumed"):
            found["state"] = RUNNING if is_held else UNFINISHED
            found.update({name: event[name] for name in ("run_id", "seed", "total_steps") if name in event})
        elif kind == "boundary":
            found.update({name: event.get(name) for name in BOUNDARY})
            found["seeds"] = [_seed(seed) for seed in event["seeds"]]
        elif (kind, event.get("name")) == ("failure", "tolaria.run_failed"):
            found["state"] = f"failed, {event['detail']}"
        elif kind == "growth":
            found["growth_reason"] = {
                "reason": event["reason"],
                "detail": event["detail"],
                "since_step": event.get("since_step", event["step"]),
            }
        elif kind == "epoch":
            found["val_accuracy"] = event.get("val_accuracy")
            if "growth" in event:
                found["growth_reason"] = event["growth"]
        elif kind == "command":
            found["commands"]["issued"] += 1
            found["commands"]["accepted"] += bool(event["accepted"])
        if "time" in event:
            found["last_event"] = event["time"]
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"run {found.get('run_id', 'without a name yet')}: {found['state']}"
    for name in PLAIN:
        if found.get(name) is not None:
            yield f"  {name.replace('_', ' '):22} {_value(found[name])}"
    if passed_over := found.get("passed_over"):
        yield f"  {'passed over':22} the batches of steps {', '.join(map(str, passed_over))}"
    for grown in became(found):
        yield f"  {'depth':22} {grown}"
    if told := missed(found):
        yield f"  {'depth':22} {told}"
    if plane := found.get("plane") or found.get("halted_by"):
        who = f" (raised by {plane['raised_by']}, id {plane['emergency_id']})" if "raised_by" in plane else ""
        level = f", {plane['level']}" if "level" in plane else ""
        yield f"  {'plane':22} {plane['mode']}{level}: {plane['cause']}{who}"
    if reason := found.get("growth_reason"):
        words = in_words(reason["reason"], reason["detail"])
        yield f"  {'growth':22} {words} (since step {reason['since_step']:,})"
    commands = found["commands"]
    counts = f"{commands['issued']} issued, {commands['accepted']} accepted, {_refused(commands)} refused"
    yield f"  {'commands':22} {counts}"
    for seed in found["seeds"]:
        place = seed.get("slot") or seed.get("slot_id")
        gain = f", gain {seed['gain']:+.4f} ± {seed['gain_se']:.4f}" if seed.get("gain") is not None else ""
        fate = f", {seed['fate']}" if seed.get("fate") else ""
        stage = seed["stage"] + (", paused," if seed.get("is_paused") else "")
        yield f"  seed {seed['seed_id']:17} {stage} in {place}, alpha {seed['alpha']:g}{gain}{fate}"


STARTING, RUNNING = "starting", "running"
NOT_BEGUN = "not begun: it ended before its first event; without --resume it starts anew"
UNFINISHED = "unfinished: no process runs it; --resume goes on from its newest checkpoint"
BOUNDARY = ("step", "epoch", "smoothed_loss", "accuracy", "mode", "plane")
PLAIN = (
    "step",
    "steps",
    "total_steps",
    "epoch",
    "epochs",
    "ended_early",
    "smoothed_loss",
    "accuracy",
    "val_accuracy",
    "test_accuracy",
    "host_parameters",
    "final_parameters",
    "training_macs",
    "mode",
    "timeouts",
    "rollbacks",
    "reproducible",
    "reproducible_cause",
    "held_by",
    "machine",
    "weights_digest",
    "last_event",
)


def _refused(commands: dict[str, Any]) -> str:
    """How many, and why where the summary says it."""
    reasons = commands.get("rejected")
    if reasons is None:
        return str(commands["issued"] - commands["accepted"])
    words = ", ".join(f"{count} {reason.lower().replace('_', ' ')}" for reason, count in reasons.items())
    return f"{sum(reasons.values())} ({words})" if words else "0"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _seed(seed: Record) -> Record:
    stage = seed["stage"]
    named = short_name(SeedStage, stage) if isinstance(stage, int) else stage
    return {**seed, "stage": named}


def _events(path: Path) -> Iterator[Record]:
    """The events written so far; a last line that is still being written is left out."""
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError("RUN_DIR", str(path), f"line {number} is damaged: {error}") from error
