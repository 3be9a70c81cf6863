from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper.core.errors import AsyncTimeoutError, ContractError, LifecycleConflict
from esper.core.messages.validation import violations
from esper.core.security.signing import Verifier, open_payload
from esper.leyline import AdaptationCommand, Decision, TamiyoRunSpec, TraceContext
from esper.tamiyo.runs import Run
from esper.tamiyo.service import evaluation
from esper.tamiyo.service.parts import Parts
from tests.unit.tamiyo.builders import ALWAYS, RUN, packet, spec
from tests.unit.tamiyo.conftest import Home
from tests.unit.tamiyo.test_features import as_the_trainer_sends_it


async def opened(home: Home, parts: Parts, run_spec: TamiyoRunSpec | None = None) -> Run:
    run_spec = run_spec or spec(ALWAYS)
    run, _ = await parts.runs.open(run_spec, home.signer.sign(run_spec, audience=f"tamiyo/{RUN}").security)
    return run


def command_of(home: Home, decision: Decision) -> AdaptationCommand:
    """The one command of a decision, verified as Kasmina does it."""
    (envelope,) = decision.commands
    verifier = Verifier(home.keyring, home.clock)
    verifier.verify(envelope, audience=f"kasmina/{RUN}", payload_type=AdaptationCommand.DESCRIPTOR.full_name)
    return open_payload(envelope, AdaptationCommand)


