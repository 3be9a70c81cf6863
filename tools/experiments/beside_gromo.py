#!/usr/bin/env python3
"""gromo on digits, beside what grows here: the same splits, steps, batch size, optimiser and schedule.

gromo is no dependency of ours; a virtual environment of the experiment has it (pip install gromo==0.1.0). Adds a line
for each seed to --rows, in the form that run_plan.py compares. `GrowingMLP` begins with two hidden layers of --hidden
and grows each of them by up to --neurons at 25, 35, 45 and 55 % of the steps, as its statistics of the training set
say; the amplitude is searched on the training set, and Adam begins anew, knowing nothing of any parameter.

MACs are those of the needed work: forward, weight gradient and input gradient of each step, none for the input of the
first layer; statistics book a pass over the training set, its gradients, and the covariances; the search a forward pass
for each amplitude. Decompositions are not booked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gromo.containers.growing_mlp import GrowingMLP
from gromo.utils.training_utils import compute_statistics
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from esper.tolaria.task.data.digits import Digits

EVENTS = (0.25, 0.35, 0.45, 0.55)
AMPLITUDES = tuple(2.0**-power for power in range(5))
WARMUP_STEPS, DECAY_SHARE, BATCH = 50, 0.3, 64


def forward_macs(model: GrowingMLP) -> list[int]:
    return [layer.weight.numel() for layer in model.layers]


def training_macs(model: GrowingMLP) -> int:
    """Of one sample: the first layer needs no gradient of its input."""
    layers = forward_macs(model)
    return 3 * sum(layers) - layers[0]


def rate_at(step: int, steps: int, rate: float) -> float:
    """The product's default schedule: warm-up, constant, then linear to zero."""
    left = (steps - step) / (DECAY_SHARE * steps)
    return rate * min(1.0, (step + 1) / WARMUP_STEPS, left)


def loss_of(model: GrowingMLP, inputs: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return float(cross_entropy(model.extended_forward(inputs), targets))


def grow(model: GrowingMLP, place: int, data: tuple[Tensor, Tensor], neurons: int) -> int:
    """Widen one hidden layer as gromo would; returns what that cost."""
    inputs, targets = data
    model.set_growing_layers(index=place)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=256)
    compute_statistics(model, loader, nn.CrossEntropyLoss(reduction="sum"))
    layer = model.layers[place + 1]
    before = layer.previous_module
    covariances = layer.in_features**2 + layer.weight.numel() + before.in_features**2
    covariances += before.in_features * layer.out_features
    cost = len(inputs) * (training_macs(model) + covariances)
    model.compute_optimal_updates(maximum_added_neurons=neurons)
    model.reset_computation()
    model.dummy_select_update()
    losses = {}
    for amplitude in AMPLITUDES:
        model.set_scaling_factor(amplitude)
        losses[amplitude] = loss_of(model, inputs, targets)
    model.set_scaling_factor(min(losses, key=lambda amplitude: losses[amplitude]))
    model.apply_change()
    return cost + len(AMPLITUDES) * len(inputs) * sum(forward_macs(model))


def train(seed: int, hidden: int, neurons: int, steps: int, rate: float) -> dict[str, Any]:
    """One run, as a row."""
    started = time.monotonic()
    sets = Digits().splits(seed)
    inputs, targets = sets.train.inputs.flatten(1), sets.train.targets
    torch.manual_seed(seed)
    model = GrowingMLP(inputs.shape[1], sets.outputs, hidden, 2, activation=nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    macs, order = 0, torch.empty(0, dtype=torch.int64)
    events = {round(share * steps) for share in EVENTS}
    for step in range(steps):
        if step in events:
            macs += sum(grow(model, place, (inputs, targets), neurons) for place in range(2))
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        if not len(order):
            order = torch.randperm(len(inputs))
        batch, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate)
        model.train()
        optimizer.zero_grad()
        cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()
        macs += len(batch) * training_macs(model)
    model.eval()
    with torch.no_grad():
        outputs = {name: model(getattr(sets, name).inputs.flatten(1)) for name in ("judge", "test")}
    row: dict[str, Any] = {"seed": seed, "rate": None, "steps": steps, "training_macs": macs}
    for name, kind in (("judge", "val"), ("test", "test")):
        labels = getattr(sets, name).targets
        row[f"{kind}_loss"] = float(cross_entropy(outputs[name], labels))
        row[f"{kind}_accuracy"] = float((outputs[name].argmax(1) == labels).float().mean())
    widths = [layer.out_features for layer in model.layers[:-1]]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    row |= {"final_widths": widths, "final_parameters": parameters, "growth": {"kept": 0, "judged": 0, "germinated": 0}}
    return {**row, "seeds": [], "rungs": {}, "wall_s": round(time.monotonic() - started, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="where a line is added for each seed")
    parser.add_argument("--arm", default="gromo", help="what the lines are called")
    parser.add_argument("--seeds", required=True, help="comma-separated, or FIRST-LAST")
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--neurons", type=int, default=4, help="most that one growth adds to a layer")
    parser.add_argument("--steps", type=int, default=2160)
    parser.add_argument("--rate", type=float, default=3e-3)
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if last else [int(seed) for seed in options.seeds.split(",")]
    lines = options.rows.read_text().splitlines() if options.rows.exists() else []
    done = {(row["arm"], row["seed"]) for row in map(json.loads, lines)}
    for seed in seeds:
        if (options.arm, seed) not in done:
            row = {"arm": options.arm, **train(seed, options.hidden, options.neurons, options.steps, options.rate)}
            with options.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
