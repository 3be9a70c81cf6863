#!/usr/bin/env bash
# AveragedModel of a network that grew averages what stands at the same place
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: torch.optim.swa_utils.AveragedModel pairs parameters by name, or refuses a network with other parameters
#           than its copy has.
# Seen:     it pairs them by position and stops at the shorter list: a block put into the middle is averaged into what
#           follows, the average keeps the old depth, and nothing is said.
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
from torch.optim.swa_utils import AveragedModel

net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
average = AveragedModel(net)
average.update_parameters(net)
head = net[1]
net.insert(1, nn.Linear(4, 4))
with torch.no_grad():
    net[1].weight.fill_(7.0)  # the new block
    head.weight.fill_(1.0)
for _ in range(200):
    average.update_parameters(net)
mean = average.module[1].weight.mean().item()
depth = len(average.module)
print(f"torch {torch.__version__}: average has {depth} layers, the network {len(net)}; its head averages {mean:.2f}, the head is 1.00")
raise SystemExit(0 if depth == 2 and mean > 6 else 1)
PY
