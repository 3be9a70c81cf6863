"""Evaluations run in training's precision, in batches that fit, and bring their numbers over in one transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper.kasmina.executor.judge.scores import evaluate_stack, judge_scores
from esper.tolaria.config import TrainConfig
from esper.tolaria.task import prepare as preparation
from esper.tolaria.task.data import source
from esper.tolaria.task.objective import task as module
from esper.tolaria.task.objective.task import evaluate, evaluated
from esper.tolaria.task.prepare import Prepared, prepare

CONFIG = TrainConfig(
    data="pytext", model="transformer", samples=200, context=16, width=16, heads=2, min_samples=10, epochs=1
)


def evaluations(run: Prepared) -> list[Any]:
    arm = run.executor.arm
    stack = evaluate_stack(arm, arm.clone(), run.task, step=1, key=1)
    return [evaluate(arm, run.task, run.splits.judge), judge_scores(arm, run.task, key=1), stack]


def recorded(work: Callable[..., Any], seen: set[torch.dtype]) -> Callable[..., Any]:
    """The same, with the types of the outputs that it is given noted."""

    def noting(outputs: Tensor, *rest: Any) -> Any:
        seen.add(outputs.dtype)
        return work(outputs, *rest)

    return noting


KINDS: dict[str, Callable[[Prepared], Any]] = {
    "evaluate": lambda run: evaluate(run.executor.arm, run.task, run.splits.judge),
    "judge": lambda run: judge_scores(run.executor.arm, run.task, key=1),
    "stack": lambda run: evaluate_stack(run.executor.arm, run.executor.arm, run.task, step=1, key=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("amp", "expected"), [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_an_evaluation_has_the_precision_of_training(
    kind: str, amp: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = prepare(replace(CONFIG, amp=amp)), set[torch.dtype]()
    for owner, name in ((run.task, "scores"), (run.task, "clipped_scores"), (module, "in_full")):
        monkeypatch.setattr(owner, name, recorded(getattr(owner, name), seen))
    KINDS[kind](run)
    assert seen == {expected}
    assert not torch.is_autocast_enabled("cpu")


def test_losses_and_scores_are_of_single_precision_and_near_those_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, lowered = prepare(CONFIG), prepare(replace(CONFIG, amp="bf16"))
    types: set[torch.dtype] = set()
    loss = lowered.task.loss
    monkeypatch.setattr(
        lowered.task, "loss", lambda outputs, targets: [types.add(outputs.dtype), loss(outputs, targets)][1]
    )
    (told, _), (expected, _) = (evaluate(run.executor.arm, run.task, run.splits.judge) for run in (lowered, exact))
    assert types == {torch.float32}
    assert told == pytest.approx(expected, rel=1e-3)
    assert told != expected
    scores = [judge_scores(run.executor.arm, run.task, key=1) for run in (lowered, exact)]
    assert torch.allclose(*scores, rtol=1e-2)


def test_a_twin_evaluates_in_the_precision_of_its_original() -> None:
    run = prepare(replace(CONFIG, amp="bf16"))
    assert run.executor.arm.clone().amp == torch.bfloat16
    assert preparation.built_again(run).amp == torch.bfloat16


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_the_size_of_a_batch_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch, amp: str) -> None:
    run = prepare(replace(CONFIG, amp=amp))
    (loss, share), scores, stack = evaluations(run)
    monkeypatch.setattr(source, "VALUES_AT_ONCE", 7 * 16 * 256)
    assert max(len(inputs) for inputs, _ in run.task.judge_batches()) == 7
    (other_loss, other_share), other_scores, other_stack = evaluations(run)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert other_share == pytest.approx(share, rel=1e-6)
    assert torch.allclose(scores, other_scores, rtol=1e-5)
    assert other_stack.mean_twin_score == pytest.approx(stack.mean_twin_score, rel=1e-6)


def test_no_more_outputs_are_made_at_once_than_fit() -> None:
    run = prepare(CONFIG)
    large = replace(run.splits, outputs=50_000)
    # 512 sequences of 512 tokens: 13 billion outputs, of which at most 2**27 stand in memory.
    tokens = torch.zeros(600, 512, dtype=torch.int64)
    part = source.Split(tokens, tokens)
    rows = replace(large, train=part, judge=part, test=part).rows_at_once(512)
    assert rows == 5
    assert rows * 512 * 50_000 <= 2**27


class Transfers(TorchDispatchMode):
    """Counts reads of single values, and copies to the CPU that a device would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_evaluation_of_many_batches_reads_its_numbers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(CONFIG)
    monkeypatch.setattr(source, "VALUES_AT_ONCE", 7 * 16 * 256)
    lists: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: [lists.append(tensor.numel()), tolist(tensor)][1])
    with Transfers() as transfers:
        evaluate(run.executor.arm, run.task, run.splits.judge)
    batches = len(list(run.task.judge_batches()))
    assert transfers.reads == 0
    assert lists == [4 * batches]


@pytest.mark.parametrize("batch", [512, 7])
def test_a_regression_tells_the_share_that_it_explains_and_its_mean_error(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = "tests.unit.tolaria.loss_sources"
    run = prepare(TrainConfig(data=f"{places}:depths", model=f"{places}:dense", min_samples=10, batch_size=16))
    monkeypatch.setattr(module, "JUDGE_BATCH", batch)
    arm, split = run.executor.arm, run.splits.judge
    with torch.no_grad():
        outputs = arm.model.eval()(split.inputs).double()
    targets = split.targets.double()
    rest, whole = (outputs - targets).square().sum(), (targets - targets.mean(0)).square().sum()
    told = evaluated(arm, run.task, split)
    assert told.metrics["R2"] == pytest.approx(float(1 - rest / whole), rel=1e-6)
    assert told.metrics["MAE"] == pytest.approx(float((outputs - targets).abs().mean()), rel=1e-6)
    assert told.figures == evaluate(arm, run.task, split)
    flat = replace(split, targets=torch.ones_like(split.targets))
    assert set(evaluated(arm, run.task, flat).metrics) == {"MAE"}


def test_rows_of_the_judging_data_are_scored_as_in_the_whole_and_in_their_order() -> None:
    run = prepare(CONFIG)
    arm, rows = run.executor.arm, torch.tensor([9, 3, 17, 3])

    def scored(batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return run.task.scores(run.task.forward(arm.model, inputs), targets).double()

    with torch.no_grad():
        whole, some = torch.cat(run.task.over_judging(scored)), torch.cat(run.task.over_judging_rows(scored, rows))
    assert torch.allclose(some, whole[rows], rtol=1e-6)


def test_targets_far_from_zero_are_explained_as_much_as_near_it() -> None:
    places = "tests.unit.tolaria.loss_sources"
    run = prepare(TrainConfig(data=f"{places}:depths", model=f"{places}:dense", min_samples=10, batch_size=16))
    errors = torch.randn(run.splits.judge.targets.shape, generator=torch.Generator().manual_seed(0))
    told = []
    for mean in (0, 2**14):
        split = replace(run.splits.judge, targets=(run.splits.judge.targets * 256).round() / 256 + mean)
        outputs = split.targets + (errors * 256).round() / 256
        sums = run.task.sums(outputs, split.targets) | run.task.spread(split)
        told.append(run.task.metrics({name: float(value) for name, value in sums.items()}, split))
    assert told[1] == pytest.approx(told[0], rel=1e-9)
