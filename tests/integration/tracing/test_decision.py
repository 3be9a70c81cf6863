"""One trace for one decision, across three real services, as a real OTLP receiver gets it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from opentelemetry import context

from esper.core.tracing import context_of
from esper.leyline import (
    ApplyCommandRequest,
    ControlRequest,
    Decision,
    KasminaRunSpec,
    KasminaServiceOpenRunRequest,
    SystemStatePacket,
    TamiyoServiceOpenRunRequest,
    TraceContext,
)
from esper.rpc.clients import Channel, KasminaClient, TamiyoClient
from tests.integration.services.service_process import SIGNER, TIMEOUT_S, ServiceProcess
from tests.integration.tracing.otlp_receiver import ReceivedSpan, Receiver
from tests.unit.tamiyo.builders import ALWAYS, RUN, TOTAL_STEPS, life, manifest, packet, spec

STEP_SPAN = "b7ad6b7169203331"
STEPS = range(10, 300, 10)  # ends before the command, which nobody reports back, is given up
DECISION = {"tamiyo.evaluate", "urza.lookup", "tamiyo.sign", "kasmina.verify", "kasmina.ledger_commit"}


def step_trace(step: int) -> str:
    """A trace id of the trainer's step, none that chance would keep."""
    return f"{step * 100 + 1:032x}"


def traced(step: int) -> SystemStatePacket:
    made = packet(step)
    made.trace.CopyFrom(TraceContext(traceparent=f"00-{step_trace(step)}-{STEP_SPAN}-01"))
    return made


def decided(link: Channel) -> Decision:
    """Open a run at Tamiyo and send packets until it issues a command."""
    opening = TamiyoServiceOpenRunRequest(command=SIGNER.sign(spec(ALWAYS), audience=f"tamiyo/{RUN}"))
    token = TamiyoClient(link).open_run(opening, timeout_s=TIMEOUT_S).run_token
    requests = (ControlRequest(packet=traced(step)) for step in STEPS)
    responses = list(TamiyoClient(link, token=token).control(requests, timeout_s=TIMEOUT_S))
    (found,) = [response.decision for response in responses if response.decision.commands]
    return found


def applied(link: Channel, decision: Decision) -> bool:
    """Open the run at Kasmina and hand the command on, untouched."""
    run = KasminaRunSpec(
        training_run_id=RUN, seed=1, generation=1, total_steps=TOTAL_STEPS, manifest=manifest(), life=life()
    )
    opening = KasminaServiceOpenRunRequest(command=SIGNER.sign(run, audience=f"kasmina/{RUN}"))
    token = KasminaClient(link).open_run(opening, timeout_s=TIMEOUT_S).run_token
    request = ApplyCommandRequest(command=decision.commands[0])
    outer = context.attach(context_of(decision.trace))
    try:
        return KasminaClient(link, token=token).apply_command(request, timeout_s=TIMEOUT_S).outcome.accepted
    finally:
        context.detach(outer)


def test_a_decision_is_one_trace_from_evaluation_to_ingestion(tmp_path: Path) -> None:
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        traces = ("--otlp-endpoint", receiver.endpoint)
        plane = stack.enter_context(ServiceProcess("weatherlight", tmp_path, *traces))
        services = {
            name: stack.enter_context(ServiceProcess(name, tmp_path, *traces, "--weatherlight", plane.endpoint))
            for name in ("tamiyo", "kasmina")
        }
        decision = decided(services["tamiyo"].channel)
        assert applied(services["kasmina"].channel, decision)
        (command_id,) = decision.command_ids
        spans = receiver.until(lambda found: _names(found, command_id) >= {*DECISION, "oona.publish", "nissa.ingest"})
    ours = _of_decision(spans, command_id)
    place = {(span.service.removeprefix("esper-"), span.name): span for span in ours}
    assert len({span.trace_id for span in ours}) == 1
    for child, parent in PARENTS.items():
        assert place[child].parent_id == place[parent].span_id, child
    published = {span.span_id for span in ours if span.name == "oona.publish"}
    assert {span.parent_id for span in ours if span.name == "nissa.ingest"} <= published
    assert not any("nonce" in key or "signature" in key for span in ours for key in span.attributes)
    assert not [span for span in spans if span.trace_id in {step_trace(step) for step in STEPS}]


EVALUATE, APPLY = ("tamiyo", "tamiyo.evaluate"), ("kasmina", "esper.leyline.v1.KasminaService/ApplyCommand")
PARENTS = {
    ("tamiyo", "urza.lookup"): EVALUATE,
    ("tamiyo", "tamiyo.sign"): EVALUATE,
    APPLY: EVALUATE,
    ("kasmina", "kasmina.verify"): APPLY,
    ("kasmina", "kasmina.ledger_commit"): APPLY,
}


def _of_decision(spans: list[ReceivedSpan], command_id: str) -> list[ReceivedSpan]:
    traces = {span.trace_id for span in spans if span.attributes.get("esper.command.id") == command_id}
    return [span for span in spans if span.trace_id in traces]


def _names(spans: list[ReceivedSpan], command_id: str) -> set[str]:
    return {span.name for span in _of_decision(spans, command_id)}
