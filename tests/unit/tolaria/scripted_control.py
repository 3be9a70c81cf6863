"""A control plane in memory that follows a script: directives by the step of the packet that causes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from esper.kasmina.executor import Collected
from esper.leyline import (
    BlendConfig,
    BlendMode,
    BlendSchedule,
    DirectiveKind,
    ParameterValue,
    RunStateBlob,
    SeedDirective,
    SystemStatePacket,
)
from esper.tolaria.record.history import no_growth
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog

CATALOG = Catalog.builtin()
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


@dataclass
class ScriptedControl:
    """Answers from the script alone, so that a resumed run hears the same; `failures` are packets without an answer."""

    script: Script = field(default_factory=dict)
    failures: Sequence[int] = ()
    has_states: Callable[[int], bool] = lambda step: True
    packets: list[SystemStatePacket] = field(default_factory=list)
    collected: list[Collected] = field(default_factory=list)
    results: dict[int, PacketResult] = field(default_factory=dict)
    is_closed: bool = False
    policy_digest: str | None = None

    def hand_over(self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False) -> None:
        assert packet.packet_index not in self.results
        self.packets.append(packet)
        self.collected.append(collected)
        states = None
        if want_state and self.has_states(packet.step):
            blob = RunStateBlob(state_type="script", state=str(packet.step).encode(), digest="0" * 64, step=packet.step)
            states = RunStates(kasmina=blob, tamiyo=blob)
        is_lost = packet.packet_index in self.failures
        self.results[packet.packet_index] = PacketResult(
            packet_index=packet.packet_index,
            directives=() if is_lost else tuple(self.script.get(packet.step, ())),
            seeds=(),
            growth=no_growth(),
            failure="no answer" if is_lost else None,
            cause="timeout" if is_lost else None,
            states=states,
        )

    def take(self, packet_index: int) -> PacketResult:
        return self.results.pop(packet_index)

    def close(self) -> None:
        self.is_closed = True
