"""Which inputs of the policy are there, and one digest of them all.

An absent input is counted as absent, never read as zero. An input that can't exist (a device's memory on a processor,
the accuracy of a regression, a boundary's time before the first boundary, what no trainer fills) is not expected and
not counted: in a healthy run coverage is 1, and what it lacks is missing.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from esper.leyline import (
    CoverageGroup,
    CoverageSummary,
    HardwareContext,
    SeedStage,
    SeedState,
    SlotKind,
    SlotSignal,
    SystemStatePacket,
    TaskType,
    TrainingMetrics,
)
from esper.tamiyo.context import RunContext

PROVENANCE = "packet:v1"
WITH_TIME = f"{PROVENANCE}+time"
KASMINA_ASKED_WITHIN = 6
GROUPS = ("loss", "gradient", "optimizer", "cost", "slots", "seeds", "latency", "hardware")
_ATTACHED = frozenset(
    {SeedStage.SEED_STAGE_BLENDING, SeedStage.SEED_STAGE_SHADOWING, SeedStage.SEED_STAGE_PROBATIONARY}
)
# The gates that end the blending have seen a seed's measurements; before, Kasmina may not have told of any.
_MEASURED = _ATTACHED - {SeedStage.SEED_STAGE_BLENDING}
# A residual slot reads and writes an activation, which has no parameters and so no gradient of its own.
_WITH_LAYERS = frozenset(
    {
        SlotKind.SLOT_KIND_SPAN_LINEAR,
        SlotKind.SLOT_KIND_SPAN_CONV,
        SlotKind.SLOT_KIND_SPAN_CONV_LINEAR,
        SlotKind.SLOT_KIND_SPAN_HEADS,
    }
)

Source = TrainingMetrics | HardwareContext | SlotSignal | SeedState
Expectation = Callable[[SystemStatePacket, RunContext], bool]


def _always(packet: SystemStatePacket, context: RunContext) -> bool:
    return True


def _classifies(packet: SystemStatePacket, context: RunContext) -> bool:
    return context.spec.manifest.task == TaskType.TASK_TYPE_CLASSIFICATION


def _once_under_way(packet: SystemStatePacket, context: RunContext) -> bool:
    """A process that begins, also after a resume, has measured no boundary and heard no answer yet."""
    spec = context.spec
    began_step = spec.resume.step if spec.HasField("resume") else 0
    return packet.step > began_step + spec.life.reaction_steps


def _once_kasmina_answered(packet: SystemStatePacket, context: RunContext) -> bool:
    """Kasmina isn't asked with every packet; after so many it was, also where a resumed process begins in between."""
    spec = context.spec
    began_step = spec.resume.step if spec.HasField("resume") else 0
    return packet.step > began_step + KASMINA_ASKED_WITHIN * spec.life.reaction_steps


def _on_processor(packet: SystemStatePacket, context: RunContext) -> bool:
    return packet.hardware.device_type == "cpu"


def _never(packet: SystemStatePacket, context: RunContext) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Feature:
    """One input: its group, where it stands, whether it is measured time, and when it is expected."""

    group: str
    field: str
    measured: bool = False
    expected: Expectation = _always


METRICS_FEATURES = (
    Feature("loss", "loss"),
    Feature("loss", "smoothed_loss"),
    Feature("loss", "smoothed_loss_standard_error", expected=_once_under_way),
    Feature("loss", "training_accuracy", expected=_classifies),
    Feature("gradient", "gradient_norm"),
    Feature("gradient", "gradient_norm_variance"),
    # Surgery may be off and an optimiser may have no momentum: their absence says nothing.
    Feature("gradient", "gradient_conflict_rate", expected=_never),
    Feature("optimizer", "learning_rate"),
    Feature("optimizer", "momentum", expected=_never),
    Feature("cost", "parameters"),
    Feature("cost", "forward_macs"),
    Feature("cost", "training_macs"),
    *(
        Feature("latency", field, measured=True, expected=_once_under_way)
        for field in (
            "samples_per_s",
            "step_latency_ms",
            "hook_latency_ms",
            "apply_latency_ms",
            "finalize_latency_ms",
            "input_wait_ms",
            "tamiyo_latency_ms",
        )
    ),
    Feature("latency", "kasmina_latency_ms", measured=True, expected=_once_kasmina_answered),
)
HARDWARE_FEATURES = (
    # Of a processor's memory the limits may come and go.
    Feature("hardware", "memory_total_bytes", measured=True),
    Feature("hardware", "memory_used_bytes", measured=True),
    Feature("hardware", "processor_wait", measured=True, expected=_on_processor),
    Feature("hardware", "cpu_cores"),
)
SLOT_FEATURES = (Feature("slots", "width"), Feature("slots", "gradient_norm"))
SEED_FEATURES = (Feature("seeds", "alpha"), Feature("seeds", "gradient_norm"), Feature("seeds", "rms_ratio"))


