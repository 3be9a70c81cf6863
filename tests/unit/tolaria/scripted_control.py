"""A control plane in memory that follows a script: directives by the step of the packet that causes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from esper.core.growth import no_growth
from esper.kasmina.executor import Collected
from esper.leyline import (
    AdaptationCommand,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    DirectiveKind,
    DirectiveReport,
    GrowthState,
    HealthStatus,
    ParameterValue,
    RunStateBlob,
    SeedDirective,
    SeedStage,
    SeedState,
    SystemStatePacket,
)
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

CATALOG = Catalog.builtin()
STAGES = {
    DirectiveKind.DIRECTIVE_KIND_DROP_TWIN: SeedStage.SEED_STAGE_FOSSILIZED,
    DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN: SeedStage.SEED_STAGE_CULLED,
    DirectiveKind.DIRECTIVE_KIND_FADE: SeedStage.SEED_STAGE_CULLED,
}
Script = Mapping[int, Sequence[SeedDirective]]


def directive(seed_id: str, name: str, **fields: object) -> SeedDirective:
    kind = DirectiveKind.Value(f"DIRECTIVE_KIND_{name}")
    return SeedDirective(
        directive_id=f"{seed_id}:{name}", seed_id=seed_id, kind=kind, command_id=f"c-{seed_id}", **fields
    )


def germination(
    seed_id: str, slot_id: str, blueprint_id: str = "span.linear", **parameters: float
) -> list[SeedDirective]:
    blueprint = CATALOG.get(blueprint_id)
    values = {bound.name: bound.default_value for bound in blueprint.parameters} | parameters
    blend = BlendConfig(
        mode=BlendMode.BLEND_MODE_RESIDUAL,
        alpha_target=1.0,
        alpha_start=1.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD,
        schedule_steps=10,
    )
    return [
        directive(seed_id, "SNAPSHOT_TWIN"),
        directive(
            seed_id,
            "BUILD",
            slot_id=slot_id,
            blueprint_id=blueprint_id,
            parameters=[ParameterValue(name=name, value=value) for name, value in values.items()],
            artifact_digest=blueprint.artifact.digest,
            initialization_seed=7,
        ),
        directive(seed_id, "ATTACH", slot_id=slot_id, blend=blend),
    ]


def judgement(seed_id: str, at_step: int) -> SeedDirective:
    return directive(seed_id, "JUDGE", at_step=at_step, look=1)


def keep(seed_id: str) -> list[SeedDirective]:
    return [directive(seed_id, "FOLD"), directive(seed_id, "DROP_TWIN")]


def cull(seed_id: str) -> list[SeedDirective]:
    return [directive(seed_id, "INSTALL_TWIN")]


def fetch_artifact(digest: str) -> bytes:
    return ArtifactStore(None).get(digest)


def told_seeds(
    before: Sequence[SeedState], orders: Iterable[SeedDirective], reports: Iterable[DirectiveReport]
) -> tuple[SeedState, ...]:
    """The seeds as Kasmina would tell them, from what was told before, everything ordered and what was now done."""
    seeds: dict[str, SeedState] = {}
    for order in orders:
        if order.kind == DirectiveKind.DIRECTIVE_KIND_BUILD:
            seeds[order.seed_id] = SeedState(
                seed_id=order.seed_id,
                stage=SeedStage.SEED_STAGE_GERMINATED,
                slot_id=order.slot_id,
                blueprint_id=order.blueprint_id,
                alpha=1.0,
                age_steps=0,
                health=HealthStatus.HEALTH_STATUS_HEALTHY,
                stage_step=0,
                command_id=order.command_id,
            )
        elif order.kind in STAGES and order.seed_id in seeds:
            seeds[order.seed_id].stage = STAGES[order.kind]
    for known in before:
        if known.seed_id in seeds:
            seeds[known.seed_id].parameters = max(seeds[known.seed_id].parameters, known.parameters)
            seeds[known.seed_id].is_folded |= known.is_folded
    merged = {known.seed_id for known in before if known.is_folded and not known.parameters}
    for seed_id in merged & set(seeds):
        seeds[seed_id].parameters = 0
    for report in reports:
        if report.HasField("added_parameters"):
            seeds[report.seed_id].parameters = report.added_parameters
        if report.HasField("folded"):
            seeds[report.seed_id].is_folded = report.folded
    return tuple(seeds.values())


def growth_of(seeds: Iterable[SeedState]) -> GrowthState:
    growth = no_growth()
    growth.kept = sum(seed.stage == SeedStage.SEED_STAGE_FOSSILIZED for seed in seeds)
    return growth


@dataclass
class ScriptedControl:
    """Answers from the script alone, so that a resumed run hears the same; `failures` are packets without an answer."""

    script: Script = field(default_factory=dict)
    failures: Sequence[int] = ()
    has_states: Callable[[int], bool] = lambda step: True
    packets: list[SystemStatePacket] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    results: dict[int, PacketResult] = field(default_factory=dict)
    told: tuple[SeedState, ...] = ()
    lost: set[int] = field(default_factory=set)
    is_closed: bool = False
    orders: list[AdaptationCommand] = field(default_factory=list)
    policy_digest: str | None = None
    replayed: frozenset[str] = frozenset()

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        assert packet.packet_index not in self.results
        self.packets.append(packet)
        self.collected.append(collected)
        states = None
        if want_state and self.has_states(packet.step):
            blob = RunStateBlob(state_type="script", state=str(packet.step).encode(), digest="0" * 64, step=packet.step)
            states = RunStates(kasmina=blob, tamiyo=blob)
        is_lost = packet.packet_index in self.failures
        directives = () if is_lost else tuple(self.script.get(packet.step, ()))
        if is_lost:
            self.lost.add(packet.step)
        ordered = [
            order for step in sorted(self.script) if step <= packet.step and step not in self.lost
            for order in self.script[step]
        ]  # fmt: skip
        seeds = self.told = told_seeds([*self.told, *packet.seeds], ordered, collected.reports)
        self.results[packet.packet_index] = PacketResult(
            packet_index=packet.packet_index,
            directives=directives,
            seeds=None if is_lost else seeds,
            growth=None if is_lost else growth_of(seeds),
            failure="no answer" if is_lost else None,
            cause="tamiyo_timeout" if is_lost else None,
            states=states,
        )

    def order(self, command: AdaptationCommand) -> None:
        self.orders.append(command)

    def take(self, packet_index: int) -> PacketResult:
        return self.results.pop(packet_index)

    def close(self) -> None:
        self.is_closed = True
