"""What may be a teacher, and in one line why something can't be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.prepare import prepare

HERE = __name__
SMALL: dict[str, Any] = {"samples": 600, "hidden": (5, 5), "min_samples": 50, "incubate": "shadow"}


def good() -> nn.Module:
    return nn.Linear(64, 10)


def narrow() -> nn.Module:
    return nn.Linear(64, 3)


def other_inputs() -> nn.Module:
    return nn.Linear(9, 10)


def broken() -> nn.Module:
    module = nn.Linear(64, 10)
    nn.init.constant_(module.bias, float("nan"))
    return module


def weightless() -> nn.Module:
    return nn.AdaptiveAvgPool1d(10)


def no_module() -> int:
    return 3


def test_a_factory_and_a_program_teach_alike(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = good().eval()
    path = tmp_path / "teacher.pt2"
    program = torch.export.export(module, (torch.zeros(4, 64),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    torch.manual_seed(1)
    by_factory = prepare(TrainConfig(teacher=f"{HERE}:good", **SMALL)).executor
    by_file = prepare(TrainConfig(teacher=str(path), **SMALL)).executor
    teachers = [executor.teacher for executor in (by_factory, by_file)]
    inputs = by_file.task.probe_inputs()
    assert all(teacher is not None and teacher.size_bytes == 650 * 4 for teacher in teachers)
    assert torch.equal(*(teacher.module(inputs) for teacher in teachers if teacher is not None))
    assert teachers[0] is not None
    assert teachers[1] is not None
    assert teachers[0].digest == teachers[1].digest


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"teacher": "nowhere.pt2"}, "isn't there"),
        ({"teacher": "model.safetensors"}, "give a program NAME.pt2"),
        ({"teacher": f"{HERE}:no_module"}, "gave int, expected a torch.nn.Module"),
        ({"teacher": f"{HERE}:narrow"}, r"gives logits \[\d+, 3\] where the network gives \[\d+, 10\]"),
        (
            {"teacher": f"{HERE}:other_inputs"},
            r"can't be asked about the run's data, \[\d+, 64\]: .*; give a network that takes",
        ),
        ({"teacher": f"{HERE}:broken"}, "not finite"),
        ({"teacher": f"{HERE}:weightless"}, "no weights"),
        ({"teacher": f"{HERE}:good", "incubate": "none"}, "give --incubate shadow"),
        ({"teacher": f"{HERE}:good", "grow": "never"}, "let them grow"),
    ],
)
def test_what_cant_teach_is_refused_in_one_line(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(TrainConfig(**{**SMALL, **flags}))
    assert caught.value.key == "teacher"
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_program_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "damaged.pt2"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"no program that torch can load.*; give a program"):
        prepare(TrainConfig(teacher=str(path), **SMALL))
    assert not caplog.records
