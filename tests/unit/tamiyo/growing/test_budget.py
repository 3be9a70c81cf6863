from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Budget, JudgeMode, SeedStage
from esper.tamiyo.growing.budget import forecast_training_macs, objection
from esper.urza.cost import memory
from tests.unit.tamiyo.builders import context, manifest, packet, spec


def with_budget(**limits: int) -> Budget:
    return Budget(**limits)


def test_without_limits_everything_can_be_afforded() -> None:
    assert objection(packet(500), context(), parameters=10**12, forward_macs=10**12) is None


@pytest.mark.parametrize(
    ("limit", "enough"),
    [
        ("max_parameters", 502 + 100),
        ("max_forward_macs", 480 + 50),
        ("max_memory_bytes", (502 + 100 + 502) * 16),
        ("max_seeds", 1),
    ],
)
def test_each_limit_is_kept_exactly_and_named(limit: str, enough: int) -> None:
    exact = context(spec(budget=with_budget(**{limit: enough})))
    tight = context(spec(budget=with_budget(**{limit: enough - 1})))
    assert objection(packet(500), exact, parameters=100, forward_macs=50) is None
    text = objection(packet(500), tight, parameters=100, forward_macs=50)
    assert text is not None
    assert limit in text
    assert str(enough) in text


def test_memory_counts_the_parameter_its_gradient_and_the_optimizer() -> None:
    host = manifest()
    assert memory(host, parameters=1, added=0, has_twin=False).total == 4 * (1 + 1 + 2)
    host.optimizer_family, host.submodules[0].dtype = "SGD", "torch.bfloat16"
    assert memory(host, parameters=1, added=0, has_twin=False).total == 2 * (1 + 1 + 1)


def test_without_a_twin_one_arm_counts_against_the_memory() -> None:
    exact = spec(budget=with_budget(max_memory_bytes=(502 + 100) * 16))
    assert objection(packet(500), context(exact), parameters=100, forward_macs=50) is not None
    exact.life.judge = JudgeMode.JUDGE_MODE_MUTED
    assert objection(packet(500), context(exact), parameters=100, forward_macs=50) is None


def test_the_forecast_adds_the_rest_of_the_run_the_seed_and_its_twin_for_both_windows() -> None:
    run, given = context(), packet(1050)
    spent = given.metrics.training_macs
    host = spent * 1050 // 1050
    assert forecast_training_macs(given, run, forward_macs=0) == spent + host + spent * 420 // 1050
    assert forecast_training_macs(given, run, forward_macs=480) == spent + 2 * host + spent * 420 // 1050


def test_the_forecast_knows_that_the_past_trained_a_smaller_network() -> None:
    """A host of 480, twice as dear since step 300 and 500, where a seed of 480 was grafted and kept."""
    run, given = context(), packet(1050)
    rate = 3 * 64
    given.metrics.forward_macs = 960
    given.metrics.training_macs = rate * (300 * 480 + 200 * (960 + 480) + 550 * 960)
    given.seeds.add(forward_macs=480, stage=SeedStage.SEED_STAGE_FOSSILIZED, age_steps=200, stage_step=500)
    rest = rate * (1050 * (960 + 100) + 420 * 960)
    assert forecast_training_macs(given, run, forward_macs=100) == given.metrics.training_macs + rest


def test_without_a_twin_none_was_paid_and_none_will_be() -> None:
    run, given = context(), packet(1050)
    run.spec.life.judge = JudgeMode.JUDGE_MODE_MUTED
    given.metrics.forward_macs, given.metrics.training_macs = 960, 500 * 480 + 550 * 960
    given.seeds.add(forward_macs=480, stage=SeedStage.SEED_STAGE_FOSSILIZED, age_steps=100, stage_step=600)
    assert forecast_training_macs(given, run, forward_macs=40) == 500 * 480 + 550 * 960 + 1050 * 1000


@given(st.integers(1, 2100), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_bigger_seed_never_costs_less(step: int, small: int, more: int) -> None:
    run, given = context(), packet(step)
    less = forecast_training_macs(given, run, forward_macs=small)
    assert given.metrics.training_macs <= less <= forecast_training_macs(given, run, forward_macs=small + more)


def test_the_training_limit_is_held_against_the_forecast() -> None:
    given = packet(1050)
    needed = forecast_training_macs(given, context(), forward_macs=100)
    exact = context(spec(budget=with_budget(max_training_macs=needed)))
    tight = context(spec(budget=with_budget(max_training_macs=needed - 1)))
    assert objection(given, exact, parameters=1, forward_macs=100) is None
    assert "max_training_macs" in (objection(given, tight, parameters=1, forward_macs=100) or "")
