"""Comparison: which networks are trained, and what the table says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from esper.tolaria.config import TrainConfig
from esper.tolaria.record.compare import arms, compare, table

CONFIG = TrainConfig(hidden=(6, 6), seed=5)


def summary(config: TrainConfig) -> Mapping[str, Any]:
    width = config.hidden[0] if config.hidden else 1
    return {
        "seed": config.seed,
        "test_accuracy": 0.5 + width / 100 + config.seed / 1000,
        "final_parameters": width * 100,
        "training_macs": width * 1e6,
        "final_widths": (14, 6),
    }


def test_static_networks_are_never_grown_and_have_the_widths_asked_for() -> None:
    listed = arms(CONFIG, (14, 6))
    assert {arm.grow for arm in listed.values()} == {"never"}
    assert [arm.hidden for arm in listed.values()] == [(6, 6), (14, 6), (8, 8), (16, 16), (32, 32)]


def test_an_ungrown_result_is_not_listed_twice() -> None:
    assert "static, the grown one's final size" not in arms(CONFIG, (6, 6))


def test_a_model_without_widths_is_compared_with_its_host_alone() -> None:
    assert list(arms(TrainConfig(model="module:factory"), ())) == ["host, never grown"]


def test_a_named_models_own_widths_are_compared_as_well() -> None:
    assert [arm.hidden for arm in arms(TrainConfig(model="mlp"), (14, 6)).values()][1:3] == [(14, 6), (8, 8)]
    assert "static, the grown one's final size" not in arms(TrainConfig(model="mlp"), (6, 6))


def test_differences_are_paired_by_seed() -> None:
    def better(config: TrainConfig) -> Mapping[str, Any]:
        return {**summary(config), "test_accuracy": summary(config)["test_accuracy"] + 0.03}

    comparison = compare(CONFIG, 3, better, summary)
    host = next(entry for entry in comparison["rows"] if entry["name"] == "host, never grown")
    assert host["runs"] == 3
    assert host["grown_minus_this_mean"] == pytest.approx(0.03)
    assert host["grown_minus_this_sd"] == pytest.approx(0.0, abs=1e-12)
    text = table(comparison)
    assert "static, 32 wide" in text
    assert "+3.00" in text
