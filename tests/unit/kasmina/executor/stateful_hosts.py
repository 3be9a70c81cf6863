"""Hosts that hold more than weights: hooks, caches, counters, generators, and the step that moves all of it."""

from __future__ import annotations

import functools
import queue
import random
import threading
import types
import warnings
import weakref
from collections import deque, namedtuple
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

Pair = namedtuple("Pair", "first second")


class Host(nn.Module):
    """Two layers; `scale` is what hooks reach for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 6)
        self.fc2 = nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))


def masked_gradient() -> nn.Module:
    host = Host()
    mask = torch.zeros(6, 4)
    mask[:3] = 1
    host.fc1.weight.register_hook(lambda gradient: gradient * mask)
    return host


def gradient_after_accumulation() -> nn.Module:
    host = Host()

    def halve(parameter: Tensor) -> None:
        parameter.grad = parameter.grad / 2

    host.fc1.weight.register_post_accumulate_grad_hook(halve)
    return host


def closure_over_the_module() -> nn.Module:
    host = Host()
    host.fc1.register_forward_hook(lambda module, arguments, output: output * host.scale)
    return host


def closure_in_a_partial() -> nn.Module:
    host = Host()
    scaled = functools.partial(lambda factor, module, arguments, output: output * factor() * host.scale, lambda: 2.0)
    host.fc1.register_forward_hook(scaled)
    return host


def default_that_is_a_parameter() -> nn.Module:
    host = Host()
    host.fc1.register_forward_hook(lambda module, arguments, output, scale=host.scale: output * scale)
    return host


def bound_method_as_a_hook() -> nn.Module:
    class Scaled(Host):
        def rescale(self, module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            return output * self.scale

    host = Scaled()
    host.fc1.register_forward_hook(host.rescale)
    return host


def replaced_forward() -> nn.Module:
    host = Host()
    inner = host.forward
    host.forward = lambda x: inner(x) * host.scale  # type: ignore[method-assign]
    return host


def bound_replaced_forward() -> nn.Module:
    host = Host()
    host.forward = types.MethodType(lambda self, x: self.fc2(self.fc1(x)) * self.scale, host)
    return host


def counter_in_a_closure() -> nn.Module:
    host = Host()
    calls = [0]

    def count(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        calls[0] += 1
        return output * (1 + calls[0] / 10)

    host.fc1.register_forward_hook(count)
    return host


def counter_by_nonlocal() -> nn.Module:
    host, calls = Host(), 0

    def count(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return output * (1 + calls / 10)

    host.fc1.register_forward_hook(count)
    return host


def cached_activation() -> nn.Module:
    class Caching(Host):
        def forward(self, x: Tensor) -> Tensor:
            self.hidden = torch.relu(self.fc1(x))
            self.seen = [self.hidden, {"pair": Pair(self.hidden.sum(), deque([self.hidden * 2], maxlen=2))}]
            return self.fc2(self.hidden)

    return Caching()


def activation_that_is_read_again() -> nn.Module:
    class Recurrent(Host):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.fc1(x))
            if hasattr(self, "last") and self.last.shape == hidden.shape:
                hidden = hidden + 0.1 * self.last.detach()
            self.last = hidden
            return self.fc2(hidden)

    return Recurrent()


def locks() -> nn.Module:
    host = Host()
    host.lock, host.again, host.event, host.queue = (
        threading.Lock(),
        threading.RLock(),
        threading.Event(),
        queue.Queue(),
    )
    host.fc1.register_forward_hook(lambda module, arguments, output: _locked(host, output))
    return host


def _locked(host: nn.Module, output: Tensor) -> Tensor:
    with host.lock, host.again:
        host.queue.put(1)
        return output * host.scale


def old_weight_norm() -> nn.Module:
    host = Host()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        host.fc1 = nn.utils.weight_norm(host.fc1)
    return host


def old_spectral_norm() -> nn.Module:
    host = Host()
    host.fc1 = nn.utils.spectral_norm(host.fc1)
    return host


def new_norms() -> nn.Module:
    host = Host()
    parametrizations.weight_norm(host.fc1)
    parametrizations.spectral_norm(host.fc2)
    host.fc1.parametrizations.weight.original0.register_hook(lambda gradient: gradient * 0.5)
    return host


def pruned() -> nn.Module:
    host = Host()
    prune.l1_unstructured(host.fc1, "weight", amount=0.4)
    return host


def generators() -> nn.Module:
    class Noisy(Host):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(4)
            self.numbers = np.random.default_rng(4)
            self.python = random.Random(4)

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.rand(6, generator=self.generator) + self.numbers.random() + self.python.random()
            return self.fc2(torch.relu(self.fc1(x)) * noise)

    return Noisy()


def tied_and_viewing() -> nn.Module:
    host = Host()
    host.fc3 = nn.Linear(4, 6)
    host.fc3.weight = host.fc1.weight
    host.register_buffer("view", host.fc1.bias.data[:3], persistent=False)
    host.fc2.register_forward_hook(lambda module, arguments, output: output + host.view)
    return host


def parent_in_a_child() -> nn.Module:
    host = Host()
    host.fc1.parent = [host]
    host.fc1.weak = weakref.ref(host)
    host.fc1.register_forward_hook(lambda module, _, output: output * module.parent[0].scale * module.weak().scale)
    return host


def hidden_module() -> nn.Module:
    class Hiding(Host):
        def __init__(self) -> None:
            super().__init__()
            self.others = [nn.Linear(6, 6)]

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.others[0](self.fc1(x)))

    return Hiding()


def counting_appends() -> nn.Module:
    host = Host()
    host.seen = []
    host.note = host.seen.append
    host.fc1.register_forward_hook(lambda module, arguments, output: host.note(1) or output * len(host.seen))
    return host


def own_deepcopy() -> nn.Module:
    traced = torch.fx.symbolic_trace(Host())
    traced.fc1.weight.register_hook(lambda gradient: gradient * 0.5)
    return traced


def backward_hook() -> nn.Module:
    host = Host()
    host.fc2.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * host.scale.detach(),))
    return host


def scripted_part() -> nn.Module:
    host = Host()
    host.fc1 = torch.jit.script(host.fc1)
    return host


def recurrent() -> nn.Module:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 5)
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x)[0])

    return Words()


def gated_recurrence() -> nn.Module:
    return _Sequence(nn.GRU(4, 5, num_layers=2, bidirectional=True), 10)


def plain_recurrence() -> nn.Module:
    return _Sequence(nn.RNN(4, 5), 5)


class _Sequence(nn.Module):
    def __init__(self, cells: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.cells = cells
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cells(x)[0])


class Handle:
    """No plain value, and nothing that can be copied."""

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a handle belongs to its process")


class Reopening(Host):
    """Holds what it makes anew in each copy, as nn.RNNBase does with its weak references."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = Handle()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "handle"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self.handle = Handle()


