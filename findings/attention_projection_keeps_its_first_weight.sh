#!/usr/bin/env bash
# A weight that a hook computes stays what it was at first in the output projection of attention
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: spectral_norm, weight_norm and pruning do for the linear layer MultiheadAttention.out_proj what they do for any
#           other: at each pass its weight is computed from the parameters.
# Seen:     attention takes out_proj's weight without calling it, so their hook never runs. With torch.nn.utils.spectral_norm
#           the projection is neither normalised nor trained: its parameter gets no gradient. With weight_norm or pruning
#           load_state_dict reports that all keys match, and the network goes on answering with the projection that it was
#           made with. What torch.nn.utils.parametrizations puts there works.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" -W ignore - <<'PY'
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Self-attention, whose output projection is built in or a layer that is called."""

    def __init__(self, wrap: Callable[[nn.Module], object], is_called: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.after = nn.Linear(8, 8, bias=False) if is_called else None
        with torch.no_grad():
            self.attention.out_proj.weight.mul_(5)
        wrap(self.projection)

    @property
    def projection(self) -> nn.Module:
        return self.attention.out_proj if self.after is None else self.after

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, x, x, need_weights=False)[0]
        return x if self.after is None else self.after(x)


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def made(wrap: Callable[[nn.Module], object], is_called: bool, seed: int) -> Attention:
    torch.manual_seed(seed)
    return Attention(wrap, is_called)


def loaded_difference(wrap: Callable[[nn.Module], object], is_called: bool) -> float:
    """Between a network and another one that loaded its state."""
    source, target = made(wrap, is_called, 1).eval(), made(wrap, is_called, 2).eval()
    with torch.no_grad():
        before = source(X)
        report = target.load_state_dict(source.state_dict())
        assert not report.missing_keys and not report.unexpected_keys
        return round((target(X) - before).abs().max().item(), 4)


def trained(wrap: Callable[[nn.Module], object], is_called: bool) -> tuple[bool, float]:
    """Whether the projection's parameters got a gradient, and its largest singular value after some steps."""
    network = made(wrap, is_called, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        network(X).sub(1).square().mean().backward()
        optimizer.step()
    weights = [p for name, p in network.projection.named_parameters() if "bias" not in name]
    norm = torch.linalg.matrix_norm(network.projection.weight.detach(), 2).item()
    return all(p.grad is not None for p in weights), round(norm, 2)


print(f"torch {torch.__version__}")
old = {wrap.__name__: wrap for wrap in (weight_norm, pruned)}
built_in = {name: loaded_difference(wrap, False) for name, wrap in old.items()}
called = {name: loaded_difference(wrap, True) for name, wrap in old.items()}
new_loaded = loaded_difference(parametrizations.weight_norm, False)
print(f"difference to the network whose state was loaded: out_proj {built_in}, a layer that is called {called}")
print(f"  out_proj with parametrizations.weight_norm: {new_loaded}")
learned, layer = trained(spectral_norm, False), trained(spectral_norm, True)
new = trained(parametrizations.spectral_norm, False)
print(f"spectral_norm, whether trained and the norm: out_proj {learned}, a layer that is called {layer}")
print(f"  out_proj with parametrizations.spectral_norm: {new}")
stale = min(built_in.values()) > 0.05 and max(*called.values(), new_loaded) < 1e-5
unnormalised = not learned[0] and learned[1] > 2 and all(got and norm < 1.5 for got, norm in (layer, new))
raise SystemExit(0 if stale and unnormalised else 1)
PY
