"""`esper bus`: what the embedded bus put aside because no consumer could handle it."""

from __future__ import annotations

import argparse
from pathlib import Path

from google.protobuf import json_format

import esper.leyline as leyline
from esper.cli.databases import find
from esper.cli.usage import Verbs, add_group, add_verb
from esper.core.clock import utc_text
from esper.core.enums import short_name
from esper.core.plain import plain
from esper.leyline import BusEnvelope, BusLane
from esper.oona.dead_letters import DeadLetter, read

DATABASE = "oona.db"


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "bus", "look at what went over the bus")
    letters = add_verb(group, "dead-letters", run_dead_letters, "list the envelopes that no consumer could handle")
    letters.add_argument("place", type=Path, metavar="RUN_DIR", help="a run's directory, or Weatherlight's oona.db")
    letters.add_argument("--payload", action="store_true", help="print what each one holds, too, as JSON")


def run_dead_letters(arguments: argparse.Namespace) -> int:
    letters = read(find(arguments.place, DATABASE))
    for letter in letters:
        print(plain(_line(letter)))
        if arguments.payload:
            print(_payload(letter.envelope))
    print(f"{len(letters)} dead letters")
    return 0


def _line(letter: DeadLetter) -> str:
    envelope = letter.envelope
    place = f"{envelope.sequence:6} {utc_text(letter.stored_ns)} {short_name(BusLane, envelope.lane)}"
    return f"{place} {envelope.event_id}: {envelope.payload_type} from {envelope.source}, refused by {letter.group}"


def _payload(envelope: BusEnvelope) -> str:
    """The message as JSON; its bytes in hexadecimal if it is of a kind that isn't ours."""
    kind = getattr(leyline, envelope.payload_type.removeprefix("esper.leyline.v1."), None)
    return json_format.MessageToJson(kind.FromString(envelope.payload)) if kind else envelope.payload.hex()
