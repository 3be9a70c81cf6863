"""What the harness trains: 64 samples of four features and two classes, and a small network with room to grow.

An epoch of 16 steps takes milliseconds, so that what the control plane adds shows. Two equal blocks, because they can
be compiled; a few units inside, because a seed then has something to give.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Split, Splits

SEED = 42
FEATURES, CLASSES, WIDTH, INNER, BLOCKS = 4, 2, 8, 2, 2
ROWS = {"train": 64, "judge": 128, "test": 128}
LEARNING_RATE = 0.05


class Halves:
    """On which side of a bent surface is a point?"""

    def splits(self, seed: int) -> Splits:
        draw = torch.Generator().manual_seed(SEED)
        train, judge, test = (_drawn(rows, draw) for rows in ROWS.values())
        return Splits(train=train, judge=judge, test=test, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=CLASSES)


def _drawn(rows: int, draw: torch.Generator) -> Split:
    points = torch.randn(rows, FEATURES, generator=draw)
    return Split(points, (points[:, 0] * points[:, 1] + points[:, 2] > 0).long())


source = Halves()


class Block(nn.Module):
    """A narrow two-layer perceptron beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, WIDTH] to the same."""
        return x + self.down(self.act(self.up(x)))


class Network(nn.Module):
    """Linear in, equal blocks, linear out."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.leave = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, features] to [batch, outputs]."""
        return self.leave(self.blocks(self.enter(x)))


def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Network(shape[0], outputs)


def settings(run_dir: Path, epochs: int, batch_size: int, device: str, **further: Any) -> TrainConfig:
    """The growing run of every scenario: a seed early, and time without one at both ends."""
    steps = epochs * (ROWS["train"] // batch_size)
    own: dict[str, Any] = {
        "growth_warmup_steps": round(0.1 * steps),
        "window_fraction": 0.06,
        "embargo_fraction": 0.02,
        "max_culls": 100,
    }
    return TrainConfig(
        data="tools.harness.workload:source",
        model="tools.harness.workload:build",
        epochs=epochs,
        batch_size=batch_size,
        device=device,
        optimizer="sgd",
        momentum=0.0,
        lr=LEARNING_RATE,
        min_samples=50,
        grow="always",
        span_width="+8",
        run_dir=run_dir,
        **(own | further),
    )
