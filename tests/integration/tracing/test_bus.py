"""The part of a decision's trace that Weatherlight adds, as a real OTLP receiver gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import AccessDenied
from esper.core.telemetry import EventSpec, build_packet, event
from esper.leyline import (
    PublishTelemetryRequest,
    TelemetryLevel,
    TraceContext,
    WeatherlightServiceGetStatusRequest,
)
from esper.rpc.clients import WeatherlightClient
from tests.integration.services.service_process import TIMEOUT_S, ServiceProcess, weatherlight_client
from tests.integration.tracing.otlp_receiver import Receiver

GATE = EventSpec("gate_event", TelemetryLevel.TELEMETRY_LEVEL_INFO, "A gate.", ("command_id",))
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER_ID = "0af7651916cd43dd8448eb211c80319d"


def test_publication_and_ingestion_continue_the_decisions_trace(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        ServiceProcess("weatherlight", tmp_path, "--otlp-endpoint", receiver.endpoint) as service,
    ):
        about_command = build_packet(
            "kasmina",
            SYSTEM_CLOCK,
            events=[event(GATE, SYSTEM_CLOCK, command_id="r1-g1-c1")],
            trace=TraceContext(traceparent=f"00-{TRACE_ID}-{SPAN_ID}-01"),
        )
        about_nothing = build_packet(
            "kasmina", SYSTEM_CLOCK, trace=TraceContext(traceparent=f"00-{OTHER_ID}-{SPAN_ID}-01")
        )
        request = PublishTelemetryRequest(packets=[about_nothing, about_command], dropped=0)
        weatherlight_client(service.channel).publish_telemetry(iter([request]), timeout_s=TIMEOUT_S)
        spans = receiver.until(lambda found: "nissa.ingest" in {span.name for span in found})
        assert service.stop() == 0
    ours = {span.name: span for span in spans if span.trace_id == TRACE_ID}
    assert set(ours) == {"oona.publish", "nissa.ingest"}
    assert ours["oona.publish"].parent_id == SPAN_ID
    assert ours["nissa.ingest"].parent_id == ours["oona.publish"].span_id
    assert {span.service for span in ours.values()} == {"esper-weatherlight"}
    assert {span.attributes["esper.command.id"] for span in ours.values()} == {"r1-g1-c1"}
    assert int(OTHER_ID, 16) % 100 != 0
    assert not [span for span in spans if span.trace_id == OTHER_ID]


def test_a_refused_call_is_kept_with_its_status_under_the_callers_span(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        ServiceProcess("weatherlight", tmp_path, "--otlp-endpoint", receiver.endpoint) as service,
    ):
        metadata = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
        with pytest.raises(AccessDenied):
            WeatherlightClient(service.channel, metadata=metadata).get_status(
                WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S
            )
        (span,) = receiver.until(lambda found: len(found) == 1)
    assert span.name == "esper.leyline.v1.WeatherlightService/GetStatus"
    assert (span.trace_id, span.parent_id) == (TRACE_ID, SPAN_ID)
    assert span.attributes["rpc.response.status_code"] == "UNAUTHENTICATED"
    assert span.attributes["rpc.system.name"] == "grpc"


def test_the_standard_variables_name_a_receiver_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.endpoint}")
        with ServiceProcess("weatherlight", tmp_path) as service:
            with pytest.raises(AccessDenied):
                WeatherlightClient(service.channel).get_status(
                    WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S
                )
            (span,) = receiver.until(lambda found: len(found) == 1)
    assert span.service == "esper-weatherlight"
