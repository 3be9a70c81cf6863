#!/usr/bin/env bash
# A learning rate that is given as a tensor is one rate for all groups
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: lr=torch.tensor(0.5), which compiled and captured steps want, does what lr=0.5 does: each group has a rate of its
#           own that its scheduler moves, and a group that is added later begins at 0.5.
# Seen:     groups that name no rate hold the one tensor, and schedulers write into it. LambdaLR with a function for each
#           group gives all of them the last one's rate, and a layer that joins later, unfrozen or grown, begins at what the
#           rate has decayed to, as does a second optimiser that was made with the same tensor. Nothing is said.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch.optim.lr_scheduler import LambdaLR


def member() -> dict:
    return {"params": [torch.nn.Parameter(torch.zeros(1))]}


def rates(lr: float | torch.Tensor) -> list[float]:
    """After two steps: of a group with a constant rate, of one that halves it, of one that is added, of another optimiser."""
    optimizer, other = torch.optim.AdamW([member(), member()], lr=lr), torch.optim.AdamW([member()], lr=lr)
    scheduler = LambdaLR(optimizer, [lambda step: 1.0, lambda step: 0.5**step])
    for _ in range(2):
        optimizer.step(), scheduler.step()
    optimizer.add_param_group(member())
    return [float(group["lr"]) for group in (*optimizer.param_groups, *other.param_groups)]


number, tensor = rates(0.5), rates(torch.tensor(0.5))
print(f"torch {torch.__version__}: (constant, halved twice, added, other) with a number {number}, with a tensor {tensor}")
raise SystemExit(0 if number == [0.5, 0.125, 0.5, 0.5] and tensor == [0.125] * 4 else 1)
PY
