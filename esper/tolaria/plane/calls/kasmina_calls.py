"""Kasmina's calls of one open run, each answer held against its question and the run. All raise the error tree."""

from __future__ import annotations

from esper.leyline import (
    AdvanceRequest,
    AdvanceResponse,
    ApplyCommandRequest,
    CommandOutcome,
    GetCommandRequest,
    KasminaServiceGetRunStateRequest,
    RunStateBlob,
    SignedCommand,
)
from esper.rpc.clients import KasminaClient
from esper.tolaria.plane.answer_rules import (
    RunFacts,
    advance_violations,
    all_directives,
    outcome_violations,
    require,
    state_violations,
)
from esper.tolaria.plane.calls.line import Line


class KasminaCalls:
    """What the control worker asks of Kasmina; it learns the run's seeds from the answers."""

    def __init__(self, client: KasminaClient, facts: RunFacts, timeout_s: float, line: Line) -> None:
        self._line = line
        self._client = client
        self._facts = facts
        self._timeout_s = timeout_s

    def apply(self, command_id: str, envelope: SignedCommand) -> CommandOutcome:
        """Relay a command. Raises CommandRejected for one that Kasmina doesn't believe."""
        request = ApplyCommandRequest(command=envelope)
        with self._line.asking("kasmina"):
            response = self._client.apply_command(request, timeout_s=self._timeout_s)
        return self._checked(response.outcome, command_id)

    def find(self, command_id: str) -> CommandOutcome | None:
        """What became of a command; None if it never arrived."""
        request = GetCommandRequest(command_id=command_id)
        with self._line.asking("kasmina"):
            response = self._client.get_command(request, timeout_s=self._timeout_s)
        return self._checked(response.outcome, command_id) if response.found else None

    def advance(self, request: AdvanceRequest) -> AdvanceResponse:
        """An answer that is refused counts as lost: the next one repeats it."""
        with self._line.asking("kasmina"):
            response = self._client.advance(request, timeout_s=self._timeout_s)
        require("AdvanceResponse of kasmina", advance_violations(response, request, self._facts))
        self._facts.seeds.update(seed.seed_id for seed in response.seeds)
        self._facts.seeds.update(directive.seed_id for directive in all_directives(response))
        return response

    def state(self) -> RunStateBlob:
        """Kasmina's part of a checkpoint."""
        with self._line.asking("kasmina"):
            state = self._client.get_run_state(KasminaServiceGetRunStateRequest(), timeout_s=self._timeout_s).state
        require("RunStateBlob of kasmina", state_violations("kasmina", state))
        return state

    def _checked(self, outcome: CommandOutcome, command_id: str) -> CommandOutcome:
        require("CommandOutcome of kasmina", outcome_violations(outcome, command_id, self._facts))
        self._facts.seeds.update(directive.seed_id for directive in outcome.directives)
        return outcome
