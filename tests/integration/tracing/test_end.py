"""The end of a process that traces: what waits is sent, and a collector that is absent or silent delays nobody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from esper.rpc.otel import END_S
from tests.integration.tracing.otlp_receiver import Receiver

PROGRAM = textwrap.dedent(
    """
    import logging, sys, time
    from opentelemetry import trace
    from esper.rpc.otel import KEEP, setup_tracing

    logging.basicConfig(level="ERROR")
    end = setup_tracing("tolaria-train", sys.argv[1])
    with trace.get_tracer("test").start_as_current_span("decision", attributes={KEEP: True}):
        pass
    began = time.monotonic()
    end()
    print(time.monotonic() - began, flush=True)
    """
)


@contextmanager
def silent() -> Iterator[str]:
    """A collector that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def absent() -> Iterator[str]:
    """A port that nobody serves: it stays bound, so that nobody comes to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def ended(endpoint: str) -> float:
    """How long the end of the traces took, seconds, in a process that then ended by itself."""
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", PROGRAM, endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        took_s = float(process.stdout.readline())
        try:
            assert process.wait(2.0) == 0  # nothing is left that keeps it
        finally:
            process.kill()
    return took_s


@pytest.mark.parametrize("collector", [silent, absent])
def test_a_collector_that_takes_nothing_delays_the_end_by_a_moment(
    collector: Callable[[], AbstractContextManager[str]],
) -> None:
    with collector() as endpoint:
        assert ended(endpoint) < END_S + 0.4


def test_the_ends_of_a_runs_processes_together_stay_within_two_seconds() -> None:
    assert 3 * END_S < 2.0


def test_what_waits_at_the_end_is_sent_whatever_proxy_there_is() -> None:
    with Receiver() as receiver:
        assert ended(receiver.endpoint) < END_S + 0.4
        receiver.until(lambda spans: [span.name for span in spans] == ["decision"], timeout_s=5)
