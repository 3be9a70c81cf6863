"""`esper bus`: follow telemetry on the bus, and settle what was put aside because no consumer could handle it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from google.protobuf import json_format

import esper.leyline as leyline
from esper.cli.services.emergency import Line, add_place, connected
from esper.cli.stores.databases import find
from esper.cli.usage import UsageError, Verbs, add_group, add_verb
from esper.core.clock import nanoseconds, utc_text
from esper.core.counted import counted
from esper.core.enums import short_name
from esper.core.errors import AsyncTimeoutError, ConfigError
from esper.core.plain import plain
from esper.core.telemetry import attribute_value
from esper.leyline import (
    BusEnvelope,
    BusLane,
    ConsumeRequest,
    Event,
    MessagePriority,
    Metric,
    SubscribeRequest,
    TelemetryLevel,
    TelemetryPacket,
)
from esper.oona.bus import DeadLetter
from esper.oona.dead_letters import read

DATABASE = "oona.db"
PRIORITIES = [name.removeprefix("MESSAGE_PRIORITY_") for name, number in MessagePriority.items() if number]
EVERY_GROUP = "*"
CONSUMER = "esper-bus"
TIMEOUT_S = 20.0
SUBSCRIBED_S = 3600.0


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "bus", "follow the bus, and settle what no consumer could handle")
    tail = add_verb(group, "tail", run_tail, "print telemetry as it arrives, until it is interrupted")
    add_place(tail)
    tail.add_argument("--after", type=int, metavar="POSITION", help="begin behind this position; 0 is the oldest kept")
    tail.add_argument("--priority", choices=PRIORITIES, default="LOW", help="the least urgent to print (LOW)")
    tail.add_argument("--source", action="append", metavar="NAME", help="print this source alone; may be repeated")
    tail.add_argument("--count", type=int, metavar="N", help="end after so many packets")
    tail.add_argument("--json", action="store_true", help="print each packet as JSON, one a line")
    _register_dlq(add_group(group, "dlq", "the dead letters: envelopes that a group could not handle"))


def _register_dlq(group: Verbs) -> None:
    listed = add_verb(group, "list", run_list, "list them, each with the group that gave it up")
    shown = add_verb(group, "show", run_show, "print what one of them holds, as JSON")
    again = add_verb(group, "requeue", run_requeue, "deliver them to their group again, with all its tries")
    dropped = add_verb(group, "drop", run_drop, "forget them")
    for verb in (listed, shown, again, dropped):
        add_place(verb)
    for verb in (shown, again, dropped):
        verb.add_argument("--id", action="append", metavar="EVENT_ID", help="the letter; may be repeated")
        verb.add_argument("--group", metavar="NAME", help="the group that gave it up (default: any)")
    for verb in (again, dropped):
        verb.add_argument("--all", action="store_true", help="every letter, of --group if it is given")


def run_tail(arguments: argparse.Namespace) -> int:
    if arguments.count is not None and arguments.count < 1:
        raise UsageError(f"--count {arguments.count}: at least 1 is needed")
    if arguments.after is not None and arguments.after < 0:
        raise UsageError(f"--after {arguments.after}: positions begin at 0")
    with connected(arguments) as line:
        for place, (packet, sequence) in enumerate(_packets(line, arguments), 1):
            print(_as_json(packet, sequence) if arguments.json else plain(_in_words(packet, sequence)), flush=True)
            if place == arguments.count:
                break
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    letters = _letters(arguments)
    for letter in letters:
        print(plain(_line(letter)))
    print(f"{len(letters)} dead letters")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    if not arguments.id:
        raise UsageError("name the letters with --id EVENT_ID; `esper bus dlq list` shows them")
    for letter in _wanted(_letters(arguments), arguments):
        print(plain(_line(letter)))
        print(_payload(letter.envelope))
    return 0


def run_requeue(arguments: argparse.Namespace) -> int:
    return _settle(arguments, is_again=True)


def run_drop(arguments: argparse.Namespace) -> int:
    return _settle(arguments, is_again=False)


def _settle(arguments: argparse.Namespace, *, is_again: bool) -> int:
    """Tell the bus what is to become of letters, group by group."""
    if bool(arguments.id) == arguments.all:
        raise UsageError("name letters with --id EVENT_ID, or all of them with --all, one of both")
    with connected(arguments) as line:
        letters = _wanted(list(_told(line)), arguments)
        for group in sorted({letter.group for letter in letters}):
            ids = [letter.envelope.event_id for letter in letters if letter.group == group]
            order = ConsumeRequest(rejected_event_ids=ids) if is_again else ConsumeRequest(acknowledged_event_ids=ids)
            list(_told(line, group, order))
            for event_id in ids:
                print(plain(f"{event_id}: {'delivered to ' + group + ' again' if is_again else 'forgotten'}"))
    print(f"{len(letters)} {'requeued' if is_again else 'dropped'}")
    return 0


def _letters(arguments: argparse.Namespace) -> list[DeadLetter]:
    """From a Weatherlight that serves, or from the file of a run, which is only read."""
    if arguments.weatherlight is not None:
        with connected(arguments) as line:
            return list(_told(line))
    if arguments.run_dir is None:
        raise UsageError("name a RUN_DIR or --weatherlight ENDPOINT, one of them")
    return read(find(arguments.run_dir, DATABASE))


def _told(line: Line, group: str = EVERY_GROUP, *settled: ConsumeRequest) -> Iterator[DeadLetter]:
    """The letters of a group; what is settled is done when all are told."""
    opening = ConsumeRequest(group=group, consumer=CONSUMER, lanes=[BusLane.BUS_LANE_DEAD_LETTERS])
    for told in line.bus.consume(iter([opening, *settled]), timeout_s=TIMEOUT_S):
        yield DeadLetter(told.refused_by, nanoseconds(told.put_aside_at), told.envelope)


def _wanted(letters: list[DeadLetter], arguments: argparse.Namespace) -> list[DeadLetter]:
    """Those that are asked for. Raises ConfigError for one that is no dead letter."""
    of_group = [letter for letter in letters if arguments.group in (None, letter.group)]
    if not arguments.id:
        return of_group
    known = {letter.envelope.event_id for letter in of_group}
    for event_id in arguments.id:
        if event_id not in known:
            of = "" if arguments.group is None else f" of group {arguments.group}"
            raise ConfigError("--id", event_id, f"is no dead letter{of}; `esper bus dlq list` shows them")
    return [letter for letter in of_group if letter.envelope.event_id in arguments.id]


def _packets(line: Line, arguments: argparse.Namespace) -> Iterator[tuple[TelemetryPacket, int]]:
    """Packets with their positions, for ever: a subscription that ends by its time goes on where it was."""
    request = SubscribeRequest(
        min_priority=f"MESSAGE_PRIORITY_{arguments.priority}", sources=arguments.source, after_sequence=arguments.after
    )
    while True:
        try:
            for response in line.client.subscribe(request, timeout_s=SUBSCRIBED_S):
                request.after_sequence = response.sequence
                yield response.packet, response.sequence
        except AsyncTimeoutError:
            continue


def _as_json(packet: TelemetryPacket, sequence: int) -> str:
    text = json_format.MessageToJson(packet, indent=None)
    return f'{{"sequence": {sequence}, "packet": {plain(text)}}}'


def _in_words(packet: TelemetryPacket, sequence: int) -> str:
    priority = short_name(MessagePriority, packet.priority)
    run = f" of {packet.training_run_id}" if packet.HasField("training_run_id") else ""
    run += f" at step {packet.step}" if packet.HasField("step") else ""
    said = ", ".join([*map(_event, packet.events), *map(_metric, packet.metrics)])
    return f"{sequence:8} {utc_text(nanoseconds(packet.time))} {priority:8} {packet.source}{run}: {said or 'nothing'}"


def _event(event: Event) -> str:
    attributes = " ".join(f"{each.key}={attribute_value(each)}" for each in event.attributes)
    words = " ".join(filter(None, [event.name, attributes, event.message]))
    return f"{short_name(TelemetryLevel, event.level)} {words}"


def _metric(metric: Metric) -> str:
    labels = ",".join(f"{each.key}={attribute_value(each)}" for each in metric.attributes)
    return f"{metric.name}{f'{{{labels}}}' if labels else ''}={metric.value:g} {metric.unit}"


def _line(letter: DeadLetter) -> str:
    envelope = letter.envelope
    tries = f" after {counted(envelope.attempt, 'try', 'tries')}" if envelope.HasField("attempt") else ""
    refused = f"refused by {letter.group}{tries}"
    place = f"{envelope.sequence:6} {utc_text(letter.stored_ns)} {short_name(BusLane, envelope.lane)}"
    return f"{place} {envelope.event_id}: {envelope.payload_type} from {envelope.source}, {refused}"


def _payload(envelope: BusEnvelope) -> str:
    """The message as JSON; its bytes in hexadecimal if it is of a kind that isn't ours."""
    kind = getattr(leyline, envelope.payload_type.removeprefix("esper.leyline.v1."), None)
    return json_format.MessageToJson(kind.FromString(envelope.payload)) if kind else envelope.payload.hex()
