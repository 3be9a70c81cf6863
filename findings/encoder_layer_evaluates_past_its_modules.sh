#!/usr/bin/env bash
# In evaluation a transformer encoder layer computes past the modules that stand in it
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: nn.TransformerEncoderLayer calls the modules that it holds: with an adapted linear layer (a subclass with a
#           low-rank branch) or another activation module put in, it gives the same under no_grad as with gradients.
# Seen:     in eval mode without gradients it computes from its layers' weights, and with the activation it was built
#           with: the branch and the new activation count for nothing, without a word. A training run learns them, and
#           its evaluation shows another network. (A hook on any part makes it call its modules again.)
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
from torch import Tensor, nn


class Adapted(nn.Linear):
    """A linear layer with a low-rank branch beside it."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.down = nn.Parameter(torch.randn(rank, layer.in_features))
        self.up = nn.Parameter(torch.randn(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


def adapt(layer: nn.TransformerEncoderLayer) -> None:
    layer.linear2 = Adapted(layer.linear2)


def other_activation(layer: nn.TransformerEncoderLayer) -> None:
    layer.activation = nn.Tanh()


def listen(layer: nn.TransformerEncoderLayer) -> None:
    adapt(layer)
    layer.linear1.register_forward_hook(lambda *_: None)


def difference(change) -> float:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    change(layer)
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        evaluated = layer(x)
    return (evaluated - layer(x)).abs().max().item()


found = {change.__name__: difference(change) for change in (lambda _: None, adapt, other_activation, listen)}
print(f"torch {torch.__version__}: largest difference between an evaluation and a pass with gradients: {found}")
unchanged, adapted, swapped, heard = found.values()
raise SystemExit(0 if max(unchanged, heard) < 1e-5 < 1e-2 < min(adapted, swapped) else 1)
PY
