from __future__ import annotations

import random
from statistics import fmean

import pytest

from esper.simic.dataset import Dataset, dataset_of, shuffled
from esper.simic.trainer import Form, crossed_models, fit
from esper.simic.value import at_random, doubly_robust, greedy, importance_weighted, never
from tests.unit.simic.making import narrow_pays, report, reports

FORM = Form(is_crossed=True, strength=10.0)
PRICE = 0.1


def made(count: int) -> Dataset:
    return dataset_of(reports(count))


def test_growing_nothing_is_worth_nothing() -> None:
    data = made(60)
    models = crossed_models(data, FORM, PRICE)
    assert doubly_robust(data, never, models, PRICE).value == 0.0
    assert importance_weighted(data, never, PRICE).value == 0.0


def test_the_value_of_what_was_done_at_random_is_the_mean_reward() -> None:
    data = made(120)
    models = crossed_models(data, FORM, PRICE)
    mean = float(data.rewards(PRICE).mean())
    assert importance_weighted(data, at_random, PRICE).value == pytest.approx(mean)
    estimate = doubly_robust(data, at_random, models, PRICE)
    assert estimate.value == pytest.approx(mean, abs=3 * estimate.error)


def test_the_doubly_robust_value_of_a_policy_is_what_it_turns_out_to_be_worth() -> None:
    """The world is known, so the truth is: every candidate's reward, had it been taken."""
    data = made(300)
    model = fit(dataset_of(reports(400)[300:]), FORM, PRICE)
    policy = greedy(model, 0.5)
    estimate = doubly_robust(data, policy, dict.fromkeys(data.runs, model), PRICE)
    truth = fmean(_true_reward(number, policy(data.decisions[number]).tolist()) for number in range(300))
    assert estimate.value == pytest.approx(truth, abs=3 * estimate.error)
    assert estimate.error < importance_weighted(data, policy, PRICE).error, "the model takes noise away"


def _true_reward(number: int, wanted: list[float]) -> float:
    if sum(wanted) == 0:
        return 0.0
    seen = next(each for each in [report(number, run=number // 3)]).observation
    run = {each.name: each.value for each in seen.features}
    taken = {each.name: each.value for each in seen.candidates[wanted.index(1.0)].features}
    gain = narrow_pays(run, taken, random.Random(number))
    return (gain if gain > 0.03 else 0.0) - PRICE * 0.3


def test_an_error_is_that_of_runs_and_not_of_decisions() -> None:
    """The same decisions told ten times over as parts of the same runs say no more than once."""
    once = made(30)
    often = Dataset(decisions=once.decisions * 10, left_out=once.left_out)
    models = crossed_models(once, FORM, PRICE)
    errors = [doubly_robust(data, at_random, models, PRICE).error for data in (once, often)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-6)


def test_shuffled_outcomes_keep_their_mean_and_lose_what_could_be_learned() -> None:
    data = made(240)
    mixed = shuffled(data, 1)
    assert sorted(mixed.rewards(PRICE)) == pytest.approx(sorted(data.rewards(PRICE)))
    truth = crossed_models(data, FORM, PRICE)
    worth = [doubly_robust(data, greedy(fit(each, FORM, PRICE), 0.5), truth, PRICE).value for each in (data, mixed)]
    assert worth[0] > worth[1] + 0.05
