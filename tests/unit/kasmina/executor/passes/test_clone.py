"""A copy of a network computes and learns as the original does, and neither reaches the other."""

from __future__ import annotations

import functools
import io
import itertools
import logging
import queue
import random
import threading
import types
import warnings
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.clone import independent_copy

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


HOSTS: list[Callable[[], nn.Module]] = [
    masked_gradient, gradient_after_accumulation, closure_over_the_module, closure_in_a_partial,
    default_that_is_a_parameter, bound_method_as_a_hook, replaced_forward, bound_replaced_forward, counter_in_a_closure,
    counter_by_nonlocal, cached_activation, activation_that_is_read_again, locks, old_weight_norm, old_spectral_norm,
    new_norms, pruned, generators, tied_and_viewing, parent_in_a_child, hidden_module, counting_appends, own_deepcopy,
    backward_hook, scripted_part, recurrent,
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


def spoil(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_a_copy_trains_as_the_original_does_and_neither_reaches_the_other(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    step(model)
    copied, other, third = independent_copy(model), independent_copy(model), independent_copy(model)
    first, second = [step(model) for _ in range(2)], [step(copied) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    for (name, mine), theirs in zip(model.named_parameters(), copied.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    spoil(model)
    assert torch.equal(step(other), first[0])
    spoil(copied)
    spoil(other)
    assert torch.equal(step(third), first[0])


def test_what_hangs_on_a_parameter_comes_along() -> None:
    host = Host()
    host.fc1.weight.no_decay = True
    host.fc1.weight.partner = host.fc2.weight
    handle = host.fc1.weight.register_hook(lambda gradient: gradient * 0)
    host.handle = handle
    copied = independent_copy(host)
    assert copied.fc1.weight.no_decay
    assert copied.fc1.weight.partner is copied.fc2.weight
    copied.handle.remove()
    step(copied)
    step(host)
    assert float(copied.fc1.weight.grad.abs().sum()) > 0
    assert float(host.fc1.weight.grad.abs().sum()) == 0


def test_tied_parameters_stay_tied_and_layouts_stay() -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    wide = nn.Parameter(torch.randn(6, 8)[:, ::2])
    copied = independent_copy(nn.ModuleList([conv, conv, nn.ParameterList([wide])]))
    assert copied[0] is copied[1]
    assert copied[0].weight.stride() == conv.weight.stride()
    assert copied[2][0].stride() == wide.stride()


def test_a_cached_view_doesnt_bring_the_data_set_along() -> None:
    host = Host()
    host.probe = torch.zeros(100_000, 4)[:5]
    assert independent_copy(host).probe.untyped_storage().nbytes() == 5 * 4 * 4


def test_the_original_is_as_it_was() -> None:
    host = locks()
    step(host)
    before = {path: {name: id(value) for name, value in vars(m).items()} for path, m in host.named_modules()}
    tensors = [id(tensor) for tensor in (*host.parameters(), *host.buffers())]
    independent_copy(host)
    assert before == {path: {name: id(value) for name, value in vars(m).items()} for path, m in host.named_modules()}
    assert tensors == [id(tensor) for tensor in (*host.parameters(), *host.buffers())]


def test_functions_of_a_module_and_loggers_stay_the_same() -> None:
    host = Host()
    host.activation, host.logger, host.table = torch.relu, logging.getLogger("host"), {1: nn.functional.max_pool2d}
    copied = independent_copy(host)
    assert copied.activation is torch.relu
    assert copied.logger is host.logger
    assert copied.table[1] is nn.functional.max_pool2d


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: io.TextIOWrapper(io.BytesIO()), "TextIOWrapper"),
        (lambda: (number for number in range(3)), "generator"),
        (lambda: threading.Thread(target=print), "Thread"),
        (lambda: torch.ones(1, requires_grad=True).expand(1).grad_fn, "ExpandBackward0"),
    ],
)
def test_what_cant_be_copied_is_named_by_its_path(make: Callable[[], object], words: str) -> None:
    host = nn.Sequential(OrderedDict(block=nn.Sequential(OrderedDict(fc=nn.Linear(2, 2)))))
    host.block.fc.held = {"inside": [make()]}
    with pytest.raises(ConfigError, match=rf"^block\.fc\.held\.inside\[0\] = '{words}': can't be copied"):
        independent_copy(host)


def test_a_hook_that_writes_to_a_file_shares_it() -> None:
    host, file, counts = Host(), io.TextIOWrapper(io.BytesIO()), itertools.count()
    host.fc1.register_forward_hook(lambda *_: print(next(counts), file=file) or _[2] * host.scale)
    copied = independent_copy(host)
    assert torch.equal(copied(INPUTS), host(INPUTS))
    spoil(host)
    assert bool(copied(INPUTS).isfinite().all())
    file.flush()
    assert file.buffer.getvalue().split() == [b"0", b"0", b"1"]
