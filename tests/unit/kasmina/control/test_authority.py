"""Requests of the service: believed once, stored before they are answered, answered the same for ever."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import pytest

from esper.cli.stores.audit import missing_rows, read_rows, verified
from esper.core.errors import (
    AccessDenied,
    CommandIdReused,
    CommandRejected,
    ContractError,
    InvalidSignature,
    LifecycleConflict,
    MissingSignature,
    NonceReplayed,
)
from esper.core.messages.validation import violations
from esper.core.security.keys import Key, Keyring, KeySet, derive_key, new_secret, read_keys, write_keys
from esper.core.security.signing import signature_of
from esper.kasmina import metrics
from esper.kasmina.control.authority import ROLLBACK_OPEN
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
    BlendFigures,
    CircuitBreakerOrder,
    CircuitState,
    EmergencyLevel,
    EmergencyOrder,
    ExportSeedStatesRequest,
    FetchArtifactRequest,
    HealthStatus,
    IncubationMode,
    KasminaRunState,
    KasminaServiceCloseRunRequest,
    KasminaServiceOpenRunRequest,
    PauseOrder,
    PrefetchKernelRequest,
    PrefetchStatus,
    RegisterTeacherRequest,
    RegistryReset,
    RejectionReason,
    ResetRegistryRequest,
    ResetTeacherRequest,
    RunClosure,
    SeedStage,
    SignedCommand,
    SlotSignal,
    TeacherRegistration,
    TeacherReset,
)
from tests.unit.kasmina.control.fake_executor import FakeExecutor
from tests.unit.kasmina.control.making import (
    CATALOG,
    RUN,
    SLOT,
    K,
    command,
    germinate,
    judgement,
    kinds,
    life,
    observation,
    on_seed,
    probe,
    refusal_of,
    report,
    request,
    rising_blend,
    slot,
    spec,
)
from tests.unit.kasmina.control.service import SECRET, Service, own_library

OPERATOR = "operator:ada"
R = RejectionReason


def paused(command_id: str = "p1", generation: int = 0) -> AdaptationCommand:
    return command(command_id, generation=generation, issued_by=OPERATOR, pause=PauseOrder(rationale="look"))


def test_a_run_opens_with_the_slots_that_a_seed_can_use(service: Service) -> None:
    run = spec()
    run.manifest.slots.append(slot("span_linear:empty", width=0))
    run.manifest.slots.append(slot())
    opened = service.open(run)
    assert len(opened.run_token) == 43
    assert list(opened.accepted_slots) == [s.slot_id for s in spec().manifest.slots]
    assert [(s.slot_id, s.reason) for s in opened.refused_slots] == [
        ("span_linear:empty", "width must not be zero"),
        (SLOT, "its id is used twice"),
    ]
    assert violations(service.state()) == []


def test_a_run_without_a_usable_slot_is_an_error_that_lists_them(service: Service) -> None:
    run = spec()
    del run.manifest.slots[1:]
    run.manifest.slots[0].width = 0
    with pytest.raises(ContractError, match="width must not be zero"):
        service.open(run)


def test_calls_without_the_runs_token_are_denied(service: Service) -> None:
    service.open(spec())
    for token in ("", "x" * 43):
        service.token = token
        with pytest.raises(AccessDenied):
            service.advance(request(10))
        with pytest.raises(AccessDenied):
            service.blob()


def test_who_was_replaced_by_another_trainer_hears_that_it_may_have_been(service: Service) -> None:
    service.open(spec())
    replaced = service.token
    service.open(spec(generation=2))
    service.token = replaced
    with pytest.raises(AccessDenied, match="another trainer went on with it"):
        service.advance(request(10))


def test_a_good_command_acts_and_is_answered_the_same_for_ever(service: Service) -> None:
    service.open(spec())
    outcome = service.apply(germinate())
    assert outcome.accepted
    assert violations(outcome) == []
    assert (outcome.ledger_seq, outcome.delivery_step) == (1, 100)
    again = service.apply(germinate())
    assert again.repeated_id
    assert (again.directives, again.ledger_seq) == (outcome.directives, 1)
    assert len(service.seeds()) == 1
    settled = service.outcome_of("g-s1")
    assert settled is not None
    assert settled.directives == outcome.directives
    assert service.outcome_of("never sent") is None


def test_a_refused_command_is_answered_the_same_for_ever(service: Service) -> None:
    service.open(spec())
    service.apply(paused())
    first = service.apply(germinate())
    assert (first.accepted, refusal_of(first)) == (False, "PAUSED")
    assert violations(first) == []
    assert service.apply(germinate()).repeated_id
    assert "command_refused" in service.recorder.events


def test_a_known_id_with_another_payload_is_refused_loudly(service: Service) -> None:
    service.open(spec())
    service.apply(germinate())
    with pytest.raises(CommandIdReused):
        service.apply(germinate(step=101))
    assert len(service.seeds()) == 1


def test_the_same_envelope_is_believed_once_also_after_a_restart(service: Service) -> None:
    service.open(spec())
    envelope = service.sign(germinate())
    service.apply(envelope)
    for _ in range(2):
        with pytest.raises(NonceReplayed):
            service.apply(envelope)
        service.restart()


def test_a_payload_that_cannot_be_used_costs_its_nonce(service: Service) -> None:
    service.open(spec())
    envelope = service.sign(command())  # no action
    with pytest.raises(CommandRejected) as caught:
        service.apply(envelope)
    assert caught.value.reason == R.REJECTION_REASON_MALFORMED_PAYLOAD
    with pytest.raises(NonceReplayed):
        service.apply(envelope)


def test_a_command_for_one_run_signed_for_another_is_refused(service: Service) -> None:
    service.open(spec())
    with pytest.raises(InvalidSignature) as caught:
        service.apply(service.sign(germinate(), audience="kasmina/run-2"))
    assert caught.value.reason == R.REJECTION_REASON_WRONG_AUDIENCE
    for audience in ("tamiyo/run-1", "kasmina/", ""):
        with pytest.raises(InvalidSignature):
            service.apply(service.sign(germinate(), audience=audience))


def test_a_command_for_a_run_that_is_not_open_is_refused_and_recorded(service: Service) -> None:
    outcome = service.apply(germinate())
    assert refusal_of(outcome) == "WRONG_RUN"
    assert service.status().ledger_seq == 1


def test_every_rejection_is_counted_and_told(service: Service) -> None:
    service.open(spec())
    unsigned = service.sign(germinate())
    unsigned.security.signature = ""
    with pytest.raises(MissingSignature):
        service.apply(unsigned)
    assert service.recorder.events[-1] == "command_rejected"
    counted = {row.reason: row.count for row in service.status().rejected}
    assert counted == {R.REJECTION_REASON_MISSING_SIGNATURE: 1}


def test_an_operators_directives_wait_for_the_next_advance(service: Service) -> None:
    service.open(spec())
    outcome = service.apply(paused())
    assert not outcome.HasField("delivery_step")
    answer = service.advance(request(20))
    assert [o.command_id for o in answer.outcomes] == ["p1"]
    assert answer.outcomes[0].delivery_step == 20
    assert answer.outcomes[0].issued_by == OPERATOR
    assert kinds(answer.outcomes[0].directives) == ["PAUSE_GROWTH"]
    assert not answer.directives
    assert not service.advance(request(30, last_answered_step=20)).outcomes


def test_advance_of_another_generation_is_a_conflict(service: Service) -> None:
    service.open(spec())
    with pytest.raises(LifecycleConflict, match="generation 1"):
        service.advance(request(10, generation=1))


def test_advance_never_goes_back(service: Service) -> None:
    service.open(spec())
    service.advance(request(20))
    with pytest.raises(LifecycleConflict, match="is at step 20"):
        service.advance(request(10))


def test_a_lost_answer_is_repeated_and_nothing_is_given_twice(service: Service) -> None:
    service.open(spec())
    executor = FakeExecutor()
    executor.take(service.apply(germinate()).directives, 100)
    service.apply(paused())
    answered = service.advance(executor.evidence_at(110))
    executor.warmup_steps = 0
    lost = executor.evidence_at(120)
    lost.last_answered_step = answered.step
    gone = service.advance(lost)
    assert kinds(gone.directives) == ["PROBE"]
    service.restart()
    later = executor.evidence_at(130)
    later.last_answered_step = answered.step
    repeated = service.advance(later)
    assert (repeated.directives, repeated.transitions) == (gone.directives, gone.transitions)
    assert "answer_repeated" in service.recorder.events
    after = executor.evidence_at(140)
    after.last_answered_step = repeated.step
    assert not service.advance(after).directives


def test_a_poll_delivers_and_decides_nothing(service: Service) -> None:
    service.open(spec())
    executor = FakeExecutor(warmup_steps=0)
    executor.take(service.apply(germinate()).directives, 100)
    service.apply(paused())
    poll = executor.evidence_at(110)
    poll.delivery_only = True
    answer = service.advance(poll)
    assert [o.command_id for o in answer.outcomes] == ["p1"]
    assert service.seeds()[0].state.stage == SeedStage.SEED_STAGE_GERMINATED


def test_a_restart_keeps_runs_tokens_seeds_and_outcomes(service: Service) -> None:
    service.open(spec())
    service.apply(germinate())
    before = service.blob()
    service.restart()
    assert service.blob() == before
    assert service.outcome_of("g-s1") is not None


def test_an_emergency_is_news_once_and_raised_again_by_a_restart_without_alarm(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.open(spec())
    order = EmergencyOrder(level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT, rationale="a drill")
    with caplog.at_level(logging.INFO, "esper.alarm"):
        assert service.apply(command("e", issued_by=OPERATOR, emergency=order)).accepted
        service.restart()
    raised = [record.levelno for record in caplog.records if "a drill" in record.message]
    assert raised == [logging.CRITICAL, logging.INFO]


def test_a_run_resumes_and_replays_what_the_checkpoint_does_not_hold(service: Service) -> None:
    service.open(spec())
    service.advance(request(90, slots=[SlotSignal(slot_id=SLOT, width=6, in_features=64, out_features=6)]))
    checkpoint = service.blob()
    recorded = service.apply(germinate())
    service.advance(request(110))
    service.apply(paused())
    service.advance(request(120))
    expected = service.state()
    opened = service.open(spec(1, resume=checkpoint))
    assert [(r.command_id, r.decision_step, r.delivery_step, r.issued_by) for r in opened.replay] == [
        ("g-s1", 100, 100, "tamiyo"),
        ("p1", 120, 120, OPERATOR),
    ]
    assert not service.seeds()
    assert not service.advance(request(90, 1, delivery_only=True)).outcomes
    (replayed,) = service.advance(request(100, 1, delivery_only=True)).outcomes
    assert replayed.directives == recorded.directives
    assert not service.advance(request(110, 1)).outcomes
    assert [o.command_id for o in service.advance(request(120, 1)).outcomes] == ["p1"]
    resumed = service.state()
    assert "replay_diverged" not in service.recorder.events
    expected.generation = 1
    assert resumed == expected
    assert not service.advance(request(130, 1, last_answered_step=120)).outcomes


def test_a_run_can_be_resumed_from_the_same_checkpoint_again_and_again(service: Service) -> None:
    service.open(spec())
    checkpoint = service.blob()
    recorded = service.apply(germinate())
    for generation in (1, 2, 3):
        opened = service.open(spec(generation, resume=checkpoint))
        assert [row.command_id for row in opened.replay] == ["g-s1"]
        if generation > 1:
            (replayed,) = service.advance(request(100, generation)).outcomes
            assert replayed.directives == recorded.directives


def test_an_operators_command_that_was_never_delivered_is_delivered_after_the_resume(service: Service) -> None:
    service.open(spec())
    service.advance(request(50))
    service.apply(paused())
    checkpoint = service.blob()
    service.advance(request(60))
    opened = service.open(spec(1, resume=checkpoint))
    assert [row.command_id for row in opened.replay] == ["p1"]
    assert opened.growth.paused
    assert [o.command_id for o in service.advance(request(60, 1)).outcomes] == ["p1"]


def test_a_rollback_abandons_what_came_before_it(service: Service) -> None:
    service.open(spec())
    checkpoint = service.blob()
    service.apply(germinate())
    order = command("back", issued_by=OPERATOR)
    order.rollback.rationale = "worse"
    service.apply(order)
    service.advance(request(110))
    assert not service.open(spec(1, resume=checkpoint)).replay


def test_an_accepted_rollback_says_what_is_still_open_and_where_it_is_told(service: Service) -> None:
    """Kasmina can't know which states the trainer will have kept."""
    service.open(spec())
    order = command("back", issued_by=OPERATOR)
    order.rollback.rationale = "worse"
    first, again = service.apply(order), service.apply(order)
    assert first.accepted
    assert again.repeated_id
    assert first.detail == again.detail == ROLLBACK_OPEN
    (delivered,) = service.advance(request(110)).outcomes
    assert not delivered.HasField("detail"), "the trainer is told what to do, and nothing of itself"
    assert not service.apply(paused()).HasField("detail")


