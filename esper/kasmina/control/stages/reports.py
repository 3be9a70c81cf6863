"""What the executor did, directive by directive, and what follows from it.

A report counts once: one whose directive is no longer pending was read before and is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from esper.core.enums import short_name
from esper.kasmina.control.stages import gates, lifecycle, moves, stack_course
from esper.kasmina.control.stages.lifecycle import CULLED, EMBARGOED, GERMINATED, RESETTING
from esper.kasmina.control.stages.pause import take_mute, take_unmute
from esper.kasmina.control.stages.turn import Turn
from esper.kasmina.metrics import DIRECTIVE_FAILED, RESET_INCOMPLETE
from esper.leyline import (
    DirectiveKind,
    DirectiveReport,
    Embargo,
    GateVerdict,
    HealthStatus,
    SeedGate,
    SeedRecord,
    SeedStage,
)

K = DirectiveKind
SETUP = frozenset({K.DIRECTIVE_KIND_SNAPSHOT_TWIN, K.DIRECTIVE_KIND_BUILD, K.DIRECTIVE_KIND_ATTACH})
GATES: Mapping[SeedStage, SeedGate] = MappingProxyType(
    {
        GERMINATED: SeedGate.SEED_GATE_G0_SANITY,
        lifecycle.TRAINING: SeedGate.SEED_GATE_G1_GRADIENT_HEALTH,
        lifecycle.BLENDING: SeedGate.SEED_GATE_G2_STABILITY,
        lifecycle.SHADOWING: SeedGate.SEED_GATE_G3_INTERFACE,
        lifecycle.PROBATIONARY: SeedGate.SEED_GATE_G4_SYSTEM_IMPACT,
    }
)
"""The gate by which a seed leaves each stage."""
FAIL = GateVerdict.GATE_VERDICT_FAIL
Handler = Callable[[Turn, SeedRecord, DirectiveReport], None]


def take_report(turn: Turn, report: DirectiveReport) -> None:
    """Read one report."""
    record = turn.find(report.seed_id)
    if record is not None and not _settle(record, report):
        if _is_own_doing(report):
            _gave_way(turn, record, report)
        return
    if not report.succeeded:
        kind = short_name(K, report.kind)
        turn.tell(DIRECTIVE_FAILED, f"{kind}: {report.failure}", seed_id=report.seed_id, kind=kind)
    if record is not None and report.kind in HANDLERS:
        HANDLERS[report.kind](turn, record, report)


def _settle(record: SeedRecord, report: DirectiveReport) -> bool:
    """Strike the directive off the pending ones; False if it isn't there."""
    for index, directive in enumerate(record.pending):
        if directive.directive_id == report.directive_id:
            del record.pending[index]
            return True
    return False


def _is_own_doing(report: DirectiveReport) -> bool:
    """Whether the executor put the twin in without an order, because the grown network had no room to go on."""
    return report.kind == K.DIRECTIVE_KIND_INSTALL_TWIN and report.succeeded and bool(report.failure)


