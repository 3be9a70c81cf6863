"""Opening a run: what both services are told, signed for each of them, for new and for resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import InvalidAnswer
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer, Verifier, open_payload
from esper.leyline import (
    GrowthState,
    GrowthTrigger,
    HostManifest,
    IncubationMode,
    JudgeMode,
    KasminaRunSpec,
    KasminaServiceCloseRunResponse,
    KasminaServiceOpenRunResponse,
    RefusedSlot,
    RegisterTeacherResponse,
    ReplayedCommand,
    RunClosure,
    RunStateBlob,
    SeedState,
    SignedCommand,
    TamiyoRunSpec,
    TamiyoServiceCloseRunResponse,
    TamiyoServiceOpenRunResponse,
    TaskType,
    TeacherRegistration,
)
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.open_control import TeacherFacts
from esper.tolaria.plane.start import opening
from esper.tolaria.plane.start.opening import RunIdentity, close_run, life_settings, open_run, trigger_settings
from esper.tolaria.record.packet_result import RunStates
from esper.tolaria.task.prepare import prepare

M = TypeVar("M", KasminaRunSpec, TamiyoRunSpec, RunClosure, TeacherRegistration)

KEYRING = Keyring.from_secret(new_secret())
SIGNER = Signer(KEYRING, SYSTEM_CLOCK)
RUN = RunIdentity(run_id="r", seed=7, generation=1, total_steps=1000)
REPLAY = [
    ReplayedCommand(command_id="r-g1-c1", decision_step=100, delivery_step=110, issued_by="tamiyo"),
    ReplayedCommand(command_id="op-1", decision_step=120, delivery_step=125, issued_by="operator:me"),
]


KASMINA_TOKEN, TAMIYO_TOKEN = "K" * 43, "T" * 43
FIRST, SECOND = "span_linear:fc1-fc2", "span_linear:fc2-fc3"


@cache
def manifest() -> HostManifest:
    return prepare(TrainConfig(samples=600, min_samples=50)).manifest()


class Services:
    """Both services as one: verifies and keeps what it is sent."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tokens: dict[str, str | None] = {}
        self.kasmina = KasminaRunSpec()
        self.tamiyo = TamiyoRunSpec()
        self.closures: list[RunClosure] = []
        self.teacher: TeacherRegistration | None = None
        self.replay: list[ReplayedCommand] = []
        self.spoil: Callable[[Any], None] = lambda response: None

    def client(self, name: str) -> Any:
        def made(channel: str, *, token: str | None = None) -> FakeClient:
            assert channel == f"{name}-channel"
            return FakeClient(self, name, token)

        return made


class FakeClient:
    def __init__(self, services: Services, name: str, token: str | None) -> None:
        self._services = services
        self._name = name
        self.token = token

    def open_run(self, request: Any, *, timeout_s: float) -> Any:
        services = self._services
        services.calls.append(self._name)
        if self._name == "kasmina":
            services.kasmina = opened(request.command, KasminaRunSpec, "kasmina/r")
            others = [slot.slot_id for slot in services.kasmina.manifest.slots if slot.slot_id != SECOND]
            response = KasminaServiceOpenRunResponse(
                run_token=KASMINA_TOKEN,
                accepted_slots=[SECOND],
                refused_slots=[RefusedSlot(slot_id=slot_id, reason="too wide") for slot_id in others],
                replay=services.replay,
            )
            services.spoil(response)
            return response
        services.tamiyo = opened(request.command, TamiyoRunSpec, "tamiyo/r")
        answer = TamiyoServiceOpenRunResponse(run_token=TAMIYO_TOKEN, policy_id="heuristic", policy_digest="0" * 64)
        services.spoil(answer)
        return answer

    def register_teacher(self, request: Any, *, timeout_s: float) -> RegisterTeacherResponse:
        self._services.calls.append("teacher")
        self._services.teacher = opened(request.command, TeacherRegistration, f"{self._name}/r")
        response = RegisterTeacherResponse(teacher_id=self._services.teacher.teacher_id)
        self._services.spoil(response)
        return response

    def close_run(self, request: Any, *, timeout_s: float) -> Any:
        self._services.calls.append(self._name)
        self._services.closures.append(opened(request.command, RunClosure, f"{self._name}/r"))
        response: Message = TamiyoServiceCloseRunResponse(reports=2)
        if self._name == "kasmina":
            response = KasminaServiceCloseRunResponse(seeds=[SeedState(seed_id="s1")], growth=GrowthState(germinated=1))
        self._services.spoil(response)
        return response


def opened(envelope: SignedCommand, kind: type[M], audience: str) -> M:
    """The payload, if it is valid and signed for this audience."""
    Verifier(KEYRING, SYSTEM_CLOCK).verify(envelope, audience=audience, payload_type=kind.DESCRIPTOR.full_name)
    return open_payload(envelope, kind)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    services = Services()
    monkeypatch.setattr(opening, "KasminaClient", services.client("kasmina"))
    monkeypatch.setattr(opening, "TamiyoClient", services.client("tamiyo"))
    return services


