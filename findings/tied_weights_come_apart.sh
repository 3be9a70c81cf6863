#!/usr/bin/env bash
# Weights that are tied come apart where tensors are put in place of them
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: a language model whose head is its embedding's parameter is one parameter less, and stays so when it is
#           loaded: by load_state_dict(assign=True) as without, by to_empty() from the meta device as by to() from another,
#           and from a saved exported program.
# Seen:     each of the three gives the head a parameter of its own, without a word. Loaded ones still share memory, so that
#           they look tied while an optimiser keeps two states for them and moves them twice a step; from the meta device
#           they are apart.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import io

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embedding(words))


def stored(write, read, value):
    file = io.BytesIO()
    write(value, file)
    file.seek(0)
    return read(file)


def on_meta() -> LanguageModel:
    with torch.device("meta"):
        return LanguageModel()


words = torch.tensor([[0, 1]])
saved = stored(torch.save, torch.load, LanguageModel().state_dict())
copied, assigned = LanguageModel(), on_meta()
copied.load_state_dict(saved)
assigned.load_state_dict(saved, assign=True)
program = torch.export.export(LanguageModel(), (words,))
models = {
    "copied": copied,
    "to(float64)": LanguageModel().to(torch.float64),
    "exported": program.module(),
    "assigned": assigned,
    "to_empty": on_meta().to_empty(device="cpu"),
    "exported, saved, loaded": stored(torch.export.save, torch.export.load, program).module(),
}
found = {}
for name, model in models.items():
    embedding, head = model.get_parameter("embedding.weight"), model.get_parameter("head.weight")
    found[name] = (len(list(model.parameters())), embedding.data_ptr() == head.data_ptr())


def moved(model: nn.Module) -> float:
    """The most that a weight moves in the first step of Adam, whose rate is 0.001."""
    before = model.get_parameter("head.weight").detach().clone()
    model(words).square().sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.001).step()
    return round((model.get_parameter("head.weight") - before).abs().max().item(), 5)


steps = moved(copied), moved(assigned)
print(f"torch {torch.__version__}: (parameters, one memory) {found}; a step moves tied weights by {steps[0]}, assigned ones by {steps[1]}")
wanted = [(1, True)] * 3 + [(2, True), (2, False), (2, True)]
raise SystemExit(0 if list(found.values()) == wanted and steps == (0.001, 0.002) else 1)
PY