def _gave_way(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """The seed is out of the host already: its gate fails, so that it is culled; one that is being kept is at once."""
    is_being_kept = any(directive.kind == K.DIRECTIVE_KIND_DROP_TWIN for directive in record.pending)
    if record.state.stage not in GATES and not is_being_kept:
        return
    kind = short_name(K, report.kind)
    turn.tell(DIRECTIVE_FAILED, f"{kind} unasked: {report.failure}", seed_id=report.seed_id, kind=kind)
    if is_being_kept:
        moves.cull(turn, record, record.state.command_id, report.failure)
    elif record.state.verdict != FAIL:
        turn.note(record, gates.gave_way(record, GATES[record.state.stage], report))


def _setup(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """G0, over everything until the seed is in the host, or, when it incubates, until it is built."""
    _book(record, report)
    if report.kind == K.DIRECTIVE_KIND_ATTACH and report.succeeded:
        record.grafted_step = report.step
        record.state.alpha = record.germination.blend.alpha_start
    if record.state.verdict == FAIL:
        return
    evidence = gates.g0_sanity(record, report, turn.traits(record))
    is_complete = not any(directive.kind in SETUP for directive in record.pending)
    if evidence.verdict == FAIL or is_complete:
        turn.note(record, evidence)
    if evidence.verdict == FAIL or not is_complete or record.state.stage != GERMINATED:
        return
    if turn.traits(record).is_stack:
        _stand(turn, record, report)
        return
    enter = moves.train if turn.traits(record).incubates else moves.blend
    enter(turn, record, record.state.command_id, "built and sound", SeedGate.SEED_GATE_G0_SANITY)


def _stand(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """A stack's graft is its proof: what is left before its judgement is that it can be judged."""
    command_id = record.state.command_id
    moves.shadow(turn, record, command_id, "built and sound", SeedGate.SEED_GATE_G0_SANITY)
    evidence = gates.g3_stack(record, report, stack_course.plan_problem(turn, record.grafted_step))
    turn.note(record, evidence)
    if evidence.verdict != FAIL:
        moves.put_on_probation(turn, record, command_id, "every copy works", SeedGate.SEED_GATE_G3_INTERFACE)


def _book(record: SeedRecord, report: DirectiveReport) -> None:
    """What the seed really costs, as measured."""
    if report.HasField("added_parameters"):
        record.state.parameters = report.added_parameters
    if report.HasField("added_forward_macs"):
        record.state.forward_macs = report.added_forward_macs


def _needed_by(gate: SeedGate, turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """A directive whose result only a gate reads: the gate fails if it could not be carried out."""
    if not report.succeeded and record.state.verdict != FAIL:
        turn.note(record, gates.undone(record, gate, report))


def _folded(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """A fold that failed leaves the seed as a permanent module of its own; what was merged costs nothing any more."""
    record.state.is_folded = report.succeeded and report.folded
    if report.HasField("added_parameters"):
        turn.state.growth.added_parameters += report.added_parameters - record.state.parameters
        _book(record, report)


def _installed_twin(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    if report.succeeded:
        _removed(turn, record, report)
    elif record.state.stage == CULLED:
        moves.remove(turn, record, record.state.command_id)


def _removed(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    if record.state.stage != CULLED:
        return
    if report.succeeded:
        moves.embargo(turn, record, record.state.command_id, "out of the host")
    else:
        _tell_remains(turn, record, report.failure)


def _checked(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """G5. A slot with remains stays closed and is looked at again after another embargo."""
    command_id = record.state.command_id
    if record.state.stage == EMBARGOED:
        moves.reset(turn, record, command_id, "its embargo is over")
    if record.state.stage != RESETTING:
        return
    evidence = gates.g5_reset(record, report.step, report.remains, report.failure)
    turn.note(record, evidence)
    if evidence.verdict != FAIL:
        moves.rest(turn, record, command_id, "nothing is left of it", SeedGate.SEED_GATE_G5_RESET)
        return
    _tell_remains(turn, record, evidence.detail)
    check_step = turn.step + turn.life.embargo_steps
    until_step = check_step + 2 * turn.life.reaction_steps
    turn.state.growth.embargoes.append(Embargo(slot_id=record.state.slot_id, until_step=until_step))
    turn.direct(K.DIRECTIVE_KIND_CHECK_RESET, command_id, record, at_step=check_step)


def _tell_remains(turn: Turn, record: SeedRecord, what: str) -> None:
    record.state.health = HealthStatus.HEALTH_STATUS_CRITICAL
    turn.tell(RESET_INCOMPLETE, what, seed_id=record.state.seed_id, slot_id=record.state.slot_id)


HANDLERS: Mapping[DirectiveKind, Handler] = MappingProxyType(
    {
        **dict.fromkeys(SETUP, _setup),
        K.DIRECTIVE_KIND_INCUBATE: partial(_needed_by, SeedGate.SEED_GATE_G1_GRADIENT_HEALTH),
        K.DIRECTIVE_KIND_SET_BLEND: partial(_needed_by, SeedGate.SEED_GATE_G2_STABILITY),
        K.DIRECTIVE_KIND_PROBE: partial(_needed_by, SeedGate.SEED_GATE_G3_INTERFACE),
        K.DIRECTIVE_KIND_MUTE: take_mute,
        K.DIRECTIVE_KIND_UNMUTE: take_unmute,
        K.DIRECTIVE_KIND_JUDGE: partial(_needed_by, SeedGate.SEED_GATE_G4_SYSTEM_IMPACT),
        K.DIRECTIVE_KIND_FOLD: _folded,
        K.DIRECTIVE_KIND_INSTALL_TWIN: _installed_twin,
        K.DIRECTIVE_KIND_FADE: _removed,
        K.DIRECTIVE_KIND_REMOVE: _removed,
        K.DIRECTIVE_KIND_CHECK_RESET: _checked,
    }
)
