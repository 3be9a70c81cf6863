"""Runs, commands, reports and observations for the tests of the control half: the smallest valid ones."""

from __future__ import annotations

from typing import Any

from esper.kasmina.control.stages.turn import Turn
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    CommandOutcome,
    CoverageSummary,
    DecisionMetadata,
    DecisionReason,
    DirectiveKind,
    DirectiveReport,
    GrowthState,
    HostManifest,
    IncubationMode,
    JudgeMode,
    JudgeResult,
    KasminaRunSpec,
    KasminaRunState,
    LifeSettings,
    PairedScore,
    PolicyMetadata,
    PolicySignal,
    PolicySignalId,
    ProbeResult,
    RejectionReason,
    SeedDirective,
    SeedObservation,
    SeedOperation,
    SeedOperationKind,
    SelectionCandidate,
    SelectionContext,
    SlotKind,
    SlotSpec,
    StackEvaluation,
    StackJudging,
    SubmoduleSpec,
    TaskType,
)
from esper.urza.catalog import Catalog

CATALOG = Catalog.builtin()
RUN = "run-1"
SLOT = "span_linear:fc1-fc2"
OTHER_SLOT = "span_linear:fc2-fc3"
RESIDUAL_SLOT = "residual_linear:act1-act1"
STACK_SLOT = "stack:blocks"
K = DirectiveKind


def slot(slot_id: str = SLOT, kind: SlotKind = SlotKind.SLOT_KIND_SPAN_LINEAR, **fields: Any) -> SlotSpec:
    shape = {
        "in_features": 64,
        "out_features": 6,
        "width": 6,
        **dict.fromkeys(("read_positions", "write_positions", "read_kernel", "write_kernel"), 1),
        "is_foldable": kind == SlotKind.SLOT_KIND_SPAN_LINEAR,
        "order": 0,
    }
    return SlotSpec(slot_id=slot_id, kind=kind, read_path="fc1", write_path="fc2", **{**shape, **fields})


def stack_slot(depth: int = 3, **fields: Any) -> SlotSpec:
    sizes = {"in_features": 8, "out_features": 8, "width": 8, "read_positions": 16, "write_positions": 16}
    blocks = {"depth": depth, "block_parameters": 100, "block_forward_macs": 80}
    return slot(STACK_SLOT, SlotKind.SLOT_KIND_STACK, **{**sizes, **blocks, "is_foldable": False, **fields})


def stack_judging(**fields: Any) -> StackJudging:
    settings: dict[str, Any] = {
        "margin": 0.002,
        "error_rate": 0.02,
        "evaluations": 8,
        "max_clipped_share": 0.01,
        "window_fraction": 0.1,
        "window_recoveries": 1.5,
        "recovery_steps": 120,
    }
    return StackJudging(**{**settings, **fields})


def stack_run(depth: int = 3, **fields: Any) -> KasminaRunSpec:
    """A language model with a run of blocks; `fields` are settings of a seed's life."""
    run = spec(life=life(**{"stack": stack_judging(), **fields}))
    run.manifest.task = TaskType.TASK_TYPE_LANGUAGE_MODEL
    run.manifest.slots.append(stack_slot(depth))
    return run


def life(**fields: Any) -> LifeSettings:
    settings: dict[str, Any] = {
        "judge": JudgeMode.JUDGE_MODE_TWIN,
        "window_steps": 200,
        "incubation": IncubationMode.INCUBATION_MODE_NONE,
        "incubation_steps": 100,
        "isolate": False,
        "embargo_steps": 50,
        "margin_relative": 0.03,
        "margin_absolute": 0.002,
        "min_samples": 300,
        "growth_end_step": 1500,
        "max_culls_in_row": 2,
        "reaction_steps": 10,
        "fade_steps": 20,
        "stability_limit": 4.0,
    }
    return LifeSettings(**{**settings, **fields})


