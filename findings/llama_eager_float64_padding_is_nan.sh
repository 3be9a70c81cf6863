#!/usr/bin/env bash
# A LLaMA in float64 gives NaN at real positions where a batch is padded on the left and attention is eager
#
# Packages: torch==2.13.0 numpy==2.4.6 transformers==5.24.0
# Expected: logits at unpadded positions are finite and those of float32 to its precision, as a float64 copy of a model is
#           used for as a reference.
# Seen:     attn_implementation="eager": float32 is finite, float64 is NaN at the last token, which is not padded; "sdpa" is finite in both.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

tokens = torch.randint(1, 7, (1, 4), generator=torch.Generator().manual_seed(0))
mask = torch.tensor([[0, 0, 1, 1]])
sizes = {"vocab_size": 7, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def last_logits(attention, dtype):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation=attention)).eval().to(dtype)
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[0, -1]


finite = {
    (attention, str(dtype)): bool(last_logits(attention, dtype).isfinite().all())
    for attention in ("eager", "sdpa")
    for dtype in (torch.float32, torch.float64)
}
print(f"transformers {transformers.__version__}, torch {torch.__version__}: the last token's logits are finite: {finite}")
changed = [case for case, is_finite in finite.items() if is_finite == (case == ("eager", "torch.float64"))]
raise SystemExit(1 if changed else 0)
PY
