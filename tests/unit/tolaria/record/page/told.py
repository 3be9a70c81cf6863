"""Events of runs that were made by hand: one with seeds of every fate, one with a stack that was given up."""

from __future__ import annotations

from typing import Any

from tests.unit.tolaria.record.page.test_curves import forked

Events = list[dict[str, Any]]
RUN: Events = [{"kind": "run", "step": 0}]


def boundary(step: int, *seeds: tuple[str, str, float], **fields: Any) -> dict[str, Any]:
    shown = [
        {"seed_id": seed_id, "stage": stage, "alpha": alpha, "slot_id": "span:a-b"} for seed_id, stage, alpha in seeds
    ]
    timings = {"step_ms": 1.0, "packet_ms": 0.1, "directives_ms": 0.0, "wait_ms": 0.2}
    told = {"loss": 2.0, "smoothed_loss": 1.5, "seeds": shown, "timings": timings}
    return {"kind": "boundary", "step": step, **told, **fields}


def moved(step: int, seed_id: str, to_stage: str) -> dict[str, Any]:
    return {"kind": "transition", "step": step, "seed_id": seed_id, "to_stage": to_stage, "reason": "because"}


def looked(seed_id: str, verdict: str, **fields: Any) -> dict[str, Any]:
    told = {
        "kind": "gate",
        "gate": "G4_SYSTEM_IMPACT",
        "seed_id": seed_id,
        "verdict": verdict,
        "look": 1,
        "detail": "look 1",
    }
    test = {"gain": 0.02, "standard_error": 0.005, "margin": 0.008, "z": 2.4, "z_threshold": 2.33}
    return {**told, **test, **fields}


GROWN: Events = [
    *RUN,
    boundary(10),
    moved(10, "s1", "GERMINATED"),
    moved(20, "s1", "BLENDING"),
    boundary(20, ("s1", "BLENDING", 0.5)),
    boundary(30, ("s1", "PROBATIONARY", 1.0)),
    looked("s1", "PASS", step=30),
    moved(40, "s1", "FOSSILIZED"),
    boundary(40, ("s1", "FOSSILIZED", 1.0)),
    moved(50, "s2", "BLENDING"),
    boundary(50, ("s1", "FOSSILIZED", 1.0), ("s2", "BLENDING", 0.5)),
    looked("s2", "FAIL", gain=-0.01, step=60),
    moved(60, "s2", "CULLED"),
    boundary(60, ("s1", "FOSSILIZED", 1.0), ("s2", "CULLED", 0.0)),
    moved(70, "s3", "BLENDING"),
    boundary(70, ("s1", "FOSSILIZED", 1.0), ("s2", "DORMANT", 0.0), ("s3", "BLENDING", 0.1)),
    {"kind": "epoch", "step": 70, "val_accuracy": 0.0, "val_loss": 1.75},
    {"kind": "finished", "step": 80},
]


def evaluated(step: int, gain: float = 0.01, seed_id: str = "s1") -> dict[str, Any]:
    scores = {"twin_score": 2.0, "grown_score": 2.0 - gain, "samples": 512, "clipped_share": 0.004}
    return {"kind": "evaluation", "step": step, "seed_id": seed_id, "gain": gain, "standard_error": 0.001, **scores}


def judged(step: int, z: float, verdict: str, **fields: Any) -> dict[str, Any]:
    test = {"look": 1, "graft_step": 20, "margin": 0.002, "z_threshold": 2.366, "gain": 0.01, "standard_error": 0.004}
    errors = {"document_error": 0.001, "wander_error": 0.0039}
    gate = {
        "kind": "gate",
        "gate": "G4_SYSTEM_IMPACT",
        "seed_id": "s1",
        "step": step,
        "verdict": verdict,
        "z": z,
        "detail": "d",
    }
    return {**gate, **test, **errors, **fields}


STACK: Events = [
    *forked("CULLED"),
    *(evaluated(step) for step in (33, 36, 38, 40)),
    judged(36, 1.237, "EXTEND"),
    judged(40, -0.5, "FAIL"),
]
