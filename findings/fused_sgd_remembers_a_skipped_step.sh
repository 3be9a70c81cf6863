#!/usr/bin/env bash
# Fused SGD whose first step a gradient scaler skips goes on with a momentum of uninitialised memory
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: a step that torch.amp.GradScaler skips leaves weights and momentum as they were, with fused=True as without;
#           a first step that overflows is the usual case, since a scale begins high.
# Seen:     the skipped step leaves a momentum buffer that was allocated and never written, and the next step takes it for
#           a momentum: the weights move by 0.9 times whatever stood in that memory. The same holds for each parameter
#           group that joins later and whose own first step is skipped. Other optimisers, fused or not, are right.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch import nn

torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True)  # memory that nothing was written to reads as NaN, so that it can't pass for a number


def weight_after(kind: type[torch.optim.Optimizer], **settings: object) -> float:
    """One step that overflows, then one whose gradient is 1."""
    weight = nn.Parameter(torch.zeros(8))
    optimizer = kind([weight], lr=1.0, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    return weight[0].item()


found = {
    "SGD": weight_after(torch.optim.SGD, momentum=0.9, fused=False),
    "fused SGD": weight_after(torch.optim.SGD, momentum=0.9, fused=True),
    "fused SGD, no momentum": weight_after(torch.optim.SGD, fused=True),
    "fused Adam": weight_after(torch.optim.Adam, fused=True),
}
print(f"torch {torch.__version__}: the weight after a skipped step and one of 1: {found}")
plain, fused, without, adam = found.values()
raise SystemExit(0 if plain == without == -1.0 and abs(adam + 1) < 1e-3 and fused != fused else 1)
PY
