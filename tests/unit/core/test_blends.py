"""Which blend configurations are believed."""

import pytest

from esper.core.blends import blend_problem, graft_problem
from esper.leyline import BlendConfig, BlendMode, ConfidenceKind, TaskType
from tests.unit.kasmina.control.making import life, rising_blend, spec, warm_blend

MANIFEST = spec().manifest
CHANNEL = BlendMode.BLEND_MODE_CHANNEL
CONFIDENCE = {
    "mode": BlendMode.BLEND_MODE_CONFIDENCE,
    "confidence": ConfidenceKind.CONFIDENCE_KIND_MARGIN,
    "gate_slope": 4.0,
    "gate_threshold": 0.2,
}


@pytest.mark.parametrize(
    "blend",
    [
        warm_blend(),
        rising_blend(),
        rising_blend(mode=CHANNEL, alpha_vec=[0.0, 0.5, 1.0]),
        rising_blend(mode=CHANNEL, alpha_vec=[0.5] * 6),
        rising_blend(**CONFIDENCE, share_min=0.1, share_max=0.9),
    ],
)
def test_a_sound_blend_is_accepted(blend: BlendConfig) -> None:
    assert blend_problem(blend, 6, MANIFEST, life()) is None


@pytest.mark.parametrize(
    ("blend", "problem"),
    [
        (warm_blend(alpha_target=0.0, alpha_start=0.0), "alpha_target"),
        (warm_blend(alpha_target=1.1, alpha_start=1.1), "alpha_target"),
        (rising_blend(alpha_target=float("nan")), "alpha_target"),
        (warm_blend(alpha_start=0.0), "WARMUP_HOLD"),
        (rising_blend(schedule_steps=0), "schedule_steps"),
        (rising_blend(schedule_steps=201), "judging window"),
        (rising_blend(mode=CHANNEL), "alpha_vec"),
        (rising_blend(alpha_vec=[0.5]), "alpha_vec"),
        (rising_blend(mode=CHANNEL, alpha_vec=[0.5] * 4), "divide"),
        (rising_blend(mode=CHANNEL, alpha_vec=[1.5]), "alpha_vec"),
        (rising_blend(mode=CHANNEL, alpha_vec=[float("nan")]), "alpha_vec"),
        (rising_blend(**CONFIDENCE, share_min=0.9, share_max=0.1), "share_min"),
    ],
)
def test_a_malformed_blend_is_refused_with_what_is_wrong(blend: BlendConfig, problem: str) -> None:
    assert problem in (blend_problem(blend, 6, MANIFEST, life()) or "")


def test_a_confidence_gate_needs_logits() -> None:
    for task in (TaskType.TASK_TYPE_REGRESSION, TaskType.TASK_TYPE_LANGUAGE_MODEL):
        manifest = type(MANIFEST)()
        manifest.CopyFrom(MANIFEST)
        manifest.task = task
        assert "logits" in (blend_problem(rising_blend(**CONFIDENCE), 6, manifest, life()) or "")


@pytest.mark.parametrize("mode", [CHANNEL, BlendMode.BLEND_MODE_CONVEX, BlendMode.BLEND_MODE_CONFIDENCE])
def test_only_a_plain_sum_may_start_fully_in(mode: BlendMode) -> None:
    assert graft_problem(warm_blend(), is_silent=True) is None
    assert graft_problem(warm_blend(mode=mode), is_silent=True) is not None
    assert graft_problem(warm_blend(), is_silent=False) is not None
    assert graft_problem(rising_blend(mode=mode), is_silent=False) is None
