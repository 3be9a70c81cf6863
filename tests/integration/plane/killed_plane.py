"""The same plane as processes of their own, which kill -9 ends: between requests, amid them, and amid a prefetch.

Whatever got no answer is asked again as a trainer or an operator would: an order is settled by its id, and signed anew
under it where it isn't known; an Advance is repeated. What a service had answered before it was killed holds after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import CommandRejected, EsperError
from esper.core.security.signing import Signer
from esper.leyline import (
    AdvanceResponse,
    ApplyCommandRequest,
    Blueprint,
    CommandOutcome,
    FetchArtifactRequest,
    GetCommandRequest,
    PauseOrder,
    PrefetchKernelRequest,
    PrefetchStatus,
    ResumeOrder,
)
from tests.integration.plane.plane_machine import EVERY_STEPS, Heard, Plane, PlaneMachine
from tests.integration.services.service_process import KEYRING, ServiceProcess
from tests.unit.kasmina.control.making import command, stack_run
from tests.unit.urza.own.making import DESCRIPTION, described, stored

T = TypeVar("T")
PATIENCE_S = 60.0
NAMES = ("weatherlight", "tamiyo", "kasmina")
READERS = ("weatherlight", "kasmina")
MOMENTS_S = st.sampled_from([0.0, 0.001, 0.003, 0.01, 0.03])
"""From the beginning of a request to the kill."""
OWN = 4
"""Blueprints of the run's own, whose artefacts come over the bus."""


class KilledPlane(Plane):
    """The services as processes; time is the machine's."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.keyring, self.heard = SYSTEM_CLOCK, KEYRING, Heard()  # type: ignore[assignment]
        self.signer = Signer(self.keyring, self.clock)
        self.own = [_own(folder, number) for number in range(OWN)]
        self._channels = {}
        self._processes: dict[str, ServiceProcess] = {}
        for name in NAMES:
            there = () if name == "weatherlight" else ("--weatherlight", self._processes["weatherlight"].endpoint)
            reads = {f"ESPER_{name.upper()}_{name.upper()}__ARTIFACT_DIR": str(folder / "artifacts")}
            self._processes[name] = ServiceProcess(name, folder / name, *there, **(reads if name in READERS else {}))
            self.begin(name)

    def begin(self, name: str) -> None:
        self._channels[name] = self._processes[name].start()

    def end(self, name: str) -> None:
        del self._channels[name]
        self._processes[name].kill()

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.clear()

    def sign(self, message: Any, service: str, run: str = "run-1") -> Any:
        return self.signer.sign(message, audience=f"{service}/{run}")


def _own(folder: Path, number: int) -> Blueprint:
    description = DESCRIPTION.replace('"lab.gated"', f'"lab.gated{number}"')
    return stored(described(folder / f"own{number}", description=description), folder / "artifacts")


class KilledPlaneMachine(PlaneMachine):
    """Anything at any time, and kill -9 in the middle of it."""

    @initialize()
    def begin(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        super().begin()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "pool"):
            self.pool.shutdown()

    def _plane(self, folder: Path) -> Plane:
        return KilledPlane(folder)

    def _run_spec(self) -> Any:
        run = stack_run(growth_end_step=100_000, max_culls_in_row=4)
        run.own_blueprints.extend(self.plane.own)  # type: ignore[attr-defined]
        return run

    # The machine's clock is nobody's to set.
    pass_time = jump = restart = None  # type: ignore[assignment]

    @rule(name=st.sampled_from(NAMES))
    def kill(self, name: str) -> None:
        self.plane.end(name)
        self.plane.begin(name)

    @rule(moment_s=MOMENTS_S, pauses=st.booleans())
    def kill_amid_an_order(self, moment_s: float, pauses: bool) -> None:
        """Answered before the kill or not: its id settles it, and its envelope is never believed again."""
        what = {"pause": PauseOrder(rationale="r")} if pauses else {"resume": ResumeOrder(rationale="r")}
        asked = command(step=self.step, **what, **self._by_operator())
        envelope = self.plane.sign(asked, "kasmina")
        request = ApplyCommandRequest(command=envelope)
        client = self._kasmina()
        heard = self._killed_amid("kasmina", moment_s, lambda: client.apply_command(request, timeout_s=PATIENCE_S))
        known = self._kasmina().get_command(GetCommandRequest(command_id=asked.command_id), timeout_s=PATIENCE_S)
        if heard is not None:
            assert known.found, "what was answered was forgotten"
            heard.outcome.ClearField("verify_latency_ms")  # of that one call
            assert known.outcome == heard.outcome
        if known.found:
            self.outcomes[asked.command_id], self.envelopes[asked.command_id] = known.outcome, envelope
            self._require_spent(asked.command_id, envelope)
        else:
            self._order(asked)

    def _require_spent(self, command_id: str, envelope: Any) -> None:
        try:
            self._kasmina().apply_command(ApplyCommandRequest(command=envelope), timeout_s=PATIENCE_S)
        except CommandRejected:
            return
        raise AssertionError(f"{command_id} was believed twice")

    @rule(moment_s=MOMENTS_S, gain=st.sampled_from([0.05, -0.05]))
    def kill_amid_a_boundary(self, moment_s: float, gain: float) -> None:
        """The trainer asks again as it asked; whatever was told is told again, and taken once."""
        self.executor.gain = gain
        self.step += EVERY_STEPS
        request = self.executor.evidence_at(self.step, 1)
        request.last_answered_step = self.answered
        client = self._kasmina()
        answer: AdvanceResponse | None = self._killed_amid(
            "kasmina", moment_s, lambda: client.advance(request, timeout_s=PATIENCE_S)
        )
        self._take(self._kasmina().advance(request, timeout_s=PATIENCE_S) if answer is None else answer)

    @rule(moment_s=MOMENTS_S, name=st.sampled_from(READERS), number=st.integers(0, OWN - 1))
    def kill_amid_a_prefetch(self, moment_s: float, name: str, number: int) -> None:
        """It ends, ready or told why not; asked for again it is ready, and its bytes are those of its digest."""
        client, request = self._kasmina(), PrefetchKernelRequest(blueprint_id=f"lab.gated{number}")
        self._killed_amid(name, moment_s, lambda: list(client.prefetch_kernel(request, timeout_s=PATIENCE_S)))
        deadline = time.monotonic() + PATIENCE_S
        while True:
            *_, last = self._kasmina().prefetch_kernel(request, timeout_s=PATIENCE_S)
            if last.update.status == PrefetchStatus.PREFETCH_STATUS_READY:
                break
            assert time.monotonic() < deadline, last.update.error
        digest = last.update.artifact.digest
        chunks = self._kasmina().fetch_artifact(FetchArtifactRequest(digest=digest), timeout_s=PATIENCE_S)
        assert sha256(b"".join(chunk.chunk for chunk in chunks)).hexdigest() == digest

    def _killed_amid(self, name: str, moment_s: float, ask: Callable[[], T]) -> T | None:
        """What a request gave that was under way when a service was killed; None for no answer."""
        asking: Future[T] = self.pool.submit(ask)
        time.sleep(moment_s)
        self.plane.end(name)
        self.plane.begin(name)
        try:
            return asking.result(PATIENCE_S)
        except EsperError:
            return None

    @invariant()
    def every_outcome_is_what_it_was(self) -> None:
        """Not the first and the last alone: a kill may have cost any."""
        if not hasattr(self, "plane"):
            return
        for command_id, known in self.outcomes.items():
            settled: CommandOutcome = self._settled(command_id)
            assert (settled.accepted, settled.rejection) == (known.accepted, known.rejection)
