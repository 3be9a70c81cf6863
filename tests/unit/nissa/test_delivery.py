"""Alerts arrive at a real HTTP server and at a real command, whatever these do meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError
from esper.core.telemetry import attribute_value
from esper.leyline import Event, Metric, TelemetryLevel, TelemetryPacket
from esper.nissa.alerts import Alert, Alerts
from esper.nissa.box import Box
from esper.nissa.config import DeliveryConfig
from esper.nissa.delivery import Delivery, Pace
from esper.nissa.notification import Notification
from esper.nissa.receivers import Command, DeliveryFailed, Receiver, Webhook

SECRET = "T0KEN-that-nobody-may-read"
# Longer than a loaded machine needs.
PATIENT_S = 30.0
QUICK = Pace(retry_s=0.01, max_retry_s=0.05, last_try_s=PATIENT_S)


class Hook:
    """An HTTP server that gives each request the next of `answers`, then 200; `hold` keeps it from answering."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.begun = 0
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.begun += 1
                hook.hold.wait(30)
                code = hook.answers.pop(0) if hook.answers else 200
                if code == 200:
                    hook.got.append(json.loads(body))
                    hook.headers.append(dict(self.headers))
                self.send_response(code)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(each["labels"]["alertname"], each["status"]) for body in self.got for each in body["alerts"]]

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


ALERT = Alert(
    rule="x", source="y", run="", event="", severity="warning", routes=("slack",), help="It is so.", threshold=0.0
)


class Plane:
    """Alerts and their delivery, as Nissa has them."""

    def __init__(
        self, directory: Path, *receivers: Receiver, clock: ManualClock | None = None, pace: Pace = QUICK
    ) -> None:
        self.clock = clock or ManualClock()
        self.packets: list[TelemetryPacket] = []
        self.delivery = Delivery(receivers, self.clock, directory / "alerts.json", self.packets.append, pace)
        self.alerts = Alerts(self.clock)
        self.alerts.restore(self.delivery.standing)
        self._task: asyncio.Task[None] | None = None

    def leak(self, count: float, run: str = "r1") -> None:
        """Kasmina measures so many isolation violations."""
        metrics = [Metric(name="kasmina.isolation.violations", value=count)]
        self.delivery.take(self.alerts.judge(TelemetryPacket(source="kasmina", training_run_id=run, metrics=metrics)))

    def reject(self) -> None:
        level = TelemetryLevel.TELEMETRY_LEVEL_CRITICAL
        packet = TelemetryPacket(source="kasmina", events=[Event(name="command_rejected", level=level)])
        self.delivery.take(self.alerts.judge(packet))

    def count(self, name: str) -> float:
        return next(each.value for each in self.delivery.measurements() if each.name == f"nissa.delivery.{name}")

    @property
    def events(self) -> list[str]:
        return [each.name for packet in self.packets for each in packet.events]

    async def __aenter__(self) -> Plane:
        self._task = asyncio.create_task(self.delivery.run())
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_firing_and_a_clearing_alert_arrive_at_a_webhook_in_the_form_of_alertmanager(
    tmp_path: Path, hook: Hook
) -> None:
    async with Plane(tmp_path, Webhook(hook.url, "bearer-token", PATIENT_S)) as plane:
        plane.leak(5.0)
        await until(lambda: plane.count("delivered_total") == 1)
        plane.clock.advance(30)
        plane.leak(0.0)
        await until(lambda: plane.count("delivered_total") == 2)
    firing, cleared = hook.got
    assert (firing["version"], firing["status"], cleared["status"]) == ("4", "firing", "resolved")
    (risen,), (ended,) = firing["alerts"], cleared["alerts"]
    assert risen["labels"] == ended["labels"] == {
        "alertname": "kasmina_isolation_violation",
        "severity": "critical",
        "source": "kasmina",
        "run": "r1",
        "route": "pagerduty",
    }  # fmt: skip
    assert risen["annotations"] == {
        "summary": "A seed's gradient leaked into the host.",
        "value": "5",
        "threshold": "0",
    }
    assert (risen["startsAt"], risen["endsAt"]) == ("2025-10-09T08:53:20+00:00", "0001-01-01T00:00:00Z")
    assert (ended["startsAt"], ended["endsAt"]) == (risen["startsAt"], "2025-10-09T08:53:50+00:00")
    assert risen["fingerprint"] == ended["fingerprint"]
    text = "kasmina_isolation_violation (kasmina, run r1): A seed's gradient leaked into the host."
    assert (firing["text"], cleared["text"]) == (f"firing: {text}", f"cleared: {text}")
    assert hook.headers[0]["Authorization"] == "Bearer bearer-token"
    assert plane.packets == []


