#!/usr/bin/env python3
"""How much of a stack's early gain is the small network's slow start? Grafts under other initial weights.

A small decoder of bytes is trained, doubled, and trained beside its twin; gains are those of the same steps.

  torch      as torch's own, but normal: deviation 1 / sqrt(3 inputs), embeddings 1, positions 0
  gpt        every matrix and embedding of deviation 0.02 (Radford et al. 2019)
  fan-in     matrices of deviation 1 / sqrt(inputs), embeddings 0.02
  branches   the same, but layers that end a branch beside the residual stream are four times smaller
  decoder    as `--model transformer` begins

Prints a row for each (or --json).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.stacks.run import find_runs
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.task.objective.task import evaluate
from esper.tolaria.task.prepare import Prepared, prepare

EMBEDDING_DEVIATION = 0.02
BRANCH_ENDS = ("attention.out.weight", "fc2.weight")
BRANCH_FACTOR = 0.25
EVERY = 60
Deviation = Callable[[str, int], float]
STARTS: dict[str, Deviation | None] = {
    "decoder": None,
    "torch": lambda name, inputs: (3 * inputs) ** -0.5,
    "gpt": lambda name, inputs: EMBEDDING_DEVIATION,
    "fan-in": lambda name, inputs: inputs**-0.5,
    "branches": lambda name, inputs: inputs**-0.5 * (BRANCH_FACTOR if name.endswith(BRANCH_ENDS) else 1.0),
}


def begin(model: nn.Module, start: str) -> None:
    """Draw the initial weights anew."""
    deviation = STARTS[start]
    if deviation is None:
        return
    for name, parameter in model.named_parameters():
        if start == "torch" and name in ("positions", "tokens.weight"):
            nn.init.normal_(parameter, std=float(name != "positions"))
        elif name in ("positions", "tokens.weight"):
            nn.init.normal_(parameter, std=EMBEDDING_DEVIATION)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=deviation(name, parameter.shape[1]))


def grafted(start: str, graft: int, window: int, seed: int) -> dict[str, Any]:
    """One graft under a start: losses on the judging set."""
    settings: dict[str, Any] = {"depth": 2, "width": 64, "heads": 2, "batch_size": 16, "context": 128, "steps": 3000}
    how: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.1, "clip_norm": 1.0, "warmup_steps": 100}
    run = prepare(
        TrainConfig(data="pytext", samples=20_000, model="transformer", grow="never", seed=seed, **settings, **how)
    )
    arm = run.executor.arm
    torch.manual_seed(seed)
    begin(arm.model, start)
    stepper = Stepper(run.task, run.config, run.device)
    train(run, stepper, arm, 0, graft)
    at_graft, twin = judged(run, arm), arm.clone()
    arm.repeat(find_runs(arm.model, run.task.probe_inputs())[0][0])
    rows = {"start": start, "seed": seed, "loss": at_graft, "jump": judged(run, arm) - at_graft}
    twins, gains = [], []
    for step in range(graft, graft + window, EVERY):
        for each in (arm, twin):
            train(run, stepper, each, step, step + EVERY)
        twins.append(judged(run, twin))
        gains.append(twins[-1] - judged(run, arm))
    return {**rows, "twin": twins, "gain": gains}


def train(run: Prepared, stepper: Stepper, arm: TrainingArm, start: int, stop: int) -> None:
    groups = Groups(host=arm.host_parameters())
    for step in range(start, stop):
        arm.scheduler.apply(arm.optimizer, step)
        stepper.run(arm, run.loader.batch(step), step, groups)


def judged(run: Prepared, arm: TrainingArm) -> float:
    return evaluate(arm, run.task, run.splits.judge)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=int, default=300, help="step of the graft")
    parser.add_argument("--window", type=int, default=360, help="steps of both arms after it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for start in STARTS:
        row = grafted(start, options.graft, options.window, options.seed)
        rows.append(row)
        if not options.json:
            gains = " ".join(f"{gain:+.4f}" for gain in row["gain"])
            print(
                f"{start:9} loss {row['loss']:.3f}, jump {row['jump']:+.3f}, twin {row['twin'][-1]:.3f}, gains {gains}"
            )
    if options.json:
        print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
