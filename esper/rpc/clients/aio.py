"""Asyncio clients: the twins of those in `sync`, under the same names."""

from __future__ import annotations

from esper.rpc.clients._callers import AioCaller
from esper.rpc.clients._services import BusRpcs, KasminaRpcs, TamiyoRpcs, WeatherlightRpcs
from esper.rpc.clients.channel import AioChannel, aio_channel

__all__ = ["AioChannel", "BusClient", "KasminaClient", "TamiyoClient", "WeatherlightClient", "aio_channel"]


class KasminaClient(KasminaRpcs, AioCaller):
    """Authority over seeds."""


class TamiyoClient(TamiyoRpcs, AioCaller):
    """Policy and risk."""


class WeatherlightClient(WeatherlightRpcs, AioCaller):
    """Supervisor and telemetry router."""


class BusClient(BusRpcs, AioCaller):
    """The embedded bus."""
