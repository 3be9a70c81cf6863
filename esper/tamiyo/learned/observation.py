"""What a germination can be learned from: features of the run and of each candidate, by name and version.

A feature that should be there and isn't is None, never zero. All features are ratios, logarithms or shares, so that
what is learned on one host can be asked about another one. Only deterministic inputs are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from esper.leyline import (
    Observation,
    ObservedCandidate,
    ObservedFeature,
    ParameterValue,
    SeedStage,
    SeedState,
    SlotKind,
    SlotSignal,
    TaskType,
)
from esper.tamiyo.context import LIVE_STAGES
from esper.tamiyo.obstacles import Scene
from esper.tamiyo.selection import Candidate

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


def _signal(candidate: Candidate, scene: Scene) -> SlotSignal | None:
    return next((item for item in scene.packet.slots if item.slot_id == candidate.slot.slot_id), None)


def _width(candidate: Candidate, scene: Scene) -> float:
    signal = _signal(candidate, scene)
    return float(candidate.slot.width if signal is None else signal.width)


def _widening(candidate: Candidate, scene: Scene) -> Feature:
    """Logarithm of the width afterwards over the width now; 0 for what widens nothing."""
    if candidate.slot.kind not in _SPANS or candidate.blueprint is None:
        return 0.0
    defaults = {bound.name: bound.default_value for bound in candidate.blueprint.parameters}
    added = candidate.values.get("width", defaults.get("width", 0.0))
    return math.log1p(added / max(1.0, _width(candidate, scene)))


def _bottleneck(candidate: Candidate, scene: Scene) -> Feature:
    signal = _signal(candidate, scene)
    around = candidate.slot if signal is None else signal
    return _log(_ratio(_width(candidate, scene), min(around.in_features, around.out_features)))


def _position(candidate: Candidate, scene: Scene) -> Feature:
    count = len(scene.context.spec.manifest.slots)
    return candidate.slot.order / (count - 1) if count > 1 else 0.0


def _gradient_share(candidate: Candidate, scene: Scene) -> Feature:
    norms = {slot.slot_id: slot.gradient_norm for slot in scene.packet.slots if slot.HasField("gradient_norm")}
    return _ratio(norms.get(candidate.slot.slot_id), math.fsum(norms.values()))


def _tried_here(candidate: Candidate, scene: Scene) -> list[SeedState]:
    return [seed for seed in scene.packet.seeds if seed.slot_id == candidate.slot.slot_id]


def _kept_here(candidate: Candidate, scene: Scene) -> Feature:
    return float(sum(seed.stage == SeedStage.SEED_STAGE_FOSSILIZED for seed in _tried_here(candidate, scene)))


def _judged_here(candidate: Candidate, scene: Scene) -> Feature:
    """z of the last judged gain in the slot; 0 where nothing was judged."""
    judged = [
        seed
        for seed in _tried_here(candidate, scene)
        if seed.HasField("gain") and seed.gain_standard_error > 0 and seed.stage not in LIVE_STAGES
    ]
    last = max(judged, key=lambda seed: seed.stage_step, default=None)
    return 0.0 if last is None else max(-_Z_LIMIT, min(_Z_LIMIT, last.gain / last.gain_standard_error))


def _flag(of: Callable[[Candidate], bool]) -> Callable[[Candidate, Scene], Feature]:
    return lambda candidate, scene: float(of(candidate))


def _added(candidate: Candidate, scene: Scene) -> Feature:
    share = _ratio(candidate.parameters, _measured(scene, "parameters"))
    return None if share is None else math.log1p(share)


def _cost(candidate: Candidate, scene: Scene) -> Feature:
    share = _ratio(candidate.forward_macs, _measured(scene, "forward_macs"))
    return None if share is None else math.log1p(share)


CANDIDATE_FEATURES: Mapping[str, Callable[[Candidate, Scene], Feature]] = {
    "added": _added,
    "cost": _cost,
    "width": lambda candidate, scene: _log(_width(candidate, scene)),
    "widening": _widening,
    "bottleneck": _bottleneck,
    "position": _position,
    "gradient_share": _gradient_share,
    "tried_here": lambda candidate, scene: float(len(_tried_here(candidate, scene))),
    "kept_here": _kept_here,
    "judged_here": _judged_here,
    "risk": lambda candidate, scene: candidate.blueprint.safety.risk_score if candidate.blueprint else None,
    "is_span": _flag(lambda candidate: candidate.slot.kind in _SPANS),
    "is_convolution": _flag(lambda candidate: "CONV" in SlotKind.Name(candidate.slot.kind)),
    "is_foldable": _flag(lambda candidate: candidate.slot.is_foldable),
}
"""Features of one candidate at a packet."""


def run_features(scene: Scene) -> list[Feature]:
    """In the order of RUN_FEATURES; what isn't finite is absent."""
    return [_finite(feature(scene)) for feature in RUN_FEATURES.values()]


def candidate_features(candidate: Candidate, scene: Scene) -> list[Feature]:
    """In the order of CANDIDATE_FEATURES; what isn't finite is absent."""
    return [_finite(feature(candidate, scene)) for feature in CANDIDATE_FEATURES.values()]


def observation_of(
    scene: Scene, candidates: Sequence[Candidate], probabilities: Sequence[float], chosen: int, wait_probability: float
) -> Observation:
    """What was seen, for a report. `probabilities` belong to `candidates`, of which `chosen` was taken."""
    return Observation(
        version=VERSION,
        features=_named(RUN_FEATURES, run_features(scene)),
        candidates=[
            ObservedCandidate(
                slot_id=candidate.slot.slot_id,
                blueprint_id=candidate.blueprint.blueprint_id if candidate.blueprint else "-",
                parameters=[ParameterValue(name=name, value=value) for name, value in candidate.values.items()],
                score=candidate.score,
                probability=probability,
                features=_named(CANDIDATE_FEATURES, candidate_features(candidate, scene)),
            )
            for candidate, probability in zip(candidates, probabilities, strict=True)
        ],
        chosen=chosen,
        wait_probability=wait_probability,
    )


def _named(names: Mapping[str, object], values: Sequence[Feature]) -> list[ObservedFeature]:
    return [ObservedFeature(name=name, value=value) for name, value in zip(names, values, strict=True)]


def _finite(value: Feature) -> Feature:
    return value if value is not None and math.isfinite(value) else None