def test_of_a_course_given_up_only_what_operators_ordered_is_replayed_and_at_once(service: Service) -> None:
    service.open(spec())
    service.advance(request(90))
    checkpoint = service.blob()
    service.apply(germinate())
    service.advance(request(110))
    service.apply(paused())
    service.advance(request(120))
    opened = service.open(spec(1, resume=checkpoint, gives_up_course=True))
    assert [row.command_id for row in opened.replay] == ["p1"]
    (replayed,) = service.advance(request(100, 1)).outcomes
    assert (replayed.command_id, kinds(replayed.directives)) == ("p1", ["PAUSE_GROWTH"])
    assert not service.seeds()
    assert service.state().growth.paused
    assert not service.advance(request(130, 1)).outcomes


def test_after_a_course_was_given_up_a_resume_replays_the_new_course_alone(service: Service) -> None:
    service.open(spec())
    service.advance(request(90))
    before = service.blob()
    service.apply(germinate())
    service.advance(request(110))
    service.open(spec(1, resume=before, gives_up_course=True))
    service.advance(request(100, 1))
    after = service.blob()
    recorded = service.apply(germinate("s2", step=110, generation=1))
    service.advance(request(120, 1))
    assert [row.command_id for row in service.open(spec(2, resume=after)).replay] == ["g-s2"]
    (replayed,) = service.advance(request(110, 2)).outcomes
    assert replayed.directives == recorded.directives
    # A checkpoint from before it holds the beginning of both courses: neither one's decisions are replayed.
    assert not service.open(spec(3, resume=before)).replay
    assert "replay_diverged" not in service.recorder.events


