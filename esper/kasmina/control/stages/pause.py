"""Pausing one seed, and letting it go on: its gates, timers and judgement wait as long as it is out of the host."""

from __future__ import annotations

from esper.kasmina.control.stages.lifecycle import BLENDING, PROBATIONARY, SHADOWING, TRAINING, require_stage
from esper.kasmina.control.stages.turn import Refusal, Turn, unknown_seed
from esper.kasmina.metrics import SEED_PAUSED, SEED_RESUMED
from esper.leyline import AdaptationCommand, DirectiveKind, DirectiveReport, RejectionReason, SeedRecord

CONFLICT = RejectionReason.REJECTION_REASON_LIFECYCLE_CONFLICT
PAUSABLE = frozenset({TRAINING, BLENDING, SHADOWING, PROBATIONARY})


def pause_seed(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Out of the forward pass, its state kept. A seed that a stack is, or that is permanent, is the host."""
    record = turn.find(command.pause.seed_id)
    if record is None:
        return unknown_seed(command.pause.seed_id)
    require_stage(record, PAUSABLE, "PAUSE")
    if turn.traits(record).is_stack:
        return Refusal(CONFLICT, f"seed {record.state.seed_id} is a stack, and part of the host: it can't be paused")
    if record.state.is_paused:
        return Refusal(CONFLICT, f"seed {record.state.seed_id} is paused already")
    record.state.is_paused = True
    turn.direct(DirectiveKind.DIRECTIVE_KIND_MUTE, command.command_id, record, rationale=command.pause.rationale)
    return None


def resume_seed(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """It goes on where it was."""
    record = turn.find(command.resume.seed_id)
    if record is None:
        return unknown_seed(command.resume.seed_id)
    if not record.state.is_paused:
        return Refusal(CONFLICT, f"seed {record.state.seed_id} is not paused")
    if any(directive.kind == DirectiveKind.DIRECTIVE_KIND_UNMUTE for directive in record.pending):
        return Refusal(CONFLICT, f"seed {record.state.seed_id} is told to go on already")
    # The gates wait for its report: until then what is observed is the host without it.
    turn.direct(DirectiveKind.DIRECTIVE_KIND_UNMUTE, command.command_id, record, rationale=command.resume.rationale)
    return None


def still_paused(record: SeedRecord) -> Refusal:
    return Refusal(CONFLICT, f"seed {record.state.seed_id} is paused; resume it first, or cull it")


def take_mute(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """From this step on it is out."""
    if not report.succeeded:
        record.state.is_paused = False
        return
    record.paused_step = report.step
    turn.tell(SEED_PAUSED, f"out of the forward pass from step {report.step} on", seed_id=report.seed_id)


def take_unmute(turn: Turn, record: SeedRecord, report: DirectiveReport) -> None:
    """What was counted in steps since its graft doesn't count those of its pause."""
    if not report.succeeded:
        return
    missed = report.step - record.paused_step
    record.state.is_paused = False
    record.ClearField("paused_step")
    for name in ("grafted_step", "window_end_step"):
        if record.HasField(name):
            setattr(record, name, getattr(record, name) + missed)
    turn.tell(SEED_RESUMED, f"goes on after {missed} steps", seed_id=report.seed_id, paused_steps=missed)
