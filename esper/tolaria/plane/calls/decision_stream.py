"""Tamiyo's control stream as a call: one packet in, its decision out, and the run's state where it is wanted."""

from __future__ import annotations

import queue
import time
from collections.abc import Collection, Iterator

from esper.core.errors import ServiceUnavailable
from esper.leyline import ControlRequest, ControlResponse, Decision, RunStateBlob, SystemStatePacket
from esper.rpc.clients import Responses, TamiyoClient
from esper.tolaria.plane.answer_rules import decision_violations, require

STREAM_LIFETIME_S = 3600.0


class DecisionStream:
    """Tamiyo's control stream: opened when needed, again after it broke, and well before its deadline ends it."""

    def __init__(
        self, tamiyo: TamiyoClient, lifetime_s: float = STREAM_LIFETIME_S, *, replayed: Collection[str] = ()
    ) -> None:
        self._tamiyo = tamiyo
        self._replayed = replayed
        self._lifetime_s = lifetime_s
        self._opened_s = 0.0
        self._requests: queue.SimpleQueue[ControlRequest | None] | None = None
        self._responses: Iterator[ControlResponse] = iter(())

    def ask(self, packet: SystemStatePacket, *, want_state: bool = False) -> tuple[Decision, RunStateBlob | None]:
        """Send one packet; its decision, and the state after it: None where none is wanted, or of an older Tamiyo.

        Raises the error tree; the next call opens a new stream.
        """
        try:
            self._opened().put(ControlRequest(packet=packet, want_state=want_state))
            # A new stream follows on every failure, so the first answer of each is that to the packet just sent.
            for response in self._responses:
                require("Decision of tamiyo", decision_violations(response.decision, packet, self._replayed))
                return response.decision, response.state if response.HasField("state") else None
            raise ServiceUnavailable("tolaria", "service", "tamiyo", "its control stream ended; is it being drained?")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._requests is not None:
            self._requests.put(None)
            self._requests = None
            # Whoever lets go of the answers cancels the call.
            self._responses = iter(())

    def cut(self) -> None:
        """Any thread: end the call that `ask` waits on, which then fails."""
        if isinstance(self._responses, Responses):
            self._responses.cancel()

    def _opened(self) -> queue.SimpleQueue[ControlRequest | None]:
        if time.monotonic() - self._opened_s > self._lifetime_s / 2:
            self.close()
        if self._requests is None:
            self._requests = queue.SimpleQueue()
            self._responses = self._tamiyo.control(iter(self._requests.get, None), timeout_s=self._lifetime_s)
            self._opened_s = time.monotonic()
        return self._requests
