"""Consumes until it is killed: `FOLDER ENDPOINT NAME`. An envelope is acknowledged once the ledger has it."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from esper.core.errors import EsperError
from esper.core.security.keys import load_keyring
from esper.leyline import ConsumeRequest, ConsumeResponse
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, channel
from tools.harness.fire.ledger import Ledger
from tools.harness.fire.publisher import LANES

GROUP = "fire"
IN_FLIGHT = 256
MOST_AT_ONCE = 64
CALL_S = 3600.0
RETRY_S = 0.05


def main(argv: Sequence[str]) -> int:
    folder, endpoint, name = argv
    ledger = Ledger(Path(folder), name)
    with channel(endpoint) as link:
        client = BusClient(link, metadata=service_metadata(load_keyring(dict(os.environ), None), "operator"))
        while True:
            _consume(client, ledger, name)
            time.sleep(RETRY_S)


def _consume(client: BusClient, ledger: Ledger, name: str) -> None:
    """Over one line, until it breaks."""
    orders: queue.SimpleQueue[ConsumeRequest | None] = queue.SimpleQueue()
    orders.put(ConsumeRequest(group=GROUP, consumer=name, lanes=LANES, max_in_flight=IN_FLIGHT))
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    responses = client.consume(iter(orders.get, None), timeout_s=CALL_S)
    threading.Thread(target=_listen, args=(responses, arrived), daemon=True).start()
    while (some := _some(arrived)) is not None:
        ledger.handle(some)
        orders.put(ConsumeRequest(acknowledged_event_ids=some))
    orders.put(None)


def _listen(responses: Iterator[ConsumeResponse], arrived: queue.SimpleQueue[str | None]) -> None:
    try:
        for response in responses:
            arrived.put(response.envelope.event_id)
    except EsperError:
        pass  # the line broke
    finally:
        arrived.put(None)


def _some(arrived: queue.SimpleQueue[str | None]) -> list[str] | None:
    """What there is, at least one; None once the line broke."""
    found: list[str] = []
    while not found or (len(found) < MOST_AT_ONCE and not arrived.empty()):
        event_id = arrived.get()
        if event_id is None:
            if found:
                arrived.put(None)
                return found
            return None
        found.append(event_id)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
