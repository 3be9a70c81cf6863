from __future__ import annotations

import pytest

from esper.core.decisions.decisions import in_words, reasons_in_words
from esper.leyline import (
    AdaptationCommand,
    CircuitBreakerOrder,
    DecisionMetadata,
    DecisionReason,
    EmergencyLevel,
    EmergencyOrder,
    OptimizerAdjustment,
    PauseOrder,
    PruneOrder,
    RiskFinding,
    RiskMetadata,
    RiskReason,
    RollbackOrder,
    SeedOperation,
    SeedOperationKind,
    SeedStage,
)

KINDS = SeedOperationKind


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            AdaptationCommand(
                seed=SeedOperation(
                    operation=KINDS.SEED_OPERATION_KIND_GERMINATE, seed_id="s1", slot_id="a-b", blueprint_id="span"
                )
            ),
            "germinate s1 in a-b from span",
        ),
        (
            AdaptationCommand(seed=SeedOperation(operation=KINDS.SEED_OPERATION_KIND_CHANGE_BLEND, seed_id="s1")),
            "change blend s1",
        ),
        (
            AdaptationCommand(
                seed=SeedOperation(
                    operation=KINDS.SEED_OPERATION_KIND_ADVANCE_TO,
                    seed_id="s1",
                    target_stage=SeedStage.SEED_STAGE_SHADOWING,
                )
            ),
            "advance s1 to shadowing",
        ),
        (AdaptationCommand(pause=PauseOrder(rationale="lunch")), "pause: lunch"),
        (AdaptationCommand(rollback=RollbackOrder(rationale="bad")), "rollback: bad"),
        (AdaptationCommand(prune=PruneOrder(seed_id="s1", rationale="idle")), "prune s1: idle"),
        (
            AdaptationCommand(optimizer=OptimizerAdjustment(learning_rate_factor=0.5)),
            "adjust the optimiser: learning_rate_factor 0.5",
        ),
        (AdaptationCommand(circuit_breaker=CircuitBreakerOrder(breaker="b", rationale="r")), "force breaker b: r"),
        (
            AdaptationCommand(emergency=EmergencyOrder(level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT, rationale="fire")),
            "raise EMERGENCY_LEVEL_L4_HALT: fire",
        ),
        (AdaptationCommand(), "nothing"),
    ],
)
def test_a_command_is_one_line(command: AdaptationCommand, words: str) -> None:
    assert in_words(command) == words


def test_every_action_has_words() -> None:
    for field in AdaptationCommand.DESCRIPTOR.oneofs_by_name["action"].fields:
        command = AdaptationCommand()
        getattr(command, field.name).SetInParent()
        assert in_words(command) != "nothing"


def test_all_reasons_are_told_and_risks_apart() -> None:
    metadata = DecisionMetadata(
        reasons=[DecisionReason.DECISION_REASON_PLATEAU, DecisionReason.DECISION_REASON_RISK],
        risk=RiskMetadata(findings=[RiskFinding(reason=RiskReason.RISK_REASON_LOSS_SPIKE)]),
    )
    assert reasons_in_words(metadata) == "plateau, risk; risk: loss spike"
    assert reasons_in_words(DecisionMetadata()) == ""
