from __future__ import annotations

import pytest

from esper.core.training_metrics import DETERMINISTIC, MEASURED, pack
from esper.leyline import TrainingMetrics


def test_the_message_holds_what_was_given() -> None:
    metrics = pack({"loss": 1.5, "parameters": 100, "step_latency_ms": 0.0})
    assert metrics == TrainingMetrics(loss=1.5, parameters=100, step_latency_ms=0.0)


def test_what_was_not_measured_stays_absent_and_is_not_zero() -> None:
    metrics = pack({"loss": 0.0, "momentum": None})
    assert metrics.HasField("loss")
    assert not metrics.HasField("momentum")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="los"):
        pack({"los": 1.0})


def test_every_number_is_either_deterministic_or_measured() -> None:
    assert set(DETERMINISTIC) | set(MEASURED) == {field.name for field in TrainingMetrics.DESCRIPTOR.fields}
    assert not set(DETERMINISTIC) & set(MEASURED)
