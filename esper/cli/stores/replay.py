"""`esper ledger replay`: what Tamiyo and Kasmina decided, decided again by the rules of now."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from esper.core.counted import counted
from esper.core.decisions.decision_ledger import Decided, kinds, rows
from esper.core.decisions.decisions import in_words, reasons_in_words
from esper.core.decisions.replayed import Replayed
from esper.core.enums import short_name
from esper.core.errors import ConfigError, StorageError
from esper.core.plain import plain
from esper.leyline import AdaptationCommand, CommandOutcome, Decision, DirectiveKind, SeedStage

Replay = Callable[[Iterable[Decided]], Iterator[Replayed]]
TOLD_ROWS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What became of a ledger's rows."""

    rows: int
    replayed: int
    differing: int
    """Decided otherwise by rules of the same version: a decision changed and nothing says so."""
    versioned: int
    """Decided otherwise by rules of another version."""
    acting: int
    """Of both, those that do something else; the others differ in their reasons, or in what they remember."""


@dataclass(kw_only=True, slots=True)
class Told:
    """Rows that differ: how many, and the first of them, which are told."""

    count: int = 0
    first: list[Replayed] = field(default_factory=list)

    def add(self, again: Replayed) -> None:
        self.count += 1
        if len(self.first) < TOLD_ROWS:
            self.first.append(again)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ledger", type=Path, metavar="LEDGER", help="a run's directory, or a service's tamiyo.db or kasmina.db"
    )


def run(arguments: argparse.Namespace) -> int:
    counts = [_told(ledger, replay) for ledger, replay in _ledgers(arguments.ledger)]
    return 1 if any(count.differing for count in counts) else 0


def _ledgers(place: Path) -> list[tuple[Path, Replay]]:
    """The databases at a place, each with what decides its rows again."""
    from esper.kasmina.control.ledger import (
        replay as kasmina,  # the services' rules, which the other verbs start without
    )
    from esper.tamiyo import replay as tamiyo

    replays: Mapping[str, Replay] = {"tamiyo": tamiyo.replay, "kasmina": kasmina.replay}
    if place.is_file():
        return [(place, replays[_service_of(place)])]
    folder = place / "services" if (place / "services").is_dir() else place
    found = [(folder / f"{name}.db", replay) for name, replay in replays.items() if (folder / f"{name}.db").is_file()]
    if not found:
        raise ConfigError(
            "LEDGER", str(place), "none is there; give a run's directory, or a service's tamiyo.db or kasmina.db"
        )
    return found


def _service_of(ledger: Path) -> str:
    """By what it decides: a copy of a ledger may have any name."""
    found = kinds(ledger)
    if not found:
        raise StorageError(f"{ledger} holds no decisions")
    return "tamiyo" if "packet" in found else "kasmina"


def _told(ledger: Path, replay: Replay) -> Count:
    recorded, replayed, versioned = kinds(ledger).total(), 0, 0
    acting, noting = Told(), Told()
    for again in replay(rows(ledger)):
        replayed += 1
        if again.differences:
            versioned += again.is_told
            (acting if _acts_otherwise(again) else noting).add(again)
    for again in [*acting.first, *noting.first][:TOLD_ROWS]:
        _tell(ledger, again)
    different = acting.count + noting.count
    count = Count(
        rows=recorded,
        replayed=replayed,
        differing=different - versioned,
        versioned=versioned,
        acting=acting.count,
    )
    print(plain(_in_words(ledger, count)))
    return count


def _acts_otherwise(again: Replayed) -> bool:
    return _deeds(again.recorded.decision) != _deeds(again.now.decision)


def _tell(ledger: Path, again: Replayed) -> None:
    row = again.row
    how = f"version {row.version}, now {again.version}" if again.is_told else f"version {row.version}"
    lines = [
        f"{ledger.name} row {row.seq}: run {row.run_id}, {row.kind} at step {row.step} ({how})",
        f"  recorded  {words(again.recorded.decision)}",
        f"  now       {words(again.now.decision)}",
        *(
            [f"  inputs    {'differ' if again.inputs_differ else 'the same'}"]
            if again.inputs_differ is not None
            else []
        ),
        *(f"  {difference}" for difference in again.differences),
        f"  input     {_json(again.given)}",
        f"  state     {_json(type(again.recorded.after).FromString(row.before))}",
        *([f"  beside    {dict(row.circumstances)}"] if row.circumstances else []),
    ]
    for line in lines:
        print(plain(line))


def _in_words(ledger: Path, count: Count) -> str:
    skipped = f", {count.rows - count.replayed} of learned policies not replayed" * (count.rows > count.replayed)
    versioned = f", {count.versioned} otherwise by another version" * bool(count.versioned)
    acting = f"; {count.acting} do something else" if count.differing or count.versioned else ""
    return f"{ledger}: {counted(count.rows, 'decision')}, {count.differing} differ{versioned}{skipped}{acting}"


def words(decision: Any) -> str:
    """A decision in one line."""
    deeds = ", ".join(_deeds(decision)) or "nothing"
    if isinstance(decision, Decision):
        return f"{deeds} ({reasons_in_words(decision.metadata)})"
    gates = [f"{gate.seed_id}: {gate.detail}" for gate in getattr(decision, "gates", ())]
    return "; ".join([*gates, deeds])


def _deeds(decision: Any) -> list[str]:
    """What is done, without the numbers that led to it."""
    if isinstance(decision, Decision):
        return [in_words(AdaptationCommand.FromString(envelope.payload)) for envelope in decision.commands]
    if isinstance(decision, CommandOutcome) and not decision.accepted:
        return [f"refused: {decision.detail}"]
    moves = [f"{move.seed_id} to {short_name(SeedStage, move.to_stage)}" for move in decision.transitions]
    return [*moves, *(f"{short_name(DirectiveKind, each.kind)} {each.seed_id}".strip() for each in decision.directives)]


def _json(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True)
