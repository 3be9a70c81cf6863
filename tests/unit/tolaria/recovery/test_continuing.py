"""A run that goes on keeps its settings without being told them again."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from esper.core.errors import ConfigError, DependencyViolationError
from esper.core.settings.config import Loaded, load
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode
from esper.tolaria.recovery.continuing import continued
from esper.tolaria.recovery.snapshot import FREE_SETTINGS, settings_of
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions


class StopAtOnce(Observer):
    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step == 3:
            signal.raise_signal(signal.SIGTERM)


def given(run_dir: Path, **flags: object) -> Loaded[TrainConfig]:
    return load(TrainConfig, file=None, environ={}, prefix="T_", flags={"run_dir": run_dir, **flags})


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    flags: Mapping[str, object] = {
        "samples": 600,
        "hidden": (5, 5),
        "epochs": 3,
        "grow": "never",
        "evaluate_every_steps": 3,
        "run_id": "named",
        "deadline_s": 1.0,
    }
    config = given(tmp_path / "run", **flags).value
    grow(config, RunOptions(tensorboard=False), [StopAtOnce()], Interruption())
    (tmp_path / "run").rename(tmp_path / "moved")
    return tmp_path / "moved"


def test_what_has_to_be_the_same_is_taken_from_the_checkpoint(stopped: Path) -> None:
    config = continued(given(stopped))
    assert (config.hidden, config.samples, config.epochs, config.grow) == ((5, 5), 600, 3, "never")
    assert (config.run_dir, config.run_id) == (stopped, "named")
    assert config.deadline_s == 1.0
    resume = RunOptions(resume=True, tensorboard=False)
    assert grow(config, resume, (), Interruption())["finished"]


def test_what_the_user_gives_anew_is_kept_and_refused_by_the_run_itself(stopped: Path) -> None:
    config = continued(given(stopped, hidden=(6, 6)))
    assert (config.hidden, config.epochs) == ((6, 6), 3)
    with pytest.raises(ConfigError, match=r"the checkpoint's run has \[5, 5\]"):
        grow(config, RunOptions(resume=True, tensorboard=False), (), Interruption())


def test_a_run_without_a_checkpoint_cant_go_on(tmp_path: Path) -> None:
    with pytest.raises(DependencyViolationError, match="--overwrite starts the run anew"):
        continued(given(tmp_path))


SHARED: Mapping[str, object] = {
    "weatherlight": "weather.example:1",
    "tamiyo": "tamiyo.example:2",
    "kasmina": "unix:/run/kasmina.sock",
    "tls_ca": Path("ca.pem"),
    "tls_cert": Path("cert.pem"),
    "tls_key": Path("key.pem"),
    "deadline_s": 7.0,
    "rank_timeout_s": 77.0,
    "parallel": "shard",
    "on_nonfinite": "rollback",
    "on_divergence": "stop",
    "on_critical_gate": "rollback",
    "max_rollbacks": 9,
    "snapshot_every_steps": 70,
    "rollback_fast_deadline_s": 2.0,
    "rollback_full_deadline_s": 60.0,
    "keep_checkpoints": 5,
    "checkpoint_every_epochs": 3,
    "otlp_endpoint": "traces.example:4317",
    "twin": "bursts",
    "seed_conflict_ratio_warn": 0.75,
    "seed_share_jump_warn": 0.5,
    "seed_layer_topk": 5,
    "hook_budget_ms": 20.0,
    "epoch_budget_ms": 250.0,
    "gpu_prefetch": True,
    "library": Path("urza"),
}


def saved(run_dir: Path) -> None:
    """A checkpoint of a run whose services are shared, as far as `continued` reads it."""
    settings = settings_of(given(run_dir, **SHARED).value)
    CheckpointStore(run_dir / "checkpoints", 2).write(encode({"settings": settings, "run_id": "first"}), 10)


def test_what_may_differ_is_as_it_was_too_unless_it_is_given_anew(tmp_path: Path) -> None:
    saved(tmp_path)
    names = set(SHARED) | {"run_dir", "run_id"}
    assert names == FREE_SETTINGS, "a setting that may differ is tested here"
    config = continued(given(tmp_path))
    assert {name: getattr(config, name) for name in SHARED} == SHARED
    flags, environ = {"run_dir": tmp_path, "kasmina": "spawn"}, {"T_TAMIYO": "spawn"}
    config = continued(load(TrainConfig, file=None, environ=environ, prefix="T_", flags=flags))
    assert (config.weatherlight, config.tamiyo, config.kasmina) == ("weather.example:1", "spawn", "spawn")


def test_a_default_that_is_given_is_given(tmp_path: Path) -> None:
    saved(tmp_path)
    assert continued(given(tmp_path, deadline_s=TrainConfig().deadline_s)).deadline_s == TrainConfig().deadline_s


def test_a_run_whose_directory_was_copied_keeps_the_name_that_its_directory_gave_it(tmp_path: Path) -> None:
    saved(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "copy")
    config = continued(given(tmp_path / "copy"))
    assert (config.run_id, config.run_dir) == ("first", tmp_path / "copy")
    assert continued(given(tmp_path / "copy", run_id="other")).run_id == "other"