@pytest.mark.parametrize("code", [500, 404, 302, 429])
async def test_what_is_not_taken_is_tried_again_and_told_once_without_the_address(
    tmp_path: Path, hook: Hook, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [code] * 3
    caplog.set_level(logging.DEBUG)
    async with Plane(tmp_path, Webhook(hook.url, SECRET, PATIENT_S)) as plane:
        plane.leak(5.0)
        await until(lambda: plane.events == ["alert_delivery_failed", "alert_delivery_restored"])
    assert hook.told == [("kasmina_isolation_violation", "firing")]
    assert (plane.count("failures_total"), plane.count("delivered_total")) == (3, 1)
    failed = plane.packets[0].events[0]
    assert failed.message == f"127.0.0.1 answered {code}"
    assert {each.key: attribute_value(each) for each in failed.attributes} == {"receiver": "webhook"}
    assert "127.0.0.1 answered" in caplog.text
    assert SECRET not in caplog.text + str(plane.packets)


async def test_alerts_that_come_and_go_while_a_receiver_hangs_are_one_rise_and_one_end(
    tmp_path: Path, hook: Hook
) -> None:
    hook.answers = [503]
    hook.hold.clear()
    async with Plane(tmp_path, Webhook(hook.url, None, PATIENT_S)) as plane:
        plane.leak(1.0)
        await until(lambda: hook.begun == 1)
        for count in (0.0, 1.0, 0.0, 1.0, 0.0):
            plane.leak(count)
        plane.leak(1.0, run="r2")
        hook.hold.set()
        await until(lambda: len(hook.told) >= 3)
    told = [(each["labels"]["run"], each["status"]) for body in hook.got for each in body["alerts"]]
    assert told == [("r1", "firing"), ("r1", "resolved"), ("r2", "firing")]


@given(st.lists(st.sampled_from(["change", "change", "begin", "fail", "succeed"]), max_size=60))
def test_whatever_happens_meanwhile_a_receiver_hears_rises_and_ends_in_turn_and_the_last_of_them(
    does: list[str],
) -> None:
    box, heard, stands = Box(Webhook("http://127.0.0.1:1/", None, 1.0)), list[bool](), False
    for number, what in enumerate([*does, "fail", "begin", "succeed"], start=1):
        if what == "change":
            stands = not stands
            box.put(Notification(alert=ALERT, value=1.0, raised_ns=number, cleared_ns=0 if stands else number), 256)
        elif what == "begin" and not box.in_flight:
            box.begin()
        elif what == "fail":
            box.came_back()
        elif what == "succeed":
            heard += [each.is_raised for each in islice(box.waiting, box.in_flight)]
            box.was_taken()
        assert len(box.waiting) - box.in_flight <= 2
    assert heard == [number % 2 == 0 for number in range(len(heard))]
    assert stands == (bool(heard) and heard[-1])


async def test_an_alert_that_rises_again_while_its_end_is_being_delivered_is_told_again(
    tmp_path: Path, hook: Hook
) -> None:
    async with Plane(tmp_path, Webhook(hook.url, None, PATIENT_S)) as plane:
        hook.hold.clear()
        plane.leak(1.0)
        plane.leak(0.0)
        await until(lambda: hook.begun == 1)  # both are under way, together
        plane.leak(1.0)
        hook.hold.set()
        await until(lambda: len(hook.told) == 3)
    assert [status for _, status in hook.told] == ["firing", "resolved", "firing"]


async def test_a_webhook_that_never_answers_holds_up_nothing_else(tmp_path: Path, hook: Hook) -> None:
    hook.hold.clear()
    out = tmp_path / "out"
    command = Command(["sh", "-c", f"cat >> {out}"], PATIENT_S, {"PATH": os.environ["PATH"]})
    async with Plane(tmp_path, Webhook(hook.url, None, 0.3), command) as plane:
        plane.leak(1.0)
        await until(lambda: out.exists() and out.stat().st_size > 0)
        await until(lambda: "alert_delivery_failed" in plane.events)
        assert plane.packets[0].events[0].message == "127.0.0.1 did not answer within 0.3 s"
        hook.hold.set()
        await until(lambda: bool(hook.told))
    assert json.loads(out.read_text())["receiver"] == "command"


async def test_too_many_and_too_old_notifications_are_given_up_and_counted(tmp_path: Path) -> None:
    unreachable = Webhook("http://127.0.0.1:1/", None, 1.0)
    plane = Plane(tmp_path, unreachable, pace=Pace(retry_s=0.01, max_retry_s=0.01, max_age_s=60.0, max_queued=3))
    for number in range(5):
        plane.leak(1.0, run=f"r{number}")
    assert (plane.count("dropped_total"), plane.count("waiting")) == (2, 3)
    async with plane:
        await until(lambda: plane.count("failures_total") > 0)
        assert plane.packets[0].events[0].message == "127.0.0.1 can't be reached: Connection refused"
        plane.clock.advance(61)
        await until(lambda: plane.count("waiting") == 0)
    assert plane.count("dropped_total") == 5


async def test_a_restart_tells_no_alert_again_delivers_what_waited_and_clears_what_ends(
    tmp_path: Path, hook: Hook
) -> None:
    clock = ManualClock()
    async with Plane(tmp_path, Webhook(hook.url, None, PATIENT_S), clock=clock) as before:
        before.leak(1.0)
        await until(lambda: before.count("delivered_total") == 1)
    before.reject()  # nobody delivers it any more
    await before.delivery.save()
    assert stat.S_IMODE((tmp_path / "alerts.json").stat().st_mode) == 0o600
    clock.advance(30)
    async with Plane(tmp_path, Webhook(hook.url, None, PATIENT_S), clock=clock) as after:
        after.leak(2.0)
        await until(lambda: len(hook.told) == 2)
        after.leak(0.0)
        await until(lambda: len(hook.told) == 3)
    assert hook.told[1:] == [("commands_rejected", "firing"), ("kasmina_isolation_violation", "resolved")]
    assert hook.got[2]["alerts"][0]["startsAt"] == hook.got[0]["alerts"][0]["startsAt"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"standing": [{}], "waiting": {}}', b'{"standing": 1}', b"\xff"]
)
def test_a_damaged_file_is_put_aside_and_ends_nothing(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "alerts.json").write_bytes(content)
    assert Plane(tmp_path).alerts.standing == []
    assert (tmp_path / "alerts.damaged").read_bytes() == content
    assert "put aside as alerts.damaged" in caplog.text


