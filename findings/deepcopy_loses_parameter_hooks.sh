#!/usr/bin/env bash
# A deep copy of a network loses the hooks on its parameters
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: copy.deepcopy of a module whose weight has a gradient hook (a mask, say) gives a module that trains alike;
#           hooks on modules do come along.
# Seen:     hooks on parameters are gone from the copy, without a word, and so are attributes of theirs; the copy of a
#           masked layer trains what the mask had frozen.
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

original = nn.Linear(2, 2)
original.weight.register_hook(lambda gradient: torch.zeros_like(gradient))
original.weight.note = "frozen by its hook"
calls = []
original.register_forward_hook(lambda *_: calls.append(1))
twin = copy.deepcopy(original)
for layer in (original, twin):
    layer(torch.ones(1, 2)).sum().backward()
found = {name: layer.weight.grad.abs().sum().item() for name, layer in (("original", original), ("copy", twin))}
has_note = hasattr(twin.weight, "note")
print(f"torch {torch.__version__}: gradient {found}, attribute copied: {has_note}, hooks on modules ran {len(calls)} times")
raise SystemExit(0 if found["original"] == 0 and found["copy"] > 0 and not has_note and len(calls) == 2 else 1)
PY
