"""Opening and closing a run at the services: what they are told, in signed messages, and what they answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from esper.core.security.signing import Signer
from esper.leyline import (
    Blueprint,
    Budget,
    GrowthTrigger,
    HostManifest,
    IncubationMode,
    IssuedCommand,
    JudgeMode,
    KasminaRunSpec,
    KasminaServiceCloseRunRequest,
    KasminaServiceOpenRunRequest,
    LifeSettings,
    RegisterTeacherRequest,
    ReplayedCommand,
    RunClosure,
    StackRule,
    TamiyoRunSpec,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceOpenRunRequest,
    TaskType,
    TeacherRegistration,
    TriggerSettings,
)
from esper.rpc.clients import Channel, KasminaClient, TamiyoClient
from esper.tolaria.config import TrainConfig, span_growth
from esper.tolaria.plane.answer_rules import (
    closing_violations,
    counter_violations,
    kasmina_opening_violations,
    require,
    tamiyo_opening_violations,
)
from esper.tolaria.plane.open_control import TeacherFacts
from esper.tolaria.plane.start.blends import blend_settings
from esper.tolaria.plane.start.stack_growth import stack_judging, stack_rule, stack_steps
from esper.tolaria.record.packet_result import RunStates
from esper.tolaria.task.optimizers.schedule import growth_end_step

TIMEOUT_S = 15.0
TRIGGERS = {
    "auto": GrowthTrigger.GROWTH_TRIGGER_AUTO,
    "always": GrowthTrigger.GROWTH_TRIGGER_ALWAYS,
    "never": GrowthTrigger.GROWTH_TRIGGER_NEVER,
}
JUDGES = {"twin": JudgeMode.JUDGE_MODE_TWIN, "muted": JudgeMode.JUDGE_MODE_MUTED}
INCUBATIONS = {
    "none": IncubationMode.INCUBATION_MODE_NONE,
    "shadow": IncubationMode.INCUBATION_MODE_SHADOW,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """What a gain must exceed: in Brier score for classes, nats for language models, squared error for a regression."""

    margin_absolute: float
    margin_relative: float
    tau: float | None
    """Run-to-run deviation of the gain; None leaves it to Kasmina, as a share of the twin's score."""


