#!/usr/bin/env bash
# A parameter group that joins during a linear warm-up ends at a multiple of its rate
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: LinearLR and ConstantLR, whose factors end at 1, bring each group to its own rate: a layer that is unfrozen or
#           grown in a warm-up and whose group says lr=0.1 has a rate of at most 0.1, or the scheduler refuses the group.
# Seen:     the scheduler multiplies what it finds by the ratio of two factors, so the group ends at 0.1 divided by the factor
#           at which it joined: a warm-up from a hundredth leaves it at ten in place of 0.1. LambdaLR, CyclicLR and others
#           raise an error about the number of groups; these two, the usual warm-ups, leave a wrong rate and say nothing.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch.optim import lr_scheduler as lr


def member() -> dict:
    return {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}


def rates(warmup: type[lr.LRScheduler], joins_before: int, **settings: float) -> list[float]:
    """After ten steps, five of them a warm-up: of the group that was there, and of one that joined before a step."""
    optimizer = torch.optim.SGD([member()])
    scheduler = warmup(optimizer, total_iters=5, **settings)
    for step in range(10):
        if step == joins_before:
            optimizer.add_param_group(member())
        optimizer.step(), scheduler.step()
    return [round(group["lr"], 4) for group in optimizer.param_groups]


found = {
    "LinearLR, joins at once": rates(lr.LinearLR, 0, start_factor=0.01),
    "LinearLR, before step 2": rates(lr.LinearLR, 2, start_factor=0.01),
    "LinearLR, after it": rates(lr.LinearLR, 7, start_factor=0.01),
    "ConstantLR, before step 2": rates(lr.ConstantLR, 2, factor=0.1),
}
try:
    optimizer = torch.optim.SGD([member()])
    scheduler = lr.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    optimizer.add_param_group(member())
    optimizer.step(), scheduler.step()
    is_refused = False
except ValueError:
    is_refused = True
print(f"torch {torch.__version__}: rates of two groups at 0.1 each: {found}; LambdaLR refuses: {is_refused}")
expected = [[0.1, 10.0], [0.1, 0.2463], [0.1, 0.1], [0.1, 1.0]]
raise SystemExit(0 if list(found.values()) == expected and is_refused else 1)
PY
