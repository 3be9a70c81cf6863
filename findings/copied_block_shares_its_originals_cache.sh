#!/usr/bin/env bash
# A copied block of a language model attends to its original's keys as well
#
# Packages: torch==2.13.0 numpy==2.4.6 transformers==5.24.0
# Expected: a GPT-2 with a deep copy of its last block appended gives the same logits with a cache of keys as without, or the
#           call fails.
# Seen:     the copy keeps the place in the cache that its original has, so both write there, and each position of the copy
#           attends to two sets of keys. The cache is on by default, in training too: the logits are others than without it,
#           nothing is said, and right again once the copy is given a layer_idx of its own.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import copy

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
settings = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
model = GPT2LMHeadModel(GPT2Config(**settings, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.5)).train()
words = torch.randint(1, 50, (2, 6))


def difference() -> float:
    return (model(words).logits - model(words, use_cache=False).logits).abs().max().item()


shallow = difference()
blocks = model.transformer.h
blocks.append(copy.deepcopy(blocks[-1]))
copied = difference()
model.config.n_layer = 3
told = difference()
blocks[-1].attn.layer_idx = 2
placed = difference()
found = {"two blocks": shallow, "a copy more": copied, "as the configuration says": told, "with its own place": placed}
print(f"torch {torch.__version__}, transformers {transformers.__version__}: by how much the cache changes logits: {found}")
raise SystemExit(0 if max(shallow, placed) < 1e-4 < 1e-2 < min(copied, told) else 1)
PY
