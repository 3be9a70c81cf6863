"""Why a run grows or waits now: the policy's first reason with its numbers, an order to pause, or a missing answer.

Kept from boundary to boundary and in every checkpoint, so that whoever looks at a run is told the reason of now. While
the run's mode is conservative, so is its reason: what a policy says between two failures would flicker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from esper.core.enums import short_name
from esper.leyline import DecisionReason, DirectiveKind, SeedDirective
from esper.tolaria.record.packet_result import PacketResult

OFF, CONSERVATIVE, PAUSED, TOO_LATE = (
    short_name(DecisionReason, value)
    for value in (
        DecisionReason.DECISION_REASON_GROWTH_OFF,
        DecisionReason.DECISION_REASON_CONSERVATIVE,
        DecisionReason.DECISION_REASON_PAUSED,
        DecisionReason.DECISION_REASON_TOO_LATE,
    )
)
_PAUSING = {DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH: True, DirectiveKind.DIRECTIVE_KIND_RESUME_GROWTH: False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """A reason in one word, in words with numbers, and the step since which it holds."""

    name: str
    detail: str
    since_step: int

    def in_words(self) -> str:
        """E.g. "still improving: the loss falls by 70.00% in 100 steps, flat below 60.00%"."""
        return in_words(self.name, self.detail)

    def with_since(self) -> str:
        """The same, and the step since which it holds: the numbers are of now."""
        return f"{self.in_words()} (since step {self.since_step:,})"

    def as_fields(self) -> dict[str, Any]:
        """As files hold it."""
        return {"reason": self.name, "detail": self.detail, "since_step": self.since_step}


def in_words(name: str, detail: str) -> str:
    """A reason for people; whoever gave it may have said no more than its name."""
    words = name.replace("_", " ").lower()
    return f"{words}: {detail}" if detail else words


class GrowthReason:
    """The reason of now."""

    def __init__(self) -> None:
        self.now: Reason | None = None
        """None before the first answer."""
        self.before_late: Reason | None = None
        """The last one that wasn't that too little of the run is left, which in the end holds for every run."""
        self._pause: str | None = None
        """Who paused growth and why; None while nobody does."""
        self._first_packet = 0

    def forget(self, next_packet: int) -> None:
        """Another course begins: what was decided for the packets before this one says nothing of it."""
        self.now, self.before_late, self._first_packet = None, None, next_packet

    def note(self, result: PacketResult, step: int, *, is_conservative: bool = False, plane: str = "") -> None:
        """Take one packet's result, whether the run's mode is conservative with it, and the plane's word that it is."""
        self._note_pause(result)
        if result.packet_index < self._first_packet and result.failure is None:
            return
        name, detail = self._of(result)
        if is_conservative and (plane or name != CONSERVATIVE):
            name, detail = CONSERVATIVE, plane or self._why_conservative()
        since = self.now.since_step if self.now is not None and self.now.name == name else step
        self.now = Reason(name=name, detail=detail, since_step=since)
        if name != TOO_LATE:
            self.before_late = self.now

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        reasons = {"now": self.now, "before_late": self.before_late}
        return {"pause": self._pause, **{name: reason and reason.as_fields() for name, reason in reasons.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.now, self.before_late = _saved(state["now"]), _saved(state.get("before_late"))
        self._pause = state["pause"]

    def _why_conservative(self) -> str:
        """The last failure, until the mode is normal again."""
        now = self.now
        return now.detail if now is not None and now.name == CONSERVATIVE else "an answer was missing"

    def _of(self, result: PacketResult) -> tuple[str, str]:
        if result.failure is not None:
            return CONSERVATIVE, result.reason or result.failure
        if self._pause is not None:
            return PAUSED, self._pause
        if result.decision is None:
            return OFF, "no policy decides in this run"
        metadata = result.decision.metadata
        names = [short_name(DecisionReason, reason) for reason in metadata.reasons]
        return names[0] if names else "", metadata.detail

    def _note_pause(self, result: PacketResult) -> None:
        for issuer, directive in _orders(result):
            why = f"by {issuer}: {directive.rationale}"
            self._pause = why if _PAUSING[directive.kind] else None
        if result.growth is not None and result.growth.paused != (self._pause is not None):
            self._pause = "by an earlier order" if result.growth.paused else None


def _saved(fields: dict[str, Any] | None) -> Reason | None:
    if fields is None:
        return None
    return Reason(name=fields["reason"], detail=fields["detail"], since_step=fields["since_step"])


def _orders(result: PacketResult) -> Iterator[tuple[str, SeedDirective]]:
    """Orders to pause and to go on, with their issuers, in the order in which they are executed."""
    issuers = {
        directive.directive_id: outcome.issued_by or outcome.command_id
        for outcome in result.outcomes
        for directive in outcome.directives
    }
    for directive in result.directives:
        if directive.kind in _PAUSING:
            yield issuers.get(directive.directive_id, directive.command_id), directive