def test_opening_twice_after_a_lost_answer_gives_up_once(service: Service) -> None:
    service.open(spec())
    checkpoint = service.blob()
    service.apply(paused())
    service.advance(request(10))
    given_up = spec(1, resume=checkpoint, gives_up_course=True)
    assert service.open(given_up).replay == service.open(given_up).replay
    (replayed,) = service.advance(request(20, 1)).outcomes
    assert replayed.command_id == "p1"


def test_a_replayed_command_that_can_no_longer_be_is_delivered_as_refused(service: Service) -> None:
    service.open(spec())
    checkpoint = service.blob()
    service.apply(germinate())
    state = KasminaRunState.FromString(checkpoint.state)
    state.growth.ended = True
    checkpoint.state = state.SerializeToString(deterministic=True)
    checkpoint.digest = hashlib.sha256(checkpoint.state).hexdigest()
    service.open(spec(1, resume=checkpoint))
    (replayed,) = service.advance(request(100, 1)).outcomes
    assert (replayed.accepted, refusal_of(replayed)) == (False, "GROWTH_ENDED")
    assert not replayed.directives
    assert not service.seeds()
    assert "replay_diverged" in service.recorder.events


def test_commands_of_an_older_generation_are_refused_after_a_resume(service: Service) -> None:
    service.open(spec())
    service.open(spec(1, resume=service.blob()))
    assert refusal_of(service.apply(germinate())) == "WRONG_GENERATION"
    assert service.apply(germinate(command_id="new", generation=1)).accepted


