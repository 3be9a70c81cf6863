"""Decisions in words: one line for a command and for why it was made, the same in every display, log and audit."""

from __future__ import annotations

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from esper.core.enums import short_name
from esper.leyline import (
    AdaptationCommand,
    DecisionMetadata,
    DecisionReason,
    EmergencyLevel,
    RiskReason,
    SeedOperation,
    SeedOperationKind,
    SeedStage,
)


def in_words(command: AdaptationCommand) -> str:
    """What a command does, e.g. "germinate s1 in span:fc1-fc2 from span.linear"."""
    action = command.WhichOneof("action")
    if action == "seed":
        return _operation_in_words(command.seed)
    if action == "optimizer":
        changes = ", ".join(f"{field.name} {value:g}" for field, value in command.optimizer.ListFields())
        return f"adjust the optimiser: {changes or 'nothing'}"
    if action == "circuit_breaker":
        return f"force breaker {command.circuit_breaker.breaker}: {command.circuit_breaker.rationale}"
    if action == "emergency":
        return f"raise {EmergencyLevel.Name(command.emergency.level)}: {command.emergency.rationale}"
    if action == "prune":
        return f"prune {command.prune.seed_id}: {command.prune.rationale}"
    if action is None:
        return "nothing"
    return f"{action}: {getattr(command, action).rationale}"


def reasons_in_words(metadata: DecisionMetadata) -> str:
    """Why, e.g. "plateau: the loss falls by 12% in 100 steps; risk: loss spike"; empty if no reason was given."""
    reasons = ", ".join(_words(DecisionReason, reason) for reason in metadata.reasons)
    reasons += f": {metadata.detail}" if reasons and metadata.detail else ""
    risks = ", ".join(_words(RiskReason, found.reason) for found in metadata.risk.findings)
    return "; ".join(part for part in (reasons, f"risk: {risks}" if risks else "") if part)


def _operation_in_words(operation: SeedOperation) -> str:
    verb = _words(SeedOperationKind, operation.operation)
    if operation.operation == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE:
        return f"{verb} {operation.seed_id} in {operation.slot_id} from {operation.blueprint_id}"
    if operation.operation == SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO:
        return f"advance {operation.seed_id} to {_words(SeedStage, operation.target_stage)}"
    return f"{verb} {operation.seed_id}"


def _words(enum: EnumTypeWrapper, value: int) -> str:
    return short_name(enum, value).replace("_", " ").lower()