# A language model's tau is measured: pairs of runs without a graft differ by 0.01 nats; the margin is three times that.
JUDGING = {
    TaskType.TASK_TYPE_CLASSIFICATION: Judging(margin_absolute=0.002, margin_relative=0.03, tau=None),
    TaskType.TASK_TYPE_LANGUAGE_MODEL: Judging(margin_absolute=0.03, margin_relative=0.0, tau=0.01),
    TaskType.TASK_TYPE_REGRESSION: Judging(margin_absolute=0.0, margin_relative=0.03, tau=None),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """What names a run everywhere, and one generation of it."""

    run_id: str
    seed: int
    generation: int
    total_steps: int
    gives_up_course: bool = False
    """Whether this generation goes on otherwise than the one before it: then only operators' orders are replayed."""
    judge_samples: int | None = None
    """Samples of the judging set; None where nobody said."""
    teacher: TeacherFacts | None = None
    """The network that seeds of a new run may learn from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedRun:
    """The run's clients, with their tokens, and what the services said."""

    kasmina: KasminaClient
    tamiyo: TamiyoClient
    tokens: Mapping[str, str]
    accepted_slots: tuple[str, ...]
    seeds: tuple[str, ...]
    refused_slots: tuple[tuple[str, str], ...]
    replay: tuple[ReplayedCommand, ...]
    policy: str
    """Id and version of the policy in force."""
    policy_digest: str
    """SHA-256 of everything that Tamiyo's decisions depend on beside the run's own course."""


def life_settings(
    config: TrainConfig, task: TaskType, total_steps: int, judge_samples: int | None = None
) -> LifeSettings:
    """Settings of a seed's life in steps of this run, whose judging set has so many samples."""

    def share(fraction: float) -> int:
        return max(1, round(total_steps * fraction))

    def chosen(name: str) -> float | None:
        given: float | None = getattr(config, name)
        # The unit of a user's own loss is unknown: only shares of it mean anything.
        kind = task if config.loss is None else TaskType.TASK_TYPE_REGRESSION
        default: float | None = getattr(JUDGING[kind], name)
        return default if given is None else given

    return LifeSettings(
        judge=JUDGES[config.judge],
        window_steps=share(config.window_fraction),
        incubation=INCUBATIONS[config.incubate],
        incubation_steps=share(config.incubate_fraction),
        isolate=config.isolate,
        embargo_steps=share(config.embargo_fraction),
        margin_relative=chosen("margin_relative"),
        margin_absolute=chosen("margin_absolute"),
        tau=chosen("tau"),
        min_samples=config.min_samples,
        growth_end_step=growth_end_step(config, total_steps),
        max_culls_in_row=config.max_culls,
        reaction_steps=config.packet_steps * max(1, config.packet_lag),
        fade_steps=share(config.fade_fraction),
        stability_limit=config.stability_limit,
        stack=stack_judging(config),
        judge_samples=judge_samples,
    )


def trigger_settings(
    config: TrainConfig,
    stack_steps: Sequence[int] = (),
    stack_rule: StackRule = StackRule.STACK_RULE_UNSPECIFIED,
) -> TriggerSettings:
    """When to grow; what the user left open, Tamiyo fills by task."""
    return TriggerSettings(
        trigger=TRIGGERS[config.grow],
        slope_threshold=config.slope_threshold,
        saturation_floor=config.saturation_floor,
        saturation_share=config.saturation_share,
        warmup_steps=config.growth_warmup_steps,
        slope_window_steps=config.slope_window_steps,
        blueprint_ids=config.blueprints,
        stack_steps=stack_steps,
        stack_rule=stack_rule,
        target_depth=config.target_depth,
        blend=blend_settings(config),
        **(span_growth(config.span_width) or {}),
    )


def budget(config: TrainConfig) -> Budget:
    """What growth may cost."""
    return Budget(
        max_parameters=config.max_parameters,
        max_forward_macs=config.max_forward_macs,
        max_training_macs=config.max_training_macs,
        max_memory_bytes=config.max_memory_bytes,
        max_seeds=config.max_seeds,
    )


def open_run(
    channels: dict[str, Channel],
    signer: Signer,
    config: TrainConfig,
    run: RunIdentity,
    manifest: HostManifest,
    resume: RunStates | None = None,
    own: Sequence[Blueprint] = (),
) -> OpenedRun:
    """Open the run at Kasmina, then at Tamiyo with the slots that Kasmina accepted. Raises the error tree."""
    life = life_settings(config, manifest.task, run.total_steps, run.judge_samples)
    opened = KasminaClient(channels["kasmina"]).open_run(
        KasminaServiceOpenRunRequest(
            command=signer.sign(
                KasminaRunSpec(
                    training_run_id=run.run_id,
                    seed=run.seed,
                    generation=run.generation,
                    total_steps=run.total_steps,
                    manifest=manifest,
                    budget=budget(config),
                    life=life,
                    resume=resume.kasmina if resume else None,
                    named_blueprint_ids=config.blueprints,
                    gives_up_course=run.gives_up_course,
                    own_blueprints=own,
                ),
                audience=f"kasmina/{run.run_id}",
            )
        ),
        timeout_s=TIMEOUT_S,
    )
    require("OpenRun of kasmina", kasmina_opening_violations(opened, manifest))
    if run.teacher is not None and resume is None:
        _register_teacher(KasminaClient(channels["kasmina"]), signer, run.run_id, run.teacher)
    told = HostManifest()
    told.CopyFrom(manifest)
    del told.slots[:]
    told.slots.extend(slot for slot in manifest.slots if slot.slot_id in opened.accepted_slots)
    answer = TamiyoClient(channels["tamiyo"]).open_run(
        TamiyoServiceOpenRunRequest(
            command=signer.sign(
                TamiyoRunSpec(
                    training_run_id=run.run_id,
                    seed=run.seed,
                    generation=run.generation,
                    total_steps=run.total_steps,
                    manifest=told,
                    budget=budget(config),
                    life=life,
                    trigger=trigger_settings(
                        config, stack_steps(config, told, run.total_steps), stack_rule(config, told)
                    ),
                    kasmina_audience=f"kasmina/{run.run_id}",
                    resume=resume.tamiyo if resume else None,
                    replay=issued(opened.replay),
                    latency_rules=config.latency_rules,
                    own_blueprints=own,
                ),
                audience=f"tamiyo/{run.run_id}",
            )
        ),
        timeout_s=TIMEOUT_S,
    )
    require("OpenRun of tamiyo", tamiyo_opening_violations(answer))
    return OpenedRun(
        kasmina=KasminaClient(channels["kasmina"], token=opened.run_token),
        tamiyo=TamiyoClient(channels["tamiyo"], token=answer.run_token),
        tokens={"kasmina": opened.run_token, "tamiyo": answer.run_token},
        accepted_slots=tuple(opened.accepted_slots),
        seeds=tuple(seed.seed_id for seed in opened.seeds),
        refused_slots=tuple((slot.slot_id, slot.reason) for slot in opened.refused_slots),
        replay=tuple(opened.replay),
        policy=f"{answer.policy_id} {answer.policy_version}",
        policy_digest=answer.policy_digest,
    )


def _register_teacher(kasmina: KasminaClient, signer: Signer, run_id: str, teacher: TeacherFacts) -> None:
    """Of a run that goes on, Kasmina's state says whether it still has one."""
    registration = TeacherRegistration(
        training_run_id=run_id,
        teacher_id=teacher.name,
        weights_digest=teacher.digest,
        size_bytes=teacher.size_bytes,
    )
    request = RegisterTeacherRequest(command=signer.sign(registration, audience=f"kasmina/{run_id}"))
    told = kasmina.register_teacher(request, timeout_s=TIMEOUT_S).teacher_id
    require("RegisterTeacher of kasmina", [f"it registered {told!r}"] if told != teacher.name else [])


def issued(replay: Sequence[ReplayedCommand]) -> list[IssuedCommand]:
    """Tamiyo's own commands among those that Kasmina replays."""
    return [
        IssuedCommand(command_id=row.command_id, decision_step=row.decision_step)
        for row in replay
        if row.issued_by == "tamiyo"
    ]


def close_run(
    opened: OpenedRun, signer: Signer, run: RunIdentity, step: int, reason: str, closed_reports: Collection[str] = ()
) -> None:
    """Close the run at both services, which still know what they told of it. Raises the error tree."""
    closure = RunClosure(training_run_id=run.run_id, generation=run.generation, step=step, reason=reason)
    tamiyo = opened.tamiyo.close_run(
        TamiyoServiceCloseRunRequest(command=signer.sign(closure, audience=f"tamiyo/{run.run_id}")),
        timeout_s=TIMEOUT_S,
    )
    kasmina = opened.kasmina.close_run(
        KasminaServiceCloseRunRequest(command=signer.sign(closure, audience=f"kasmina/{run.run_id}")),
        timeout_s=TIMEOUT_S,
    )
    require("CloseRun of tamiyo", closing_violations(tamiyo, closed_reports))
    require("CloseRun of kasmina", counter_violations(kasmina.seeds, kasmina.growth))
