"""A depth that was wanted and not reached is told with its reason: a stack given up, a limit, too little time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper.kasmina.executor.stacks.run import Run
from esper.leyline import Decision, DecisionMetadata, DecisionReason, GateEvidence, SeedStage, SeedState, StackTest
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.ending.wanted_depth import wanted_depth
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.record.progress import Progress
from esper.tolaria.record.signals import Signals
from esper.tolaria.task.prepare import Prepared, prepare

R = DecisionReason
SLOT = "stack:blocks"
DUE, LATE = (R.DECISION_REASON_SCHEDULED, "due at 30"), (R.DECISION_REASON_TOO_LATE, "9 are left before growth ends")
BUDGET = (R.DECISION_REASON_BUDGET, "max_training_macs is 9, 12 would be needed")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two blocks, of which eight are wanted, in two stacks."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("a seed grows deeper than its twin " * 800)
    shape: dict[str, Any] = {"context": 16, "batch_size": 8, "depth": 2, "width": 8, "heads": 2}
    config = TrainConfig(data=f"text:{text}", model="transformer", steps=100, min_samples=50, target_depth=8, **shape)
    run = prepare(config)
    run.manifest()
    return run


@pytest.fixture
def progress() -> Progress:
    return Progress(signals=Signals(0.02))


def hear(progress: Progress, *reasons: tuple[DecisionReason, str]) -> None:
    for step, (reason, detail) in enumerate(reasons):
        decision = Decision(metadata=DecisionMetadata(reasons=[reason], detail=detail))
        progress.reason.note(PacketResult(packet_index=0, decision=decision), step)


def stack(progress: Progress, seed_id: str, stage: SeedStage, *looks: str) -> None:
    progress.history.seeds[seed_id] = SeedState(seed_id=seed_id, slot_id=SLOT, stage=stage)
    told = [GateEvidence(seed_id=seed_id, detail=words, stack=StackTest()) for words in looks]
    progress.history.looks |= {seed_id: told} if told else {}


def reason(host: Prepared, progress: Progress) -> str:
    found = wanted_depth(host, progress)
    assert found is not None
    assert (found["wanted"], found["got"]) == (8, {SLOT: 2})
    return str(found["reason"])


def test_a_stack_that_was_given_up_is_named_with_its_judges_last_words(host: Prepared, progress: Progress) -> None:
    stack(progress, "s1", SeedStage.SEED_STAGE_DORMANT, "look 1: z = 1", "look 2: z = 0.3")
    stack(progress, "s2", SeedStage.SEED_STAGE_CULLED)
    hear(progress, DUE, LATE)
    assert reason(host, progress) == "s1 was culled: look 2: z = 0.3; s2 was culled before it was judged"


def test_too_little_time_is_the_reason_where_a_stack_was_still_due(host: Prepared, progress: Progress) -> None:
    stack(progress, "s1", SeedStage.SEED_STAGE_CULLED, "look 1: z = 1")
    hear(progress, DUE, LATE)
    assert reason(host, progress) == "s1 was culled: look 1: z = 1; too late: 9 are left before growth ends"


def test_what_held_a_stack_back_stays_the_reason_when_it_is_too_late(host: Prepared, progress: Progress) -> None:
    hear(progress, DUE, BUDGET, LATE)
    assert reason(host, progress) == "budget: max_training_macs is 9, 12 would be needed"


def test_a_limit_that_leaves_no_room_for_a_block_is_named(host: Prepared, progress: Progress) -> None:
    hear(progress, DUE, LATE)
    block = host.manifest().slots[-1].block_parameters
    for room, is_named in ((block - 1, True), (block, False)):
        limit = host.host_parameters + room
        found = wanted_depth(replace_config(host, max_parameters=limit), progress)
        assert found is not None
        assert (f"max_parameters {limit:,} leaves no room for one more block" in found["reason"]) == is_named


def test_nothing_is_told_of_a_depth_that_was_reached_or_not_wanted(host: Prepared, progress: Progress) -> None:
    assert wanted_depth(replace_config(host, target_depth=2), progress) is None
    assert wanted_depth(replace_config(host, target_depth=None), progress) is None
    assert wanted_depth(replace_config(host, grow="never"), progress) is None


def test_what_was_added_counts(host: Prepared, progress: Progress) -> None:
    deeper = replace_config(host, target_depth=4)
    deeper.executor.arm.stacks.append(Run("blocks", 0, 2))
    try:
        assert wanted_depth(deeper, progress) is None
        found = wanted_depth(host, progress)
        assert found is not None
        assert found["got"] == {SLOT: 4}
    finally:
        deeper.executor.arm.stacks.clear()


def replace_config(host: Prepared, **changes: Any) -> Prepared:
    changed = replace(host, config=replace(host.config, **changes))
    changed._manifest = host.manifest()
    return changed
