"""A process's alarm: the emergencies that it raises, kept on disk until Weatherlight has them.

Raising never waits for the network. What is queued is sent again until it is acknowledged, by this process or the
next one with the same directory; Weatherlight knows a repeated one by its id. A rollback that missed its deadline goes
the same way, and Weatherlight opens the emergency.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError

from esper.core.clock import Clock, timestamp
from esper.core.enums import short_name
from esper.core.errors import BackPressure, EsperError
from esper.core.lasted import lasted_ms
from esper.core.messages.validation import require_valid
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.core.storage.files import read_regular, write_atomically
from esper.leyline import (
    EmergencyLevel,
    EmergencySignal,
    RaiseEmergencyRequest,
    RollbackDeadlineSignal,
    SignalRollbackDeadlineRequest,
    SystemMode,
)
from esper.rpc.auth import service_metadata
from esper.rpc.clients.channel import Tls, channel
from esper.rpc.clients.sync import WeatherlightClient

log = logging.getLogger("esper.alarm")
CAPACITY = 256
TIMEOUT_S = 5.0
RETRY_S, MAX_RETRY_S = 0.2, 5.0
WHOLE_PLANE = "-"
Signal = EmergencySignal | RollbackDeadlineSignal
KINDS: Mapping[str, type[Signal]] = {".emergency": EmergencySignal, ".late-rollback": RollbackDeadlineSignal}


class Alarm:
    """Raises emergencies in the name of one service. Without an endpoint they go to the log alone."""

    def __init__(
        self, endpoint: str | None, keyring: Keyring, clock: Clock, origin: str, directory: Path, tls: Tls | None = None
    ) -> None:
        self.sent = 0
        self.failures = 0
        self.last_latency_ms = 0.0
        self._origin = origin
        self._clock = clock
        self._directory = directory
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if endpoint is None:
            return
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._signer = Signer(keyring, clock)
        self._channel = channel(endpoint, tls)
        self._client = WeatherlightClient(self._channel, metadata=service_metadata(keyring, origin))
        self._thread = threading.Thread(target=self._send_all, name="alarm", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Emergencies that wait for Weatherlight."""
        return len(self._files())

    def raise_emergency(
        self,
        level: EmergencyLevel,
        cause: str,
        detail: str,
        *,
        run: str | None = None,
        generation: int | None = None,
        emergency_id: str | None = None,
        is_again: bool = False,
    ) -> None:
        """Raise one; on the disk when this returns. The same one that waits already is not raised twice.

        One `is_again` that was raised before, perhaps in vain: that is no news for who reads the log.
        """
        signal = EmergencySignal(
            emergency_id=emergency_id or f"{self._origin}-{secrets.token_hex(6)}",
            level=level,
            cause=cause,
            detail=detail,
            origin=self._origin,
            training_run_id=run,
            generation=generation,
            raised_at=timestamp(self._clock.now_ns()),
        )
        require_valid(signal)
        said = "%s: %s %s" if not is_again else "%s: %s %s; told again, in case it was lost"
        log.log(logging.INFO if is_again else logging.CRITICAL, said, EmergencyLevel.Name(level), cause, detail)
        self._queue(signal, signal.emergency_id)

    def signal_late_rollback(
        self, run: str, *, generation: int, step: int, deadline_ms: float, elapsed_ms: float
    ) -> None:
        """Tell of a rollback that missed its deadline; on the disk when this returns."""
        late = RollbackDeadlineSignal(
            training_run_id=run, generation=generation, step=step, deadline_ms=deadline_ms, elapsed_ms=elapsed_ms
        )
        require_valid(late)
        took = f"took {lasted_ms(elapsed_ms)}; its deadline is {lasted_ms(deadline_ms)}"
        log.critical("the rollback of %s at step %d %s", run, step, took)
        self._queue(late, f"{run} {generation} {step}")

    def _queue(self, signal: Signal, known_by: str) -> None:
        if self._thread is None:
            return
        with self._lock:
            if not any(_are_one(signal, waiting) for _, waiting in self._waiting()):
                self._keep(signal, known_by)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Try once more to send what waits; what can't be sent stays for the next process."""
        if self._thread is None:
            return
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._channel.close()

    def _keep(self, signal: Signal, known_by: str) -> None:
        if self.queued >= CAPACITY:
            raise BackPressure(f"{CAPACITY} emergencies wait for Weatherlight in {self._directory}", MAX_RETRY_S)
        name = hashlib.sha256(known_by.encode()).hexdigest()[:16]
        suffix = next(suffix for suffix, kind in KINDS.items() if isinstance(signal, kind))
        path = self._directory / f"{self._clock.now_ns():020d}-{name}{suffix}"
        write_atomically(path, signal.SerializeToString(), mode=0o600)

    def _files(self) -> list[Path]:
        return sorted(path for suffix in KINDS for path in self._directory.glob(f"*{suffix}"))

    def _waiting(self) -> Iterator[tuple[Path, Signal]]:
        """What waits, oldest first; a file that holds no emergency is put aside."""
        for path in self._files():
            try:
                signal = KINDS[path.suffix].FromString(read_regular(path))
                require_valid(signal)
            except FileNotFoundError:
                continue
            except (DecodeError, EsperError, OSError) as error:
                log.error("%s holds no emergency and is put aside: %s", path, error)
                with suppress(FileNotFoundError):  # the sender and whoever raises may find it at once
                    path.rename(path.with_suffix(".damaged"))
            else:
                yield path, signal

    def _send_all(self) -> None:
        pause_s = 0.0
        while not self._closing.is_set():
            pause_s = self._round(pause_s)
            self._wake.wait(pause_s or None)
            self._wake.clear()
        self._round(0.0)

    def _round(self, last_pause_s: float) -> float:
        """Send what waits; gives the pause before the next try, 0 where nothing is left."""
        try:
            for path, signal in self._waiting():
                self._send(signal)
                path.unlink(missing_ok=True)
            return 0.0
        except Exception as error:  # the edge of the thread: without it nobody would be told any more
            self.failures += 1
            if not last_pause_s:
                unexpected = None if isinstance(error, EsperError) else error
                log.warning("an emergency waits for Weatherlight: %s", error, exc_info=unexpected)
            return min(max(RETRY_S, 2 * last_pause_s), MAX_RETRY_S)

    def _send(self, signal: Signal) -> None:
        began = time.monotonic()
        run = signal.training_run_id or WHOLE_PLANE
        command = self._signer.sign(signal, audience=f"weatherlight/{run}")
        if isinstance(signal, EmergencySignal):
            mode = self._client.raise_emergency(RaiseEmergencyRequest(command=command), timeout_s=TIMEOUT_S).mode
        else:
            late = SignalRollbackDeadlineRequest(command=command)
            mode = self._client.signal_rollback_deadline(late, timeout_s=TIMEOUT_S).mode
        log.info("Weatherlight knows it: the plane is %s, %s", short_name(SystemMode, mode.mode), mode.cause)
        self.sent += 1
        self.last_latency_ms = (time.monotonic() - began) * 1e3


def _are_one(one: Signal, other: Signal) -> bool:
    """Whether they tell the same, or have one id."""
    if not isinstance(one, EmergencySignal) or not isinstance(other, EmergencySignal):
        return one == other
    if one.emergency_id == other.emergency_id:
        return True
    facts = ("level", "cause", "detail", "origin", "training_run_id", "generation")
    return all(getattr(one, name) == getattr(other, name) for name in facts)
