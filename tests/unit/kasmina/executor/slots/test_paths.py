"""What lies between two layers is proven on the graph, or not claimed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.kasmina.executor.passes.trace import trace_forward
from esper.kasmina.executor.slots.paths import SpanPath, span_paths


def paths_of(model: nn.Module, inputs: Tensor) -> dict[str, SpanPath]:
    trace = trace_forward(model, inputs)
    dims = {visit.path: len(visit.output_shape) for visit in trace if visit.output_shape}
    return {f"{path.read_path}-{path.write_path}": path for path in span_paths(model, dims).paths}


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


class Refusal(Exception):
    """An error of the host's own."""


class Keeping(nn.Module):
    """Keeps what it sees, counts its calls, draws, and moves a buffer in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 5), nn.Linear(5, 3)
        self.calls = 0
        self.seen: list[Tensor] = []
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        self.last = self.fc1(x)
        self.seen.append(x)
        return self.fc2(torch.relu(self.last)) + torch.rand(())


class Making(nn.Module):
    """Makes a module in forward."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.Identity()(x)


class Raising(nn.Module):
    """Raises an error of its own for anything but a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise Refusal("tensors only")
        return x


class Endless(nn.Module):
    """Recurs without end on a stand-in, as code that asks for a type may."""

    def forward(self, x: Tensor) -> Tensor:
        return x if type(x) is Tensor else self.forward(x)


class Scan(torch.autograd.Function):
    """A recurrence with a kernel of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].flip(-1).cumsum(-1).flip(-1)


class StateSpace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Scan.apply(x.contiguous(memory_format=torch.contiguous_format))


class Around(nn.Module):
    """Two layers that can be traced as a part, and something else after them."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        self.odd = odd

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.part(x))


def test_tracing_leaves_nothing_in_the_live_model():
    model, inputs = Keeping(), torch.randn(2, 4)
    attributes, draws = set(vars(model)), torch.default_generator.get_state()
    assert list(paths_of(model, inputs)) == ["fc1-fc2"]
    assert set(vars(model)) == attributes
    assert (model.calls, model.seen, float(model.steps)) == (0, [], 0.0)
    assert torch.equal(torch.default_generator.get_state(), draws)


@pytest.mark.parametrize("odd", [Making, Raising, Endless, StateSpace])
def test_whatever_tracing_raises_means_part_by_part(odd):
    assert list(paths_of(Around(odd()), torch.randn(2, 4))) == ["part.0-part.2"]


def test_a_compiled_script_inside_is_passed_over():
    with torch.no_grad():
        script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert list(paths_of(Around(script), torch.randn(2, 4))) == ["part.0-part.2"]
    assert span_paths(script, {}).untraced == ("the model (RecursiveScriptModule) is a compiled script",)


def test_a_part_that_could_not_be_traced_is_named_with_the_reason():
    model = Around(Raising())
    untraced = span_paths(model, {"part.0": 2}).untraced
    for text, name in zip(untraced, ("the model (Around)", "odd (Raising)"), strict=True):
        where = r"test_paths\.py:\d+ `raise Refusal\(\"tensors only\"\)`"
        assert re.fullmatch(rf"{re.escape(name)}: what it does can't be traced beyond {where}", text)


def test_a_graph_that_cannot_be_followed_is_named_with_the_reason():
    class Rated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(F.dropout(self.fc1(x), None, False))

    found = span_paths(Rated(), {"fc1": 2, "fc2": 2})
    assert found.paths == ()
    assert "what follows fc1: " in found.untraced[0]


class Positions(nn.Module):
    """Two convolutions, and between them whatever a test does with positions."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.conv1, self.conv2 = nn.Conv1d(2, 3, 3), nn.Conv1d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.between(torch.relu(self.conv1(x))))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: F.pad(x, (2, 0)),
        lambda x: F.pad(x, (1, 1), mode="circular"),
        lambda x: x[:, :, :-1],
        lambda x: x[..., 1:],
    ],
)
def test_padding_and_cutting_positions_is_per_channel(between):
    found = paths_of(Positions(between), torch.randn(3, 2, 9))
    assert found["conv1-conv2"].obstacle == ""
    assert len(found["conv1-conv2"].steps) == 2


@pytest.mark.parametrize(
    "between",
    [lambda x: F.pad(x, (0, 0, 1, 0))[:, 1:], lambda x: x[:, [2, 1, 0]], lambda x: x[:, :, x.shape[2] // 4 :]],
)
def test_what_reaches_into_channels_or_depends_on_sizes_is_no_path(between):
    assert paths_of(Positions(between), torch.randn(3, 2, 9)) == {}


def test_a_span_across_padding_is_exactly_the_wider_network(rig_of, toy_task):
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv1d(1, 3, 3), nn.Conv1d(3, 4, 3)
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv1(F.pad(x.unsqueeze(1), (2, 0))))
            return self.fc(F.relu(self.conv2(F.pad(x, (2, 0), value=0.5)[:, :, :-1])).mean(2))

    run = rig_of(Causal(), toy_task)
    run.graft("span.conv", "span_conv:conv1-conv2", width=4)
    run.train(6)
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert report.folded
    assert run.arm.model.conv1.out_channels == 7
