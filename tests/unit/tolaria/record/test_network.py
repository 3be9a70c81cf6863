"""A network in a few words, from its modules alone."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from esper.tolaria.config import TrainConfig
from esper.tolaria.record.network import _layers, look_at
from esper.tolaria.task.prepare import prepare


class Mixed(nn.Module):
    """Layers of several kinds; norms are none."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, 16)
        self.attention = nn.MultiheadAttention(16, 2)
        self.norm = nn.LayerNorm(16)
        self.conv = nn.ConvTranspose1d(16, 24, 3)
        self.head = nn.Linear(24, 5)
        self.positions = nn.Parameter(nn.Embedding(7, 16).weight)


def test_every_layer_is_told_with_the_width_that_it_gives() -> None:
    widths = {layer.path: (layer.kind, layer.width) for layer in _layers(Mixed())}
    assert widths == {
        "Mixed": ("Mixed", 7),
        "tokens": ("Embedding", 16),
        "attention": ("MultiheadAttention", 16),
        "attention.out_proj": ("NonDynamicallyQuantizableLinear", 16),
        "conv": ("ConvTranspose1d", 24),
        "head": ("Linear", 5),
    }


def test_a_run_tells_its_layers_and_slots(tmp_path: Path) -> None:
    run = prepare(TrainConfig(hidden=(6, 5), run_dir=tmp_path / "r"))
    told = look_at(run.executor, 30).as_fields()
    assert [(layer["path"], layer["width"]) for layer in told["layers"]] == [("fc1", 6), ("fc2", 5), ("fc3", 10)]
    assert told["step"] == 30
    assert told["parameters"] == run.host_parameters
    slots = {slot["slot_id"]: slot for slot in told["slots"]}
    assert slots["span_linear:fc1-fc2"] == {"slot_id": "span_linear:fc1-fc2", "kind": "SPAN_LINEAR", "width": 6}
    assert told["refused"] == []
