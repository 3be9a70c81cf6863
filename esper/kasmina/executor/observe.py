"""What the executor tells about seeds and slots: one observation per living seed, one signal per slot."""

from __future__ import annotations

import math

import torch

from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.passes.statistics import norm_of_each
from esper.kasmina.executor.state import Evidence, ExecutorState, Life
from esper.leyline import SeedObservation, SlotSignal


def observe(state: ExecutorState, life: Life, step: int) -> SeedObservation:
    """The seed's observation; its one-off evidence is handed out once."""
    graft = state.arm.graft(life.plan.seed_id)
    norm, are_finite = life.statistics.read()
    evidence, life.evidence = life.evidence, Evidence()
    incubation = life.incubation
    life.was_schedule_done = is_schedule_done(graft, step)
    return SeedObservation(
        seed_id=life.plan.seed_id,
        step=step,
        alpha=_alpha(graft, life, step),
        gradient_norm=norm,
        rms_ratio=_rms_ratio(graft, life),
        isolation_violations=_leaks(life),
        smoothed_loss=state.smoothed_loss,
        smoothed_loss_at_graft=life.loss_at_graft,
        smoothed_loss_standard_error=state.loss_standard_error,
        is_schedule_done=life.was_schedule_done or life.run is not None,
        probe=evidence.probe,
        judgement=evidence.judgement,
        incubation_score=evidence.incubation_score,
        incubation_steps=None if incubation is None else incubation.steps_done,
        gradients_finite=are_finite,  # type: ignore[arg-type]
        evaluations=evidence.evaluations,
        distillation_loss=None if incubation is None else incubation.distillation_loss,
        blend=None if graft is None or graft.is_muted else graft.blend_figures(),
    )


def is_schedule_done(graft: Graft | None, step: int) -> bool:
    """True when alpha or the warm-up has reached its end; the course of a paused seed stands still."""
    return graft is not None and not graft.is_muted and graft.blend.is_done(step)


def _alpha(graft: Graft | None, life: Life, step: int) -> float:
    if graft is None:
        return float(life.run is not None)
    return 0.0 if graft.is_muted else graft.blend.alpha_at(step)


def slot_signals(state: ExecutorState) -> tuple[SlotSignal, ...]:
    """Sizes of now, and the gradient norm at each slot's layers where the last step left gradients."""
    norms = _gradient_norms(state)
    return tuple(
        SlotSignal(
            slot_id=spec.slot_id,
            gradient_norm=_joint_norm(norms, {spec.read_path, spec.write_path}),
            width=spec.width,
            in_features=spec.in_features,
            out_features=spec.out_features,
            depth=spec.depth if spec.HasField("depth") else None,
        )
        for spec in state.specs
    )


def fossils_in(state: ExecutorState, slot_id: str) -> int:
    """Permanent seeds of a slot, folded ones included."""
    modules = sum(life.is_permanent and life.plan.slot_id == slot_id for life in state.lives.values())
    return modules + state.folded.get(slot_id, 0)


def _gradient_norms(state: ExecutorState) -> dict[str, list[float]]:
    """Norms of each layer's gradients, with one transfer for all; the step has measured most of them."""
    known = state.measured_norms
    there = [(path, p) for path, p in state.slot_parameters if p.grad is not None or p in known]
    if not there:
        return {}
    missing = {p: p.grad for _, p in there if p.grad is not None and p not in known}
    if missing:
        known = {**known, **dict(zip(missing, norm_of_each(list(missing.values())), strict=True))}
    norms: dict[str, list[float]] = {}
    values = torch.stack([known[parameter] for _, parameter in there]).tolist()
    for (path, _), value in zip(there, values, strict=True):
        norms.setdefault(path, []).append(value)
    return norms


def _joint_norm(norms: dict[str, list[float]], paths: set[str]) -> float | None:
    values = [value for path in sorted(paths) for value in norms.get(path, ())]
    return math.hypot(*values) if values else None


def _rms_ratio(graft: Graft | None, life: Life) -> float | None:
    if graft is None:
        return None if life.incubation is None else life.incubation.rms_ratio
    return None if graft.rms is None else float(graft.rms[0]) / max(float(graft.rms[1]), 1e-12)


def _leaks(life: Life) -> int:
    leaks, life.leaks = life.leaks, 0
    if life.incubation is not None:
        leaks, life.incubation.leaks = leaks + life.incubation.leaks, 0
    return leaks
