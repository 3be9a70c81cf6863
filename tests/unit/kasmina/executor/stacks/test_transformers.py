"""Hugging Face's own models as hosts, small and random: found, repeated, proven, saved and read again as deeper ones.

They need `transformers`, which is no dependency of this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor.stacks.ends import branch_ends
from esper.kasmina.executor.stacks.proof import prove
from esper.kasmina.executor.stacks.repeat import repeat, take_out
from esper.kasmina.executor.stacks.run import Run, find_runs

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

WIDTH = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4}
TEXT = {"vocab_size": 30, "max_position_embeddings": 32}
DECODER = {**WIDTH, **TEXT, "intermediate_size": 32, "num_key_value_heads": 1}
IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 5}


class Logits(nn.Module):
    """A model that returns one tensor, as a host does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.network(inputs).logits
        return out


@dataclass(frozen=True)
class Family:
    """A family's model, where its blocks stand, and whether it goes on from a cache."""

    make: Callable[[], Any]
    run: Run
    has_cache: bool = False
    is_image: bool = False

    def inputs(self) -> Tensor:
        return torch.rand(3, 1, 8, 8) if self.is_image else torch.randint(0, 30, (3, 9))


def of(config: str, model: str, path: str, blocks: int = 4, **options: Any) -> Family:
    flags = {name: options.pop(name) for name in ("has_cache", "is_image") if name in options}

    def make() -> Any:
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return Family(make, Run(f"network.{path}", 0, blocks), **flags)


FAMILIES = {
    "gpt2": of(
        *("GPT2Config", "GPT2LMHeadModel", "transformer.h"),
        n_embd=16,
        n_head=2,
        n_layer=4,
        vocab_size=30,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        has_cache=True,
    ),
    "llama": of("LlamaConfig", "LlamaForCausalLM", "model.layers", **DECODER, has_cache=True),
    "mistral": of("MistralConfig", "MistralForCausalLM", "model.layers", **DECODER, has_cache=True),
    "qwen3": of("Qwen3Config", "Qwen3ForCausalLM", "model.layers", **DECODER, head_dim=8, has_cache=True),
    "gemma2": of("Gemma2Config", "Gemma2ForCausalLM", "model.layers", **DECODER, head_dim=8, has_cache=True),
    "neox": of(
        *("GPTNeoXConfig", "GPTNeoXForCausalLM", "gpt_neox.layers"),
        **WIDTH,
        **TEXT,
        intermediate_size=32,
        has_cache=True,
    ),
    "opt": of(
        *("OPTConfig", "OPTForCausalLM", "model.decoder.layers"),
        **{**WIDTH, **TEXT, "ffn_dim": 32, "word_embed_proj_dim": 16, "has_cache": True},
    ),
    "bert": of("BertConfig", "BertForMaskedLM", "bert.encoder.layer", **WIDTH, **TEXT, intermediate_size=32),
    "distilbert": of(
        *("DistilBertConfig", "DistilBertForMaskedLM", "distilbert.transformer.layer"),
        **{"dim": 16, "n_heads": 2, "n_layers": 4, "hidden_dim": 32, **TEXT},
    ),
    "vit": of(
        *("ViTConfig", "ViTForImageClassification", "vit.layers"),
        **WIDTH,
        **IMAGES,
        intermediate_size=32,
        is_image=True,
    ),
    "deit": of(
        *("DeiTConfig", "DeiTForImageClassification", "deit.layers"),
        **WIDTH,
        **IMAGES,
        intermediate_size=32,
        is_image=True,
    ),
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def doubled(family: Family) -> tuple[Logits, torch.optim.Optimizer, Tensor]:
    host, inputs = Logits(family.make()), family.inputs()
    optimizer = torch.optim.AdamW(host.parameters(), 1e-3)
    host(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    runs, refusals = find_runs(host, inputs)
    assert (runs, refusals) == ([family.run], [])
    copies = repeat(host, optimizer, family.run)
    prove(host, copies, lambda: host(inputs).square().mean(), key=1)
    return host, optimizer, inputs


def test_the_blocks_are_found_repeated_and_taken_out(family: Family) -> None:
    host, optimizer, inputs = doubled(family)
    host(inputs).square().mean().backward()
    optimizer.step()
    fresh = Logits(family.make())
    take_out(host, optimizer, family.run)
    assert list(host.state_dict()) == list(fresh.state_dict())
    assert host.network.config.num_hidden_layers == 4
    host(inputs)


def test_a_doubled_model_is_saved_and_read_again_with_all_its_blocks(family: Family, tmp_path: Path) -> None:
    host, _, inputs = doubled(family)
    host.eval()
    host.network.save_pretrained(tmp_path)
    again = Logits(type(host.network).from_pretrained(tmp_path)).eval()
    assert again.network.config.num_hidden_layers == 8
    with torch.no_grad():
        assert torch.allclose(again(inputs), host(inputs), atol=1e-6)


def test_a_pass_with_a_cache_equals_one_without(family: Family) -> None:
    if not family.has_cache:
        pytest.skip("it has none")
    host, _, inputs = doubled(family)
    network = host.network.eval()
    with torch.no_grad():
        whole = network(inputs, use_cache=False).logits
        first = network(inputs[:, :5], use_cache=True)
        rest = network(inputs[:, 5:], past_key_values=first.past_key_values, use_cache=True).logits
    assert torch.allclose(torch.cat([first.logits, rest], dim=1), whole, atol=1e-5)


def test_blocks_that_differ_by_place_are_refused_with_what_differs() -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 2, "vocab_size": 30}
    torch.manual_seed(0)
    network = transformers.T5EncoderModel(transformers.T5Config(**sizes))

    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = self.network(inputs).last_hidden_state
            return out

    runs, _ = find_runs(States(), torch.randint(0, 30, (3, 9)))
    assert runs == [Run("network.encoder.block", 1, 4)]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("gpt2", {"attn.c_proj", "mlp.c_proj"}),
        ("llama", {"self_attn.o_proj", "mlp.down_proj"}),
        ("mistral", {"self_attn.o_proj", "mlp.down_proj"}),
        ("qwen3", {"self_attn.o_proj", "mlp.down_proj"}),
        ("opt", {"self_attn.out_proj", "fc2"}),
        ("neox", {"attention.dense", "mlp.dense_4h_to_h"}),
        ("vit", {"attention.o_proj", "mlp.fc2"}),
        ("bert", set()),
        ("gemma2", set()),
    ],
)
def test_branches_end_in_their_projections_where_no_norm_comes_after(name: str, ends: set[str]) -> None:
    family = FAMILIES[name]
    host, inputs = Logits(family.make()), family.inputs()
    with torch.no_grad():
        for parameter in host.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert set(branch_ends(host, family.run.blocks(host)[-1], lambda: host(inputs), key=1)) == ends
