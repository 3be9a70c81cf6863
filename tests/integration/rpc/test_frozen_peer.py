"""A peer that is stopped but not dead: calls end at their deadline, streams by keepalive, and it may come back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from esper.core.errors import AsyncTimeoutError, EsperError, ServiceUnavailable
from esper.leyline import WatchModeRequest, WeatherlightServiceGetStatusRequest
from tests.integration.services.service_process import TIMEOUT_S, ServiceProcess, weatherlight_client
from tools.harness.faults.processes import frozen


def test_a_call_to_a_frozen_peer_ends_at_its_deadline_and_works_after_the_thaw(tmp_path: Path) -> None:
    with ServiceProcess("weatherlight", tmp_path) as service:
        client = weatherlight_client(service.channel)
        with frozen(service.process.pid), pytest.raises(AsyncTimeoutError):
            client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=0.3)
        assert client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S).HasField("packets")


@pytest.mark.slow
def test_a_stream_from_a_frozen_peer_ends_by_keepalive(tmp_path: Path) -> None:
    with ServiceProcess("weatherlight", tmp_path) as service:
        modes = weatherlight_client(service.channel).watch_mode(WatchModeRequest(), timeout_s=300)
        next(modes)
        ended: list[EsperError] = []

        def follow() -> None:
            try:
                list(modes)
            except EsperError as error:
                ended.append(error)

        with frozen(service.process.pid):
            following = threading.Thread(target=follow)
            following.start()
            following.join(30)
        assert not following.is_alive()
        assert isinstance(ended[0], ServiceUnavailable)
