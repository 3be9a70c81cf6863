"""What a germination can be learned from: features of the run and of each candidate, by name and version.

A feature that should be there and isn't is None, never zero. All features are ratios, logarithms or shares, so that
what is learned on one host can be asked about another one. Only deterministic inputs are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.leyline import (
    Observation,
    ObservedCandidate,
    ObservedFeature,
    ParameterValue,
    SeedStage,
    SeedState,
    SlotKind,
    SlotSignal,
    SlotSpec,
    TaskType,
)
from esper.tamiyo.context import LIVE_STAGES
from esper.tamiyo.growing.candidates import Candidate
from esper.tamiyo.growing.obstacles import Scene

VERSION = "growth:v1"
"""Rises whenever a name or a meaning below changes: weights that were learned from other features are refused."""
Feature = float | None
_SPANS = frozenset(
    {
        SlotKind.SLOT_KIND_SPAN_LINEAR,
        SlotKind.SLOT_KIND_SPAN_CONV,
        SlotKind.SLOT_KIND_SPAN_CONV_LINEAR,
        SlotKind.SLOT_KIND_SPAN_HEADS,
    }
)
_LEAST_ERROR = 1e-3
_Z_LIMIT = 10.0


def _ratio(part: float | None, whole: float | None) -> Feature:
    return part / whole if part is not None and whole else None


def _log(value: float | None) -> Feature:
    return math.log(value) if value is not None and value > 0 else None


def _measured(scene: Scene, name: str) -> Feature:
    metrics = scene.packet.metrics
    return float(getattr(metrics, name)) if metrics.HasField(name) else None


def _loss_share(scene: Scene) -> Feature:
    first = scene.state.first_loss if scene.state.HasField("first_loss") else None
    return _log(_ratio(scene.signals.smoothed_loss, first))


def _fall(scene: Scene) -> Feature:
    slope = scene.signals.slope
    return None if slope is None else max(-3.0, min(3.0, slope * scene.context.spec.life.window_steps / 100))


def _error(scene: Scene) -> Feature:
    right = scene.signals.accuracy
    return None if right is None else _log(max(1.0 - right, _LEAST_ERROR))


def _variation(scene: Scene) -> Feature:
    variance = _measured(scene, "gradient_norm_variance")
    return None if variance is None else _ratio(math.sqrt(max(variance, 0.0)), _measured(scene, "gradient_norm"))


def _of_total(steps: float, scene: Scene) -> Feature:
    return _ratio(steps, scene.context.spec.total_steps)


RUN_FEATURES: Mapping[str, Callable[[Scene], Feature]] = {
    "progress": lambda scene: _of_total(scene.packet.step, scene),
    "room": lambda scene: _of_total(scene.signals.steps_left, scene),
    "window": lambda scene: _of_total(scene.context.spec.life.window_steps, scene),
    "unchanged": lambda scene: _of_total(scene.signals.steps_since_change, scene),
    "loss_share": _loss_share,
    "fall": _fall,
    "error": _error,
    "noise": lambda scene: _ratio(scene.signals.loss_standard_error, scene.signals.smoothed_loss),
    "gradient_variation": _variation,
    "size": lambda scene: _log(_measured(scene, "parameters")),
    "grown": lambda scene: _log(_ratio(_measured(scene, "parameters"), scene.context.spec.manifest.parameters)),
    "germinated": lambda scene: float(scene.packet.growth.germinated),
    "kept": lambda scene: float(scene.packet.growth.kept),
    "culls_in_row": lambda scene: float(scene.packet.growth.culls_in_row),
    "classifies": lambda scene: float(scene.context.spec.manifest.task == TaskType.TASK_TYPE_CLASSIFICATION),
}
"""Features of the run at a packet."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A packet looked through once, for features of many candidates."""

    scene: Scene
    signals: Mapping[str, SlotSignal]
    """By slot."""
    tried: Mapping[str, Sequence[SeedState]]
    """Seeds that were grown in each slot."""
    norm: float
    """Gradient norms of all slots together."""

    @classmethod
    def of(cls, scene: Scene) -> Sight:
        tried: dict[str, list[SeedState]] = {}
        for seed in scene.packet.seeds:
            tried.setdefault(seed.slot_id, []).append(seed)
        norms = (slot.gradient_norm for slot in scene.packet.slots if slot.HasField("gradient_norm"))
        return cls(scene, {slot.slot_id: slot for slot in scene.packet.slots}, tried, math.fsum(norms))

    def shape(self, slot: SlotSpec) -> tuple[int, int, int]:
        """Features read and written, and the width between them, now."""
        now = self.signals.get(slot.slot_id, slot)
        return now.in_features, now.out_features, now.width

    def width(self, slot: SlotSpec) -> float:
        """Of the layer between the slot's taps, now."""
        signal = self.signals.get(slot.slot_id)
        return float(slot.width if signal is None else signal.width)


def _bottleneck(slot: SlotSpec, sight: Sight) -> Feature:
    around = sight.signals.get(slot.slot_id, slot)
    return _log(_ratio(sight.width(slot), min(around.in_features, around.out_features)))


def _position(slot: SlotSpec, sight: Sight) -> Feature:
    count = len(sight.scene.context.spec.manifest.slots)
    return slot.order / (count - 1) if count > 1 else 0.0


def _gradient_share(slot: SlotSpec, sight: Sight) -> Feature:
    signal = sight.signals.get(slot.slot_id)
    return _ratio(signal.gradient_norm, sight.norm) if signal is not None and signal.HasField("gradient_norm") else None


