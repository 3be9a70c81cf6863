"""The trainer's line to its control plane: channels, keys, open runs, artefacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from esper.core.clock import Clock
from esper.core.errors import EsperError, InvalidAnswer, ServiceUnavailable
from esper.core.security.keys import Keyring
from esper.core.security.run_line import Peer, RunLine, forget_line, write_line
from esper.core.security.signing import Signer
from esper.leyline import Blueprint, FetchArtifactRequest
from esper.rpc.clients import Channel
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.answer_rules import RunFacts
from esper.tolaria.plane.calls.breaker import BreakerConfig
from esper.tolaria.plane.calls.line import Tell
from esper.tolaria.plane.control import ControlConfig, ServiceControl
from esper.tolaria.plane.open_control import Opening
from esper.tolaria.plane.start.opening import OpenedRun, RunIdentity, close_run, open_run

ARTIFACT_TIMEOUT_S = 10.0
# Recipes of blueprints are a few hundred bytes; what goes on beyond this is none.
MAX_ARTIFACT_BYTES = 16 * 2**20


class Link:
    """One run's connections; opened again, under a new generation, at every resume and rollback."""

    def __init__(
        self,
        config: TrainConfig,
        run_id: str,
        open_channel: Callable[[str], Channel],
        endpoints: Mapping[str, str],
        keyring: Keyring,
        clock: Clock,
        tell: Tell,
        own: Sequence[Blueprint] = (),
    ) -> None:
        self._tell = tell
        self._config = config
        self._run_id = run_id
        self._own = own
        self._endpoints = endpoints
        self._signer = Signer(keyring, clock)
        self._channels: dict[str, Channel] = {name: open_channel(name) for name in ("tamiyo", "kasmina")}
        self._identity: RunIdentity | None = None
        self._opened: OpenedRun | None = None
        self._control: ServiceControl | None = None

    @property
    def opened(self) -> OpenedRun:
        """The run as it is open now. Raises ServiceUnavailable before it was opened."""
        if self._opened is None:
            raise ServiceUnavailable("tolaria", "run", self._run_id, "it has not been opened yet")
        return self._opened

    def open_control(self, opening: Opening) -> ServiceControl:
        """Open the run at both services and start the control worker."""
        self._identity = RunIdentity(
            run_id=self._run_id,
            seed=self._config.seed,
            generation=opening.generation,
            total_steps=opening.total_steps,
            gives_up_course=opening.gives_up_course,
            judge_samples=opening.judge_samples,
            teacher=opening.teacher,
        )
        self._opened = open_run(
            self._channels, self._signer, self._config, self._identity, opening.manifest(), opening.states, self._own
        )
        self._keep_line(self._opened)
        self._control = ServiceControl(
            self._opened.tamiyo,
            self._opened.kasmina,
            ControlConfig(
                deadline_s=self._config.deadline_s,
                breaker=BreakerConfig(open_s=min(self._config.deadline_s, BreakerConfig().open_s)),
            ),
            facts=RunFacts(slots=frozenset(self._opened.accepted_slots), seeds=set(self._opened.seeds)),
            sign=lambda command: self._signer.sign(command, audience=f"kasmina/{self._run_id}"),
            replay=self._opened.replay,
            policy_digest=self._opened.policy_digest,
            tell=self._tell,
        )
        return self._control

    def _keep_line(self, opened: OpenedRun) -> None:
        """What an operator needs to speak to the services about this run; the run itself doesn't, and goes on."""
        places = self._endpoints.items()
        peers = {name: Peer(endpoint=place, token=opened.tokens.get(name)) for name, place in places}
        try:
            write_line(self._config.run_dir, RunLine(run_id=self._run_id, peers=peers))
        except OSError as error:
            self._tell("tolaria.no_line", f"esper call --run-dir can't reach this run's services: {error}")

    def fetch_artifact(self, digest: str) -> bytes:
        """Bytes of an artefact, from Kasmina; the executor verifies them against the digest. Raises the error tree."""
        request = FetchArtifactRequest(digest=digest)
        chunks = self.opened.kasmina.fetch_artifact(request, timeout_s=ARTIFACT_TIMEOUT_S)
        content = bytearray()
        for response in chunks:
            content += response.chunk
            if len(content) > MAX_ARTIFACT_BYTES:
                raise InvalidAnswer("FetchArtifact of kasmina", [f"more than {MAX_ARTIFACT_BYTES} bytes for {digest}"])
        return bytes(content)

    def finish(self, step: int, reason: str) -> str | None:
        """Close the run at the services; returns why that failed, if it did."""
        if self._opened is None or self._identity is None:
            return None
        try:
            closed = self._control.closed_reports if self._control is not None else ()
            close_run(self._opened, self._signer, self._identity, step, reason, closed)
        except EsperError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Give the connections back."""
        forget_line(self._config.run_dir)
        for link in self._channels.values():
            link.close()
