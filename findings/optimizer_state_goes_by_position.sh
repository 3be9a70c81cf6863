#!/usr/bin/env bash
# Optimiser state with parameter names is still loaded by position
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: an optimiser made of named parameters saves the names, so loading its state into one that lists the same
#           names in another order gives each parameter its own moments.
# Seen:     each parameter gets the moments of whatever stood at its place; shapes are not compared, nothing is said. A
#           network that grew lists its parameters in another order than one built at its final size.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch

left, right = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
saved = torch.optim.Adam([("left", left), ("right", right)], lr=0.1)
left.grad, right.grad = torch.full((3,), 1.0), torch.full((3,), -5.0)
saved.step()
state = saved.state_dict()
assert state["param_groups"][0]["param_names"] == ["left", "right"], "the names are not saved any more"

left, right = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
loaded = torch.optim.Adam([("right", right), ("left", left)], lr=0.1)
loaded.load_state_dict(state)
moments = {name: loaded.state[p]["exp_avg"][0].item() for name, p in (("left", left), ("right", right))}
print(f"torch {torch.__version__}: first moments after loading: {moments}; saved were left 0.1, right -0.5")
raise SystemExit(0 if abs(moments["left"] + 0.5) < 1e-6 and abs(moments["right"] - 0.1) < 1e-6 else 1)
PY
