"""Training settings: each with its help, and refused at once where a value makes no sense."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.core.settings.config import load
from esper.tolaria.config import TrainConfig


def test_every_setting_has_help_and_a_group() -> None:
    for setting in fields(TrainConfig):
        assert setting.metadata["help"]
        assert setting.metadata["group"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch_size", 0), ("epochs", 0), ("lr", 0.0), ("lr", float("nan")), ("lr", float("inf"))),
        *(("decay_fraction", 1.5), ("window_fraction", 0.0), ("hidden", (4, 0)), ("seed", -1), ("lag", 0)),
        *(("grow", "sometimes"), ("judge", "me"), ("amp", "fp8"), ("optimizer", "adamm"), ("control", "async")),
        *(("span_width", text) for text in ("8", "+0", "+9999", "+1.5", "x1", "x17", "x-2", "2x", "")),
        ("rollback_full_deadline_s", 1e300),
        *(("seed_conflict_ratio_warn", 1.5), ("seed_share_jump_warn", -0.1)),
        *(("seed_layer_topk", -1), ("hook_budget_ms", 0.0), ("epoch_budget_ms", -1.0)),
        *((key, 1e300) for key in ("deadline_s", "rank_timeout_s", "rollback_fast_deadline_s")),
        *(("deadline_s", 0.0), ("saturation_share", 1.1), ("evaluate_every_steps", 0), ("threads", 0)),
        *((key, 10**20) for key in ("epochs", "steps", "lag", "evaluate_every_steps", "min_samples", "context")),
        *((key, 10**20) for key in ("growth_warmup_steps", "slope_window_steps", "max_seeds", "seed", "ignore_index")),
        *((key, 10**20) for key in ("max_parameters", "max_forward_macs", "max_training_macs", "max_memory_bytes")),
        *(("threads", 100_000), ("depth", 10**8), ("target_depth", 10**8), ("ignore_index", -(10**20))),
        ("run_dir", Path("/")),
    ],
)
def test_a_senseless_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{name: value})
    assert caught.value.key == name


@pytest.mark.parametrize(("run_dir", "name"), [("runs/a", "a"), (".", "here"), ("sub/..", "here"), ("../here/b/", "b")])
def test_a_run_without_a_name_is_called_as_its_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert TrainConfig(run_dir=Path(run_dir)).run_name == name
    assert TrainConfig(run_dir=Path(run_dir), run_id="given").run_name == "given"


@pytest.mark.parametrize(
    "settings",
    [
        {"pcgrad": True},
        {"accumulate": 65, "batch_size": 64},
        {"amp": "fp16", "device": "cpu"},
        *(
            {key: "rollback", "snapshot_every_steps": 0, "checkpoint_every_epochs": 0}
            for key in ("on_nonfinite", "on_divergence", "on_critical_gate")
        ),
        {"surgery": "seeds"},
        {"seed_weights": "stage"},
        *(
            {**asked, **against}
            for asked in ({"surgery": "seeds", "pcgrad": True}, {"seed_conflicts": True})
            for against in ({"grow": "never"}, {"isolate": True}, {"compile": "blocks"})
        ),
        {"seed_conflicts": True, "pcgrad": True, "accumulate": 2},
        {"tls_ca": Path("ca.pem"), "tls_key": Path("own.key")},
        {"tls_cert": Path("own.pem"), "tls_key": Path("own.key")},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**settings)


def test_a_rollback_needs_only_one_tier_to_go_back_to() -> None:
    for tier in ("snapshot_every_steps", "checkpoint_every_epochs"):
        assert getattr(TrainConfig(on_nonfinite="rollback", **{tier: 0}), tier) == 0


def test_synchronous_control_has_no_lag() -> None:
    assert TrainConfig(control="sync", lag=3).packet_lag == 0
    assert TrainConfig(lag=3).packet_lag == 3


def test_a_run_computes_the_same_every_time_on_the_cpu_and_on_a_gpu_only_if_told() -> None:
    assert TrainConfig().is_deterministic
    assert not TrainConfig(device="cuda:1").is_deterministic
    assert TrainConfig(device="cuda", deterministic=True).is_deterministic
    assert not TrainConfig(deterministic=False).is_deterministic


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("0", False), ("none", None)])
def test_three_ways_of_being_deterministic_come_from_variables_too(text: str, expected: bool | None) -> None:
    loaded = load(TrainConfig, file=None, environ={"TOLARIA_DETERMINISTIC": text}, prefix="TOLARIA_", flags={})
    assert loaded.value.deterministic is expected
