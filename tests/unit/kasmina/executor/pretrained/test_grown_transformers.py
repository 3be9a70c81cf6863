"""Hugging Face's own models, small and random: widened, given heads and depth, saved, and loaded without Esper.

They need `transformers`, which is no dependency of this project.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor import ExecutorConfig, SeedExecutor
from esper.kasmina.executor.pretrained.loader import LOADER, save_grown

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

WIDTH = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
TEXT = {"vocab_size": 7, "max_position_embeddings": 32}
DECODER = {**WIDTH, **TEXT, "intermediate_size": 24, "num_key_value_heads": 1}
GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 7, "n_positions": 32, "bos_token_id": 0}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {**GPT2, "eos_token_id": 0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", DECODER),
    "bert": ("BertConfig", "BertForMaskedLM", {**WIDTH, **TEXT, "intermediate_size": 24}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**DECODER, "head_dim": 8}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**DECODER, "pad_token_id": 0, "eos_token_id": 0}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**WIDTH, **TEXT, "ffn_dim": 24, "word_embed_proj_dim": 16}),
}
MLPS = {
    "gpt2": "transformer.h.{}.mlp.c_fc-transformer.h.{}.mlp.c_proj",
    "llama": "model.layers.{}.mlp.gate_proj-model.layers.{}.mlp.down_proj",
    "bert": "bert.encoder.layer.{}.intermediate.dense-bert.encoder.layer.{}.output.dense",
    "qwen3": "model.layers.{}.mlp.gate_proj-model.layers.{}.mlp.down_proj",
    "phi3": "model.layers.{}.mlp.gate_up_proj-model.layers.{}.mlp.down_proj",
    "opt": "model.decoder.layers.{}.fc1-model.decoder.layers.{}.fc2",
}
ATTENTIONS = {
    "gpt2": "transformer.h.{}.attn-transformer.h.{}.attn.c_proj",
    "llama": "model.layers.{}.self_attn-model.layers.{}.self_attn.o_proj",
    "bert": "bert.encoder.layer.{}.attention.self-bert.encoder.layer.{}.attention.output.dense",
}
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "bert": "bert.encoder.layer"}

FOREIGN = """
import sys, torch
sys.modules["esper"] = None
folder, kind = sys.argv[1], sys.argv[2]
if kind == "loader":
    sys.path.insert(0, folder)
    from grown import load
    network = load(torch_dtype=torch.float64)
else:
    import transformers
    network = getattr(transformers, kind).from_pretrained(folder, torch_dtype=torch.float64)
with torch.no_grad():
    torch.save(network.eval()(torch.load(folder + "/inputs.pt")).logits, folder + "/logits.pt")
"""


class Logits(nn.Module):
    """A model that returns one tensor, as a host does."""

    def __init__(self, family: str) -> None:
        super().__init__()
        config, model, options = FAMILIES[family]
        torch.manual_seed(0)
        self.network = getattr(transformers, model)(getattr(transformers, config)(**options))

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.network(inputs).logits
        return out


@pytest.fixture
def make(rig: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a run of a family in float64."""
    rig_class, task = type(rig("transformer")), rig("transformer").task

    class Run(rig_class):  # type: ignore[misc, valid-type]
        def __init__(self, family: str, widths: str) -> None:
            super().__init__(Logits(family), task, double=True)
            config = ExecutorConfig(run_seed=7, measure_every_steps=2, config_widths=widths)
            self.executor = SeedExecutor(self.arm, task, fetch_artifact=self.recipes.__getitem__, config=config)

        @property
        def network(self) -> Any:
            return self.arm.model.network

        def slot(self, kind: str, names: str, block: object) -> str:
            prefixed = "-".join(f"network.{name}" for name in names.format(block, block).split("-"))
            return f"span_{kind}:{prefixed}"

        def fold(self, seed_id: str = "s1") -> None:
            before = self.outputs()
            assert self.executor.collect(self.step).reports == ()
            report = self.do(self.directive("FOLD", seed_id), self.directive("DROP_TWIN", seed_id)).reports[0]
            assert (report.folded, report.failure) == (True, "")
            assert torch.allclose(self.outputs(), before, rtol=0, atol=1e-12)

        def grow(self, blueprint: str, slot_id: str, seed_id: str = "s1", **parameters: float) -> None:
            report = self.graft(blueprint, slot_id, seed_id, **parameters).reports[-1]
            assert report.max_logit_delta == 0.0
            self.train(6)
            assert all(parameter.abs().max() > 0 for parameter in self.arm.grafts[0].module.parameters())
            self.fold(seed_id)

    return Run


