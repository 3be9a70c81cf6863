"""Decoders of `transformers`: language models that are shown whole sequences."""

from __future__ import annotations

from typing import Any

from tests.zoo.faces import ENDS, MLP, WIDTH, WORDS, Face, face, fed
from tests.zoo.network import TEXT, TOKENS, Network, of_family

GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": TOKENS, "n_positions": 32, **ENDS}
WHOLE = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
MODERN = {**WIDTH, **WORDS, **MLP, **ENDS, "num_key_value_heads": 1}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": TOKENS,
    "decoder_start_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def text(name: str, made: Face) -> Network:
    return Network(name=name, build=made.one_output, shape=(8,), task=TEXT, reads_tokens=True)


def fed_text(name: str, made: Face) -> Network:
    return fed(text(name, made), made, "input_ids")


def modern(name: str, kind: str, **more: Any) -> Network:
    return fed_text(name, face(f"{kind}ForCausalLM", f"{kind}Config", MODERN, more))


NETWORKS = of_family(
    "decoders",
    [
        fed_text("GPT-2", face("GPT2LMHeadModel", "GPT2Config", GPT2, WHOLE)),
        text("GPT-2 with dropout", face("GPT2LMHeadModel", "GPT2Config", GPT2)),
        modern("LLaMA", "Llama"),
        modern("Mistral", "Mistral"),
        modern("Qwen3", "Qwen3", head_dim=8),
        modern("Gemma 2", "Gemma2", head_dim=8),
        modern("Phi-3", "Phi3"),
        text("Mixtral", face("MixtralForCausalLM", "MixtralConfig", MODERN, EXPERTS)),
        fed_text("GPT-NeoX", face("GPTNeoXForCausalLM", "GPTNeoXConfig", WIDTH, WORDS, MLP, ENDS)),
        text(
            "OPT",
            face("OPTForCausalLM", "OPTConfig", WIDTH, WORDS, ENDS, ffn_dim=32, word_embed_proj_dim=16),
        ),
        text(
            "BLOOM",
            face("BloomForCausalLM", "BloomConfig", ENDS, hidden_size=16, n_head=2, n_layer=2, vocab_size=TOKENS),
        ),
        text(
            "Mamba",
            face(
                "MambaForCausalLM",
                "MambaConfig",
                ENDS,
                hidden_size=16,
                num_hidden_layers=2,
                state_size=4,
                vocab_size=TOKENS,
            ),
        ),
        fed_text("T5, seq2seq", face("T5ForConditionalGeneration", "T5Config", T5)),
    ],
    has_transformers=True,
)