def handle_made_anew() -> nn.Module:
    return Reopening()


def weak_method() -> nn.Module:
    class Scaling(Host):
        def scaled(self, output: Tensor) -> Tensor:
            return output * self.scale

    host = Scaling()
    host.weak = weakref.WeakMethod(host.scaled)
    host.fc1.register_forward_hook(lambda module, arguments, output: host.weak()(output))
    return host


HOSTS: list[Callable[[], nn.Module]] = [
    masked_gradient, gradient_after_accumulation, closure_over_the_module, closure_in_a_partial,
    default_that_is_a_parameter, bound_method_as_a_hook, replaced_forward, bound_replaced_forward, counter_in_a_closure,
    counter_by_nonlocal, cached_activation, activation_that_is_read_again, locks, old_weight_norm, old_spectral_norm,
    new_norms, pruned, generators, tied_and_viewing, parent_in_a_child, hidden_module, counting_appends, own_deepcopy,
    backward_hook, scripted_part, recurrent, gated_recurrence, plain_recurrence, handle_made_anew, weak_method,
]  # fmt: skip

INPUTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module) -> Tensor:
    """One step of training; the outputs before it."""
    torch.manual_seed(3)
    model.zero_grad()
    outputs = model(INPUTS)
    outputs.square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    return outputs.detach()
