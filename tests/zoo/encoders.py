"""Encoders of `transformers` over tokens and over sound."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.zoo.decoders import T5
from tests.zoo.faces import MLP, WIDTH, WORDS, Face, Pooled, face, fed
from tests.zoo.network import CLASSES, TOKENS, Network, of_family

BERT = {**WIDTH, **WORDS, **MLP, "num_labels": CLASSES, "pad_token_id": 2, "type_vocab_size": 2}
DISTILBERT = {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32, "num_labels": CLASSES, **WORDS}
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_layers": 1,
    "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 8,
    "vocab_size": TOKENS, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0,
    "classifier_proj_size": 16, "num_labels": CLASSES,
}  # fmt: skip

SOUND = face("WhisperForAudioClassification", "WhisperConfig", WHISPER)


def labels(name: str, made: Face) -> Network:
    return Network(name=name, build=made.one_output, shape=(8,), reads_tokens=True)


def fed_labels(name: str, made: Face) -> Network:
    return fed(labels(name, made), made, "input_ids")


def bert_like(name: str, kind: str, **more: Any) -> Network:
    return fed_labels(name, face(f"{kind}ForSequenceClassification", f"{kind}Config", BERT, more))


def t5_encoder() -> nn.Module:
    return Pooled(face("T5EncoderModel", "T5Config", T5)(), 16, CLASSES)


NETWORKS = of_family(
    "encoders",
    [
        bert_like("BERT", "Bert"),
        bert_like("RoBERTa", "Roberta", max_position_embeddings=40),
        bert_like("ELECTRA", "Electra", embedding_size=16),
        bert_like("ALBERT", "Albert", embedding_size=16),
        fed_labels("DistilBERT", face("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT)),
        Network(name="T5 encoder", build=t5_encoder, shape=(8,), reads_tokens=True),
        fed(Network(name="Whisper encoder", build=SOUND, shape=(8, 16)), SOUND, "input_features"),
    ],
    has_transformers=True,
)
