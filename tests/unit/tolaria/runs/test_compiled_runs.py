"""Whole runs with `--compile blocks`: what is told of the compiler, resumed runs, and hosts that it isn't for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes import compiled
from esper.kasmina.executor.passes.compilations import Compilations
from esper.kasmina.executor.passes.compiled import compiled_parts
from esper.tolaria.config import TrainConfig
from esper.tolaria.dry_run import dry_run
from esper.tolaria.loop import compile_watch
from esper.tolaria.record.course.events import incident_kind
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task import posed as preparation
from esper.tolaria.task.models.transformer import Block
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trial import tried_checkpoint, try_host
from tests.unit.tolaria.stacks.test_stack_runs import KEPT, UNDONE, KilledError, Killer, config, run
from tests.unit.tolaria.test_trainer import Recorder

__all__ = ["config"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


class Plain:
    """A backend that runs its graphs as they are, and knows how often."""

    def __init__(self) -> None:
        self.made = self.run = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.made += 1

        def forward(*arguments: Any) -> Any:
            self.run += 1
            return graph.forward(*arguments)

        return forward


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    with torch._dynamo.config.patch(
        skip_nnmodule_hook_guards=True,
        recompile_limit=8,
        accumulated_recompile_limit=256,
        automatic_dynamic_shapes=True,
    ):
        yield
    torch._dynamo.reset()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Plain:
    backend = Plain()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    return backend


@pytest.fixture
def blocks(config: TrainConfig) -> TrainConfig:
    return replace(config, compile="blocks")


def messages(recorder: Recorder, name: str) -> list[str]:
    return [notice.message for notice in recorder.notices if notice.name == name]


def test_a_run_that_keeps_two_stacks_ends_as_the_eager_one_and_tells_the_compilers_work(
    config: TrainConfig, blocks: TrainConfig, backend: Plain
) -> None:
    recorder = Recorder()
    eager, _ = run(config, KEPT)
    summary, _ = run(blocks, KEPT, recorder)
    assert eager["compile"] is None
    graphs = summary["compile"]["graphs"]
    # Training, and evaluation of the batches and of the last one, of judging and of testing data.
    assert 2 <= graphs <= 4
    assert summary["compile"] == {"graphs": graphs, "graph_breaks": 0, "recompilations": graphs - 1, "fallbacks": 0}
    assert backend.made == graphs
    assert summary["weights_digest"] == eager["weights_digest"]
    assert summary["reproducible"]
    assert messages(recorder, "tolaria.compiled")[-1].startswith(f"compiled blocks: {graphs} graphs, 0 graph breaks")
    assert not messages(recorder, "tolaria.compiled_badly")
    assert incident_kind("tolaria.compiled") == "compiled"


@pytest.mark.slow
def test_the_dry_run_names_the_blocks_that_are_compiled(blocks: TrainConfig, backend: Plain) -> None:
    lines = dry_run(replace(blocks, grow="never"), RunOptions()).splitlines()
    assert "compiled: blocks 0 to 1 of blocks" in lines
    assert backend.run > 0


def test_counts_are_told_in_words() -> None:
    words = compile_watch.in_words(Compilations(graphs=1, recompilations=2))
    assert words == "compiled blocks: 1 graph, 0 graph breaks, 2 recompilations, 0 fallbacks"


def test_the_trial_of_a_host_compiles_nothing(blocks: TrainConfig, backend: Plain) -> None:
    prepared = prepare(blocks)
    try_host(prepared)
    assert tried_checkpoint(prepared)
    assert backend.made == 0


@pytest.mark.parametrize("script", [pytest.param(KEPT, marks=pytest.mark.slow), UNDONE], ids=["kept", "undone"])
def test_a_killed_run_of_compiled_blocks_resumes_to_the_same_weights(
    tmp_path: Path, blocks: TrainConfig, backend: Plain, script: Any
) -> None:
    check_resumed(tmp_path, blocks, script)
    assert backend.run > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", [KEPT, UNDONE], ids=["kept", "undone"])
def test_a_killed_run_of_really_compiled_blocks_resumes_to_the_same_weights(
    tmp_path: Path, blocks: TrainConfig, script: Any
) -> None:
    check_resumed(tmp_path, blocks, script)


def check_resumed(tmp_path: Path, config: TrainConfig, script: Any) -> None:
    whole, _ = run(config, script)
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(config, script, Killer(), store=store)
    resumed, _ = run(config, script, store=store, resume=True)
    same = ("weights_digest", "val_loss", "test_loss", "final_parameters")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}
    assert resumed["compile"]["fallbacks"] == 0


def test_a_run_is_resumed_as_compiled_as_it_was(tmp_path: Path, config: TrainConfig, blocks: TrainConfig) -> None:
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(config, KEPT, Killer(), store=store)
    with pytest.raises(ConfigError, match="compile = 'blocks': the checkpoint's run has 'off'"):
        run(blocks, KEPT, store=store, resume=True)


class Broken(Block):
    def forward(self, x_BTD: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x_BTD)


def test_cuts_fallbacks_and_too_many_graphs_are_warnings(
    blocks: TrainConfig, backend: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.tolaria.task.models.transformer.Block", Broken)
    monkeypatch.setattr(compile_watch, "GRAPHS_OF_EQUAL_BLOCKS", 0)
    monkeypatch.setattr(compiled, "GRAPHS_OF_ONE_CODE", 1)
    recorder = Recorder()
    with torch._dynamo.config.patch(recompile_limit=1):
        summary, _ = run(replace(blocks, grow="never"), {}, recorder)
    told = [notice for notice in recorder.notices if notice.name == "tolaria.compiled_badly"]
    assert {notice.level for notice in told} == {"WARNING"}
    assert any("compiled blocks are cut into several graphs" in notice.message for notice in told)
    assert any("graph_break()" in notice.cause for notice in told)
    assert any("was given up and runs as plain Python" in notice.message for notice in told)
    assert any("the blocks don't share them" in notice.message for notice in told)
    assert summary["compile"]["fallbacks"] > 0


def test_a_host_without_equal_blocks_and_one_that_compiles_itself_are_one_clear_line_each(
    config: TrainConfig, blocks: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(replace(blocks, depth=1))
    assert str(caught.value) == (
        "compile = 'blocks': transformer has no run of equal blocks "
        "(blocks: it has one block, a run needs two); leave --compile out"
    )
    with pytest.raises(ConfigError, match=r"compile = 'blocks': mlp has no run of equal blocks; leave --compile out"):
        prepare(TrainConfig(compile="blocks"))

    def compiling(*arguments: Any) -> nn.Module:
        model = build(*arguments)
        model.model.compile()
        return model

    build = preparation.build_host
    monkeypatch.setattr(preparation, "build_host", compiling)
    with pytest.raises(ConfigError, match="the model compiles itself already"):
        prepare(blocks)
    assert compiled_parts(prepare(config).executor.arm.model) == ("",)