async def test_a_decision_carries_its_commands_signed_for_kasmina(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    decision = await parts.evaluator.evaluate(run, packet(500))
    command = command_of(home, decision)
    assert list(decision.command_ids) == [command.command_id]
    assert (command.training_run_id, command.step, command.issued_by) == (RUN, 500, "tamiyo")
    assert violations(decision) == []


async def test_the_report_of_a_command_is_open_before_the_command_leaves(home: Home) -> None:
    first = home.parts()
    decision = await first.evaluator.evaluate(await opened(home, first), packet(500))
    await first.close()
    second = home.parts()
    (report,) = second.reports.open_of(RUN)
    assert report.command_id == decision.command_ids[0]
    assert report.decision == command_of(home, decision).metadata
    await second.close()


async def test_a_restarted_service_goes_on_where_it_was(home: Home) -> None:
    steps = range(10, 800, 10)
    unbroken = home.parts()
    run = await opened(home, unbroken)
    expected = [list((await unbroken.evaluator.evaluate(run, packet(step))).command_ids) for step in steps]
    await unbroken.close()
    found = []
    other = Home(home.state_dir / "other")
    other.state_dir.mkdir()
    parts = other.parts()
    run = await opened(other, parts)
    for step in steps:
        found.append(list((await parts.evaluator.evaluate(run, packet(step))).command_ids))
        if step % 90 == 0:
            await parts.close()
            parts = other.parts()
            run = parts.runs.get(RUN) or run
    await parts.close()
    assert found == expected
    assert any(expected)


async def test_the_same_packet_again_gets_the_same_decision_signed_anew(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    first = await parts.evaluator.evaluate(run, packet(500))
    second = await parts.evaluator.evaluate(run, packet(500))
    assert command_of(home, first) == command_of(home, second)
    assert first.commands[0].security.nonce != second.commands[0].security.nonce
    assert first.metadata == second.metadata
    assert run.state.commands_issued == 1
    assert len(parts.reports) == 1


async def test_packets_out_of_order_of_another_generation_or_run_are_refused(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    with pytest.raises(LifecycleConflict, match="packet 49"):
        await parts.evaluator.evaluate(run, packet(490))
    with pytest.raises(LifecycleConflict, match="generation 2"):
        await parts.evaluator.evaluate(run, packet(510, generation=2))
    with pytest.raises(ContractError, match="training_run_id"):
        await parts.evaluator.evaluate(run, packet(510, training_run_id="other"))
    assert run.state.step == 500


async def test_a_command_that_had_no_effect_closes_its_report_when_it_is_given_up(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    await parts.evaluator.evaluate(run, packet(500 + run.context.deadline_steps + 10))
    (report,) = parts.reports.of_run(RUN)
    assert report.notes == "it had no effect by its deadline"
    assert "command_expired" in home.telemetry.events


async def test_telemetry_tells_what_begins_once_and_metrics_now_and_then(home: Home, parts: Parts) -> None:
    run = await opened(home, parts, spec())
    for step in range(10, 210, 10):
        bare = packet(step)
        for name in ("gradient_norm", "gradient_norm_variance"):
            bare.metrics.ClearField(name)  # type: ignore[arg-type]
        await parts.evaluator.evaluate(run, bare)
    assert home.telemetry.events == ["tamiyo.coverage.missing"]
    assert len(home.telemetry.packets) == 3
    for sent in home.telemetry.packets:
        assert violations(sent) == []
    names = {metric.name: metric.value for metric in home.telemetry.packets[-1].metrics}
    assert names["tamiyo.coverage.group.gradient"] == 0.0
    assert names["tamiyo.decisions_total"] == 20


async def test_nothing_is_missing_in_a_healthy_run(home: Home, parts: Parts) -> None:
    run = await opened(home, parts, spec())
    for step in range(10, 210, 10):
        await parts.evaluator.evaluate(run, as_the_trainer_sends_it(step))
    assert home.telemetry.events == []
    names = {metric.name: metric.value for metric in home.telemetry.packets[0].metrics}
    assert names["tamiyo.gnn.feature_coverage"] == names["tamiyo.coverage.feature.min"] == 1.0


async def test_a_spike_is_told_with_the_mode_it_starts(home: Home, parts: Parts) -> None:
    run = await opened(home, parts, spec())
    await parts.evaluator.evaluate(run, packet(10, loss=0.5))
    await parts.evaluator.evaluate(run, packet(20, loss=2.0))
    assert home.telemetry.events == ["loss_spike", "conservative_entered"]
    assert (await parts.evaluator.evaluate(run, packet(30, loss=2.0))).metadata.conservative
    assert home.telemetry.events[2:] == ["pause_triggered"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(evaluation, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_each_decision_is_a_trace_of_its_own_linked_to_the_step(
    home: Home, parts: Parts, spans: InMemorySpanExporter
) -> None:
    step = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    decision = await parts.evaluator.evaluate(await opened(home, parts), packet(500, trace=step))
    found = {span.name: span for span in spans.get_finished_spans()}
    root = found["tamiyo.evaluate"]
    assert set(found) == {"tamiyo.evaluate", "urza.lookup", "tamiyo.sign"}
    assert root.parent is None
    assert root.context.trace_id != int("a" * 32, 16)
    assert [link.context.trace_id for link in root.links] == [int("a" * 32, 16)]
    for child in ("urza.lookup", "tamiyo.sign"):
        assert found[child].parent is not None
        assert found[child].parent.span_id == root.context.span_id
    sign = found["tamiyo.sign"].context
    signed_in = f"00-{sign.trace_id:032x}-{sign.span_id:016x}-"
    assert command_of(home, decision).trace.traceparent.startswith(signed_in)
    assert f"{root.context.trace_id:032x}" in decision.trace.traceparent
    assert (found["tamiyo.sign"].attributes or {})["esper.command.id"] == decision.command_ids[0]


async def test_a_decision_that_is_late_is_none_and_the_run_is_conservative_from_the_next_packet_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.config = replace(home.config, inference_timeout_s=20.0)
    parts, go_on = home.parts(), threading.Event()
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(400))
    # From now on, so that a busy machine is late only where the decision hangs.
    object.__setattr__(parts.evaluator, "timeout_s", 0.05)
    decide = evaluation.decide

    def hanging(*arguments: Any, **named: Any) -> Any:
        go_on.wait(20.0)
        return decide(*arguments, **named)

    monkeypatch.setattr(evaluation, "decide", hanging)
    before = run.state.SerializeToString()
    for _ in range(2):
        with pytest.raises(AsyncTimeoutError, match=r"inference took longer than 0\.05 s"):
            await parts.evaluator.evaluate(run, packet(500))
    assert run.state.SerializeToString() == before
    assert home.telemetry.events.count("timeout_inference") == 1
    go_on.set()
    monkeypatch.setattr(evaluation, "decide", decide)
    object.__setattr__(parts.evaluator, "timeout_s", 20.0)
    decision = await parts.evaluator.evaluate(run, packet(510))
    assert decision.metadata.conservative
    assert not decision.commands
    assert home.telemetry.events.count("timeout_inference") == 1
    assert "conservative_entered" in home.telemetry.events
    measured = {each.name: each.value for each in home.telemetry.packets[-1].metrics if not each.attributes}
    assert measured["tamiyo.timeout.inference_total"] == 2
    fates = {
        each.attributes[0].text: each.value
        for each in home.telemetry.packets[-1].metrics
        if each.name == "tamiyo.worker.calls_total"
    }
    assert fates == {"submitted": 4, "done": 2, "failed": 0, "cancelled": 0, "timed_out": 2, "rejected": 0}
    assert not run.was_late
    await parts.close()
