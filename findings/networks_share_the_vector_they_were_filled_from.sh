#!/usr/bin/env bash
# Networks that are filled from one vector share its memory
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: torch.nn.utils.vector_to_parameters copies, as its description says, so two networks that are filled from one
#           vector (a population, a twin, an average put back) are two, and the vector stays what it was.
# Seen:     each parameter becomes a view of the vector. A step of one network moves the other one and the vector, so the
#           best weights that a search keeps as a vector are gone with the next step. Nothing is said.
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
from torch.nn.utils import parameters_to_vector, vector_to_parameters

torch.manual_seed(0)
first, second = nn.Linear(3, 1), nn.Linear(3, 1)
best = parameters_to_vector(first.parameters()).detach()
kept = best.clone()
for network in (first, second):
    vector_to_parameters(best, network.parameters())
optimizer = torch.optim.SGD(first.parameters(), lr=1.0)
first(torch.ones(1, 3)).sum().backward()
optimizer.step()
moved = {
    "the network that learned": (parameters_to_vector(first.parameters()) - kept).abs().max().item(),
    "the other network": (parameters_to_vector(second.parameters()) - kept).abs().max().item(),
    "the vector": (best - kept).abs().max().item(),
}
describes_a_copy = "Copy slices" in (vector_to_parameters.__doc__ or "")
print(f"torch {torch.__version__}: moved by a step of one network: {moved}; described as a copy: {describes_a_copy}")
raise SystemExit(0 if describes_a_copy and all(abs(by - 1) < 1e-5 for by in moved.values()) else 1)
PY