def spec(generation: int = 0, **fields: Any) -> KasminaRunSpec:
    slots = [slot(), slot(OTHER_SLOT), slot(RESIDUAL_SLOT, SlotKind.SLOT_KIND_RESIDUAL_LINEAR, in_features=6)]
    manifest = HostManifest(
        model="mlp",
        weights_digest="0" * 64,
        submodules=[SubmoduleSpec(path="fc1", class_name="Linear", parameters=390, dtype="float32")],
        slots=slots,
        parameters=500,
        forward_macs=480,
        task=TaskType.TASK_TYPE_CLASSIFICATION,
        optimizer_family="Adam",
    )
    settings: dict[str, Any] = {"manifest": manifest, "life": life(), "seed": 1, "total_steps": 2100}
    return KasminaRunSpec(training_run_id=RUN, generation=generation, **{**settings, **fields})


def fresh_state(generation: int = 0) -> KasminaRunState:
    counts = dict.fromkeys(("looks_since_fossil", "culls_in_row", "germinated", "judged", "kept"), 0)
    growth = GrowthState(**counts, ended=False, paused=False, added_parameters=0)
    return KasminaRunState(
        training_run_id=RUN, generation=generation, step=0, applied_seq=0, growth=growth, directives_issued=0
    )


def turn(state: KasminaRunState | None = None, step: int = 0, run: KasminaRunSpec | None = None, **rest: Any) -> Turn:
    return Turn(
        spec=run or spec(), state=fresh_state() if state is None else state, catalog=CATALOG, step=step,
        breakers=("artifacts",), **rest,
    )  # fmt: skip


def warm_blend(**fields: Any) -> BlendConfig:
    """The blend of a zero-output seed: fully in at once, learning rate warming up."""
    settings: dict[str, Any] = {
        "mode": BlendMode.BLEND_MODE_RESIDUAL,
        "alpha_start": 1.0,
        "alpha_target": 1.0,
        "schedule": BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD,
        "schedule_steps": 50,
    }
    return BlendConfig(**{**settings, **fields})


def rising_blend(**fields: Any) -> BlendConfig:
    return warm_blend(alpha_start=0.0, schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR, **fields)


def policy_metadata(slot_id: str = SLOT, blueprint_id: str = "span.linear") -> DecisionMetadata:
    candidate = SelectionCandidate(slot_id=slot_id, blueprint_id=blueprint_id, score=1.0, parameters=1, forward_macs=1)
    return DecisionMetadata(
        policy=PolicyMetadata(
            policy_id="heuristic",
            version="1",
            action="germinate",
            log_probability=0.0,
            observation_digest="0" * 64,
            signals=[PolicySignal(id=PolicySignalId.POLICY_SIGNAL_ID_SMOOTHED_LOSS, value=0.3)],
        ),
        coverage=CoverageSummary(
            average=1.0, provenance="packet:v1", groups=[{"group": "loss", "present": 1, "expected": 1}]
        ),
        selection=SelectionContext(slot_id=slot_id, blueprint_id=blueprint_id, candidates=[candidate]),
        reasons=[DecisionReason.DECISION_REASON_PLATEAU],
        conservative=False,
    )


def command(command_id: str = "c1", step: int = 0, generation: int = 0, **fields: Any) -> AdaptationCommand:
    """A command with no action yet, by the policy unless said otherwise."""
    issued_by = fields.pop("issued_by", "tamiyo")
    if issued_by == "tamiyo":
        fields.setdefault("metadata", policy_metadata())
    return AdaptationCommand(
        command_id=command_id, training_run_id=RUN, generation=generation, step=step, issued_by=issued_by, **fields
    )


def germinate(
    seed_id: str = "s1", *, step: int = 100, operation: dict[str, Any] | None = None, **fields: Any
) -> AdaptationCommand:
    settings: dict[str, Any] = {
        "seed_id": seed_id,
        "operation": SeedOperationKind.SEED_OPERATION_KIND_GERMINATE,
        "slot_id": SLOT,
        "blueprint_id": "span.linear",
        "initialization_seed": 7,
        "blend": warm_blend(),
    }
    seed = SeedOperation(**{**settings, **(operation or {})})
    return command(fields.pop("command_id", f"g-{seed_id}"), step=step, seed=seed, **fields)


