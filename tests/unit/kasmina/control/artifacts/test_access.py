"""Access to artefacts: the breaker counts calls, the spans tell."""

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper.core.errors import DependencyViolationError, ServiceUnavailable
from esper.kasmina.control.artifacts.access import REFUSALS_TO_TRY, ArtifactAccess, Breaker
from esper.kasmina.control.ledger import admission
from esper.kasmina.control.prefetch import prefetcher
from esper.leyline import CircuitState
from esper.urza.artifacts import ArtifactStore
from tests.unit.kasmina.control.making import CATALOG, germinate, spec
from tests.unit.kasmina.control.service import Service

GOOD = CATALOG.get("span.linear").artifact.digest
OPEN, CLOSED = CircuitState.CIRCUIT_STATE_OPEN, CircuitState.CIRCUIT_STATE_CLOSED


@pytest.fixture
def changes() -> list[int]:
    return []


@pytest.fixture
def access(changes: list[int]) -> ArtifactAccess:
    breaker = Breaker(name="artifacts", on_change=lambda changed: changes.append(changed.state))
    return ArtifactAccess(CATALOG, ArtifactStore(), breaker)


def fail(access: ArtifactAccess) -> None:
    with pytest.raises(DependencyViolationError, match="artefact"):
        access.read("0" * 64)


def test_three_failures_in_a_row_open_the_breaker(access: ArtifactAccess, changes: list[int]) -> None:
    fail(access), fail(access)
    access.read(GOOD)
    fail(access), fail(access)
    assert access.breaker.state == CLOSED
    fail(access)
    assert changes == [OPEN]
    with pytest.raises(ServiceUnavailable):
        access.read(GOOD)


def test_after_enough_refusals_a_trial_decides(access: ArtifactAccess, changes: list[int]) -> None:
    for outcome in (OPEN, CLOSED):
        access.breaker.force(OPEN)
        for _ in range(REFUSALS_TO_TRY):
            with pytest.raises(ServiceUnavailable):
                access.read(GOOD)
        if outcome == CLOSED:
            access.read(GOOD)
        else:
            fail(access)
        assert access.breaker.state == outcome
    assert changes[-1] == CLOSED


def test_a_command_leaves_its_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (admission, prefetcher):
        monkeypatch.setattr(module, "_TRACER", provider.get_tracer("test"))
    service = Service(tmp_path)
    service.open(spec())
    exporter.clear()
    service.apply(germinate())
    service.close()
    provider.shutdown()
    assert [s.name for s in exporter.get_finished_spans()] == ["kasmina.verify", "urza.lookup", "kasmina.ledger_commit"]
