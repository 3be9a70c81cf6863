"""Answers to Advance: what a turn says to the executor, joined with an answer that never arrived.

An answer can be lost after its turn was stored. The next request says which answer came last; a newer one that was
given is repeated in front of the new one, in order, so that no directive is lost and none is given twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from esper.kasmina.control.ledger.database import RunRow
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import AdvanceRequest, AdvanceResponse, CommandOutcome


def answer_of(
    turn: Turn, request: AdvanceRequest, outcomes: Iterable[CommandOutcome], *, artifact_timeouts: int
) -> AdvanceResponse:
    """The turn as an answer."""
    answer = AdvanceResponse(
        generation=request.generation,
        step=request.step,
        directives=turn.directives,
        transitions=turn.transitions,
        gates=turn.gates,
        seeds=[record.state for record in turn.state.seeds],
        growth=turn.state.growth,
        outcomes=outcomes,
    )
    answer.growth.artifact_timeouts = artifact_timeouts
    return answer


def lost_answer(row: RunRow, request: AdvanceRequest) -> AdvanceResponse | None:
    """The last answer, if the request says that it never arrived."""
    if row.answer is None or row.answer_step is None or not request.HasField("last_answered_step"):
        return None
    return row.answer if request.last_answered_step < row.answer_step else None


def joined(lost: AdvanceResponse | None, answer: AdvanceResponse) -> AdvanceResponse:
    """Both answers as one: what was lost first, the state of now."""
    if lost is None:
        return answer
    whole = AdvanceResponse()
    whole.CopyFrom(answer)
    for name in ("directives", "transitions", "gates", "outcomes"):
        whole.ClearField(name)
        getattr(whole, name).extend([*getattr(lost, name), *getattr(answer, name)])
    return whole
