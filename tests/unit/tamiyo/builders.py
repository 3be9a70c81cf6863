"""Runs as Tamiyo sees them: specs, packets, synthetic loss curves, and a stand-in for trainer and Kasmina."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from esper.leyline import (
    DecisionReason,
    Embargo,
    GateVerdict,
    GrowthState,
    GrowthTrigger,
    HardwareContext,
    HostManifest,
    IncubationMode,
    JudgeMode,
    LifeSettings,
    SeedGate,
    SeedOperationKind,
    SeedStage,
    SeedState,
    SlotKind,
    SlotSignal,
    SlotSpec,
    SubmoduleSpec,
    SystemMode,
    SystemStatePacket,
    TamiyoRunSpec,
    TamiyoRunState,
    TaskType,
    TrainingMetrics,
    TriggerSettings,
)
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.context import RunContext, context_of
from esper.tamiyo.deciding.decide import Verdict, decide
from esper.tamiyo.growing.selection import select
from esper.tamiyo.policy import HeuristicPolicy
from esper.urza.catalog import Catalog

RUN = "run-1"
TOTAL_STEPS, WINDOW_STEPS, EVERY_STEPS = 2100, 210, 10
AUTO = GrowthTrigger.GROWTH_TRIGGER_AUTO
ALWAYS = GrowthTrigger.GROWTH_TRIGGER_ALWAYS
NEVER = GrowthTrigger.GROWTH_TRIGGER_NEVER
CATALOG = Catalog.builtin()

Curve = Callable[[int], tuple[float, float]]
"""Smoothed loss and training accuracy after a number of steps."""


def span_slot(order: int, width: int = 6) -> SlotSpec:
    """The order-th foldable span of a 64-w-w-10 network."""
    sizes = (64, width, width, 10)
    return SlotSpec(
        slot_id=f"span:fc{order + 1}-fc{order + 2}",
        kind=SlotKind.SLOT_KIND_SPAN_LINEAR,
        read_path=f"fc{order + 1}",
        write_path=f"fc{order + 2}",
        in_features=sizes[order],
        out_features=sizes[order + 2],
        width=sizes[order + 1],
        read_positions=1,
        write_positions=1,
        read_kernel=1,
        write_kernel=1,
        is_foldable=True,
        order=order,
    )


def manifest(width: int = 6) -> HostManifest:
    parameters = 65 * width + (width + 1) * width + (width + 1) * 10
    return HostManifest(
        model="mlp",
        weights_digest="0" * 64,
        submodules=[SubmoduleSpec(path="fc1", class_name="Linear", parameters=65 * width, output_shape=[width])],
        slots=[span_slot(0, width), span_slot(1, width)],
        parameters=parameters,
        forward_macs=64 * width + width * width + width * 10,
        task=TaskType.TASK_TYPE_CLASSIFICATION,
        optimizer_family="Adam",
    )


def life(**changes: object) -> LifeSettings:
    settings = LifeSettings(
        judge=JudgeMode.JUDGE_MODE_TWIN,
        window_steps=WINDOW_STEPS,
        incubation=IncubationMode.INCUBATION_MODE_NONE,
        incubation_steps=0,
        isolate=False,
        embargo_steps=105,
        margin_relative=0.03,
        margin_absolute=0.002,
        min_samples=300,
        growth_end_step=1470,
        max_culls_in_row=2,
        reaction_steps=EVERY_STEPS,
        fade_steps=105,
        stability_limit=3.0,
    )
    settings.MergeFrom(LifeSettings(**changes))  # type: ignore[arg-type]
    return settings


def spec(mode: GrowthTrigger = AUTO, **changes: object) -> TamiyoRunSpec:
    given: dict[str, object] = {
        "training_run_id": RUN,
        "seed": 1,
        "generation": 1,
        "total_steps": TOTAL_STEPS,
        "manifest": manifest(),
        "life": life(),
        "trigger": TriggerSettings(trigger=mode),
        "kasmina_audience": f"kasmina/{RUN}",
        "latency_rules": False,
    }
    return TamiyoRunSpec(**{**given, **changes})  # type: ignore[arg-type]


def by_eight(mode: GrowthTrigger = AUTO, **changes: object) -> TamiyoRunSpec:
    """A run that widens by eight units, as often as the judge keeps them."""
    return spec(trigger=TriggerSettings(trigger=mode, span_units=8), **changes)


def context(run_spec: TamiyoRunSpec | None = None, config: TamiyoConfig | None = None) -> RunContext:
    run_spec = run_spec or spec()
    return context_of(run_spec, run_spec.trigger, config or TamiyoConfig())


def first_state(run_spec: TamiyoRunSpec | None = None) -> TamiyoRunState:
    return TamiyoRunState(
        training_run_id=RUN,
        step=0,
        commands_issued=0,
        seeds_named=0,
        next_slot=0,
        conservative=False,
        clean_packets=0,
        last_change_step=0,
        isolation_violations=0,
        retry_step=0,
        trigger=(run_spec or spec()).trigger,
        policy_version="1.0.0",
    )


def packet(step: int, loss: float = 0.5, accuracy: float = 0.8, **changes: object) -> SystemStatePacket:
    """A complete packet of a run without seeds."""
    given: dict[str, object] = {
        "training_run_id": RUN,
        "generation": 1,
        "packet_index": step // EVERY_STEPS,
        "step": step,
        "epoch": step // 18,
        "metrics": metrics(step, loss, accuracy),
        "slots": [slot_signal(order) for order in range(2)],
        "growth": GrowthState(
            looks_since_fossil=0,
            culls_in_row=0,
            germinated=0,
            judged=0,
            kept=0,
            ended=False,
            paused=False,
            added_parameters=0,
        ),
        "hardware": HardwareContext(
            device_type="cpu", cpu_cores=2, memory_total_bytes=16 << 30, memory_used_bytes=4 << 30, processor_wait=0.05
        ),
        "mode": SystemMode.SYSTEM_MODE_NORMAL,
        "isolation_violations": 0,
        "is_epoch_end": False,
    }
    return SystemStatePacket(**{**given, **changes})  # type: ignore[arg-type]


def metrics(step: int, loss: float, accuracy: float) -> TrainingMetrics:
    return TrainingMetrics(
        loss=loss,
        smoothed_loss=loss,
        smoothed_loss_standard_error=0.01 * abs(loss) if math.isfinite(loss) else 0.0,
        gradient_norm=1.0,
        gradient_norm_variance=0.1,
        learning_rate=3e-3,
        momentum=0.9,
        training_accuracy=accuracy,
        parameters=502,
        forward_macs=480,
        training_macs=480 * 3 * 64 * step,
        samples_per_s=20_000.0,
        step_latency_ms=3.0,
        hook_latency_ms=0.2,
        apply_latency_ms=0.1,
        finalize_latency_ms=0.1,
        input_wait_ms=0.1,
        tamiyo_latency_ms=1.0,
        kasmina_latency_ms=1.0,
    )


def slot_signal(order: int) -> SlotSignal:
    slot = span_slot(order)
    return SlotSignal(
        slot_id=slot.slot_id,
        gradient_norm=0.5,
        width=slot.width,
        in_features=slot.in_features,
        out_features=slot.out_features,
    )


def seed_state(seed_id: str = "s1", stage: int = SeedStage.SEED_STAGE_PROBATIONARY, **changes: object) -> SeedState:
    given: dict[str, object] = {
        "seed_id": seed_id,
        "stage": stage,
        "slot_id": span_slot(0).slot_id,
        "blueprint_id": "span.linear",
        "alpha": 1.0,
        "age_steps": 100,
        "gradient_norm": 0.1,
        "rms_ratio": 0.2,
        "parameters": 568,
        "forward_macs": 560,
        "health": 1,
        "stage_step": 300,
        "command_id": f"{RUN}-g1-c1",
    }
    return SeedState(**{**given, **changes})  # type: ignore[arg-type]


def judged(verdict: int, gain: float = 0.02, **changes: object) -> SeedState:
    """A seed after the twin test."""
    gate = SeedGate.SEED_GATE_G4_SYSTEM_IMPACT
    return seed_state(verdict=verdict, gate=gate, gain=gain, gain_standard_error=0.004, **changes)


def narrow(step: int) -> tuple[float, float]:
    """A host that gets stuck: the loss flattens at 0.3, nine of ten samples right."""
    return 0.3 + 1.9 * math.exp(-step / 120), min(0.9, 0.1 + 0.8 * (1 - math.exp(-step / 100)))


def saturated(step: int) -> tuple[float, float]:
    """A host that is wide enough: the loss falls to 0.01 quickly, every sample right."""
    return 0.01 + 2.2 * math.exp(-step / 40), 1.0 - 0.9 * math.exp(-step / 40)


def improving(step: int) -> tuple[float, float]:
    """A host that still learns, halving its loss every 90 steps."""
    return 2.3 * 0.5 ** (step / 90), 0.5


@dataclass(kw_only=True, slots=True)
class Simulation:
    """A trainer and Kasmina in one: applies what is decided, one packet later, and judges by `is_kept`."""

    run_spec: TamiyoRunSpec = field(default_factory=by_eight)
    curve: Curve = narrow
    is_kept: Callable[[int], bool] = lambda seed: True
    config: TamiyoConfig = field(default_factory=TamiyoConfig)
    state: TamiyoRunState | None = None
    seeds: dict[str, SeedState] = field(default_factory=dict)
    growth: GrowthState = field(default_factory=lambda: packet(0).growth)

    def run(self, from_step: int = EVERY_STEPS, to_step: int = TOTAL_STEPS) -> Iterator[Verdict]:
        """The verdict on each packet, seeds living through their stages in between."""
        run_context = context(self.run_spec, self.config)
        self.state = self.state or first_state(self.run_spec)
        for step in range(from_step, to_step + 1, EVERY_STEPS):
            verdict = decide(run_context, self.state, self.packet(step), policy=HeuristicPolicy(), select=look_up)
            yield verdict
            self.state = verdict.state
            for issue in verdict.issues:
                self._apply(issue.command.seed, step)

    def packet(self, step: int) -> SystemStatePacket:
        """What the trainer hands over at a step."""
        for seed in self.seeds.values():
            self._age(seed, step)
        loss, accuracy = self.curve(step)
        return packet(
            step,
            loss,
            accuracy,
            generation=self.run_spec.generation,
            seeds=list(self.seeds.values()),
            growth=self.growth,
        )

    def _apply(self, operation: object, step: int) -> None:
        kind, seed_id = operation.operation, operation.seed_id  # type: ignore[attr-defined]
        if kind == SeedOperationKind.SEED_OPERATION_KIND_GERMINATE:
            self.seeds[seed_id] = seed_state(
                seed_id,
                SeedStage.SEED_STAGE_BLENDING,
                stage_step=step,
                slot_id=operation.slot_id,  # type: ignore[attr-defined]
            )
            self.growth.germinated += 1
            return
        seed, kept = self.seeds[seed_id], kind == SeedOperationKind.SEED_OPERATION_KIND_FOSSILIZE
        seed.stage = SeedStage.SEED_STAGE_FOSSILIZED if kept else SeedStage.SEED_STAGE_CULLED
        seed.stage_step = step
        self.growth.kept += kept
        self.growth.culls_in_row = 0 if kept else self.growth.culls_in_row + 1
        self.growth.ended = self.growth.culls_in_row >= self.run_spec.life.max_culls_in_row
        if not kept:
            self.growth.embargoes.append(Embargo(slot_id=seed.slot_id, until_step=step + 105))

    def _age(self, seed: SeedState, step: int) -> None:
        if seed.stage == SeedStage.SEED_STAGE_CULLED and step > seed.stage_step:
            seed.stage, seed.stage_step = SeedStage.SEED_STAGE_EMBARGOED, step
        if seed.stage == SeedStage.SEED_STAGE_BLENDING and step - seed.stage_step >= WINDOW_STEPS + EVERY_STEPS:
            kept = self.is_kept(int(seed.seed_id.removeprefix("s")))
            verdict = GateVerdict.GATE_VERDICT_PASS if kept else GateVerdict.GATE_VERDICT_FAIL
            seed.CopyFrom(judged(verdict, 0.02 if kept else -0.001, seed_id=seed.seed_id, slot_id=seed.slot_id))
            seed.stage_step = step


def look_up(state: TamiyoRunState, given: SystemStatePacket, run_context: RunContext):  # type: ignore[no-untyped-def]
    return select(state, given, run_context, CATALOG)


def actions(verdicts: Iterator[Verdict]) -> list[tuple[int, str, str]]:
    """Step, action and seed of everything that was commanded."""
    return [
        (issue.command.step, issue.command.metadata.policy.action, issue.command.seed.seed_id)
        for verdict in verdicts
        for issue in verdict.issues
    ]


def reasons(verdict: Verdict) -> list[str]:
    return [DecisionReason.Name(reason).removeprefix("DECISION_REASON_") for reason in verdict.metadata.reasons]