def test_generations_rise(service: Service) -> None:
    service.open(spec(3))
    with pytest.raises(
        LifecycleConflict, match=r"known here at generation .*this opens generation .*\(--resume\).*\(--run-id\)"
    ):
        service.open(spec(2))


def test_the_same_opening_again_gives_a_new_token_until_something_has_happened(service: Service) -> None:
    first = service.open(spec()).run_token
    assert service.open(spec()).run_token != first
    other = spec()
    other.seed = 2
    with pytest.raises(LifecycleConflict):
        service.open(other)
    service.advance(request(10))
    with pytest.raises(LifecycleConflict):
        service.open(spec())


@pytest.mark.parametrize("fault", ["digest", "type", "run", "bytes"])
def test_a_damaged_checkpoint_does_not_resume(service: Service, fault: str) -> None:
    service.open(spec())
    blob = service.blob()
    if fault == "digest":
        blob.digest = "0" * 64
    elif fault == "type":
        blob.state_type = "esper.leyline.v1.TamiyoRunState"
    elif fault == "bytes":
        blob.state = blob.state[:-3]
    resumed = spec(1, resume=blob)
    if fault == "run":
        resumed.training_run_id = "run-2"
        envelope = service.sign(resumed, audience="kasmina/run-2")
    else:
        envelope = service.sign(resumed)
    with pytest.raises(ContractError):
        service.run(service.servicer.open_run(KasminaServiceOpenRunRequest(command=envelope), service.call))


