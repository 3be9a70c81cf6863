"""Functions that a launcher is told to run."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import esper

INPUTS = torch.randn(240, 8, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS[:, 0] > 0).long()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))


def whole(context: esper.Context) -> esper.Result:
    return esper.train(network(), (INPUTS, LABELS), **context.arguments)


def own(context: esper.Context) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(INPUTS[start : start + 24], LABELS[start : start + 24]) for start in range(0, 240, 24)]

    def step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    with esper.Growth(model, optimizer, step=step, judge=batches[:2], **context.arguments) as growth:
        for batch in growth.steps(batches):
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            growth.note(loss)
            loss.backward()
            optimizer.step()


def idle(context: esper.Context) -> None:
    """Makes no run."""


NUMBER = 3
