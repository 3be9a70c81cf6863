"""From a packet to a webhook, through a real Weatherlight that is killed in between."""

from __future__ import annotations

import json
from pathlib import Path

from esper.core.clock import SYSTEM_CLOCK
from esper.core.telemetry import EventSpec, MetricSpec, build_packet, event, metric
from esper.leyline import PublishTelemetryRequest, SubscribeRequest, TelemetryLevel, TelemetryPacket
from esper.rpc.clients import Channel
from tests.integration.services.service_process import TIMEOUT_S, ServiceProcess, weatherlight_client
from tests.unit.nissa.test_delivery import Hook, until

VIOLATIONS = MetricSpec("kasmina.isolation.violations", "count", "Leaks.")
REJECTED = EventSpec("command_rejected", TelemetryLevel.TELEMETRY_LEVEL_CRITICAL, "Refused.")


def publish(link: Channel, *packets: TelemetryPacket) -> None:
    request = PublishTelemetryRequest(packets=packets, dropped=0)
    weatherlight_client(link).publish_telemetry(iter([request]), timeout_s=TIMEOUT_S)


def leaks(count: float) -> TelemetryPacket:
    return build_packet("kasmina", SYSTEM_CLOCK, metrics=[metric(VIOLATIONS, count)], run="r1")


async def test_an_alert_is_told_once_across_a_kill_and_cleared_by_the_next_process(tmp_path: Path) -> None:
    hook, out = Hook(), tmp_path / "out"
    out.mkdir()
    address = tmp_path / "url"
    address.write_text(hook.url)
    settings = tmp_path / "weatherlight.toml"
    command = ["sh", "-c", f"cat > {out}/$$"]
    settings.write_text(
        f"[weatherlight.delivery]\nwebhook_url_file = {json.dumps(str(address))}\ncommand = {json.dumps(command)}\n"
    )
    leak, refused = ("kasmina_isolation_violation", "firing"), ("commands_rejected", "firing")
    with ServiceProcess("weatherlight", tmp_path / "state", "--config", str(settings)) as service:
        publish(service.channel, leaks(1.0))
        await until(lambda: hook.told == [leak] and (tmp_path / "state" / "alerts.json").exists())
        rejected = build_packet("kasmina", SYSTEM_CLOCK, events=[event(REJECTED, SYSTEM_CLOCK)], run="r1")
        publish(service.channel, rejected)
        await until(lambda: hook.told == [leak, refused])
        _told(service, 2)
        service.kill()
        service.start()
        publish(service.channel, leaks(2.0), leaks(0.0))
        await until(lambda: ("kasmina_isolation_violation", "resolved") in hook.told)
        await until(lambda: all(name in said_by(out) for name, _ in (leak, refused)))
        assert service.stop() == 0
        assert hook.url not in service.log
    told = [each for each in hook.told if each not in (leak, refused)]
    assert told == [("kasmina_isolation_violation", "resolved")]
    hook.close()


def said_by(directory: Path) -> str:
    """What the command was given, each time in a file of its own."""
    return "".join(path.read_text() for path in directory.iterdir())


def _told(service: ServiceProcess, count: int) -> None:
    """Return when so many alerts are on the bus: what raised them has been handled."""
    request = SubscribeRequest(sources=["nissa"], after_sequence=0)
    found = 0
    for response in weatherlight_client(service.channel).subscribe(request, timeout_s=TIMEOUT_S):
        found += sum(each.name == "alert_raised" for each in response.packet.events)
        if found >= count:
            return