def test_a_closed_run_takes_nothing_more_and_closing_again_is_the_same(service: Service) -> None:
    service.open(spec())
    service.apply(germinate())
    closure = RunClosure(training_run_id=RUN, generation=0, step=500, reason="finished")
    for _ in range(2):
        answer = service.run(
            service.servicer.close_run(KasminaServiceCloseRunRequest(command=service.sign(closure)), service.call)
        )
        assert [s.stage for s in answer.seeds] == [SeedStage.SEED_STAGE_TERMINATED]
    assert refusal_of(service.apply(paused())) == "WRONG_RUN"
    with pytest.raises(LifecycleConflict):
        service.advance(request(510))
    assert service.status().open_runs == 0


def test_closing_needs_the_runs_token(service: Service) -> None:
    service.open(spec())
    service.token = "x" * 43
    closure = RunClosure(training_run_id=RUN, generation=0, step=500, reason="finished")
    with pytest.raises(AccessDenied):
        service.run(
            service.servicer.close_run(KasminaServiceCloseRunRequest(command=service.sign(closure)), service.call)
        )


def test_a_teacher_is_registered_and_forgotten_behind_a_fence(service: Service) -> None:
    service.open(spec())
    teacher = TeacherRegistration(training_run_id=RUN, teacher_id="t", weights_digest="0" * 64, size_bytes=1)
    service.run(service.servicer.register_teacher(RegisterTeacherRequest(command=service.sign(teacher)), service.call))
    early = service.sign(paused())
    reset = TeacherReset(training_run_id=RUN, rationale="done")
    assert service.run(
        service.servicer.reset_teacher(ResetTeacherRequest(command=service.sign(reset)), service.call)
    ).was_registered
    with pytest.raises(NonceReplayed):
        service.apply(early)


