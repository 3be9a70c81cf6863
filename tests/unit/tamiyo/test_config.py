from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.core.settings.config import load
from esper.leyline import TaskType
from esper.tamiyo.config import RiskLimits, TamiyoConfig, Thresholds


def test_each_kind_of_task_has_thresholds_of_its_own() -> None:
    config = TamiyoConfig()
    tasks = [task for task in TaskType.values() if task != TaskType.TASK_TYPE_UNSPECIFIED]
    assert len({config.thresholds(task) for task in tasks}) == len(tasks)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_setting_that_makes_no_sense_is_refused_by_name(value: float) -> None:
    with pytest.raises(ConfigError, match="slope"):
        Thresholds(slope=value)
    with pytest.raises(ConfigError, match="coverage_hold"):
        RiskLimits(coverage_hold=value)
    with pytest.raises(ConfigError, match="report_retention_hours"):
        TamiyoConfig(report_retention_hours=value)


def test_a_file_changes_one_threshold_and_leaves_the_others_of_its_task(tmp_path: Path) -> None:
    file = tmp_path / "tamiyo.toml"
    file.write_text("[language_model]\nslope = 0.01\n")
    config = load(TamiyoConfig, file=file, environ={}, prefix="X_", flags={}).value
    assert config.language_model == Thresholds(slope=0.01, floor=0.1, share=1.0)
    assert config.classification == Thresholds()
