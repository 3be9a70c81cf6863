"""What happens between two steps, seen from the traces: each directive runs inside the trace of its decision."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper.core.clock import ManualClock
from esper.kasmina.executor import executor
from esper.leyline import CommandOutcome, TraceContext
from esper.tolaria.loop import boundaries
from esper.tolaria.loop.boundaries import by_decision
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, cull, directive, germination
from tests.unit.tolaria.test_trainer import CONFIG, SLOT, Recorder, run

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = TraceContext(traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")


class TracedControl(ScriptedControl):
    """Gives every directive as the outcome of a traced command."""

    def take(self, packet_index: int) -> PacketResult:
        result = super().take(packet_index)
        outcome = CommandOutcome(command_id="c", accepted=True, directives=result.directives, trace=TRACE)
        return replace(result, outcomes=(outcome,) if result.directives else ())


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module, name in ((boundaries, "_TRACER"), (executor, "tracer")):
        monkeypatch.setattr(module, name, provider.get_tracer("test"))
    return exporter


def test_a_graft_belongs_to_its_decisions_trace_and_is_linked_to_the_boundary(spans: InMemorySpanExporter) -> None:
    run(replace(CONFIG, epochs=2), TracedControl({4: germination("s1", SLOT), 8: cull("s1")}))
    finished = spans.get_finished_spans()
    trace_id = int(TRACE_ID, 16)
    grafts = [span for span in finished if span.name.startswith("executor.")]
    assert len(grafts) == 4
    assert {span.context.trace_id for span in grafts} == {trace_id}
    boundary_ids = {span.context.span_id for span in finished if span.name == "tolaria.boundary"}
    executions = [span for span in finished if span.name == "tolaria.execute"]
    assert {span.context.span_id for span in executions} == {span.parent.span_id for span in grafts}
    assert all(span.links[0].context.span_id in boundary_ids for span in executions)


def test_every_packet_carries_the_trace_of_its_boundary(spans: InMemorySpanExporter) -> None:
    control = ScriptedControl()
    run(replace(CONFIG, epochs=1), control)
    sent = {packet.trace.traceparent.split("-")[2] for packet in control.packets}
    boundary_ids = {f"{s.context.span_id:016x}" for s in spans.get_finished_spans() if s.name == "tolaria.boundary"}
    assert sent == boundary_ids


def test_directives_of_gates_and_of_several_commands_keep_their_order() -> None:
    first, second, third, fourth = (directive(seed, "MUTE") for seed in ("s1", "s2", "s3", "s4"))
    other = TraceContext(traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    result = PacketResult(
        packet_index=0,
        directives=(first, second, third, fourth),
        outcomes=(
            CommandOutcome(command_id="a", directives=[first, second], trace=TRACE),
            CommandOutcome(command_id="b", directives=[fourth], trace=other),
        ),
    )
    assert list(by_decision(result)) == [(TRACE, [first, second]), (None, [third]), (other, [fourth])]


class SlowControl(ScriptedControl):
    """Lets a quarter of a second pass before each answer."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock

    def take(self, packet_index: int) -> PacketResult:
        self.clock.advance(0.25)
        return super().take(packet_index)


@pytest.mark.parametrize("mode", ["lag", "sync"])
def test_a_boundarys_own_work_does_not_include_waiting_for_the_answer(mode: str) -> None:
    clock, recorder = ManualClock(), Recorder()
    control = SlowControl(clock)
    Trainer(prepare(replace(CONFIG, epochs=2, control=mode)), lambda opening: control, recorder, clock=clock).train()
    told = [packet.metrics for packet in control.packets[1:]]
    assert [metrics.hook_latency_ms for metrics in told] == [0.0] * len(told)
    assert [metrics.finalize_latency_ms for metrics in told] == [0.0] * len(told)
    assert recorder.boundaries[-1].wait_ms >= 250.0
