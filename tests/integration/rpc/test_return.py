"""A service that was away for longer than a client's first tries is found within seconds of its return."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from esper.core.errors import EsperError
from esper.rpc.clients import channel, wait_serving
from tests.integration.services.service_process import TIMEOUT_S, ServiceProcess

OUTAGE_S = 12.0
# grpc's own pauses between tries have grown to several seconds by then.
PATIENCE_S = 2.5


@pytest.mark.slow
def test_a_client_finds_a_service_that_returns_after_a_long_outage(tmp_path: Path) -> None:
    with ServiceProcess("weatherlight", tmp_path) as service, channel(service.endpoint) as link:
        wait_serving(link, timeout_s=TIMEOUT_S)
        service.kill()
        gone_until = time.monotonic() + OUTAGE_S
        while time.monotonic() < gone_until:
            with pytest.raises(EsperError):
                wait_serving(link, timeout_s=0.2)
        service.start()  # with a connection of its own: it serves when this returns
        wait_serving(link, timeout_s=PATIENCE_S)
