#!/usr/bin/env bash
# Asking for an optimiser's state before its first step counts as a step
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: torch.distributed.checkpoint.state_dict.get_optimizer_state_dict reads: a checkpoint of step 0 changes nothing
#           of what follows.
# Seen:     it makes a step of its own, with gradients and a rate of 0, so that there is something to save, and leaves that
#           step in the optimiser: Adam's first update is corrected as the second one is, and is 0.74 of what it would
#           have been; with weight decay Adam's moments begin with that of the decay; hooks on steps run.
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
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def after_one_step(*, is_saved: bool) -> tuple[float, int, int]:
    """How far the weight moved, the optimiser's count of steps, and how often a hook on steps ran."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    if is_saved:
        get_optimizer_state_dict(model, optimizer)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    return round(-model.weight.item(), 3), int(state["step"]), len(calls)


plain, saved = after_one_step(is_saved=False), after_one_step(is_saved=True)
print(f"torch {torch.__version__}: (moved, steps, hooks) without a checkpoint {plain}, behind one of step 0 {saved}")
raise SystemExit(0 if plain == (1.0, 1, 1) and saved == (0.744, 2, 2) else 1)
PY
