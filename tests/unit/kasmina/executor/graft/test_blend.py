"""Courses of alpha, refusal of malformed blends, and the joins against their formulas."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.blend import JOINS, Blend, gate_from_logits, join_state
from esper.leyline import BlendConfig, BlendMode, BlendSchedule, ConfidenceKind

CPU = torch.device("cpu")
RAMPS = [
    BlendSchedule.BLEND_SCHEDULE_LINEAR,
    BlendSchedule.BLEND_SCHEDULE_SIGMOID,
    BlendSchedule.BLEND_SCHEDULE_COSINE,
]


def config(**fields: object) -> BlendConfig:
    settings = {
        "mode": BlendMode.BLEND_MODE_RESIDUAL,
        "alpha_target": 1.0,
        "alpha_start": 0.0,
        "schedule": BlendSchedule.BLEND_SCHEDULE_LINEAR,
        "schedule_steps": 10,
    }
    return BlendConfig(**{**settings, **fields})


@given(
    schedule=st.sampled_from(RAMPS),
    start=st.floats(0, 1),
    target=st.floats(0, 1),
    steps=st.integers(0, 50),
    begin=st.integers(0, 100),
)
def test_alpha_goes_monotonically_from_start_to_target_and_hits_both(schedule, start, target, steps, begin):
    blend = Blend(
        config=config(schedule=schedule, alpha_start=start, alpha_target=target, schedule_steps=steps),
        start_step=begin,
    )
    course = [blend.alpha_at(begin + step) for step in range(steps + 2)]
    assert course[0] == pytest.approx(start if steps else target)
    assert course[-1] == pytest.approx(target)
    rises = [later - earlier for earlier, later in pairwise(course)]
    assert all(rise * (target - start) >= -1e-12 for rise in rises)
    assert blend.is_done(begin + steps)
    assert not steps or not blend.is_done(begin + steps - 1)


def test_warmup_hold_keeps_alpha_and_raises_the_rate():
    blend = Blend(
        config=config(schedule=BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD, alpha_start=1.0, schedule_steps=3),
        start_step=5,
    )
    assert [blend.alpha_at(step) for step in (5, 6, 99)] == [1.0, 1.0, 1.0]
    assert [blend.rate_factor_at(step) for step in (5, 6, 7, 8, 9)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"mode": 0}, "unknown mode"),
        ({"schedule": 0}, "unknown schedule"),
        ({"alpha_target": 1.5}, "expected values in 0..1"),
        ({"alpha_start": float("nan")}, "expected values in 0..1"),
        ({"mode": BlendMode.BLEND_MODE_CHANNEL}, "alpha_vec has 0 entries"),
        ({"mode": BlendMode.BLEND_MODE_CHANNEL, "alpha_vec": [0.5] * 65}, "alpha_vec has 65 entries"),
        ({"mode": BlendMode.BLEND_MODE_CHANNEL, "alpha_vec": [0.5, 2.0]}, "outside 0..1"),
        ({"mode": BlendMode.BLEND_MODE_CONFIDENCE}, "unknown confidence"),
        (
            {"mode": BlendMode.BLEND_MODE_CONFIDENCE, "confidence": ConfidenceKind.CONFIDENCE_KIND_MARGIN},
            "gate slope",
        ),
    ],
)
def test_a_malformed_blend_is_refused_by_what_is_wrong(fields, complaint):
    with pytest.raises(GraftFailed, match=complaint):
        Blend(config=config(**fields), start_step=0)


def test_a_missing_alpha_is_refused():
    incomplete = config()
    incomplete.ClearField("alpha_start")
    with pytest.raises(GraftFailed, match="alpha_start is missing"):
        Blend(config=incomplete, start_step=0)


def test_the_joins_follow_their_formulas():
    host, seed = torch.randn(3, 4), torch.randn(3, 4)
    residual = join_state(config(alpha_start=0.25), is_conv=False, device=CPU)
    assert torch.allclose(JOINS[BlendMode.BLEND_MODE_RESIDUAL](host, seed, residual), host + 0.25 * seed)
    assert torch.allclose(JOINS[BlendMode.BLEND_MODE_CONVEX](host, seed, residual), 0.75 * host + 0.25 * seed)
    shares = config(mode=BlendMode.BLEND_MODE_CHANNEL, alpha_vec=[0.0, 1.0], alpha_start=0.5)
    channel = JOINS[BlendMode.BLEND_MODE_CHANNEL](host, seed, join_state(shares, is_conv=False, device=CPU))
    assert torch.equal(channel[:, :2], host[:, :2])
    assert torch.allclose(channel[:, 2:], 0.5 * host[:, 2:] + 0.5 * seed[:, 2:])


def test_a_confidence_blend_without_logits_fails_closed():
    settings = config(
        mode=BlendMode.BLEND_MODE_CONFIDENCE,
        confidence=ConfidenceKind.CONFIDENCE_KIND_MARGIN,
        gate_slope=4.0,
        gate_threshold=0.2,
        alpha_start=1.0,
    )
    state = join_state(settings, is_conv=False, device=CPU)
    with pytest.raises(GraftFailed, match="no logits"):
        JOINS[BlendMode.BLEND_MODE_CONFIDENCE](torch.ones(2, 3), torch.ones(2, 3), state)
    with pytest.raises(GraftFailed, match=r"needs logits \[samples, classes\]; the host gives \[2, 3, 4\]"):
        gate_from_logits(settings, torch.ones(2, 3, 4))
    gate = gate_from_logits(settings, torch.tensor([[9.0, 0.0], [0.0, 0.0]])).gate
    assert gate[0] > gate[1]


def test_a_shadow_join_gives_the_host_no_gradient_and_a_training_join_does():
    for isolated in (False, True):
        host, seed = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
        state = join_state(config(alpha_start=1.0), is_conv=False, device=CPU)
        state.is_isolated = isolated
        JOINS[BlendMode.BLEND_MODE_RESIDUAL](host, seed, state).sum().backward()
        assert seed.grad is not None
        assert (host.grad is None) == isolated