def opened_run(config: TrainConfig, run: RunIdentity = RUN, resume: RunStates | None = None) -> opening.OpenedRun:
    channels: Any = {name: f"{name}-channel" for name in ("kasmina", "tamiyo")}
    return open_run(channels, SIGNER, config, run, manifest(), resume)


def test_both_services_are_told_how_many_samples_judge(services: Services) -> None:
    opened_run(TrainConfig(), replace(RUN, judge_samples=1234))
    assert services.kasmina.life.judge_samples == services.tamiyo.life.judge_samples == 1234
    opened_run(TrainConfig())
    assert not services.kasmina.life.HasField("judge_samples")


def test_a_new_runs_teacher_is_registered_at_kasmina_before_tamiyo_hears_of_the_run(services: Services) -> None:
    run = replace(RUN, teacher=TeacherFacts(name="wide.pt2", digest="a" * 64, size_bytes=9))
    opened_run(TrainConfig(), run)
    assert services.calls == ["kasmina", "teacher", "tamiyo"]
    assert services.teacher == TeacherRegistration(
        training_run_id="r", teacher_id="wide.pt2", weights_digest="a" * 64, size_bytes=9
    )
    services.calls.clear()
    blob = RunStateBlob(state_type="x", state=b"y", digest="0" * 64, step=5)
    opened_run(TrainConfig(), run, RunStates(kasmina=blob, tamiyo=blob))
    assert services.calls == ["kasmina", "tamiyo"]


def test_a_new_run_is_opened_at_kasmina_and_then_at_tamiyo_with_the_slots_left(services: Services) -> None:
    found = opened_run(TrainConfig(blueprints=("span.linear",), max_seeds=3, latency_rules=True))
    assert services.calls == ["kasmina", "tamiyo"]
    kasmina, tamiyo = services.kasmina, services.tamiyo
    for told in (kasmina, tamiyo):
        assert (told.training_run_id, told.seed, told.generation, told.total_steps) == ("r", 7, 1, 1000)
        assert told.budget.max_seeds == 3
        assert not told.HasField("resume")
    assert kasmina.manifest == manifest()
    assert {FIRST, SECOND} < {slot.slot_id for slot in manifest().slots}
    assert [slot.slot_id for slot in tamiyo.manifest.slots] == [SECOND]
    assert list(kasmina.named_blueprint_ids) == list(tamiyo.trigger.blueprint_ids) == ["span.linear"]
    assert kasmina.life == tamiyo.life
    assert (tamiyo.kasmina_audience, tamiyo.latency_rules) == ("kasmina/r", True)
    assert found.accepted_slots == (SECOND,)
    assert (FIRST, "too wide") in found.refused_slots
    tokens = found.kasmina.token, found.tamiyo.token  # type: ignore[attr-defined]
    assert tokens == (KASMINA_TOKEN, TAMIYO_TOKEN)
    assert found.replay == ()


def test_a_resumed_run_brings_both_states_and_tells_tamiyo_of_its_own_replayed_commands(services: Services) -> None:
    services.replay = REPLAY
    states = RunStates(
        kasmina=RunStateBlob(state_type="kasmina", state=b"k", digest="0" * 64, step=90),
        tamiyo=RunStateBlob(state_type="tamiyo", state=b"t", digest="1" * 64, step=90),
    )
    found = opened_run(TrainConfig(), replace(RUN, generation=2), states)
    assert services.kasmina.resume == states.kasmina
    assert services.tamiyo.resume == states.tamiyo
    assert services.kasmina.generation == services.tamiyo.generation == 2
    assert [(row.command_id, row.decision_step) for row in services.tamiyo.replay] == [("r-g1-c1", 100)]
    assert max(row.delivery_step for row in found.replay) == 125


@pytest.mark.parametrize(
    ("kind", "field", "value", "complaint"),
    [
        (KasminaServiceOpenRunResponse, "run_token", "K\n", "run_token has 2 characters"),
        (KasminaServiceOpenRunResponse, "accepted_slots", ["another"], "it judged the slots another, .*it was told of"),
        (KasminaServiceOpenRunResponse, "refused_slots", [], "it judged the slots span_linear:fc2-fc3; it was told"),
        (KasminaServiceOpenRunResponse, "replay", [*REPLAY, REPLAY[0]], "'r-g1-c1' stands there 2 times"),
        (KasminaServiceOpenRunResponse, "seeds", [SeedState(seed_id="s1")], "it tells of 1 seeds and counts 0 as germ"),
        (TamiyoServiceOpenRunResponse, "policy_digest", "none", "policy_digest is 'none', expected a SHA-256"),
        (TamiyoServiceOpenRunResponse, "run_token", "", "run_token has 0 characters"),
    ],
)
def test_an_opening_that_answers_something_else_is_refused(
    services: Services, kind: type[Message], field: str, value: Any, complaint: str
) -> None:
    def spoil(response: Message) -> None:
        if isinstance(response, kind):
            response.ClearField(field)
            response.MergeFrom(kind(**{field: value}))

    services.spoil = spoil
    with pytest.raises(InvalidAnswer, match=complaint):
        opened_run(TrainConfig())