async def test_an_alert_that_waits_at_the_end_is_tried_once_more_and_kept_if_that_fails(
    tmp_path: Path, hook: Hook
) -> None:
    plane = Plane(tmp_path, Webhook(hook.url, None, PATIENT_S))
    plane.leak(1.0)
    await plane.delivery.close()
    assert hook.told == [("kasmina_isolation_violation", "firing")]
    hook.answers = [500]
    plane = Plane(tmp_path, Webhook(hook.url, None, PATIENT_S))
    plane.leak(0.0)
    await plane.delivery.close()
    kept = json.loads((tmp_path / "alerts.json").read_text())
    assert [each["alert"]["rule"] for each in kept["waiting"]["webhook"]] == ["kasmina_isolation_violation"]
    assert kept["standing"] == []


@pytest.mark.parametrize(
    ("program", "timeout_s", "why"),
    [
        ("import sys; sys.exit(3)", PATIENT_S, "ended with code 3"),
        ("import time; time.sleep(60)", 0.3, "did not end within 0.3 s and was killed"),
        ("import os, time; os.fork(); time.sleep(60)", 0.3, "did not end within 0.3 s and was killed"),
    ],
)
async def test_a_command_that_fails_or_hangs_is_told_by_its_name_alone(
    program: str, timeout_s: float, why: str
) -> None:
    command = Command([sys.executable, "-c", program, SECRET], timeout_s, {})
    with pytest.raises(DeliveryFailed, match=why) as failure:
        await command.deliver(b"x" * 1_000_000)
    assert SECRET not in str(failure.value)


async def test_a_command_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(DeliveryFailed, match="page-me can't be run: No such file or directory"):
        await Command(["/nowhere/page-me"], 1.0, {}).deliver(b"{}")


async def test_a_command_sees_no_secret_of_ours(tmp_path: Path) -> None:
    out = tmp_path / "environment"
    environ = {"PATH": os.environ["PATH"], "ESPER_LEYLINE_SECRET": SECRET, "NOTIFY_SOCKET": "/run/x", "TEAM": "ml"}
    await Command(["sh", "-c", f"env > {out}"], PATIENT_S, environ).deliver(b"{}")
    assert "TEAM=ml" in out.read_text()
    assert SECRET not in out.read_text()
    assert "NOTIFY_SOCKET" not in out.read_text()


async def test_a_certificate_that_nobody_trusts_is_told_in_words(hook: Hook) -> None:
    with pytest.raises(DeliveryFailed, match="can't be reached") as failure:
        await Webhook(hook.url.replace("http:", "https:"), None, PATIENT_S).deliver(b"{}")
    assert SECRET not in str(failure.value)


def test_settings_make_receivers(tmp_path: Path) -> None:
    url, token = tmp_path / "url", tmp_path / "token"
    url.write_text("https://hooks.example/x\n")
    token.write_text(SECRET + "\n")
    config = DeliveryConfig(webhook_url_file=url, webhook_token_file=token, command=("true",))
    assert [receiver.name for receiver in config.receivers({})] == ["webhook", "command"]
    assert DeliveryConfig().receivers({}) == ()
    assert [each.name for each in DeliveryConfig(webhook_url="http://127.0.0.1:9/x").receivers({})] == ["webhook"]


@pytest.mark.parametrize(
    "settings",
    [
        {"webhook_url": f"ftp://host/{SECRET}"},
        {"webhook_url": f"https:///{SECRET}"},
        {"webhook_url": f"http://host:99999/{SECRET}"},
        {"webhook_url": f"http://host/ {SECRET}"},
        {"webhook_url": f"http://host/{SECRET}", "webhook_url_file": Path("x")},
        {"command": ("",)},
        {"timeout_s": 0.0},
        {"max_queued": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused_without_the_secret(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as failure:
        DeliveryConfig(**settings)
    assert SECRET not in str(failure.value)


@pytest.mark.parametrize("content", [None, "", "two\nlines", f"no url {SECRET}"])
def test_a_file_that_holds_no_url_is_refused_without_its_content(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as failure:
        DeliveryConfig(webhook_url_file=path).receivers({})
    assert SECRET not in str(failure.value)
