"""Synchronous clients, for threads."""

from __future__ import annotations

from esper.rpc.clients._callers import SyncCaller
from esper.rpc.clients._services import BusRpcs, KasminaRpcs, TamiyoRpcs, WeatherlightRpcs


class KasminaClient(KasminaRpcs, SyncCaller):
    """Authority over seeds."""


class TamiyoClient(TamiyoRpcs, SyncCaller):
    """Policy and risk."""


class WeatherlightClient(WeatherlightRpcs, SyncCaller):
    """Supervisor and telemetry router."""


class BusClient(BusRpcs, SyncCaller):
    """The embedded bus."""