def _kept_here(slot: SlotSpec, sight: Sight) -> Feature:
    tried = sight.tried.get(slot.slot_id, ())
    return float(sum(seed.stage == SeedStage.SEED_STAGE_FOSSILIZED for seed in tried))


def _judged_here(slot: SlotSpec, sight: Sight) -> Feature:
    """z of the last judged gain in the slot; 0 where nothing was judged."""
    judged = [
        seed
        for seed in sight.tried.get(slot.slot_id, ())
        if seed.HasField("gain") and seed.gain_standard_error > 0 and seed.stage not in LIVE_STAGES
    ]
    last = max(judged, key=lambda seed: seed.stage_step, default=None)
    return 0.0 if last is None else max(-_Z_LIMIT, min(_Z_LIMIT, last.gain / last.gain_standard_error))


SLOT_FEATURES: Mapping[str, Callable[[SlotSpec, Sight], Feature]] = {
    "width": lambda slot, sight: _log(sight.width(slot)),
    "bottleneck": _bottleneck,
    "position": _position,
    "gradient_share": _gradient_share,
    "tried_here": lambda slot, sight: float(len(sight.tried.get(slot.slot_id, ()))),
    "kept_here": _kept_here,
    "judged_here": _judged_here,
    "is_span": lambda slot, sight: float(slot.kind in _SPANS),
    "is_convolution": lambda slot, sight: float("CONV" in SlotKind.Name(slot.kind)),
    "is_foldable": lambda slot, sight: float(slot.is_foldable),
}
"""What a candidate shares with all others in its slot."""

PASSING = ("gradient_share",)
"""Those of them that may change with every packet; the others follow from the slot's shape,"""
OF_SEEDS = ("tried_here", "kept_here", "judged_here")
"""or from the seeds that were grown in it: 0 where there was none."""


def _share(part: float, name: str, sight: Sight) -> Feature:
    share = _ratio(part, _measured(sight.scene, name))
    return None if share is None else math.log1p(share)


def _widening(candidate: Candidate, sight: Sight) -> Feature:
    """Logarithm of the width afterwards over the width now; 0 for what widens nothing."""
    if candidate.slot.kind not in _SPANS or candidate.blueprint is None:
        return 0.0
    added = candidate.values.get("width")
    if added is None:
        bounds = (bound for bound in candidate.blueprint.parameters if bound.name == "width")
        added = next((bound.default_value for bound in bounds), 0.0)
    return math.log1p(added / max(1.0, sight.width(candidate.slot)))


OWN_FEATURES: Mapping[str, Callable[[Candidate, Sight], Feature]] = {
    "added": lambda candidate, sight: _share(candidate.parameters, "parameters", sight),
    "cost": lambda candidate, sight: _share(candidate.forward_macs, "forward_macs", sight),
    "widening": _widening,
    "risk": lambda candidate, sight: candidate.blueprint.safety.risk_score if candidate.blueprint else None,
}
"""What is a candidate's own."""

CANDIDATE_FEATURES: tuple[str, ...] = (
    *("added", "cost", "width", "widening", "bottleneck", "position", "gradient_share"),
    *("tried_here", "kept_here", "judged_here", "risk", "is_span", "is_convolution", "is_foldable"),
)
"""Names of a candidate's features, in their order."""


def run_features(scene: Scene) -> list[Feature]:
    """In the order of RUN_FEATURES; what isn't finite is absent."""
    return [finite(feature(scene)) for feature in RUN_FEATURES.values()]


def candidate_features(candidates: Sequence[Candidate], scene: Scene) -> list[list[Feature]]:
    """Of each candidate, in the order of CANDIDATE_FEATURES; what isn't finite is absent."""
    sight, of_slot = Sight.of(scene), dict[str, dict[str, Feature]]()
    rows = []
    for candidate in candidates:
        slot = candidate.slot
        if slot.slot_id not in of_slot:
            of_slot[slot.slot_id] = {name: finite(look(slot, sight)) for name, look in SLOT_FEATURES.items()}
        own = {name: finite(look(candidate, sight)) for name, look in OWN_FEATURES.items()}
        found = {**of_slot[slot.slot_id], **own}
        rows.append([found[name] for name in CANDIDATE_FEATURES])
    return rows


def observation_of(
    scene: Scene, candidates: Sequence[Candidate], probabilities: Sequence[float], chosen: int, wait_probability: float
) -> Observation:
    """What was seen, for a report. `probabilities` belong to `candidates`, of which `chosen` was taken."""
    seen = Observation(
        version=VERSION,
        features=_named(RUN_FEATURES, run_features(scene)),
        chosen=chosen,
        wait_probability=wait_probability,
    )
    # Copied, and filled in: a message made for each of its features would take three times as long.
    blank = ObservedCandidate(features=[ObservedFeature(name=name) for name in CANDIDATE_FEATURES])
    rows = candidate_features(candidates, scene)
    for candidate, probability, row in zip(candidates, probabilities, rows, strict=True):
        observed = seen.candidates.add(
            slot_id=candidate.slot.slot_id,
            blueprint_id=candidate.blueprint.blueprint_id if candidate.blueprint else "-",
            parameters=[ParameterValue(name=name, value=value) for name, value in candidate.values.items()],
            score=candidate.score,
            probability=probability,
        )
        observed.MergeFrom(blank)
        for feature, value in zip(observed.features, row, strict=True):
            if value is not None:
                feature.value = value
    return seen


def _named(names: Iterable[str], values: Sequence[Feature]) -> list[ObservedFeature]:
    return [ObservedFeature(name=name, value=value) for name, value in zip(names, values, strict=True)]


def finite(value: Feature) -> Feature:
    """The value, or None for one that is no number to reckon with."""
    return value if value is not None and math.isfinite(value) else None
