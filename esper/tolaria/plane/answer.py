"""What a packet has caused so far, while the control worker is still at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from esper.core.errors import AsyncTimeoutError, CommandRejected, EsperError, InvalidAnswer, ServiceUnavailable
from esper.leyline import AdvanceResponse, CommandOutcome, Decision, DirectiveReport, SeedDirective
from esper.tolaria.record.packet_result import BROKEN_OFF, TIMEOUT, PacketResult, RunStates

T = TypeVar("T")
KINDS: tuple[tuple[type[EsperError], str], ...] = ((ServiceUnavailable, "unavailable"), (InvalidAnswer, "invalid"))


@dataclass(slots=True)
class Answer:
    """What a packet has caused so far."""

    outcomes: list[CommandOutcome] = field(default_factory=list)
    reports: Sequence[DirectiveReport] = ()
    advanced: AdvanceResponse | None = None
    failures: list[str] = field(default_factory=list)
    failed_service: str | None = None
    cause: str | None = None

    def guard(self, service: str, call: Callable[[], T]) -> T | None:
        """Return the call's answer, or None after noting its failure."""
        try:
            return call()
        except EsperError as error:
            self.fail(service, error)
            return None

    def fail(self, service: str, error: EsperError) -> None:
        self.failures.append(f"{service}: {error}")
        self.failed_service = service
        self.cause = cause_of(service, error)

    def merge_failure(self, other: Answer) -> None:
        """What failed in a part of the work failed here."""
        self.failures += other.failures
        self.failed_service, self.cause = other.failed_service, other.cause

    def break_off(self, error: Exception) -> None:
        """An error that nobody foresaw ended the work on this packet."""
        self.failures.append(f"the control worker: unexpected {type(error).__name__}: {error}")
        self.cause = BROKEN_OFF

    def result(self, packet_index: int, decision: Decision | None, states: RunStates | None) -> PacketResult:
        advanced = self.advanced
        outcomes = tuple(self.outcomes)
        given = advanced.directives if advanced else ()
        accepted = [outcome for outcome in outcomes if outcome.accepted]
        return PacketResult(
            packet_index=packet_index,
            directives=unique([*(d for o in accepted for d in o.directives), *given]),
            outcomes=outcomes,
            transitions=tuple(t for o in accepted for t in o.transitions)
            + tuple(advanced.transitions if advanced else ()),
            gates=tuple(advanced.gates if advanced else ()),
            seeds=tuple(advanced.seeds) if advanced else None,
            growth=advanced.growth if advanced else None,
            decision=decision,
            failure="; ".join(self.failures) or None,
            cause=self.cause,
            states=states,
        )


def cause_of(service: str, error: EsperError) -> str:
    """The kind of a failure, in one word for each service."""
    if isinstance(error, AsyncTimeoutError):
        return f"{service}_{TIMEOUT}"
    kind = next((word for cls, word in KINDS if isinstance(error, cls)), "refused")
    return f"{service}_{kind}"


def unique(directives: Iterable[SeedDirective]) -> tuple[SeedDirective, ...]:
    """Directives in order, each id once: an outcome and an answer may both carry one."""
    return tuple({directive.directive_id: directive for directive in directives}.values())


def refusal(command_id: str, rejection: CommandRejected) -> CommandOutcome:
    """The outcome of a command that Kasmina refused before believing it."""
    return CommandOutcome(
        command_id=command_id,
        accepted=False,
        rejection=rejection.reason,  # type: ignore[arg-type]
        detail=rejection.detail,
    )
