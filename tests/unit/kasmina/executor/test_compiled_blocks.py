"""Blocks that are compiled on request: one set of graphs for every block, depth and arm; what is lost is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from esper.kasmina.executor.passes import compiled
from esper.kasmina.executor.passes.compilations import Compilations, break_reasons
from esper.kasmina.executor.stacks.run import find_runs
from tests.drilled import drilled
from tests.unit.kasmina.executor.conftest import CLASSES, Block, Rig, TokenTask, ToyTask, Transformer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


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


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    counting = Counting()
    monkeypatch.setattr(compiled, "BACKEND", counting)
    with torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=True,
        recompile_limit=8,
        accumulated_recompile_limit=256,
        automatic_dynamic_shapes=True,
    ):
        yield counting
    torch._dynamo.reset()


def compile_blocks(run: Rig) -> Rig:
    runs, _ = find_runs(run.arm.model, run.task.probe_inputs())
    run.executor.compile_blocks(runs)
    return run


class Numbered(Block):
    """Knows its place, as Hugging Face's blocks do, and doesn't use it."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx


class Reading(Numbered):
    """Uses it: each block is code of its own to the compiler."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 + 0.01 * self.layer_idx)


class Attending(nn.Module):
    """Attention as torch has it, which gives a second value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.attention(normed, normed, normed, need_weights=False)[0]


class Broken(Block):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


def of_blocks(*blocks: nn.Module) -> Transformer:
    torch.default_generator.manual_seed(2)
    model = Transformer()
    model.blocks = nn.Sequential(*blocks)
    return model


def encoder() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True, norm_first=True)


HOSTS: dict[str, Callable[[], nn.Module]] = {
    "blocks": Transformer,
    "numbered": lambda: of_blocks(Numbered(0), Numbered(1)),
    "nn.TransformerEncoderLayer": lambda: of_blocks(encoder(), encoder()),
    "nn.MultiheadAttention": lambda: of_blocks(Attending(), Attending()),
}


@pytest.mark.parametrize("host", drilled(HOSTS, lambda host: host in ("numbered", "nn.TransformerEncoderLayer")))
def test_neither_a_twin_nor_a_stack_nor_an_evaluation_of_either_adds_a_compilation(
    host: str, backend: Counting, rig_of: type[Rig]
) -> None:
    torch.default_generator.manual_seed(2)
    run = compile_blocks(rig_of(HOSTS[host](), TokenTask()))
    run.train(2)
    run.stack()
    run.do(run.directive("JUDGE", look=1, at_step=2))
    made, at_first = backend.made, run.executor.compilations
    assert made == 2  # training and evaluation
    assert at_first == Compilations(graphs=2, recompilations=1)
    ran = backend.run
    run.train(3)
    assert backend.run - ran == 3 * (4 + 2)
    run.do(run.directive("DROP_TWIN"))
    run.stack("s2")
    run.train(1)
    ran = backend.run
    run.do(run.directive("JUDGE", "s2", look=1, at_step=run.step))
    assert backend.run - ran == 8 + 4
    copied = run.arm.clone()
    copied.model(run.task.batch(0)[0])
    assert backend.made == made
    assert run.executor.compilations == at_first


def test_a_run_of_compiled_blocks_is_the_eager_run_bit_for_bit(backend: Counting, rig_of: type[Rig]) -> None:
    digests = []
    for prepare in (compile_blocks, lambda run: run):
        torch.default_generator.manual_seed(2)
        run = prepare(rig_of(Transformer(), TokenTask()))
        run.train(2)
        run.stack()
        run.train(3)
        (evaluation,) = run.do(run.directive("JUDGE", look=1, at_step=5)).observations[0].evaluations
        digests.append((run.arm.digest(), run.executor.twin.digest(), evaluation.SerializeToString()))
    assert backend.run > 0
    assert digests[0] == digests[1]


def test_what_is_measured_eagerly_stays_eager_and_ends_no_compilation(backend: Counting, rig_of: type[Rig]) -> None:
    run = compile_blocks(rig_of(Transformer(), TokenTask()))
    run.train(1)
    made, ran = backend.made, backend.run
    run.stack()  # outputs, proof and multiply-accumulates, by hooks and counters
    run.outputs()
    assert (backend.made, backend.run) == (made, ran)
    run.train(1)
    assert (backend.made, backend.run) == (made, ran + 4 + 2)


def test_a_seed_inside_a_compiled_block_acts_and_leaves_no_trace(backend: Counting, rig_of: type[Rig]) -> None:
    digests = []
    for prepare in (compile_blocks, lambda run: run):
        torch.default_generator.manual_seed(2)
        run = prepare(rig_of(Transformer(), TokenTask()))
        run.train(2)
        run.graft("span.linear", "span_linear:blocks.0.fc1-blocks.0.fc2", width=4)
        run.train(4)
        grown = run.arm.digest()
        run.do(run.directive("INSTALL_TWIN"))
        run.train(2)
        digests.append((grown, run.arm.digest()))
    assert digests[0] == digests[1]


def test_an_equal_tail_of_a_stage_is_compiled_where_it_ends(backend: Counting, rig_of: type[Rig]) -> None:
    class Residual(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(inputs, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.bn(self.conv(x)) + x.mean(1, keepdim=True))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Sequential(Residual(1), Residual(4), Residual(4))
            self.fc = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer1(x).mean((2, 3)))

    run = compile_blocks(rig_of(ResNet(), ToyTask((1, 6, 6))))
    assert compiled.compiled_parts(run.arm.model) == ("layer1.1", "layer1.2")
    run.train(2)
    run.stack(slot_id="stack:layer1")
    ran = backend.run
    run.train(1)
    assert (backend.made, backend.run - ran) == (1, 4 + 2)


def test_blocks_that_differ_for_the_compiler_are_counted_and_still_compiled(
    backend: Counting, rig_of: type[Rig]
) -> None:
    run = compile_blocks(rig_of(of_blocks(*map(Reading, range(5))), TokenTask()))
    run.train(1)
    assert run.executor.compilations == Compilations(graphs=5, recompilations=4)
    run.stack()
    run.train(1)
    assert run.executor.compilations == Compilations(graphs=10, recompilations=9)  # beyond torch's own eight


def test_a_limit_that_is_met_is_a_fallback_and_a_cut_graph_is_counted(
    backend: Counting, monkeypatch: pytest.MonkeyPatch, rig_of: type[Rig]
) -> None:
    run = compile_blocks(rig_of(of_blocks(Broken(), Broken()), TokenTask()))
    run.train(1)
    counts = run.executor.compilations
    assert counts is not None
    assert counts.graph_breaks >= 1  # also once for each call around it
    assert "graph_break()" in break_reasons()[-1]
    monkeypatch.setattr(compiled, "GRAPHS_OF_ONE_CODE", 1)
    torch._dynamo.config.recompile_limit = 1
    run = compile_blocks(rig_of(of_blocks(Reading(0), Reading(1)), TokenTask()))
    run.train(2)
    counts = run.executor.compilations
    assert counts is not None
    assert (counts.graphs, counts.fallbacks) == (1, 1)


def test_nothing_is_counted_where_nothing_was_compiled_on_request(rig_of: type[Rig]) -> None:
    assert rig_of(Transformer(), TokenTask()).executor.compilations is None