def register(service: Service, digest: str = "a" * 64) -> None:
    teacher = TeacherRegistration(training_run_id=RUN, teacher_id="t", weights_digest=digest, size_bytes=1)
    service.run(service.servicer.register_teacher(RegisterTeacherRequest(command=service.sign(teacher)), service.call))


def forget_teacher(service: Service) -> bool:
    reset = ResetTeacherRequest(command=service.sign(TeacherReset(training_run_id=RUN, rationale="done")))
    return service.run(service.servicer.reset_teacher(reset, service.call)).was_registered


INCUBATES = life(incubation=IncubationMode.INCUBATION_MODE_SHADOW)
TAUGHT = {"include_teacher": True, "blend": rising_blend()}


def test_a_seed_learns_from_the_teacher_that_is_registered_and_from_none_that_was_forgotten(service: Service) -> None:
    service.open(spec(life=INCUBATES))
    assert "no teacher is registered" in service.apply(germinate("s0", operation=TAUGHT)).detail
    register(service)
    assert service.state().growth.teacher_digest == "a" * 64
    incubate = service.apply(germinate(operation=TAUGHT)).directives[-1]
    assert (incubate.kind, incubate.teacher_digest) == (K.DIRECTIVE_KIND_INCUBATE, "a" * 64)
    service.clock.advance(1)
    assert forget_teacher(service)
    service.clock.advance(1)
    assert not forget_teacher(service)
    answer = service.advance(request(110))
    assert [kinds(list(outcome.directives)) for outcome in answer.outcomes] == [["DROP_TEACHER"], ["DROP_TEACHER"]]
    assert not answer.growth.teacher_digest
    service.clock.advance(1)
    assert refusal_of(service.apply(germinate("s2", step=110, operation=TAUGHT))) == "LIFECYCLE_CONFLICT"
    assert {"teacher_registered", "teacher_deregistered"} <= set(service.recorder.events)


def test_a_seed_that_doesnt_incubate_has_no_use_for_a_teacher(service: Service) -> None:
    service.open(spec())
    register(service)
    outcome = service.apply(germinate(operation={"include_teacher": True}))
    assert refusal_of(outcome) == "UNSUPPORTED_ACTION"
    assert "doesn't incubate" in outcome.detail


def test_a_run_that_goes_on_from_before_an_order_forgets_its_teacher_again(service: Service) -> None:
    service.open(spec(life=INCUBATES))
    register(service)
    service.advance(request(90))
    checkpoint = service.blob()
    service.clock.advance(1)
    forget_teacher(service)
    service.advance(request(100))
    service.clock.advance(1)
    service.open(spec(1, life=INCUBATES, resume=checkpoint))
    assert service.state().growth.teacher_digest == "a" * 64
    answer = service.advance(request(100, 1))
    assert [kinds(list(outcome.directives)) for outcome in answer.outcomes] == [["DROP_TEACHER"]]
    assert not service.state().growth.teacher_digest


def test_a_registry_reset_culls_every_living_seed_behind_a_fence(service: Service) -> None:
    service.open(spec())
    service.advance(request(90))
    checkpoint = service.blob()
    service.apply(germinate())
    early = service.sign(paused())
    reset = RegistryReset(training_run_id=RUN, rationale="start over")
    answer = service.run(
        service.servicer.reset_registry(ResetRegistryRequest(command=service.sign(reset)), service.call)
    )
    assert answer.removed == 1
    with pytest.raises(NonceReplayed):
        service.apply(early)
    delivered = service.advance(request(110)).outcomes
    assert [kinds(o.directives) for o in delivered] == [["INSTALL_TWIN"]]
    service.open(spec(1, resume=checkpoint))
    replayed = [o for step in (100, 110) for o in service.advance(request(step, 1)).outcomes]
    assert [kinds(o.directives) for o in replayed] == [["SNAPSHOT_TWIN", "BUILD", "ATTACH"], ["INSTALL_TWIN"]]
    assert "replay_diverged" not in service.recorder.events