def loaded(run: Any, folder: Path) -> Tensor:
    """Logits of the saved network in a process without Esper."""
    inputs = run.task.probe_inputs()
    loader = save_grown(run.arm.model, folder)
    torch.save(inputs, folder / "inputs.pt")
    kind = "loader" if loader is not None else type(run.network).__name__
    subprocess.run([sys.executable, "-W", "ignore", "-c", FOREIGN, str(folder), kind], check=True, capture_output=True)
    logits: Tensor = torch.load(folder / "logits.pt")
    return logits


def saved(run: Any, make: Callable[..., Any], family: str, widths: str) -> Any:
    """The run as a fresh process would restore it."""
    buffer = io.BytesIO()
    torch.save(run.executor.state_dict(), buffer)
    buffer.seek(0)
    again = make(family, widths)
    again.executor.load_state_dict(torch.load(buffer, weights_only=True))
    return again


@pytest.mark.parametrize("family", list(FAMILIES))
def test_all_mlps_of_one_width_are_said_by_the_configuration(
    make: Callable[..., Any], family: str, tmp_path: Path
) -> None:
    run = make(family, "refuse")
    run.train(2)
    run.grow("span.linear", run.slot("linear", MLPS[family], "*"), width=8)
    assert torch.allclose(loaded(run, tmp_path), run.outputs(), rtol=0, atol=1e-10)
    assert not (tmp_path / LOADER).exists()
    config = run.network.config.to_dict()
    widths = [config.get(name) for name in ("intermediate_size", "n_inner", "ffn_dim")]
    assert widths.count(72 if family == "gpt2" else 32) == 1
    again = saved(run, make, family, "refuse")
    assert again.network.config.to_dict() == config
    assert torch.equal(again.outputs(), run.outputs())
    run.train(2)


@pytest.mark.parametrize("family", list(ATTENTIONS))
def test_one_mlp_and_one_head_are_loaded_by_a_loader(make: Callable[..., Any], family: str, tmp_path: Path) -> None:
    run = make(family, "loader")
    run.train(2)
    run.grow("span.linear", run.slot("linear", MLPS[family], 1), width=8)
    run.grow("span.heads", run.slot("heads", ATTENTIONS[family], 0), "s2", heads=1)
    assert torch.allclose(loaded(run, tmp_path), run.outputs(), rtol=0, atol=1e-10)
    assert (tmp_path / LOADER).exists()
    again = saved(run, make, family, "loader")
    assert torch.equal(again.outputs(), run.outputs())
    assert again.arm.clone().digest() == run.arm.digest()
    run.train(2)


@pytest.mark.parametrize("family", list(ATTENTIONS))
def test_width_and_depth_together_are_said_by_the_configuration(
    make: Callable[..., Any], family: str, tmp_path: Path
) -> None:
    run = make(family, "refuse")
    run.train(2)
    run.grow("span.linear", run.slot("linear", MLPS[family], "*"), width=8)
    run.stack("s2", f"stack:network.{BLOCKS[family]}")
    run.train(2)
    run.do(run.directive("DROP_TWIN", "s2"))
    assert run.network.config.num_hidden_layers == 4
    run.grow("span.linear", run.slot("linear", MLPS[family], "*"), "s3", width=4)
    assert torch.allclose(loaded(run, tmp_path), run.outputs(), rtol=0, atol=1e-10)
    assert not (tmp_path / LOADER).exists()


def test_llamas_heads_of_all_blocks_are_said_by_the_configuration(make: Callable[..., Any], tmp_path: Path) -> None:
    run = make("llama", "refuse")
    run.train(2)
    slot_id = run.slot("heads", ATTENTIONS["llama"], "*")
    run.grow("span.heads", slot_id, heads=1)
    config = run.network.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert "not a multiple of the number" in run.failure(run.build("span.heads", slot_id, "s2", heads=1))
    assert torch.allclose(loaded(run, tmp_path), run.outputs(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_heads_that_a_configuration_cannot_say_are_refused_before_the_graft(
    make: Callable[..., Any], family: str
) -> None:
    run = make(family, "refuse")
    assert not [slot.slot_id for slot in run.executor.manifest().slots if slot.slot_id.startswith("span_heads")]
    told = [line for line in run.executor.places.unseen if line.startswith("span_heads")]
    assert len(told) == 1
    assert "--config-widths loader" in told[0]


def test_a_seed_of_heads_keeps_no_cache(make: Callable[..., Any]) -> None:
    run = make("llama", "loader")
    run.graft("span.heads", run.slot("heads", ATTENTIONS["llama"], 0), heads=1)
    inputs = run.task.probe_inputs()
    first = run.network(inputs, use_cache=True)
    with pytest.raises(Exception, match="keep no cache"):
        run.network(inputs, past_key_values=first.past_key_values)
