"""What a run lacks to grow is told at once, with how much of it would do, before a step is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.growable import check_growth, shortfalls
from esper.tolaria.task.prepare import prepare
from tests.unit.tolaria.scripted_control import fetch_artifact

CONFIG = TrainConfig(samples=600, hidden=(5, 5))
WORDS = ("to", "be", "or", "not")


def test_a_judging_set_that_is_too_small_is_told_with_the_data_that_would_do() -> None:
    run = prepare(CONFIG)
    with pytest.raises(ConfigError, match=r"has only 119; .* \(of 600 samples in all; divided alike, about 1,513 do\)"):
        check_growth(run)
    assert shortfalls(replace(CONFIG, min_samples=119), run.splits) == []
    assert shortfalls(CONFIG, prepare(replace(CONFIG, samples=1513)).splits) == []


def test_of_a_text_that_is_too_short_samples_documents_and_steps_are_told_at_once(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)
    words = (WORDS[int(torch.randint(4, (), generator=draw))] for _ in range(3000))
    (tmp_path / "text.txt").write_text(" ".join(words))
    config = TrainConfig(
        data=f"text:{tmp_path / 'text.txt'}",
        model="transformer",
        context=16,
        width=16,
        heads=2,
        steps=40,
        target_depth=4,
        min_documents=300,
    )
    with pytest.raises(ConfigError) as caught:
        check_growth(prepare(config, fetch_artifact))
    assert caught.value.key == "min_samples"
    assert "; also min_documents = 300: the " in str(caught.value)
    assert "; also stack_shares = " in str(caught.value)
    assert "steps are enough" in str(caught.value)
    assert "\n" not in str(caught.value)
