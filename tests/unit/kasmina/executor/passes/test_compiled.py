"""Hosts with compiled parts: compiled code really runs, seeds act in it, copies are compiled, counting ends nothing."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from esper.core.errors import ConfigError
from esper.kasmina.executor.fold.export import plain as plain_network
from esper.kasmina.executor.passes import compiled as compiling
from esper.kasmina.executor.passes.compiled import (
    TF32_ADVICE,
    compile_copy,
    compile_in_place,
    compiled_in_place,
    compiled_parts,
)
from esper.leyline import BlendConfig, BlendMode, BlendSchedule, ConfidenceKind
from tests.drilled import drilled

# torch's own tracer looks at .grad of what it is given, and still imports the old script compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning"),
]
CLASSES = 5


class Counting:
    """A backend that runs its graphs as they are and counts them: made, and run."""

    def __init__(self) -> None:
        self.made = 0
        self.run = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.made += 1

        def forward(*arguments: Any) -> Any:
            self.run += 1
            return graph.forward(*arguments)

        return forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
        return self


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.relu(self.fc1(x)))


def plain() -> nn.Sequential:
    torch.default_generator.manual_seed(2)
    return nn.Sequential(Block(), Block(), nn.Linear(12, CLASSES))


def wrapped(backend: Counting) -> nn.Module:
    return torch.compile(plain(), backend=backend)


def in_place(backend: Counting) -> nn.Module:
    host = plain()
    host.compile(backend=backend)
    return host


def by_blocks(backend: Counting) -> nn.Module:
    host = plain()
    for block in host[:2]:
        block.compile(backend=backend)
    return host


def wrapped_blocks(backend: Counting) -> nn.Module:
    host = plain()
    return nn.Sequential(*(torch.compile(block, backend=backend) for block in host[:2]), host[2])


def by_forward(backend: Counting) -> nn.Module:
    host = plain()
    for block in host[:2]:
        block.forward = torch.compile(block.forward, backend=backend)
    return host


KINDS = [wrapped, in_place, by_blocks, wrapped_blocks, by_forward]
# Where every kind takes seconds: those that differ most, the others with the drills.
FEW = drilled(KINDS[:3] + KINDS[4:], lambda kind: kind is by_forward)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    with torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=True,
        recompile_limit=8,
        accumulated_recompile_limit=256,
        automatic_dynamic_shapes=True,
    ):
        torch._dynamo.reset()
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_keeps_the_names_and_outputs_of_the_plain_network(kind):
    backend = Counting()
    host = compiled_in_place(kind(backend))
    x = torch.randn(3, 12)
    assert list(host.state_dict()) == list(plain().state_dict())
    assert type(host) is nn.Sequential
    assert torch.equal(host(x), plain()(x))
    assert backend.run > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_is_attached_to_compiled_code_acts_and_goes_again(kind):
    backend = Counting()
    host = compiled_in_place(kind(backend))
    x = torch.randn(3, 12)
    before = host(x)
    handle = host[1].fc2.register_forward_hook(lambda _, __, output: output + 1.0)
    assert torch.equal(host(x), host[2](host[0](x) + host[1].fc2(torch.relu(host[1].fc1(host[0](x))))))
    assert not torch.equal(host(x), before)
    handle.remove()
    made, run = backend.made, backend.run
    assert torch.equal(host(x), before)
    assert (backend.made, backend.run > run) == (made, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_compiled_shares_the_graphs_and_is_its_own(kind, rig_of, toy_task):
    backend = Counting()
    arm = rig_of(kind(backend), toy_task).arm
    x = torch.randn(3, 12)
    arm.model(x)
    copied = arm.clone()
    made, run = backend.made, backend.run
    assert torch.equal(copied.model(x), arm.model(x))
    assert backend.made == made
    assert backend.run - run == 2 * (backend.run - run) // 2 > 0
    with torch.no_grad():
        for parameter in arm.model.parameters():
            parameter.fill_(float("nan"))
    run = backend.run
    assert bool(torch.isfinite(copied.model(x)).all())
    assert backend.run > run


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_code_still_runs_in_training_after_the_host_was_measured(kind, rig_of, toy_task):
    backend = Counting()
    run = rig_of(kind(backend), toy_task)
    assert run.executor.macs.forward == 4 * 12 * 8 + 12 * CLASSES
    assert backend.made == 0
    run.train(1)
    made, ran = backend.made, backend.run
    assert made > 0
    run.executor.arm.digest()
    run.outputs()
    assert (backend.made, backend.run) == (made, ran)
    run.train(2)
    assert backend.made == made
    assert backend.run > ran


SEEDS = [
    ("span_linear:0.fc1-0.fc2", "span.linear", {"width": 4}),
    ("residual_linear:1-1", "residual.linear", {"width": 3}),
    ("residual_linear:1-1", "gate.channel", {}),
    ("residual_linear:0-0", "adapter.low_rank", {"rank": 2}),
]
TOLD_APART = [(by_blocks, SEEDS[0]), (wrapped, SEEDS[1])]


@pytest.mark.parametrize(
    ("kind", "seed"),
    drilled(product((wrapped, by_blocks, in_place), SEEDS), lambda kind, seed: (kind, seed) in TOLD_APART),
)
def test_a_grown_compiled_run_is_bit_for_bit_the_eager_one(kind, seed, rig_of, toy_task):
    slot, blueprint, parameters = seed
    backend = Counting()
    compiled, eager = rig_of(kind(backend), toy_task), rig_of(plain(), toy_task)
    for run in (compiled, eager):
        run.train(3)
        run.graft(blueprint, slot, **parameters)
        run.train(5)
    assert compiled.arm.digest() == eager.arm.digest()
    assert compiled.executor.twin.digest() == eager.executor.twin.digest()
    assert compiled.arm.digest() != compiled.executor.twin.digest()


@pytest.mark.parametrize("kind", FEW)
def test_a_fold_and_a_cull_leave_compiled_code_at_work(kind, rig_of, toy_task):
    backend = Counting()
    compiled, eager = rig_of(kind(backend), toy_task), rig_of(plain(), toy_task)
    for run in (compiled, eager):
        run.graft("span.linear", "span_linear:0.fc1-0.fc2", width=4)
        run.train(6)
        assert run.do(run.directive("FOLD")).reports[-1].folded
        run.do(run.directive("DROP_TWIN"))
        run.train(2)
        run.graft("span.linear", "span_linear:1.fc1-1.fc2", "s2", width=2)
        run.train(2)
        run.do(run.directive("INSTALL_TWIN", "s2"))
    ran = backend.run
    for run in (compiled, eager):
        run.train(2)
    assert backend.run > ran
    assert compiled.arm.digest() == eager.arm.digest()


def test_many_seeds_later_compiled_code_still_runs(rig_of, toy_task):
    backend = Counting()
    run = rig_of(in_place(backend), toy_task)
    for number in range(4):
        run.graft("span.linear", "span_linear:0.fc1-0.fc2", f"s{number}", width=number + 1)
        run.train(2)
        run.do(run.directive("INSTALL_TWIN", f"s{number}"))
    assert backend.made > 8
    ran = backend.run
    run.train(3)
    assert backend.run - ran == 3


def test_seed_dropout_in_compiled_code_draws_the_same_masks_without_a_graph_for_each(rig_of, toy_task):
    def host() -> nn.Module:
        torch.default_generator.manual_seed(2)
        return nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, CLASSES))

    backend = Counting()
    compiled = host()
    compiled.compile(backend=backend, fullgraph=True)
    runs = rig_of(compiled, toy_task), rig_of(host(), toy_task)
    for run in runs:
        run.graft("span.linear", "span_linear:0-3", width=4)
        run.train(4)
    made = backend.made
    for run in runs:
        run.train(6)
    assert backend.made == made
    assert runs[0].arm.digest() == runs[1].arm.digest()


def test_a_muted_seed_and_a_moving_alpha_need_no_new_graph(rig_of, toy_task, zero_output):
    backend = Counting()
    run = rig_of(in_place(backend), toy_task)
    ramp = type(zero_output)(mode=zero_output.mode, alpha_target=1.0, alpha_start=0.0, schedule=1, schedule_steps=20)
    run.graft("residual.linear", "residual_linear:1-1", blend=ramp, width=3)
    run.train(4)
    made = backend.made
    run.do(run.directive("PROBE"))
    run.train(4)
    assert backend.made == made


CONFIDENCE = BlendConfig(
    mode=BlendMode.BLEND_MODE_CONFIDENCE,
    alpha_target=1.0,
    alpha_start=0.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=4,
    confidence=ConfidenceKind.CONFIDENCE_KIND_MARGIN,
    gate_slope=4.0,
    gate_threshold=0.2,
)


@pytest.mark.parametrize("kind", [pytest.param(wrapped, marks=pytest.mark.slow), by_blocks])
def test_a_confidence_blend_asks_a_compiled_host_for_its_logits(kind, rig_of, toy_task):
    backend = Counting()
    compiled, eager = rig_of(kind(backend), toy_task), rig_of(plain(), toy_task)
    for run in (compiled, eager):
        run.graft("residual.linear", "residual_linear:1-1", blend=CONFIDENCE, width=3)
        run.train(4)
    assert backend.run > 0
    assert compiled.arm.digest() == eager.arm.digest()


def test_a_confidence_blend_is_refused_where_the_whole_host_must_be_one_graph(rig_of, toy_task):
    host = plain()
    host.compile(backend=Counting(), fullgraph=True)
    run = rig_of(host, toy_task)
    slot = "residual_linear:1-1"
    built = run.build("residual.linear", slot, width=3)
    why = run.failure(built, run.directive("ATTACH", slot_id=slot, blend=CONFIDENCE))
    assert why == "a confidence blend asks for logits first: not in a host compiled with fullgraph=True"
    run.train(2)


@pytest.mark.parametrize("use_reentrant", [pytest.param(False, marks=pytest.mark.slow), True])
def test_checkpoints_inside_compiled_code_grow_as_eager_ones(use_reentrant, rig_of, toy_task):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.net[0].fc2(torch.relu(self.net[0].fc1(x)))
            return self.net[2](checkpoint(self.net[1], x, use_reentrant=use_reentrant))

    backend = Counting()
    host = Checkpointed()
    host.compile(backend=backend)
    compiled, eager = rig_of(host, toy_task), rig_of(Checkpointed(), toy_task)
    for run in (compiled, eager):
        run.train(2)
        run.graft("span.linear", "span_linear:net.1.fc1-net.1.fc2", width=4)
        run.train(4)
    assert backend.run > 0
    assert compiled.arm.digest() == eager.arm.digest()
    assert compiled.executor.twin.digest() == eager.executor.twin.digest()


@pytest.mark.slow
def test_the_default_compiler_grows_a_host_and_its_twin_as_two_runs_agree(rig_of, toy_task):
    runs = []
    for _ in range(2):
        torch._dynamo.reset()
        host = plain()
        host.compile()
        run = rig_of(host, toy_task)
        run.train(2)
        run.graft("span.linear", "span_linear:0.fc1-0.fc2", width=4)
        run.train(6)
        runs.append(run)
    eager = rig_of(plain(), toy_task)
    eager.train(8)
    assert runs[0].arm.digest() == runs[1].arm.digest()
    assert runs[0].executor.twin.digest() == runs[1].executor.twin.digest()
    pairs = zip(runs[0].executor.twin.model.parameters(), eager.arm.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_a_seed_incubates_beside_compiled_code_without_a_graph_of_its_own(rig_of, toy_task):
    backend = Counting()
    runs = rig_of(in_place(backend), toy_task), rig_of(plain(), toy_task)
    for run in runs:
        run.train(2)
    made = backend.made
    for run in runs:
        built = run.build("span.linear", "span_linear:0.fc1-0.fc2", width=4)
        run.do(built, run.directive("INCUBATE", duration_steps=4))
        run.train(5)
    assert backend.made == made
    assert runs[0].arm.digest() == runs[1].arm.digest()
    assert seed_sums(runs[0]) == seed_sums(runs[1])


def seed_sums(run: Any) -> list[float]:
    life = run.executor._state.lives["s1"]
    return [float(parameter.detach().double().sum()) for parameter in life.module.parameters()]


def test_an_isolated_seed_in_compiled_code_reaches_no_host_parameter(rig_of, toy_task):
    runs = rig_of(in_place(Counting()), toy_task), rig_of(plain(), toy_task)
    for run in runs:
        run.graft("span.linear", "span_linear:0.fc1-0.fc2", isolate=True, width=4)
        run.train(4)
        run.executor.at_boundary(run.step)
        assert run.executor._state.lives["s1"].leaks == 0
    assert runs[0].arm.digest() == runs[1].arm.digest()


def test_a_compiled_host_with_a_permanent_seed_becomes_a_plain_network(rig_of, toy_task):
    run = rig_of(in_place(Counting()), toy_task)
    run.graft("residual.linear", "residual_linear:1-1", width=3)
    run.train(6)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    run.train(1)
    inputs = run.task.probe_inputs()
    assert torch.allclose(plain_network(run.arm)(inputs), run.outputs(), atol=1e-6)


def test_every_size_of_a_batch_has_its_own_graph_whatever_came_before():
    backend = Counting()
    host = compiled_in_place(in_place(backend))
    sizes = []
    for batch in (16, 15, 16, 15, 13):
        host(torch.randn(batch, 12))
        sizes.append(backend.made)
    assert sizes == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("compiled_by", ["the user", "request"])
def test_layers_of_torchs_own_run_compiled_although_they_inherit_their_forward(compiled_by):
    backend = Counting()
    layers = [nn.TransformerEncoderLayer(12, 2, 8, batch_first=True), nn.Sequential(nn.Linear(12, 12), nn.ReLU())]
    host = nn.Sequential(*layers)
    if compiled_by == "the user":
        for layer in layers:
            layer.compile(backend=backend)
        host = compiled_in_place(host)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiling, "BACKEND", backend)
            compile_in_place(layers)
    host(torch.randn(2, 3, 12))
    assert backend.run == len(layers)


def test_what_is_compiled_is_told_by_path():
    assert compiled_parts(plain()) == ()
    assert compiled_parts(in_place(Counting())) == ("",)
    assert compiled_parts(by_blocks(Counting())) == ("0", "1")
    assert compiled_parts(by_forward(Counting())) == ("0", "1")


def test_a_plain_host_is_left_as_it_is():
    host = plain()
    assert compiled_in_place(host) is host
    assert torch._dynamo.config.skip_nnmodule_hook_guards


def test_hooks_on_a_wrapper_move_to_what_it_wraps():
    host = wrapped(Counting())
    host.register_forward_hook(lambda _, __, output: output + 1.0)
    x = torch.randn(3, 12)
    assert torch.equal(compiled_in_place(host)(x), plain()(x) + 1.0)


def test_what_was_compiled_by_other_means_is_refused_by_name():
    host = plain()
    host[0]._compiled_call_impl = host[0]._call_impl
    with pytest.raises(ConfigError, match=r"'Block'.*compiled by other means than torch.compile"):
        compile_copy(host, plain())


def test_the_advice_to_make_float32_products_less_precise_is_not_repeated_and_other_warnings_are() -> None:
    from torch._inductor import compile_fx

    source = inspect.getsource(compile_fx._warn_tf32_disabled)
    assert TF32_ADVICE in source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_in_place([nn.Linear(1, 1)])
        warnings.warn(f"{TF32_ADVICE}. Consider something.", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