def on_seed(kind: str, seed_id: str = "s1", *, step: int, **fields: Any) -> AdaptationCommand:
    """FOSSILIZE, CULL, CHANGE_BLEND or ADVANCE_TO."""
    operation = fields.pop("operation", {})
    seed = SeedOperation(seed_id=seed_id, operation=SeedOperationKind.Value(f"SEED_OPERATION_KIND_{kind}"), **operation)
    return command(fields.pop("command_id", f"{kind.lower()}-{seed_id}-{step}"), step=step, seed=seed, **fields)


def double(seed_id: str = "s1", blueprint_id: str = "stack.double", **fields: Any) -> AdaptationCommand:
    """Germinates a stack."""
    operation = {
        "slot_id": STACK_SLOT,
        "blueprint_id": blueprint_id,
        "blend": warm_blend(schedule_steps=0),
        **fields.pop("operation", {}),
    }
    return germinate(seed_id, operation=operation, **fields)


def evaluation(step: int, gain: float = 0.05, **fields: Any) -> StackEvaluation:
    """The grown arm ahead of its twin by about `gain`; evaluations wander a little."""
    wander = 0.0001 * (step * step % 7 - 3)
    settings: dict[str, Any] = {"mean_twin_score": 1.5 - step / 1e4, "clipped_share": 0.001}
    twin = score(gain + wander, variance=0.0004, **fields.pop("documents", {}))
    return StackEvaluation(step=step, twin=twin, **{**settings, **fields})


def report(directive: SeedDirective, step: int, **fields: Any) -> DirectiveReport:
    """A directive carried out as it should be."""
    facts: dict[str, Any] = {"succeeded": True}
    if directive.kind == K.DIRECTIVE_KIND_BUILD:
        facts |= {"digest_matched": True, "parameters_finite": True, "added_parameters": 568}
    if directive.kind == K.DIRECTIVE_KIND_ATTACH:
        facts |= {"max_logit_delta": 0.0, "added_parameters": 568, "added_forward_macs": 560}
    if directive.kind == K.DIRECTIVE_KIND_FOLD:
        facts |= {"folded": True}
    return DirectiveReport(
        directive_id=directive.directive_id,
        seed_id=directive.seed_id,
        kind=directive.kind,
        step=step,
        **{**facts, **fields},
    )


def score(mean: float, variance: float = 0.01, samples: int = 356, **documents: Any) -> PairedScore:
    return PairedScore(mean=mean, variance=variance, samples=samples, **documents)


def observation(step: int, seed_id: str = "s1", **fields: Any) -> SeedObservation:
    """A healthy seed in the middle of its blend."""
    settings: dict[str, Any] = {
        "alpha": 1.0,
        "gradient_norm": 0.5,
        "gradients_finite": True,
        "isolation_violations": 0,
        "smoothed_loss": 0.30,
        "smoothed_loss_at_graft": 0.31,
        "smoothed_loss_standard_error": 0.01,
        "is_schedule_done": False,
    }
    return SeedObservation(seed_id=seed_id, step=step, **{**settings, **fields})


def probe(mean: float = 0.01, *, matches: bool = True, interference: float | None = 0.9) -> ProbeResult:
    mismatch = "" if matches else "shape"
    return ProbeResult(interface_matches=matches, mismatch=mismatch, muted=score(mean), interference=interference)


def judgement(gain: float, look: int = 1, *, mean_twin: float = 0.2, muted: float = 0.05, **twin: Any) -> JudgeResult:
    return JudgeResult(look=look, twin=score(gain, **twin), mean_twin_score=mean_twin, muted=score(muted))


def request(step: int, generation: int = 0, **fields: Any) -> AdvanceRequest:
    return AdvanceRequest(generation=generation, step=step, **fields)


def kinds(directives: list[SeedDirective]) -> list[str]:
    return [K.Name(directive.kind).removeprefix("DIRECTIVE_KIND_") for directive in directives]


def refusal_of(outcome: CommandOutcome) -> str:
    return RejectionReason.Name(outcome.rejection).removeprefix("REJECTION_REASON_")
