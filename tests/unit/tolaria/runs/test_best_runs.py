"""Runs that end early and keep their best epoch: exactly resumed, and never by what a judgement may undo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import ConfigError
from esper.tolaria import trainer as trainer_module
from esper.tolaria.export import load_network
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.objective.task import Evaluation, evaluated
from esper.tolaria.task.prepare import prepare
from tests.unit.tolaria.runs.test_optimizer_runs import CONFIG, run
from tests.unit.tolaria.scripted_control import ScriptedControl, cull, germination
from tests.unit.tolaria.test_trainer import CULLED, KEPT, SLOT, KilledError, Recorder

# Steps of an epoch: 6. At this rate the validation loss falls no further after a few epochs.
WILD = replace(CONFIG, lr=0.5, epochs=30, patience=3, keep_best=True, evaluate_every_steps=2)


def losses_of(recorder: Recorder) -> list[float]:
    return [epoch.validation_loss for epoch in recorder.epochs]


def test_a_run_that_gains_no_more_ends_and_says_why() -> None:
    recorder = Recorder()
    summary = run(WILD, observer=recorder)[0]
    losses = losses_of(recorder)
    best = losses.index(min(losses)) + 1
    assert summary["epochs"] == len(losses) == best + 3 < 30
    assert (summary["finished"], summary["stop_reason"], summary["steps"]) == (True, None, 6 * len(losses))
    expected = f"not fallen for 3 epochs without a judgement; the best is {min(losses):.4g}, after epoch {best}"
    assert expected in summary["ended_early"]
    assert [n.message for n in recorder.notices if n.name == "tolaria.ended_early"] == [
        f"ended after step {summary['steps']}: {summary['ended_early']}"
    ]
    assert summary["contradictions"] == []


def test_the_best_network_is_the_one_of_a_run_of_so_many_epochs_and_is_tested() -> None:
    summary = run(WILD)[0]
    best = summary["best"]
    # A schedule knows the length of its run, so the shorter one is the longer one stopped there.
    stopped = run(WILD, should_stop=iter_at(best["step"]))[0]
    assert stopped["steps"] == best["step"]
    assert best["weights_digest"] == stopped["weights_digest"]
    for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "test_metrics"):
        assert best[name] == stopped[name]


def iter_at(step: int) -> Any:
    """Stops at the boundary of that step; boundaries are 2 steps apart."""
    calls = iter(range(2, 10_000, 2))
    return lambda: next(calls) == step


def test_epochs_in_a_judgement_count_neither_as_best_nor_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin lives from step 8 to 36, in epochs 2 to 6, which have the lowest losses and gain nothing."""
    losses = iter([1.0, *[0.5] * 4, 0.4, 0.9, 2.0, 2.0, 2.0])
    monkeypatch.setattr(trainer_module, "evaluated", lambda *_: Evaluation(next(losses), None, {}))
    config = replace(WILD, patience=2, lr=0.01)
    summary = run(config, ScriptedControl({4: germination("s1", SLOT), 36: cull("s1")}))[0]
    assert (summary["best"]["epoch"], summary["best"]["val_loss"]) == (7, 0.9)
    assert summary["epochs"] == 9
    assert "for 2 epochs without a judgement; the best is 0.9, after epoch 7" in summary["ended_early"]


def test_a_run_waits_for_the_verdict_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing gains from the start; the last epoch before the graft leaves one to wait for."""
    monkeypatch.setattr(trainer_module, "evaluated", lambda *_: Evaluation(1.0, None, {}))
    config = replace(WILD, patience=2, lr=0.01)
    summary = run(config, ScriptedControl({12: germination("s1", SLOT), 60: cull("s1")}))[0]
    assert summary["epochs"] == 11
    assert [seed["fate"] for seed in summary["seeds"]] == ["culled"]


def test_a_best_of_another_shape_is_put_back_and_exported(tmp_path: Path) -> None:
    """The best epoch lies before the network grew wider."""
    config = replace(WILD, run_dir=tmp_path, patience=None, epochs=8)
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    summary, executor = run(config, ScriptedControl(KEPT), store=store)
    best = load_network(tmp_path, "best").arm
    assert best.digest() == summary["best"]["weights_digest"]
    assert load_network(tmp_path).arm.digest() == summary["weights_digest"] == executor.arm.digest()
    prepared = prepare(config)
    assert evaluated(best, prepared.task, prepared.splits.test).loss == summary["best"]["test_loss"]


@pytest.mark.parametrize("script", [KEPT, CULLED], ids=["kept", "culled"])
def test_a_killed_run_that_resumes_ends_at_the_same_step_with_the_same_best(tmp_path: Path, script: Any) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    whole = run(WILD, ScriptedControl(script))[0]
    last = whole["steps"]
    for kill_at, resume in ((21, False), (last - 1, True)):
        with pytest.raises(KilledError):
            run(WILD, ScriptedControl(script), observer=Recorder(kill_at), store=store, resume=resume)
    resumed = run(WILD, ScriptedControl(script), store=store, resume=True)[0]
    for name in ("steps", "ended_early", "best", "weights_digest"):
        assert resumed[name] == whole[name], name


def test_a_run_without_it_keeps_none(tmp_path: Path) -> None:
    config = replace(CONFIG, run_dir=tmp_path, epochs=1)
    summary = run(config, store=CheckpointStore(tmp_path / "checkpoints", keep=1))[0]
    assert (summary["best"], summary["ended_early"]) == (None, None)
    with pytest.raises(ConfigError, match="the run kept no network of an earlier epoch; train with --keep-best"):
        load_network(tmp_path, "best")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patience": 0}, "must be at least 1"),
        ({"patience": 2, "min_delta": -0.1}, "must be at least 0"),
        ({"patience": 2, "min_delta": float("inf")}, "must be a finite number"),
        ({"min_delta": 0.1}, "is what patience waits for; give patience too"),
    ],
)
def test_what_means_nothing_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(CONFIG, **settings)
