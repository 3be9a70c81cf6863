#!/usr/bin/env bash
# A transformer encoder's outputs at padding are zeros in evaluation, and numbers in training
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: nn.TransformerEncoder(x, src_key_padding_mask=padding) gives the same outputs under no_grad as with gradients;
#           what stands at padding may be anything, but the same anything.
# Seen:     in eval mode without gradients it packs what isn't padding into a nested tensor and fills the rest with zeros
#           when it unpacks. A mean or maximum over positions is then another one than in training, by more than
#           rounding, and a hook on one of its layers is given the packed tensor, which has no mean over positions at all.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
encoder = nn.TransformerEncoder(layer, 2).eval()
inputs = torch.randn(2, 6, 16)
padding = torch.tensor([[False] * 6, [False] * 3 + [True] * 3])

learned = encoder(inputs, src_key_padding_mask=padding).detach()
with torch.no_grad():
    evaluated = encoder(inputs, src_key_padding_mask=padding)
at_padding = learned[padding].abs().max().item(), evaluated[padding].abs().max().item()
elsewhere = (learned - evaluated)[~padding].abs().max().item()
pooled = (learned.mean(1) - evaluated.mean(1)).abs().max().item()

given: list[torch.Tensor] = []
encoder.layers[0].register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
encoder.layers[1].norm1.register_forward_hook(lambda module, arguments, output: None)
packed = False
with torch.no_grad():
    try:
        encoder(inputs, src_key_padding_mask=padding)
    except (NotImplementedError, RuntimeError):
        pass
    packed = given[0].is_nested

print(f"torch {torch.__version__}: largest output at padding {at_padding[0]:.3f} with gradients, {at_padding[1]:.3f} without;")
print(f"elsewhere they differ by {elsewhere:.1e}, their means over positions by {pooled:.3f}; a layer's hook is given a "
      f"{'packed' if packed else 'plain'} tensor")
raise SystemExit(0 if at_padding[0] > 0.1 and at_padding[1] == 0.0 and elsewhere < 1e-5 and pooled > 0.1 and packed else 1)
PY
