"""What observers are told, with every field that a test doesn't care about filled in."""

from __future__ import annotations

from typing import Any

from esper.kasmina.executor import Collected
from esper.leyline import SystemStatePacket, TrainingMetrics
from esper.tolaria.record.observer import Boundary, EpochDone, RunStarted, SeedView, StepDone


def started(**fields: Any) -> RunStarted:
    told: dict[str, Any] = {
        "run_id": "r",
        "generation": 1,
        "seed": 1,
        "step": 0,
        "total_steps": 1000,
        "epochs": 10,
        "steps_per_epoch": 100,
        "splits": {"train": 1150, "judge": 356, "test": 291},
        "parameters": 502,
        "task": "classification, 10 classes, smallest 111",
        "is_resumed": False,
    }
    return RunStarted(**told | fields)


def step_done(step: int, **fields: Any) -> StepDone:
    told: dict[str, Any] = {
        "step": step,
        "epoch": 0,
        "loss": 1.0,
        "accuracy": 0.5,
        "gradient_norm": None,
        "learning_rate": 0.1,
        "conflict_rate": None,
        "step_ms": 2.0,
    }
    return StepDone(**told | fields)


def boundary(step: int, **fields: Any) -> Boundary:
    metrics = TrainingMetrics(smoothed_loss=0.25, parameters=1234, training_macs=10**6)
    told: dict[str, Any] = {
        "step": step,
        "epoch": 0,
        "packet": SystemStatePacket(step=step, training_run_id="r", generation=1, metrics=metrics),
        "collected": Collected(),
        "result": None,
        "seeds": (),
        "mode": "normal",
        "wait_ms": 1.0,
        "apply_ms": 2.0,
        "hook_ms": 3.0,
    }
    return Boundary(**told | fields)


def epoch_done(epoch: int, step: int, **fields: Any) -> EpochDone:
    told: dict[str, Any] = {
        "epoch": epoch,
        "step": step,
        "train_loss": 0.5,
        "train_accuracy": 0.8,
        "validation_loss": 0.6,
        "validation_accuracy": 0.75,
        "duration_s": 1.0,
    }
    return EpochDone(**told | fields)


def seed_view(seed_id: str = "s1", **fields: Any) -> SeedView:
    told: dict[str, Any] = {
        "seed_id": seed_id,
        "slot_id": "span_linear:fc1-fc2",
        "blueprint_id": "span.linear",
        "stage": "BLENDING",
        "alpha": 0.5,
        "gain": None,
        "gain_standard_error": None,
    }
    return SeedView(**told | fields)