def test_a_run_is_closed_at_both_services_with_its_step_and_reason(services: Services) -> None:
    found = opened_run(TrainConfig())
    services.calls.clear()
    close_run(found, SIGNER, replace(RUN, generation=3), 710, "stopped")
    assert services.calls == ["tamiyo", "kasmina"]
    assert {(c.training_run_id, c.generation, c.step, c.reason) for c in services.closures} == {
        ("r", 3, 710, "stopped")
    }


@pytest.mark.parametrize(
    ("kind", "field", "value", "complaint"),
    [
        (TamiyoServiceCloseRunResponse, "reports", 1, "it has 1 reports of the run, 2 of them were closed"),
        (KasminaServiceCloseRunResponse, "growth", GrowthState(germinated=0), "1 seeds and counts 0 as germinated"),
    ],
)
def test_a_closure_that_contradicts_what_was_told_of_the_run_is_refused(
    services: Services, kind: type[Message], field: str, value: Any, complaint: str
) -> None:
    def spoil(response: Message) -> None:
        if isinstance(response, kind):
            response.ClearField(field)
            response.MergeFrom(kind(**{field: value}))

    found = opened_run(TrainConfig())
    services.spoil = spoil
    with pytest.raises(InvalidAnswer, match=complaint):
        close_run(found, SIGNER, RUN, 710, "stopped", {"fr-c1", "fr-c2"})


def test_shares_of_the_run_become_steps_and_never_less_than_one() -> None:
    config = TrainConfig(window_fraction=0.1, embargo_fraction=0.0, decay_fraction=0.3, evaluate_every_steps=10)
    life = life_settings(config, TaskType.TASK_TYPE_CLASSIFICATION, 1000)
    assert (life.window_steps, life.embargo_steps, life.growth_end_step) == (100, 1, 700)


@pytest.mark.parametrize(
    ("config", "reaction_steps"),
    [(TrainConfig(), 10), (TrainConfig(lag=3), 30), (TrainConfig(control="sync", lag=3), 10)],
)
def test_a_reaction_takes_as_long_as_the_packets_in_flight(config: TrainConfig, reaction_steps: int) -> None:
    assert life_settings(config, TaskType.TASK_TYPE_CLASSIFICATION, 1000).reaction_steps == reaction_steps


@pytest.mark.parametrize(
    ("task", "margin"),
    [
        (TaskType.TASK_TYPE_CLASSIFICATION, 0.002),
        (TaskType.TASK_TYPE_LANGUAGE_MODEL, 0.03),
        (TaskType.TASK_TYPE_REGRESSION, 0.0),
    ],
)
def test_the_margin_depends_on_the_task_unless_it_is_given(task: TaskType, margin: float) -> None:
    assert life_settings(TrainConfig(), task, 1000).margin_absolute == margin
    assert life_settings(TrainConfig(margin_absolute=0.5), task, 1000).margin_absolute == 0.5


def test_a_language_models_noise_is_measured_and_counts_unless_it_is_given() -> None:
    task = TaskType.TASK_TYPE_LANGUAGE_MODEL
    life = life_settings(TrainConfig(), task, 1000)
    assert (life.margin_relative, life.tau) == (0.0, 0.01)
    assert life.margin_absolute == pytest.approx(3 * life.tau)
    assert life_settings(TrainConfig(tau=0.0, margin_relative=0.1), task, 1000).tau == 0.0
    assert life_settings(TrainConfig(tau=0.0, margin_relative=0.1), task, 1000).margin_relative == 0.1
    assert not life_settings(TrainConfig(), TaskType.TASK_TYPE_CLASSIFICATION, 1000).HasField("tau")


def test_words_of_the_settings_become_values_of_the_contracts() -> None:
    config = TrainConfig(judge="muted", incubate="shadow", grow="always", isolate=True)
    life = life_settings(config, TaskType.TASK_TYPE_CLASSIFICATION, 1000)
    assert (life.judge, life.incubation, life.isolate) == (
        JudgeMode.JUDGE_MODE_MUTED,
        IncubationMode.INCUBATION_MODE_SHADOW,
        True,
    )
    assert trigger_settings(config).trigger == GrowthTrigger.GROWTH_TRIGGER_ALWAYS


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [("+8", "span_units", 8), ("+1024", "span_units", 1024), ("x2", "span_factor", 2.0), ("x1.5", "span_factor", 1.5)],
)
def test_how_much_to_widen_is_told_as_units_or_as_a_factor(text: str, field: str, value: float) -> None:
    trigger = trigger_settings(TrainConfig(span_width=text))
    assert trigger.WhichOneof("span") == field
    assert getattr(trigger, field) == value


def test_what_the_user_left_open_is_left_to_the_services() -> None:
    trigger = trigger_settings(TrainConfig())
    assert [name for name in ("slope_threshold", "saturation_floor", "warmup_steps") if trigger.HasField(name)] == []
    assert not life_settings(TrainConfig(), TaskType.TASK_TYPE_CLASSIFICATION, 1000).HasField("tau")
