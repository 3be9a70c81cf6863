"""A host of which no whole and independent twin can be made is refused; others are left as they were."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm, try_twin, unkept
from esper.kasmina.executor.passes.batches import called
from esper.leyline import TaskType
from tests.unit.kasmina.executor.stateful_hosts import HOSTS, INPUTS, Host, cached_activation


class Numbers:
    """A task of three numbers for each of the hosts' inputs."""

    type = TaskType.TASK_TYPE_REGRESSION
    judge_documents = None
    forward = staticmethod(called)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(-1)

    def judge_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield INPUTS, torch.ones(5, 3)

    def over_judging(self, measure: Callable[[Any], Tensor]) -> list[Tensor]:
        return [measure(batch) for batch in self.judge_batches()]

    def probe_inputs(self) -> Tensor:
        return INPUTS


TASK = Numbers()


def step(arm: TrainingArm, number: int) -> None:
    torch.manual_seed(number)
    arm.model.train()
    arm.optimizer.zero_grad()
    TASK.loss(arm.model(INPUTS), torch.ones(5, 3)).backward()
    arm.optimizer.step()


def arm_of(model: nn.Module) -> TrainingArm:
    return TrainingArm(model, torch.optim.Adam(model.parameters(), lr=0.05))


def built(build: Callable[[], nn.Module]) -> TrainingArm:
    torch.manual_seed(0)
    return arm_of(build())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_a_host_that_can_be_copied_passes_and_goes_on_as_if_nothing_had_been_tried(
    build: Callable[[], nn.Module],
) -> None:
    tried, plain = built(build), built(build)
    names = {path: list(vars(module)) for path, module in tried.model.named_modules()}
    tensors = [id(tensor) for tensor in (*tried.model.parameters(), *tried.model.buffers())]
    try_twin(tried, TASK, step)
    assert names == {path: list(vars(module)) for path, module in tried.model.named_modules()}
    assert tensors == [id(tensor) for tensor in (*tried.model.parameters(), *tried.model.buffers())]
    for number in range(2):
        step(tried, number)
        step(plain, number)
    assert tried.digest() == plain.digest()


SHARED: dict[str, Any] = {}


def global_name_in_a_hook() -> nn.Module:
    SHARED["scale"] = SCALE.data.fill_(1.5)
    host = Host()
    host.scale = SCALE
    host.fc1.register_forward_hook(lambda module, arguments, output: output * SCALE)
    return host


SCALE = nn.Parameter(torch.tensor(1.5))


def module_in_a_global_table() -> nn.Module:
    host = SHARED["host"] = Host()
    host.fc1.register_forward_hook(lambda module, arguments, output: output * SHARED["host"].scale)
    return host


def counter_of_the_class() -> nn.Module:
    class Counted(Host):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += self.training
            return super().forward(x) * (1 + type(self).calls / 10)

    return Counted()


CALLS = 0


def counter_of_the_module() -> nn.Module:
    class Counted(Host):
        def forward(self, x: Tensor) -> Tensor:
            global CALLS
            CALLS += self.training
            return super().forward(x) * (1 + CALLS / 10)

    return Counted()


def file_and_scale_in_one_list() -> nn.Module:
    host, held = Host(), []
    held += [io.TextIOWrapper(io.BytesIO()), host]
    host.fc1.register_forward_hook(lambda module, arguments, output: output * held[1].scale)
    return host


def own_copy_that_shares() -> nn.Module:
    class Sharing(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return self

    host = Host()
    host.fc1 = Sharing(4, 6)
    return host


def own_copy_that_forgets() -> nn.Module:
    class Forgetting(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return Forgetting(4, 6)

    host = Host()
    host.fc1 = Forgetting(4, 6)
    return host


def gradient_hook_on_the_accumulator() -> nn.Module:
    host = Host()
    node = host.fc1.weight.expand_as(host.fc1.weight).grad_fn.next_functions[0][0]
    node.register_prehook(lambda gradients: (gradients[0] * 0,))
    SHARED["node"] = node
    return host


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (global_name_in_a_hook, "depend on scale of the original: .* in fc1, reaches it by the name SCALE"),
        (module_in_a_global_table, "depend on scale of the original"),
        (
            counter_of_the_class,
            r"another gradient of fc1.weight: a pass writes the class attribute counter_of_the_class.*Counted\.calls, ",
        ),
        (
            counter_of_the_module,
            r": a pass writes the global CALLS of tests\..*, which all networks share",
        ),
        (file_and_scale_in_one_list, "depend on scale of the original: .* in fc1, reaches it by the name held"),
        (own_copy_that_shares, "shares the memory of fc1.weight"),
        (own_copy_that_forgets, "a copy has another fc1.weight"),
        (gradient_hook_on_the_accumulator, "a copy has another gradient of fc1.weight"),
    ],
)
def test_a_copy_that_is_not_whole_or_not_independent_is_refused_with_its_cause(
    build: Callable[[], nn.Module], words: str
) -> None:
    arm = built(build)
    digest = arm.digest()
    with pytest.raises(ConfigError, match=words):
        try_twin(arm, TASK, step)
    assert arm.digest() == digest


def test_what_cant_be_copied_after_a_step_is_named_by_its_path() -> None:
    class Opening(Host):
        def forward(self, x: Tensor) -> Tensor:
            self.fc2.log = {"file": io.TextIOWrapper(io.BytesIO())} if self.training else {}
            return super().forward(x)

    with pytest.raises(ConfigError, match=r"^model\.fc2\.log\.file = 'TextIOWrapper': can't be copied for a twin"):
        try_twin(arm_of(Opening()), TASK, step)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("build", HOSTS)
def test_what_no_checkpoint_can_hold_after_a_step_is_named_and_nothing_else(build: Callable[[], nn.Module]) -> None:
    assert unkept(built(build), step) == (["seen[1]['pair']"] if build is cached_activation else [])


def test_what_a_host_had_lost_when_it_was_copied_stays_lost_in_the_copy() -> None:
    arm = built(cached_activation)
    step(arm, 0)
    lost = arm.unkept()
    assert arm.clone().unkept() == arm.clone().clone().unkept() == lost == ["seen[1]['pair']"]
