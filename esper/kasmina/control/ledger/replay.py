"""Kasmina's decisions in the decision ledger, and decided again from it: gates and moves at an Advance, commands.

Like Tamiyo's, its rules have a version: whoever changes what they decide on the same inputs raises it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from esper.core.decisions import decision_ledger
from esper.core.decisions.decision_ledger import Decided
from esper.core.decisions.replayed import Outcome, Replayed
from esper.core.errors import CorruptRecord
from esper.kasmina.control.orders import dispatch
from esper.kasmina.control.stages.advance import advance
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    CommandOutcome,
    KasminaRunSpec,
    KasminaRunState,
)
from esper.urza.catalog import Catalog

DECISION_VERSION = 2
ADVANCE, COMMAND = "advance", "command"
_BREAKERS, _ARTIFACT_PROBLEM, _PLANE = "breakers", "artifact_problem", "plane"


def advanced(connection: sqlite3.Connection, turn: Turn, request: AdvanceRequest) -> None:
    """Take in what was seen and done, and record what was decided on it."""
    before = _bytes(turn.state)
    decision = _advance(turn, request)
    _append(connection, turn, ADVANCE, before, request, decision)


def applied(connection: sqlite3.Connection, turn: Turn, command: AdaptationCommand) -> CommandOutcome:
    """Carry a command out in the turn, and record what was decided on it."""
    before = _bytes(turn.state)
    outcome = dispatch.apply(turn, command)
    _append(connection, turn, COMMAND, before, command, outcome)
    return outcome


def replay(rows: Iterable[Decided]) -> Iterator[Replayed]:
    """Decide again what the ledger holds."""
    catalog = Catalog.builtin()
    for row in rows:
        yield _again(row, catalog)


def _append(connection: sqlite3.Connection, turn: Turn, kind: str, before: bytes, given: Any, decision: Any) -> None:
    row = Decided(
        run_id=turn.spec.training_run_id,
        generation=turn.spec.generation,
        step=turn.step,
        kind=kind,
        version=DECISION_VERSION,
        before=before,
        given=_bytes(given),
        decision=_bytes(decision),
        after=_after(turn, before, decision),
        circumstances=_circumstances(turn),
    )
    decision_ledger.append(connection, row, turn.spec.SerializeToString)


def _after(turn: Turn, before: bytes, decision: Any) -> bytes:
    """A refused command's turn is dropped."""
    is_refused = isinstance(decision, CommandOutcome) and not decision.accepted
    return before if is_refused else _bytes(turn.state)


def _circumstances(turn: Turn) -> dict[str, Any]:
    found = {_BREAKERS: list(turn.breakers), _ARTIFACT_PROBLEM: turn.artifact_problem, _PLANE: turn.plane}
    return {name: value for name, value in found.items() if value}


def _advance(turn: Turn, request: AdvanceRequest) -> AdvanceResponse:
    advance(turn, request)
    return AdvanceResponse(
        generation=request.generation,
        step=request.step,
        directives=turn.directives,
        transitions=turn.transitions,
        gates=turn.gates,
    )


# What came in, what was decided, and how, by kind of row.
KINDS: dict[str, tuple[type[Any], type[Any], Callable[[Turn, Any], Any]]] = {
    ADVANCE: (AdvanceRequest, AdvanceResponse, _advance),
    COMMAND: (AdaptationCommand, CommandOutcome, dispatch.apply),
}


def _again(row: Decided, catalog: Catalog) -> Replayed:
    if row.kind not in KINDS:
        raise CorruptRecord(f"row {row.seq} is of kind {row.kind!r}; Kasmina decides {' and '.join(KINDS)}")
    given_class, decision_class, decide = KINDS[row.kind]
    spec, given = KasminaRunSpec.FromString(row.spec), given_class.FromString(row.given)
    turn = Turn(
        spec=spec,
        state=KasminaRunState.FromString(row.before),
        catalog=catalog.with_own(spec.own_blueprints),
        step=row.step,
        breakers=tuple(row.circumstances.get(_BREAKERS, ())),
        artifact_problem=row.circumstances.get(_ARTIFACT_PROBLEM),
        plane=row.circumstances.get(_PLANE),
    )
    decision = decide(turn, given)
    return Replayed(
        row=row,
        given=given,
        recorded=Outcome(decision=decision_class.FromString(row.decision), after=KasminaRunState.FromString(row.after)),
        now=Outcome(decision=decision, after=KasminaRunState.FromString(_after(turn, row.before, decision))),
        version=DECISION_VERSION,
    )


def _bytes(message: Any) -> bytes:
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw
