from __future__ import annotations

from esper.leyline import (
    CommandOutcome,
    FieldReportOutcome,
    IssuedCommand,
    RejectionReason,
    SeedStage,
    SubmitOutcomeRequest,
)
from esper.tamiyo.service.parts import Parts
from tests.unit.tamiyo.builders import ALWAYS, RUN, packet, seed_state, spec
from tests.unit.tamiyo.conftest import Home
from tests.unit.tamiyo.service.test_evaluation import opened

KEPT = SubmitOutcomeRequest(step=730, seeds=[seed_state("s1", SeedStage.SEED_STAGE_FOSSILIZED)])


def outcome_names(parts: Parts) -> list[str]:
    return [
        FieldReportOutcome.Name(report.outcome).removeprefix("FIELD_REPORT_OUTCOME_")
        for report in parts.reports.of_run(RUN)
    ]


async def test_an_outcome_that_was_answered_is_on_the_disk(home: Home) -> None:
    first = home.parts()
    run = await opened(home, first)
    await first.evaluator.evaluate(run, packet(500))
    assert await first.outcomes.submit(run, KEPT) == [f"fr-{RUN}-g1-c1"]
    await first.close()
    second = home.parts()
    assert outcome_names(second) == ["SUCCESS"]
    await second.close()


async def test_the_same_outcome_again_closes_nothing(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    await parts.outcomes.submit(run, KEPT)
    before = parts.reports.of_run(RUN)
    assert await parts.outcomes.submit(run, KEPT) == []
    assert parts.reports.of_run(RUN) == before


async def test_outcomes_do_not_change_what_is_decided_next(home: Home, parts: Parts) -> None:
    """Decisions follow from packets alone, so it makes no difference when an outcome arrives."""
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    before = run.state.SerializeToString(deterministic=True)
    refused = CommandOutcome(
        command_id=f"{RUN}-g1-c1", accepted=False, rejection=RejectionReason.REJECTION_REASON_PAUSED
    )
    await parts.outcomes.submit(run, SubmitOutcomeRequest(step=500, outcomes=[refused]))
    assert outcome_names(parts) == ["ABORTED"]
    assert run.state.SerializeToString(deterministic=True) == before


async def test_the_end_of_a_run_aborts_what_is_open(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    await parts.outcomes.ended(run, 600, "finished")
    assert outcome_names(parts) == ["ABORTED"]
    assert parts.reports.of_run(RUN)[0].notes == "the run ended first: finished"


async def test_a_rewind_aborts_what_never_happened_and_keeps_what_is_replayed(home: Home, parts: Parts) -> None:
    run = await opened(home, parts)
    await parts.evaluator.evaluate(run, packet(500))
    replayed = IssuedCommand(command_id=f"{RUN}-g1-c1", decision_step=500)
    kept = await opened(home, parts, spec(ALWAYS, generation=2, replay=[replayed]))
    await parts.outcomes.rewound(kept)
    assert outcome_names(parts) == ["UNSPECIFIED"]
    decision = await parts.evaluator.evaluate(kept, packet(500, generation=2))
    assert list(decision.commands) == []
    assert list(decision.replayed_command_ids) == [replayed.command_id]
    assert outcome_names(parts) == ["UNSPECIFIED"]
    await parts.outcomes.rewound(await opened(home, parts, spec(ALWAYS, generation=3)))
    assert outcome_names(parts) == ["ABORTED"]
