"""A copy of a network computes and learns as the original does, and neither reaches the other."""

from __future__ import annotations

import io
import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.contents.clone import independent_copy
from tests.unit.kasmina.executor.stateful_hosts import HOSTS, INPUTS, Host, locks, step


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
