"""The spans that carry weights from Simic into force, and the decisions that are linked to them, for the page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.integration.tracing.otlp_receiver import ReceivedSpan, Receiver

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CARRYING = ("simic.publish", "tamiyo.policy.take", "tamiyo.policy.swap")
DECISION = "tamiyo.evaluate"


@dataclass(frozen=True, slots=True)
class Spans:
    """Whoever receives them; nobody here where the environment names another place."""

    receiver: Receiver | None

    def of(self, version: str, arm: str) -> list[dict[str, Any]]:
        """The trace that brought this version in an arm's services, and the decisions that name it."""
        if self.receiver is None:
            return []
        return list(_told(self.receiver.received(), version, arm))


@contextmanager
def receiving() -> Iterator[Spans]:
    """Receive the spans of every process that is started meanwhile."""
    if ENDPOINT in os.environ:
        yield Spans(None)
        return
    with Receiver() as receiver:
        os.environ[ENDPOINT] = f"http://{receiver.endpoint}"
        try:
            yield Spans(receiver)
        finally:
            del os.environ[ENDPOINT]


def _told(spans: Sequence[ReceivedSpan], version: str, arm: str) -> Iterator[dict[str, Any]]:
    linked = [s for s in spans if s.name == DECISION and s.links and _run(s).startswith(f"{arm}-")]
    heard = {link for span in linked for link in span.links}
    taken = [s for s in spans if s.name == "tamiyo.policy.take" and s.span_id in heard]
    traces = {span.trace_id for span in taken}
    carrying = [s for s in spans if s.trace_id in traces and s.name in CARRYING]
    began = min((s.start_ns for s in carrying), default=0)
    for span in sorted([*carrying, *linked], key=lambda s: s.start_ns):
        yield {
            "name": span.name,
            "service": span.service,
            "trace": span.trace_id,
            "after_s": (span.start_ns - began) / 1e9,
            "took_ms": (span.end_ns - span.start_ns) / 1e6,
            "says": f"run {_run(span)}, step {span.attributes['esper.step']}" if span.name == DECISION else version,
        }


def _run(span: ReceivedSpan) -> str:
    return str(span.attributes.get("esper.run.id", ""))
