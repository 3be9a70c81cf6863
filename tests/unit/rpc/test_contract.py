"""Servicer bases and clients are the protos' tables, to the letter."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator

import pytest

from esper.rpc.clients import aio, sync
from esper.rpc.clients._shapes import Rpc
from esper.rpc.contract import SERVICES, methods, snake_case
from esper.rpc.server.bases import BusServicer, KasminaServicer, Servicer, TamiyoServicer, WeatherlightServicer

BASES = (KasminaServicer, TamiyoServicer, WeatherlightServicer, BusServicer)
CLIENTS = [getattr(module, f"{name.removesuffix('Service')}Client") for module in (sync, aio) for name in SERVICES]


@pytest.mark.parametrize(("name", "expected"), [("OpenRun", "open_run"), ("ListFieldReports", "list_field_reports")])
def test_names_become_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_every_service_has_a_base() -> None:
    assert sorted(base.service for base in BASES) == sorted(SERVICES)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.service)
def test_a_base_has_one_abstract_method_for_each_rpc_with_its_messages(base: type[Servicer]) -> None:
    table = methods(base.service)
    assert base.__abstractmethods__ == set(table)
    for name, method in table.items():
        function = getattr(base, name)
        hints = typing.get_type_hints(function)
        request = hints["requests" if method.requests_stream else "request"]
        assert request == (AsyncIterator[method.request] if method.requests_stream else method.request), name
        expected = AsyncIterator[method.response] if method.responses_stream else method.response
        assert hints["return"] == expected, name
        assert inspect.iscoroutinefunction(function) is not method.responses_stream, name


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.service)
def test_only_server_streams_are_endless(base: type[Servicer]) -> None:
    table = methods(base.service)
    assert all(table[name].responses_stream for name in base.endless)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: f"{client.__module__}.{client.__name__}")
def test_a_client_has_one_method_for_each_rpc_with_its_messages(client: type) -> None:
    kinds = {(False, False): "Unary", (True, False): "ClientStream", (False, True): "ServerStream"}
    table = methods(client.service)
    own = {name: value for cls in client.__mro__ for name, value in vars(cls).items() if isinstance(value, Rpc)}
    assert set(own) == set(table)
    for name, method in table.items():
        rpc = own[name]
        assert (rpc.name, rpc.request, rpc.response) == (name, method.request, method.response)
        assert type(rpc).__name__ == kinds.get((method.requests_stream, method.responses_stream), "BothStream")