def test_the_ledger_can_be_audited_offline_row_by_row(service: Service) -> None:
    service.open(spec())
    service.apply(germinate())
    service.apply(germinate("s2", step=110))
    reset = RegistryReset(training_run_id=RUN, rationale="start over")
    service.run(service.servicer.reset_registry(ResetRegistryRequest(command=service.sign(reset)), service.call))
    rows, last_seq = read_rows(service.database)
    assert [faults for _, faults in verified(rows, service.keyring)] == [[], [], []]
    assert not missing_rows(rows, last_seq)


def test_a_forced_breaker_stays_forced_over_a_restart(service: Service) -> None:
    service.open(spec())
    order = CircuitBreakerOrder(breaker="artifacts", desired_state=CircuitState.CIRCUIT_STATE_OPEN, rationale="r")
    assert service.apply(command("b", issued_by=OPERATOR, circuit_breaker=order)).accepted
    service.restart()
    status = service.status()
    assert status.breakers[0].state == CircuitState.CIRCUIT_STATE_OPEN
    assert status.health == HealthStatus.HEALTH_STATUS_DEGRADED
    assert refusal_of(service.apply(germinate())) == "UNKNOWN_BLUEPRINT"


def test_artefacts_are_prefetched_and_fetched(service: Service) -> None:
    service.open(spec())

    async def everything() -> tuple[list[int], list[int], bytes]:
        good = [
            r.update
            async for r in service.servicer.prefetch_kernel(
                PrefetchKernelRequest(blueprint_id="span.conv"), service.call
            )
        ]
        bad = [
            r.update
            async for r in service.servicer.prefetch_kernel(PrefetchKernelRequest(blueprint_id="none"), service.call)
        ]
        assert all(not violations(update) for update in good + bad)
        digest = good[-1].artifact.digest
        chunks = [
            r.chunk async for r in service.servicer.fetch_artifact(FetchArtifactRequest(digest=digest), service.call)
        ]
        return [u.status for u in good], [u.status for u in bad], b"".join(chunks)

    good, bad, content = service.run(everything())
    assert good == [PrefetchStatus.PREFETCH_STATUS_SCHEDULED, PrefetchStatus.PREFETCH_STATUS_READY]
    assert bad == [PrefetchStatus.PREFETCH_STATUS_SCHEDULED, PrefetchStatus.PREFETCH_STATUS_ERROR]
    assert len(content) == CATALOG.get("span.conv").artifact.size_bytes


def test_watchers_see_the_seeds_now_and_after_every_change(service: Service) -> None:
    service.open(spec())

    async def watch() -> list[int]:
        stream = service.servicer.export_seed_states(ExportSeedStatesRequest(), service.call)
        first = await anext(stream)
        await service.servicer.apply_command(ApplyCommandRequest(command=service.sign(germinate())), service.call)
        second = await anext(stream)
        return [len(first.seeds), len(second.seeds)]

    assert service.run(watch()) == [0, 1]


def test_every_declared_metric_and_event_name_is_unique() -> None:
    for specs in (metrics.METRICS, metrics.EVENTS):
        names = [s.name for s in specs]
        assert len(names) == len(set(names))


