"""One seed is paused and goes on: gates, timers and judgement wait for it; what doesn't fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.leyline import AdaptationCommand, PauseOrder, ResumeOrder, SeedRecord, SeedStage
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import command, double, germinate, kinds, on_seed, refusal_of, spec, stack_run
from tests.unit.kasmina.control.service import Service

OPERATOR = "operator:ada"


def pause(seed_id: str = "s1", command_id: str = "p1") -> AdaptationCommand:
    return command(command_id, issued_by=OPERATOR, pause=PauseOrder(rationale="look", seed_id=seed_id))


def resume(seed_id: str = "s1", command_id: str = "r1") -> AdaptationCommand:
    return command(command_id, issued_by=OPERATOR, resume=ResumeOrder(rationale="go", seed_id=seed_id))


class Run:
    """A service with an executor that does as it is told, from step 100 on."""

    def __init__(self, state_dir: Path, **life: object) -> None:
        self.service = Service(state_dir)
        self.service.open(stack_run(**life) if life else spec())
        self.executor = FakeExecutor()
        self.step = 100

    def advance(self, boundaries: int = 1) -> list[str]:
        given = []
        for _ in range(boundaries):
            self.step += 10
            answer = self.service.advance(self.executor.evidence_at(self.step))
            directives = [d for o in answer.outcomes for d in o.directives] + list(answer.directives)
            self.executor.take(directives, self.step)
            given += kinds(directives)
        return given

    def germinate(self, asked: AdaptationCommand | None = None) -> None:
        self.executor.take(self.service.apply(asked or germinate()).directives, self.step)

    @property
    def record(self) -> SeedRecord:
        return self.service.seeds()[0]

    @property
    def stage(self) -> str:
        return SeedStage.Name(self.record.state.stage).removeprefix("SEED_STAGE_")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_paused_seed_stands_still_and_is_judged_later_by_as_much(run: Run) -> None:
    run.germinate()
    run.advance(3)
    assert run.stage == "BLENDING"
    window_end = run.record.grafted_step + 200
    assert run.service.apply(pause()).accepted
    assert run.record.state.is_paused
    assert run.advance() == ["MUTE"]
    run.advance(20)
    assert run.stage == "BLENDING"
    assert run.service.recorder.events.count("seed_paused") == 1
    assert run.service.apply(resume()).accepted
    assert run.advance() == ["UNMUTE"]
    assert run.record.state.is_paused
    muted_step = run.record.paused_step
    run.advance()
    assert not run.record.state.is_paused
    run.advance(3)
    assert run.stage == "PROBATIONARY"
    assert run.record.window_end_step == window_end + (run.step - 30 - muted_step)
    assert run.service.recorder.events.count("seed_resumed") == 1


def test_a_paused_seed_outlives_a_restart_of_the_service(run: Run) -> None:
    run.germinate()
    run.advance(2)
    run.service.apply(pause())
    run.advance(2)
    run.service.restart()
    run.advance(10)
    assert (run.stage, run.record.state.is_paused) == ("BLENDING", True)


def test_what_a_paused_seed_cant_do_is_refused_and_a_cull_ends_the_pause(run: Run) -> None:
    run.germinate()
    run.advance(2)
    assert refusal_of(run.service.apply(resume(command_id="r0"))) == "LIFECYCLE_CONFLICT"
    run.service.apply(pause())
    run.advance(2)
    assert "paused already" in run.service.apply(pause(command_id="p2")).detail
    ahead = {"operation": {"target_stage": SeedStage.SEED_STAGE_SHADOWING}, "issued_by": OPERATOR}
    assert "resume it first" in run.service.apply(on_seed("ADVANCE_TO", step=run.step, **ahead)).detail
    assert run.service.apply(on_seed("CULL", step=run.step)).accepted
    assert run.stage == "CULLED"
    assert not run.record.state.is_paused


def test_a_second_resume_is_refused_while_the_first_is_under_way(run: Run) -> None:
    run.germinate()
    run.advance(2)
    run.service.apply(pause())
    run.advance(2)
    assert run.service.apply(resume()).accepted
    assert "told to go on" in run.service.apply(resume(command_id="r2")).detail


def test_seeds_that_cant_be_paused_are_named(run: Run, tmp_path: Path) -> None:
    assert refusal_of(run.service.apply(pause("nobody"))) == "UNKNOWN_SEED"
    assert refusal_of(run.service.apply(resume("nobody"))) == "UNKNOWN_SEED"
    run.germinate()
    assert "needs TRAINING or BLENDING" in run.service.apply(pause(command_id="p2")).detail
    stacked = Run(tmp_path / "stacked", growth_end_step=100_000)
    stacked.germinate(double())
    stacked.advance(2)
    assert "stack" in stacked.service.apply(pause()).detail


def test_a_pause_that_the_executor_couldnt_make_is_none(run: Run) -> None:
    run.germinate()
    run.advance(2)
    run.executor.faults = {8: {"succeeded": False, "failure": "broken"}}
    run.service.apply(pause())
    run.advance(2)
    assert not run.record.state.is_paused
    assert "directive_failed" in run.service.recorder.events
