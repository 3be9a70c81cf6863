"""Clients of the four services. Every method takes `timeout_s`; errors are those that the servicer raised.

Here: synchronous, for a trainer's threads. `clients.aio` holds the asyncio twins under the same names.
"""

from esper.rpc.clients._callers import Responses
from esper.rpc.clients.channel import Channel, Tls, channel, doubt_of
from esper.rpc.clients.health import wait_serving, watch
from esper.rpc.clients.sync import BusClient, KasminaClient, TamiyoClient, WeatherlightClient

__all__ = [
    "BusClient",
    "Channel",
    "KasminaClient",
    "Responses",
    "TamiyoClient",
    "Tls",
    "WeatherlightClient",
    "channel",
    "doubt_of",
    "wait_serving",
    "watch",
]
