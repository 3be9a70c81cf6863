#!/usr/bin/env bash
# Weights that change inside of an autocast region are not those that answer
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: a network under torch.autocast answers with the weights that it has: an evaluation that puts averaged weights in
#           place compares two networks, and a loop that stands in a region as a whole learns.
# Seen:     the lower-precision copy of a weight is kept until the region ends, whatever happens to the weight meanwhile, also
#           by load_state_dict. The second of two evaluations repeats the first one's figures, and each step of the loop finds
#           the loss of the first step. cache_enabled=False, or a region for each pass, is right.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import copy

import torch
from torch import nn

torch.manual_seed(0)
inputs, targets = torch.randn(64, 8), torch.randn(64, 4)
start, other = nn.Linear(8, 4), nn.Linear(8, 4)


def distance(network: nn.Module) -> torch.Tensor:
    return (network(inputs).float() - targets).square().mean()


def two_evaluations(**settings: bool) -> list[float]:
    """Of a network, and of the same one with other weights."""
    network = copy.deepcopy(start)
    with torch.autocast("cpu", torch.bfloat16, **settings):
        first = distance(network).item()
        network.load_state_dict(other.state_dict())
        return [first, distance(network).item()]


def five_steps(**settings: bool) -> list[float]:
    network = copy.deepcopy(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    losses = []
    with torch.autocast("cpu", torch.bfloat16, **settings):
        for _ in range(5):
            optimizer.zero_grad()
            loss = distance(network)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


found = {
    "two networks": two_evaluations(),
    "two networks, no cache": two_evaluations(cache_enabled=False),
    "steps": five_steps(),
    "steps, no cache": five_steps(cache_enabled=False),
}
print(f"torch {torch.__version__}: losses of {found}")
swapped, right, stale, learning = found.values()
seen = swapped[0] == swapped[1] == right[0] != right[1] and len(set(stale)) == 1 and learning[-1] < learning[0]
raise SystemExit(0 if seen else 1)
PY
