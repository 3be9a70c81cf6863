"""What a script's run gives back of a language model is saved by its own `save_pretrained`, grown or not.

It needs `transformers`, which is no dependency of this project.
"""

from __future__ import annotations

import pytest
import torch

import esper
from tests.unit.tolaria.scripted_control import germination, judgement, keep

transformers = pytest.importorskip("transformers")
MLPS = "span_linear:model.layers.*.mlp.gate_proj-model.layers.*.mlp.down_proj"
SIZES = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}


def sentences(rows: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row, "labels": row} for row in (torch.arange(rows)[:, None] + torch.arange(12)) % 31]


@pytest.mark.parametrize(
    ("slot", "blueprint", "grown", "steps"),
    [
        (MLPS, "span.linear", "intermediate_size", 24),
        pytest.param("stack:model.layers", "stack.double", "num_hidden_layers", 400, marks=pytest.mark.slow),
    ],
)
def test_a_grown_language_model_is_read_without_esper(tmp_path, scripted, slot, blueprint, grown, steps):
    scripted({4: [*germination("s1", slot, blueprint), judgement("s1", 12)], 16: keep("s1")})
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, use_cache=False))
    settings = {"steps": steps, "evaluate_every_steps": 4, "batch_size": 8, "min_samples": 20, "stack_shares": [0.1]}
    data = {"train": sentences(80), "judge": sentences(20)}
    changes = {"run_dir": tmp_path / "run", "blueprints": [blueprint], "checkpoint_every_epochs": 0}
    result = esper.train(model, data, config={**settings, **changes})
    result.model.save_pretrained(tmp_path / "network")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "network")
    assert getattr(read.config, grown) > SIZES[grown]
    tokens = torch.arange(12)[None]
    assert torch.equal(read(tokens).logits, result.model(tokens).logits)