def _not_expected(feature: Feature, *fields: str) -> Feature:
    return replace(feature, expected=_never) if feature.field in fields else feature


_BARE_SLOT_FEATURES = tuple(_not_expected(feature, "gradient_norm") for feature in SLOT_FEATURES)
_NEW_SEED_FEATURES = tuple(_not_expected(feature, "gradient_norm", "rms_ratio") for feature in SEED_FEATURES)


class Reading(NamedTuple):
    """One expected input: its place and its value, None if absent."""

    name: str
    group: str
    measured: bool
    value: float | None


def read(packet: SystemStatePacket, context: RunContext) -> tuple[Reading, ...]:
    """Every input that is expected or there, in a fixed order."""
    return tuple(_readings(packet, context))


def coverage(readings: tuple[Reading, ...], *, with_measured: bool = False) -> CoverageSummary:
    """Present share of all inputs and of each group that is expected at all; `with_measured` time may decide, too."""
    groups = []
    for group in GROUPS:
        members = [reading for reading in readings if reading.group == group]
        if members:
            present = sum(1 for reading in members if reading.value is not None)
            groups.append(CoverageGroup(group=group, present=present, expected=len(members)))
    present, expected = sum(group.present for group in groups), sum(group.expected for group in groups)
    return CoverageSummary(
        average=present / max(expected, 1), groups=groups, provenance=WITH_TIME if with_measured else PROVENANCE
    )


def digest(readings: tuple[Reading, ...], *, with_measured: bool) -> str:
    """SHA-256 of the observation: what decisions may read, so measured times only where they may decide."""
    told = [PROVENANCE.encode()]
    for reading in readings:
        if with_measured or not reading.measured:
            value = b"absent" if reading.value is None else struct.pack(">d", reading.value)
            told += (reading.name.encode(), b"\0", value, b"\0")
    return hashlib.sha256(b"".join(told)).hexdigest()


def _readings(packet: SystemStatePacket, context: RunContext) -> Iterator[Reading]:
    stacks = {slot.slot_id for slot in context.stacks}
    layered = {slot.slot_id for slot in context.spec.manifest.slots if slot.kind in _WITH_LAYERS}
    sources: list[tuple[str, Source, tuple[Feature, ...]]] = [
        ("metrics", packet.metrics, METRICS_FEATURES),
        ("hardware", packet.hardware, HARDWARE_FEATURES),
        *(
            (f"slot {slot.slot_id}", slot, SLOT_FEATURES if slot.slot_id in layered else _BARE_SLOT_FEATURES)
            for slot in packet.slots
        ),
        *(
            (f"seed {seed.seed_id}", seed, _NEW_SEED_FEATURES if _is_unmeasured(seed, stacks) else SEED_FEATURES)
            for seed in packet.seeds
            if seed.stage in _ATTACHED
        ),
    ]
    for place, message, features in sources:
        for feature in features:
            value = _value(message, feature.field)
            if value is not None or feature.expected(packet, context):
                yield Reading(f"{place}.{feature.field}", feature.group, feature.measured, value)


def _is_unmeasured(seed: SeedState, stacks: Collection[str]) -> bool:
    """A stack has no module of its own whose gradient or output could be measured; other seeds have, after a while."""
    return seed.stage not in _MEASURED or seed.slot_id in stacks


def _value(message: Source, field: str) -> float | None:
    """The field as a number; a NaN is not a reading."""
    if not message.HasField(field):
        return None
    value = float(getattr(message, field))
    return None if math.isnan(value) else value
