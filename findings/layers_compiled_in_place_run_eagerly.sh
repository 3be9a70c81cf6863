#!/usr/bin/env bash
# torch's own layers, compiled in place, run eagerly
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: `module.compile()` compiles a call of the module in place, as `torch.compile(module)` does in a wrapper; so
#           a transformer block of torch's own is compiled by either.
# Seen:     for a class that inherits its `forward` from torch.nn (Linear, Sequential, TransformerEncoderLayer, or a
#           subclass that adds none) the backend is never asked and every call is eager, without a word; the wrapper
#           compiles all of them. A class with a `forward` of its own is compiled by both. Compiling blocks in place is
#           the usual advice for deep networks, since it leaves their names alone.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
cat > compiled.py <<'PY'
import torch
from torch import nn

runs = 0


def backend(graph, inputs):
    def run(*arguments):
        global runs
        runs += 1
        return graph.forward(*arguments)

    return run


class Chain(nn.Sequential):
    pass


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.layer(x))


LAYERS = {
    "Linear": lambda: nn.Linear(4, 4),
    "Sequential": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    "a subclass of Sequential": lambda: Chain(nn.Linear(4, 4)),
    "a class of one's own": Own,
}


def compiled_runs(call):
    global runs
    runs = 0
    call(torch.ones(2, 3, 4))
    return runs


in_place, wrapped = {}, {}
for name, make in LAYERS.items():
    layer = make()
    layer.compile(backend=backend)
    in_place[name] = compiled_runs(layer)
    wrapped[name] = compiled_runs(torch.compile(make(), backend=backend))
    print(f"torch {torch.__version__}: {name}: compiled graphs run in place {in_place[name]}, wrapped {wrapped[name]}")
own = in_place.pop("a class of one's own")
raise SystemExit(0 if own and not any(in_place.values()) and all(wrapped.values()) else 1)
PY
"$HOME_DIR/venv/bin/python" compiled.py
