#!/usr/bin/env bash
# One pass under FlopCounterMode ends the compilation of a module for good
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: a compiled module called under torch.utils.flop_counter.FlopCounterMode runs eagerly or is counted, and is
#           compiled code again afterwards.
# Seen:     after one such call the compiled code is never used again, without a warning: every later call is eager.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch.utils.flop_counter import FlopCounterMode

ran = []


def backend(graph, _):
    def compiled(*arguments):
        ran.append(1)
        return graph.forward(*arguments)

    return compiled


layer = torch.compile(torch.nn.Linear(3, 3), backend=backend)
inputs = torch.ones(2, 3)
layer(inputs), layer(inputs)
before = len(ran)
with FlopCounterMode(display=False):
    layer(inputs)
counted = len(ran) - before
for _ in range(5):
    layer(inputs)
after = len(ran) - before - counted
print(f"torch {torch.__version__}: compiled calls before {before} of 2, under the counter {counted} of 1, after {after} of 5")
raise SystemExit(0 if before == 2 and after == 0 else 1)
PY
