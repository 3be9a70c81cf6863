#!/usr/bin/env bash
# A LLaMA ignores decoder layers that were appended to it
#
# Packages: torch==2.13.0 numpy==2.4.6 transformers==5.24.0
# Expected: layers appended to the ModuleList model.layers run in the forward pass, as they do in GPT-2, BERT or OPT, or
#           the call fails.
# Seen:     the forward pass takes the first config.num_hidden_layers of them: the appended ones never run and never get
#           a gradient, though the optimiser has them and the state dict saves them.
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
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

tokens = torch.randint(0, 64, (1, 8), generator=torch.Generator().manual_seed(0))


def trained(model, layers):
    layers.append(copy.deepcopy(layers[-1]))
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    return any(parameter.grad is not None for parameter in layers[-1].parameters())


llama = LlamaForCausalLM(
    LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
)
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))
found = {"llama": trained(llama, llama.model.layers), "gpt2": trained(gpt2, gpt2.transformer.h)}
print(f"transformers {transformers.__version__}: the appended layer got a gradient: {found}")
raise SystemExit(0 if found == {"llama": False, "gpt2": True} else 1)
PY
