"""`esper bus` beside a Weatherlight that serves: telemetry is followed, dead letters are settled."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core.clock import SYSTEM_CLOCK
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import (
    BusLane,
    ConsumeRequest,
    MessagePriority,
    PublishRequest,
    PublishTelemetryRequest,
    RunClosure,
    TelemetryLevel,
)
from esper.oona.envelope import seal
from tests.integration.services.service_process import (
    KEYRING,
    SECRET,
    TIMEOUT_S,
    ServiceProcess,
    bus_client,
    weatherlight_client,
)

LOSS = MetricSpec("test.loss", "nats", "A loss.")
ALARM = EventSpec("test_alarm", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "An alarm.", ("why",))
GIVES_UP_AT_ONCE = "[weatherlight.bus]\nmax_deliveries = 1\nretry_s = 0.05\n"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceProcess]:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    settings = tmp_path / "weatherlight.toml"
    settings.write_text(GIVES_UP_AT_ONCE)
    with ServiceProcess("weatherlight", tmp_path / "state", "--config", str(settings)) as made:
        yield made


def rejected(service: ServiceProcess, *names: str) -> None:
    """The group "g" gives these up."""
    lane, priority = BusLane.BUS_LANE_NORMAL, MessagePriority.MESSAGE_PRIORITY_NORMAL
    envelopes = [
        seal(
            KEYRING,
            SYSTEM_CLOCK,
            RunClosure(reason="poison"),
            source="tolaria",
            lane=lane,
            priority=priority,
            event_id=n,
        )
        for n in names
    ]
    client = bus_client(service.channel)
    client.publish(PublishRequest(envelopes=envelopes), timeout_s=TIMEOUT_S)
    assert consumed(service, len(names), is_handled=False) == list(names)
    while len(letters(service)) < len(names):
        consumed(service, 0, is_handled=True)


def consumed(service: ServiceProcess, count: int, *, is_handled: bool) -> list[str]:
    """The next envelopes of the group, acknowledged or rejected."""
    orders: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
    orders.put(ConsumeRequest(group="g", consumer="c", lanes=[BusLane.BUS_LANE_NORMAL]))
    responses = bus_client(service.channel).consume(iter(orders.get, None), timeout_s=TIMEOUT_S)
    found = [next(responses).envelope.event_id for _ in range(count)]
    if found:
        handled, rejected = (found, ()) if is_handled else ((), found)
        orders.put(ConsumeRequest(acknowledged_event_ids=handled, rejected_event_ids=rejected))
    orders.put(None)
    list(responses)
    return found


def letters(service: ServiceProcess) -> list[str]:
    opening = ConsumeRequest(group="*", consumer="c", lanes=[BusLane.BUS_LANE_DEAD_LETTERS])
    told = bus_client(service.channel).consume(iter([opening]), timeout_s=TIMEOUT_S)
    return [each.envelope.event_id for each in told]


def test_dead_letters_are_listed_shown_requeued_and_dropped(
    service: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--weatherlight", service.endpoint)
    rejected(service, "e1", "e2", "e3")
    assert main(["bus", "dlq", "list", *at]) == 0
    assert capsys.readouterr().out.count("refused by g") == 3
    assert main(["bus", "dlq", "show", "--id", "e2", *at]) == 0
    assert '"reason": "poison"' in capsys.readouterr().out
    assert main(["bus", "dlq", "requeue", "--id", "e2", *at]) == 0
    assert capsys.readouterr().out == "e2: delivered to g again\n1 requeued\n"
    assert consumed(service, 1, is_handled=True) == ["e2"]
    assert main(["bus", "dlq", "drop", "--id", "e2", *at]) == 78
    assert "--id = 'e2': is no dead letter" in capsys.readouterr().err
    assert main(["bus", "dlq", "drop", "--all", *at]) == 0
    assert capsys.readouterr().out == "e1: forgotten\ne3: forgotten\n2 dropped\n"
    assert letters(service) == []


def test_telemetry_is_followed_by_priority_and_source(
    service: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = build_packet("tolaria", SYSTEM_CLOCK, metrics=[metric(LOSS, 0.25)], run="r1")
    alarm = build_packet("tamiyo", SYSTEM_CLOCK, events=[event(ALARM, SYSTEM_CLOCK, "look", why="\x1b[2J")])
    request = PublishTelemetryRequest(packets=[loss, alarm], dropped=0)
    weatherlight_client(service.channel).publish_telemetry(iter([request]), timeout_s=TIMEOUT_S)
    follow = ("bus", "tail", "--weatherlight", service.endpoint, "--after", "0", "--count", "1")
    assert main([*follow, "--source", "tolaria"]) == 0
    assert capsys.readouterr().out.endswith("NORMAL   tolaria of r1: test.loss=0.25 nats\n")
    assert main([*follow, "--priority", "CRITICAL"]) == 0
    assert capsys.readouterr().out.endswith("tamiyo: CRITICAL test_alarm why=\\x1b[2J look\n")
    assert main([*follow, "--priority", "CRITICAL", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["packet"]["source"] == "tamiyo"
    assert told["sequence"] > 0
