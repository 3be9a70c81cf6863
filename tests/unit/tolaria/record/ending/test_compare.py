"""Comparison: which networks are trained, and what the table says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from esper.tolaria.config import TrainConfig
from esper.tolaria.record.ending.compare import arms, compare, table
from esper.tolaria.task.models.models import host_widths

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


def test_a_transformer_is_compared_with_static_ones_of_its_final_depth_and_of_others() -> None:
    config = TrainConfig(model="transformer", data="pytext", depth=3, width=16, heads=2, target_depth=5)
    listed = arms(config, (), 5)
    assert [len(host_widths(arm)) for arm in listed.values()] == [3, 5, 6, 12]
    assert {arm.target_depth for arm in listed.values()} == {None}, "a static network has nothing to reach"
    assert {width for arm in listed.values() for width in host_widths(arm)} == {64}
    assert "static, the grown one's final size" not in arms(config, ())
    assert (
        len(host_widths(arms(replace(config, depth=None, width=None, hidden=(8, 8)), (), 4)["static, 4 blocks"])) == 4
    )
    assert list(arms(replace(config, depth=None, width=None, hidden=(8, 12)), (), 4)) == ["host, never grown"]
    told: list[int] = []

    def train(config: TrainConfig) -> Mapping[str, Any]:
        told.append(len(host_widths(config)))
        return {**summary(config), "final_widths": (), "depths": {"blocks": {"from": 3, "to": 6}}}

    compare(config, 1, train, train)
    assert told == [3, 3, 6, 6, 12]


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
