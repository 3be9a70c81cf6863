#!/usr/bin/env bash
# A scheduler that is made later begins at the rates of the first one
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: a scheduler made for an optimiser whose rate was lowered to 0.01 (a phase of fine-tuning, or of settling after
#           growth) begins at 0.01: the documentation has it that with last_epoch=-1 the initial rate is the present one.
# Seen:     the first scheduler left its own initial rate in the groups, and it is used again, without a word: LambdaLR and
#           CosineAnnealingWarmRestarts begin at 1.0, a hundred times the rate that was set, while StepLR, LinearLR and
#           CosineAnnealingLR begin at 0.01. The same holds for an optimiser whose state was loaded.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LambdaLR, LinearLR, StepLR

LATER = {
    "LambdaLR": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "CosineAnnealingWarmRestarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 10),
    "StepLR": lambda optimizer: StepLR(optimizer, 10),
    "LinearLR": lambda optimizer: LinearLR(optimizer, 1.0),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 10),
}


def begins_at(later, *, is_loaded: bool) -> float:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    first = StepLR(optimizer, 100)
    optimizer.step(), first.step()
    if is_loaded:
        saved = optimizer.state_dict()
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["lr"] = 0.01
    later(optimizer)
    return optimizer.param_groups[0]["lr"]


found = {name: begins_at(later, is_loaded=False) for name, later in LATER.items()}
loaded = {name: begins_at(later, is_loaded=True) for name, later in LATER.items()}
print(f"torch {torch.__version__}: the rate was set to 0.01; behind a new scheduler it is {found}")
raise SystemExit(0 if list(found.values()) == [1.0, 1.0, 0.01, 0.01, 0.01] and loaded == found else 1)
PY
