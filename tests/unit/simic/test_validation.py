from __future__ import annotations

import math

import numpy as np
import pytest

from esper.simic.calibration import calibration
from esper.simic.dataset import dataset_of, shuffled
from esper.simic.validation import Trained, train
from esper.tamiyo.learned.observation import VERSION
from esper.tamiyo.learned.weights import read_weights, write_weights
from tests.unit.simic.making import narrow_pays, report, reports


def trained(count: int, **changes: object) -> Trained:
    return train(dataset_of(reports(count, **changes)), price=0.1, caution=0.5)  # type: ignore[arg-type]


def failed(done: Trained) -> set[str]:
    return {check.name for check in done.validation.checks if not check.holds}


def test_what_can_be_learned_passes_and_is_worth_more_than_what_was_done() -> None:
    done = trained(150)
    assert done.validation.passed, failed(done)
    values = done.validation.values
    assert values["learned"].low > max(0.0, values["as logged"].value)
    assert done.validation.explained > 0.3


@pytest.mark.parametrize(("count", "name"), [(0, "runs"), (6, "decisions"), (39, "decisions")])
def test_an_empty_and_a_tiny_store_fail_and_give_no_weights(count: int, name: str) -> None:
    done = trained(count)
    assert not done.validation.passed
    assert name in failed(done)
    assert done.model is None


def test_a_store_whose_later_runs_are_unlike_the_earlier_ones_fails() -> None:
    moved = [*reports(75), *(report(n, run=n // 3, shift=20.0) for n in range(75, 150))]
    done = train(dataset_of(moved), price=0.1, caution=0.5)
    assert "later runs far from earlier ones" in failed(done)


def test_decisions_that_were_certain_teach_nothing_about_others() -> None:
    def certain(number: int):  # type: ignore[no-untyped-def]
        made = report(number, run=number // 3)
        for place, each in enumerate(made.observation.candidates):
            each.probability = float(place == made.observation.chosen)
        made.observation.wait_probability = 0.0
        return made

    done = train(dataset_of([certain(n) for n in range(150)]), price=0.1, caution=0.5)
    assert failed(done) == {"explored"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled_rewards_fail(seed: int) -> None:
    done = train(shuffled(dataset_of(reports(150)), seed), price=0.1, caution=0.5)
    assert not done.validation.passed


def test_a_world_in_which_nothing_pays_fails() -> None:
    done = trained(150, world=lambda run, taken, draw: draw.gauss(0, 0.01))
    assert "value above growing nothing, 95 % bound" in failed(done)


def test_reports_of_other_features_are_left_out_and_counted() -> None:
    data = dataset_of([report(1), report(2, version="growth:v0")])
    assert len(data) == 1
    assert data.left_out == {f"features growth:v0, {VERSION} is read": 1}


def test_a_fit_gives_the_same_weights_again_and_survives_its_bytes() -> None:
    first, second = trained(90), trained(90)
    assert first.model is not None
    assert second.model is not None
    written = [
        write_weights(done.model, version="1.1.0", caution=0.5, price=0.1, expected_reward=0.0)
        for done in (first, second)
        if done.model is not None
    ]
    assert written[0] == written[1]
    rows = dataset_of(reports(9)).taken()
    assert np.array_equal(
        read_weights(written[0]).model.predict(rows).means["gain"], first.model.predict(rows).means["gain"]
    )


def test_predicted_gains_are_those_that_are_measured_later() -> None:
    model = trained(240).model
    assert model is not None
    later = dataset_of([report(number, run=number) for number in range(1000, 1300)])
    for each in calibration(later, dict.fromkeys(later.runs, model)):
        assert abs(each["predicted"] - each["measured"]) < 0.08
        assert math.isfinite(each["error"])
    assert narrow_pays.__doc__
