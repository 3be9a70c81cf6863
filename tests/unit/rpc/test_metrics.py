"""What objectives count of calls: answers given once, the server's own faults, and what took long."""

from __future__ import annotations

import secrets

import pytest
from prometheus_client import REGISTRY

from esper.rpc.metrics import SLOW_S, begin, ended


def counts(method: str) -> list[float | None]:
    names = ("rpc_server_calls_total", "rpc_server_calls_failed_total", "rpc_server_calls_slow_total")
    return [REGISTRY.get_sample_value(name, {"method": method}) for name in names]


@pytest.fixture
def method() -> str:
    name = f"test/{secrets.token_hex(4)}"
    begin(name)
    return name


def test_counters_begin_at_0(method: str) -> None:
    assert counts(method) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("code", "is_fault"),
    [
        ("OK", False),
        ("UNAUTHENTICATED", False),
        ("INVALID_ARGUMENT", False),
        ("FAILED_PRECONDITION", False),
        ("ABORTED", False),
        ("CANCELLED", False),
        ("INTERNAL", True),
        ("UNAVAILABLE", True),
        ("DEADLINE_EXCEEDED", True),
        ("RESOURCE_EXHAUSTED", True),
    ],
)
def test_a_fault_is_one_of_the_server_and_not_of_the_caller(method: str, code: str, is_fault: bool) -> None:
    ended(method, code, 0.001, is_stream=False)
    assert counts(method) == [1.0, float(is_fault), 0.0]


@pytest.mark.parametrize(("took_s", "is_slow"), [(SLOW_S, False), (SLOW_S + 0.001, True)])
def test_a_slow_call_is_counted_as_such(method: str, took_s: float, is_slow: bool) -> None:
    ended(method, "OK", took_s, is_stream=False)
    assert counts(method) == [1.0, 0.0, float(is_slow)]


def test_a_stream_is_measured_and_counts_for_no_objective(method: str) -> None:
    ended(method, "UNAVAILABLE", 3600.0, is_stream=True)
    assert counts(method) == [0.0, 0.0, 0.0]
    labels = {"method": method, "code": "UNAVAILABLE"}
    assert REGISTRY.get_sample_value("rpc_server_call_duration_seconds_count", labels) == 1.0
