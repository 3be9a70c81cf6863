"""Publishes envelopes until it is stopped: `FOLDER ENDPOINT NAME RATE`. An id is written down once it is acknowledged.

A batch that was not acknowledged is sent again with the same ids, for as long as it takes: that is what makes a lost
answer harmless.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError
from esper.core.security.keys import Keyring, load_keyring
from esper.leyline import BusEnvelope, BusLane, PublishRequest, RunClosure
from esper.oona.bus import PRIORITIES
from esper.oona.envelope import seal
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, channel
from tools.harness.fire.ledger import ACKNOWLEDGED

LANES = (BusLane.BUS_LANE_NORMAL, BusLane.BUS_LANE_TELEMETRY, BusLane.BUS_LANE_EMERGENCY)
BATCH = 20
TIMEOUT_S = 5.0
RETRY_S = 0.05


def main(argv: Sequence[str]) -> int:
    folder, endpoint, name, rate = argv
    keyring, stopping = load_keyring(dict(os.environ), None), list[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    began_s, sent = time.monotonic(), 0
    with channel(endpoint) as link, (Path(folder) / f"{ACKNOWLEDGED}.{name}").open("a") as told:
        client = BusClient(link, metadata=service_metadata(keyring, "operator"))
        while not stopping:
            batch = [_envelope(keyring, f"{name}-{sent + number}") for number in range(BATCH)]
            if not _published(client, batch, stopping):
                break
            sent += BATCH
            told.write("".join(f"{envelope.event_id}\n" for envelope in batch))
            told.flush()
            time.sleep(max(0.0, began_s + sent / float(rate) - time.monotonic()))
            began_s = max(began_s, time.monotonic() - sent / float(rate))
    return 0


def _published(client: BusClient, batch: Sequence[BusEnvelope], stopping: Sequence[int]) -> bool:
    while True:
        try:
            client.publish(PublishRequest(envelopes=batch), timeout_s=TIMEOUT_S)
        except EsperError:
            if stopping:
                return False
            time.sleep(RETRY_S)
        else:
            return True


def _envelope(keyring: Keyring, event_id: str) -> BusEnvelope:
    number = hash(event_id)
    return seal(
        keyring,
        SYSTEM_CLOCK,
        RunClosure(reason="fire"),
        source="operator",
        lane=LANES[number % len(LANES)],
        priority=PRIORITIES[number % len(PRIORITIES)],
        event_id=event_id,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
