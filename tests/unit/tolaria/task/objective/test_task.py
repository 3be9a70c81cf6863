"""Tasks: bounded scores of independent units, lower is better."""

from __future__ import annotations

from math import log

import pytest
import torch

from esper.leyline import TaskType
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.objective.task import JUDGE_BATCH, by_rows, make_task


def splits(kind: str, samples: int = 20) -> Splits:
    """Three sets that have nothing in common."""
    generator = torch.Generator().manual_seed(0)
    draw_targets = {
        "CLASSIFICATION": lambda: torch.randint(0, 3, (samples,), generator=generator),
        "LANGUAGE_MODEL": lambda: torch.randint(0, 3, (samples, 6), generator=generator),
        "REGRESSION": lambda: torch.randn(samples, 2, generator=generator),
    }[kind]
    sets = {
        name: Split(torch.randn(samples, 6, generator=generator), draw_targets()) for name in ("train", "judge", "test")
    }
    return Splits(**sets, task=TaskType.Value(f"TASK_TYPE_{kind}"), outputs=2 if kind == "REGRESSION" else 3)


@pytest.mark.parametrize(("kind", "worst"), [("CLASSIFICATION", 2.0), ("LANGUAGE_MODEL", 2 * log(3))])
def test_scores_are_bounded_however_wrong_a_prediction_is(kind: str, worst: float) -> None:
    data = splits(kind)
    targets = data.judge.targets
    wrong = torch.full((*targets.shape, 3), 0.0).scatter(-1, ((targets + 1) % 3).unsqueeze(-1), 1e6)
    right = torch.full((*targets.shape, 3), 0.0).scatter(-1, targets.unsqueeze(-1), 1e6)
    scores = make_task(data).scores(wrong, targets)
    assert scores.shape == (20,)
    assert torch.allclose(scores, torch.full((20,), worst))
    assert torch.allclose(make_task(data).scores(right, targets), torch.zeros(20))


def test_a_token_counts_no_worse_than_two_uniform_guesses_and_the_share_beyond_is_told() -> None:
    targets = torch.zeros(1, 4, dtype=torch.int64)
    part = Split(torch.zeros(1, 4), targets)
    task = make_task(Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_LANGUAGE_MODEL, outputs=3))
    # The right token is so many nats behind each of the two others.
    behind = torch.tensor([0.0, 1.0, 1.2, 5.0])
    outputs = torch.zeros(1, 4, 3)
    outputs[..., 1:] = behind.view(1, 4, 1)
    nats = torch.log1p(2 * behind.exp())
    assert [bool(lost) for lost in nats > log(3)] == [False, True, True, True]
    assert [bool(lost) for lost in nats > 2 * log(3)] == [False, False, False, True]
    scores, share = task.clipped_scores(outputs, targets)
    assert float(share) == 0.25
    assert float(scores) == pytest.approx(float(nats.clamp(max=2 * log(3)).mean()))
    assert torch.equal(scores, task.scores(outputs, targets))


def test_a_regression_score_is_clipped_at_a_constant_of_the_training_data() -> None:
    data = splits("REGRESSION")
    task = make_task(data)
    variance = float(data.train.targets.var(dim=0, correction=0).mean())
    far = task.scores(data.judge.targets + 1e6, data.judge.targets)
    assert torch.allclose(far, torch.full((20,), 4 * variance))
    assert not task.counts_hits
    shares, clipped = task.clipped_scores(data.judge.targets + 1e6, data.judge.targets)
    assert torch.allclose(shares, torch.full((20,), 4.0))
    assert not clipped.any()


def test_the_score_that_judges_a_stack_of_a_regression_has_no_unit() -> None:
    data = splits("REGRESSION")
    scaled = data.mapped(lambda split: Split(split.inputs, 1000 * split.targets))
    guess = torch.zeros_like(data.judge.targets)
    (plain, _), (large, _) = (make_task(each).clipped_scores(guess, each.judge.targets) for each in (data, scaled))
    assert torch.allclose(plain, large)


def test_the_brier_score_is_the_squared_distance_to_the_label() -> None:
    data = splits("CLASSIFICATION")
    score = make_task(data).scores(torch.zeros(1, 3), torch.tensor([2]))
    assert float(score) == pytest.approx(2 / 9 + 4 / 9)


def test_cross_entropy_by_rows_is_that_of_positions() -> None:
    generator = torch.Generator().manual_seed(4)
    outputs, targets = torch.randn(3, 5, 4, 2, generator=generator), torch.randint(0, 5, (3, 4, 2), generator=generator)
    assert torch.allclose(by_rows(outputs, targets), torch.nn.functional.cross_entropy(outputs, targets))


def test_a_sample_with_a_label_at_each_position_has_one_score_the_mean_of_theirs() -> None:
    generator = torch.Generator().manual_seed(3)
    part = Split(torch.randn(8, 1, 4, 5), torch.randint(0, 3, (8, 4, 5), generator=generator))
    task = make_task(Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=3))
    outputs, targets = torch.randn(8, 3, 4, 5, generator=generator), part.targets
    each = make_task(splits("CLASSIFICATION")).scores(outputs.movedim(1, -1).reshape(-1, 3), targets.flatten())
    assert torch.allclose(task.scores(outputs, targets), each.reshape(8, 20).mean(1))
    assert torch.equal(task.hits(outputs, targets), outputs.argmax(1) == targets)
    assert torch.equal(task.loss(outputs, targets), torch.nn.functional.cross_entropy(outputs, targets))


@pytest.mark.parametrize(("targets", "outputs"), [((), 18), ((6,), 3), ((3, 2), 3)])
def test_sets_are_evaluated_in_batches_whose_outputs_fit_in_memory(
    monkeypatch: pytest.MonkeyPatch, targets: tuple[int, ...], outputs: int
) -> None:
    part = Split(torch.randn(20, 6), torch.zeros(20, *targets))
    data = Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=outputs)
    # A sample has eighteen outputs.
    monkeypatch.setattr("esper.tolaria.task.data.source.VALUES_AT_ONCE", 7 * 18 + 17)
    parts = [inputs for inputs, _ in make_task(data).judge_batches()]
    assert [len(inputs) for inputs in parts] == [7, 7, 6]
    assert torch.equal(torch.cat(parts), part.inputs)
    assert len(make_task(data).probe_inputs()) == 7


def test_judge_batches_cover_the_judging_data_in_order() -> None:
    data = splits("CLASSIFICATION", samples=JUDGE_BATCH + 5)
    parts = [inputs for inputs, _ in make_task(data).judge_batches()]
    assert torch.equal(torch.cat(parts), data.judge.inputs)
    assert len(parts) == 2


def test_probes_are_of_the_training_data() -> None:
    data = splits("CLASSIFICATION")
    probed = make_task(data).probe_inputs()
    assert torch.equal(probed, data.train.inputs[: len(probed)])