def test_a_flood_of_refusals_is_told_in_few_packets_and_counted_to_the_last(service: Service) -> None:
    service.open(spec())
    forged = service.sign(paused("x"))
    forged.security.signature = "0" * 64
    before = len(service.recorder.packets)
    for number in range(40):
        with pytest.raises(InvalidSignature):
            service.apply(forged)
        service.apply(germinate(f"s{number}", operation={"slot_id": "nowhere"}))
    service.clock.advance(5)
    with pytest.raises(InvalidSignature):
        service.apply(forged)
    service.apply(germinate("last", operation={"slot_id": "nowhere"}))
    packets = service.recorder.packets[before:]
    assert len(packets) <= 16
    told = Counter[str]()
    for event in (event for packet in packets for event in packet.events):
        counts = [attribute.integer for attribute in event.attributes if attribute.key == "count"]
        told[event.name] += counts[0] if counts else 1
    assert told == {"command_rejected": 41, "command_refused": 41}
    assert {row.reason: row.count for row in service.status().rejected} == {
        RejectionReason.REJECTION_REASON_INVALID_SIGNATURE: 41,
        RejectionReason.REJECTION_REASON_UNKNOWN_SLOT: 41,
    }


def test_the_metrics_of_a_busy_service_are_all_emitted(tmp_path: Path) -> None:
    own, config = own_library(tmp_path / "artifacts")
    service = Service(tmp_path / "state", config)
    service.open(spec(own_blueprints=[own]))
    unsigned = service.sign(paused("x"))
    unsigned.security.signature = ""
    with pytest.raises(MissingSignature):
        service.apply(unsigned)
    service.apply(germinate("s9", operation={"slot_id": "nowhere"}))

    async def prefetch() -> None:
        async for _ in service.servicer.prefetch_kernel(
            PrefetchKernelRequest(blueprint_id=own.blueprint_id), service.call
        ):
            pass

    service.run(prefetch())
    outcome = service.apply(germinate())
    service.clock.advance(60)
    shares = dict.fromkeys(("alpha_mean", "alpha_p95", "sparsity", "clamped_fraction", "gate_mean"), 0.5)
    figures = {"blend": BlendFigures(**shares, gateless_samples=3), "distillation_loss": 0.2, "incubation_steps": 5}
    seen = observation(110, probe=probe(), judgement=judgement(0.1), **figures)
    reports = [report(directive, 110) for directive in outcome.directives]
    service.advance(request(110, observations=[seen], reports=reports))
    assert {s.name for s in metrics.METRICS} == service.recorder.metrics
    assert {"blend_config", "confidence_gate_missing_logits"} <= set(service.recorder.events)
    assert all(not violations(packet) for packet in service.recorder.packets)
    service.apply(on_seed("CULL", step=120))
    service.close()


def test_a_command_that_is_retried_after_its_key_was_revoked_acts_once_and_its_outcome_is_found(tmp_path: Path) -> None:
    """The same envelope is refused, however it sets its time; the same command, signed anew, is told what it did."""
    path = tmp_path / "keys.json"
    write_keys(path, KeySet(active="k1", keys=(Key(key_id="k1", secret=SECRET),)))
    service = Service(tmp_path / "state", keyring=Keyring.load(path))
    service.open(spec())
    envelope = service.sign(germinate())
    first = service.apply(envelope)
    never_arrived = service.sign(command("c2", pause=PauseOrder(rationale="lunch")))
    rotated = read_keys(path).with_key(Key(key_id="k2", secret=new_secret()))
    write_keys(path, rotated.accepting_until("k1", service.clock.now_ns()))
    service.clock.advance(1)
    set_back = SignedCommand()
    set_back.CopyFrom(never_arrived)
    set_back.security.issued_at.seconds -= 30
    set_back.security.signature = signature_of(derive_key(SECRET.encode(), "k1"), set_back)
    for retried in (envelope, never_arrived, set_back):
        with pytest.raises(InvalidSignature, match="or its key has ended"):
            service.apply(retried)
    found = service.outcome_of(germinate().command_id)
    assert found is not None
    assert found.directives == first.directives
    again = service.apply(germinate())
    assert again.repeated_id
    assert again.directives == first.directives
    assert service.outcome_of("c2") is None
    assert len(service.seeds()) == 1
    service.close()
