"""Random commands, evidence, failures, restarts and lost answers: the lifecycle and the ledger hold."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from esper.core.messages.validation import violations
from esper.kasmina.control.stages.lifecycle import CLOSING, NEXT
from esper.leyline import CommandOutcome, GateVerdict, PauseOrder, ResumeOrder, SeedDirective, SeedStage
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    OTHER_SLOT,
    SLOT,
    STACK_SLOT,
    K,
    command,
    double,
    germinate,
    on_seed,
    stack_run,
)
from tests.unit.kasmina.control.seen_stages import Stages
from tests.unit.kasmina.control.service import Service

OPERATOR = "operator:ada"
MEMORY = "/dev/shm"  # a crash here is a restart: nothing has to reach a disk
FAULTS = (
    K.DIRECTIVE_KIND_BUILD,
    K.DIRECTIVE_KIND_ATTACH,
    K.DIRECTIVE_KIND_SNAPSHOT_TWIN,
    K.DIRECTIVE_KIND_PROBE,
    K.DIRECTIVE_KIND_JUDGE,
    K.DIRECTIVE_KIND_INSTALL_TWIN,
    K.DIRECTIVE_KIND_FOLD,
)


class KasminaMachine(RuleBasedStateMachine):
    """A trainer, a policy and an operator who do anything at any time."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None)
        self.service = Service(Path(self.folder.name))
        run = stack_run(growth_end_step=100_000, max_culls_in_row=4)
        run.total_steps = 110_000
        self.service.open(run)
        self.executor = FakeExecutor()
        self.step, self.answered, self.commands, self.seeds = 100, 0, 0, 0
        self.outcomes: dict[str, CommandOutcome] = {}
        self.stages = Stages()
        self.given: list[SeedDirective] = []

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.close()
            self.folder.cleanup()

    def _take(self, directives: list[SeedDirective]) -> None:
        self.given += directives
        self.executor.take(directives, self.step)

    def _name(self) -> str:
        self.commands += 1
        return f"c{self.commands}"

    def _order(self, asked) -> None:  # type: ignore[no-untyped-def]
        outcome = self.service.apply(asked)
        assert violations(outcome) == []
        self.outcomes[asked.command_id] = outcome
        if outcome.accepted and asked.issued_by == "tamiyo":
            self._take(list(outcome.directives))

    @rule(slot_id=st.sampled_from([SLOT, OTHER_SLOT, STACK_SLOT]), lives=st.booleans())
    def germinate(self, slot_id: str, lives: bool) -> None:
        self.seeds += 1
        what = {"step": self.step, "command_id": self._name()}
        is_stack = slot_id == STACK_SLOT
        seed_id = f"s{self.seeds}"
        self._order(double(seed_id, **what) if is_stack else germinate(seed_id, operation={"slot_id": slot_id}, **what))
        if lives:
            self.train(boundaries=30, gain=0.05, is_lost=False)
            self.heed_the_verdicts()

    @rule()
    def heed_the_verdicts(self) -> None:
        """What a policy does."""
        for record in self.service.seeds():
            kind = {GateVerdict.GATE_VERDICT_PASS: "FOSSILIZE", GateVerdict.GATE_VERDICT_FAIL: "CULL"}.get(
                record.state.verdict
            )
            if kind:
                asked = on_seed(kind, record.state.seed_id, step=self.step, command_id=self._name())
                self._order(asked)

    @precondition(lambda self: self.seeds)
    @rule(kind=st.sampled_from(["FOSSILIZE", "CULL"]), data=st.data())
    def end(self, kind: str, data: st.DataObject) -> None:
        seed_id = f"s{data.draw(st.integers(1, self.seeds))}"
        self._order(on_seed(kind, seed_id, step=self.step, command_id=self._name()))

    @precondition(lambda self: self.seeds)
    @rule(stage=st.sampled_from(sorted(NEXT)), data=st.data())
    def override(self, stage: SeedStage, data: st.DataObject) -> None:
        seed_id = f"s{data.draw(st.integers(1, self.seeds))}"
        target = {"target_stage": stage}
        self._order(
            on_seed(
                "ADVANCE_TO", seed_id, step=self.step, command_id=self._name(), issued_by=OPERATOR, operation=target
            )
        )

    @rule(is_short=st.booleans())
    def pause(self, is_short: bool) -> None:
        self._order(command(self._name(), step=self.step, issued_by=OPERATOR, pause=PauseOrder(rationale="r")))
        if is_short:
            self.resume()

    @rule()
    def resume(self) -> None:
        self._order(command(self._name(), step=self.step, issued_by=OPERATOR, resume=ResumeOrder(rationale="r")))

    @precondition(lambda self: self.seeds)
    @rule(data=st.data(), goes_on=st.booleans())
    def pause_a_seed(self, data: st.DataObject, goes_on: bool) -> None:
        seed_id = f"s{data.draw(st.integers(1, self.seeds))}"
        pause, resume = (kind(rationale="r", seed_id=seed_id) for kind in (PauseOrder, ResumeOrder))
        self._order(command(self._name(), step=self.step, issued_by=OPERATOR, pause=pause))
        if goes_on:
            self.train(boundaries=3, gain=0.05, is_lost=False)
            self._order(command(self._name(), step=self.step, issued_by=OPERATOR, resume=resume))

    @rule(boundaries=st.integers(1, 30), gain=st.sampled_from([0.05, 0.012, -0.05]), is_lost=st.booleans())
    def train(self, boundaries: int, gain: float, is_lost: bool) -> None:
        self.executor.gain = gain
        for number in range(boundaries):
            self.step += 10
            evidence = self.executor.evidence_at(self.step)
            evidence.last_answered_step = self.answered
            answer = self.service.advance(evidence)
            assert violations(answer) == []
            if is_lost and number == 0:
                continue
            self.answered = answer.step
            self._take([d for o in answer.outcomes if o.accepted for d in o.directives] + list(answer.directives))
        if self.answered == self.step:
            issued = {f"d{number + 1}" for number in range(self.service.state().directives_issued)}
            assert issued == {directive.directive_id for directive in self.given}

    @rule(kind=st.sampled_from(FAULTS), breaks=st.booleans())
    def break_or_mend(self, kind: int, breaks: bool) -> None:
        self.executor.faults = {kind: {"succeeded": False, "failure": "broken"}} if breaks else {}

    @rule()
    def crash(self) -> None:
        self.service.restart()

    @invariant()
    def the_lifecycle_is_kept(self) -> None:
        if not hasattr(self, "service"):
            return
        self.stages.see(self.service.seeds())

    @invariant()
    def the_counters_agree_with_the_seeds(self) -> None:
        if not hasattr(self, "service"):
            return
        state = self.service.state()
        assert violations(state) == []
        fossils = [r for r in state.seeds if r.state.stage == SeedStage.SEED_STAGE_FOSSILIZED]
        assert state.growth.kept == len(fossils)
        assert state.growth.germinated == len(state.seeds)
        assert state.growth.added_parameters == sum(r.state.parameters for r in fossils)
        closing = {r.state.slot_id for r in state.seeds if r.state.stage in CLOSING - {SeedStage.SEED_STAGE_CULLED}}
        assert closing <= {e.slot_id for e in state.growth.embargoes}

    @invariant()
    def no_directive_is_given_twice(self) -> None:
        if hasattr(self, "service"):
            ids = [directive.directive_id for directive in self.given]
            assert len(ids) == len(set(ids))

    @invariant()
    def every_outcome_can_be_settled(self) -> None:
        if hasattr(self, "service") and self.outcomes:
            command_id, known = list(self.outcomes.items())[-1]
            settled = self.service.outcome_of(command_id)
            assert settled is not None
            assert (settled.accepted, settled.rejection) == (known.accepted, known.rejection)
            assert settled.directives == known.directives


TestKasminaMachine = KasminaMachine.TestCase
TestKasminaMachine.settings = settings(max_examples=12, stateful_step_count=50, suppress_health_check=list(HealthCheck))
