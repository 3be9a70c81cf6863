"""What lies between two layers is proven on the graph, or not claimed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.kasmina.executor.passes.trace import trace_forward
from esper.kasmina.executor.slots.paths import SpanPath, span_paths


def paths_of(model: nn.Module, inputs: Tensor) -> dict[str, SpanPath]:
    trace = trace_forward(model, inputs)
    dims = {visit.path: len(visit.output_shape) for visit in trace if visit.output_shape}
    return {f"{path.read_path}-{path.write_path}": path for path in span_paths(model, dims)}


class Branching(nn.Module):
    """The first layer's output is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.c(self.b(h) + h)


class Averaging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).mean(dim=(2, 3)))


class Shaping(nn.Module):
    """Reads its shape by attribute and reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.fc = nn.Linear(3 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).sigmoid()
        return self.fc(h.reshape(h.shape[0], -1))


class Deciding(nn.Module):
    """Branches on a value: its own forward can't be traced, its parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head(h if h.sum() > -1e9 else -h)


def test_an_activation_between_linear_layers_is_per_channel():
    found = paths_of(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), torch.randn(3, 4))
    assert found["0-2"].obstacle == ""
    assert len(found["0-2"].steps) == 1


def test_a_second_reader_is_an_obstacle():
    found = paths_of(Branching(), torch.randn(3, 4))
    assert found["a-b"].obstacle == "a's output has another reader"
    assert "b-c" not in found


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.RMSNorm(6), nn.PReLU(6)])
def test_what_is_not_per_channel_is_an_obstacle_and_no_step_of_the_seed(norm):
    found = paths_of(nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 2)), torch.randn(3, 4))
    assert found["0-3"].obstacle == f"1 ({type(norm).__name__}) is not per channel"
    assert len(found["0-3"].steps) == 1


def test_batch_norm_is_per_channel_after_vectors_but_not_after_sequences():
    vectors = paths_of(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), torch.randn(3, 4))
    assert vectors["0-2"].obstacle == ""
    sequences = paths_of(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.Linear(6, 2)), torch.randn(3, 5, 4))
    assert sequences["0-2"].obstacle == "1 (BatchNorm1d) is not per channel"


def test_a_mean_over_all_positions_and_a_reshape_flatten():
    averaging = paths_of(Averaging(), torch.randn(2, 1, 5, 5))["conv-fc"]
    assert (averaging.flattens, averaging.obstacle) == (True, "")
    shaping = paths_of(Shaping(), torch.randn(2, 2, 8))["conv-fc"]
    assert (shaping.flattens, shaping.obstacle) == (True, "")


def test_a_host_that_decides_by_values_is_traced_part_by_part():
    found = paths_of(Deciding(), torch.randn(3, 4))
    assert list(found) == ["body.0-body.2"]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2)],
        [nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Linear(6, 2)],
        [nn.Linear(4, 6), nn.Flatten(0, 1), nn.Linear(6, 2)],
    ],
)
def test_a_path_that_cannot_be_proven_is_no_span(layers):
    shape = (3, 2, 8) if isinstance(layers[0], nn.Conv1d) else (3, 2, 4)
    assert paths_of(nn.Sequential(*layers), torch.randn(*shape)) == {}
