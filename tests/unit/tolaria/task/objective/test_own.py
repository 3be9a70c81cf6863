"""A user's own loss and metric: what they give becomes losses, scores and figures, or is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.core.errors import ConfigError
from esper.kasmina.executor.judge.scores import judge_scores
from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.launcher import main
from esper.tolaria.plane.start.opening import life_settings
from esper.tolaria.task.objective.own import CLIP_IN_FIRST_LOSSES, OwnLoss
from esper.tolaria.task.objective.task import evaluated
from esper.tolaria.task.prepare import built_again, prepare
from tests.unit.tolaria.loss_sources import focal, likelihood, macro_recall, several

HERE = "tests.unit.tolaria.loss_sources"
CONFIG = TrainConfig(data=f"{HERE}:plain", model=f"{HERE}:net", min_samples=10, batch_size=16, loss=f"{HERE}:focal")
AMOUNT = replace(CONFIG, data=f"{HERE}:amount", model=f"{HERE}:two", loss=f"{HERE}:likelihood")


def test_the_mean_trains_each_one_judges_and_the_constant_is_that_of_the_untrained_network() -> None:
    run = prepare(CONFIG)
    arm, split = run.executor.arm, run.splits.judge
    with torch.no_grad():
        outputs = arm.model.eval()(split.inputs)
        first = focal(arm.model(run.splits.train.inputs), run.splits.train.targets)
        each = focal(outputs, split.targets)
    clip = CLIP_IN_FIRST_LOSSES * float(first.double().abs().mean())
    assert run.task.clip == pytest.approx(clip, rel=1e-6)
    assert float(run.task.loss(outputs, split.targets)) == float(each.mean())
    assert torch.allclose(judge_scores(arm, run.task, key=1), each.clamp(max=clip).double())
    # However wrong, one sample counts no more than that, and shares of the first losses have no unit.
    wild = 1e6 * torch.nn.functional.one_hot((split.targets + 1) % 3, 3).float()
    assert torch.allclose(run.task.scores(wild, split.targets), torch.full((60,), clip))
    shares, clipped = run.task.clipped_scores(wild, split.targets)
    assert torch.allclose(shares, torch.full((60,), CLIP_IN_FIRST_LOSSES))
    assert not clipped.any()
    assert f"by {HERE}:focal, scores clipped at {clip:.4g}" in run.task_line


def test_the_constant_stays_when_a_run_is_prepared_again_and_whatever_the_network_becomes() -> None:
    run = prepare(CONFIG)
    before = run.task.clip
    with torch.no_grad():
        for parameter in run.executor.arm.model.parameters():
            parameter.mul_(10)
    assert run.task.clip == before == prepare(CONFIG).task.clip
    assert built_again(run).parameter_count() == run.executor.arm.parameter_count()


def test_a_loss_below_zero_is_bounded_on_both_sides() -> None:
    run = prepare(AMOUNT)
    outputs = torch.tensor([[0.0, -50.0], [0.0, 50.0]])
    scores = run.task.scores(outputs, torch.zeros(2))
    assert scores.tolist() == pytest.approx([-run.task.clip, run.task.clip])
    assert likelihood(outputs, torch.zeros(2)).tolist() == [-50.0, 50.0]


def test_margins_are_shares_and_a_language_model_stays_one() -> None:
    run = prepare(CONFIG)
    assert run.manifest().task == run.task.type == TaskType.TASK_TYPE_REGRESSION
    sequences = replace(CONFIG, data=f"{HERE}:padded", model=f"{HERE}:decoder", loss=f"{HERE}:of_sequences")
    assert prepare(sequences).task.type == TaskType.TASK_TYPE_LANGUAGE_MODEL
    life = life_settings(sequences, TaskType.TASK_TYPE_LANGUAGE_MODEL, 100)
    assert (life.margin_absolute, life.margin_relative, life.HasField("tau")) == (0.0, 0.03, False)
    plain = life_settings(replace(sequences, loss=None), TaskType.TASK_TYPE_LANGUAGE_MODEL, 100)
    assert plain.margin_absolute == 0.03


def test_what_the_datas_task_tells_is_told_where_outputs_have_its_form() -> None:
    told = prepare(replace(CONFIG, ignore_index=2, loss=f"{HERE}:focal"))
    assert told.task.counts_hits
    assert told.splits.left_out > 0
    found = evaluated(told.executor.arm, told.task, told.splits.judge)
    assert found.accuracy is not None
    assert not prepare(AMOUNT).task.counts_hits
    assert evaluated(prepare(AMOUNT).executor.arm, prepare(AMOUNT).task, prepare(AMOUNT).splits.judge).metrics == {}
    amounts = prepare(replace(AMOUNT, data=f"{HERE}:amounts", model=f"{HERE}:net", loss=f"{HERE}:pinball"))
    assert set(evaluated(amounts.executor.arm, amounts.task, amounts.splits.judge).metrics) == {"R2", "MAE"}


def test_targets_come_in_the_outputs_shape_so_that_nothing_is_broadcast_and_mixed_samples_are_told() -> None:
    column = replace(AMOUNT, model=f"{HERE}:net", loss=f"{HERE}:pinball")
    run = prepare(column)
    assert run.splits.train.targets.shape == (96, 1)
    assert run.task.has_posed_outputs
    assert not any("beside other samples" in text for text in run.doubts)
    mixed = prepare(replace(column, loss=f"{HERE}:mixed"))
    assert any("another loss beside other samples" in text for text in mixed.doubts)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("scalar", "gives one number for .* samples, expected a loss for each, .N.: reduction='none'"),
        ("column", r"gives float32 of shape \(96, 1\) for 96 samples, expected floating-point losses \(96,\)"),
        ("broken", "gives (nan|inf) for sample .* of a batch before any step"),
        ("detached", "gives losses without a gradient: compute it from the outputs"),
        ("number", "gives float, expected a tensor with a loss for each sample"),
        ("misfit", r"can't take outputs \(96, 3\) and targets \(96,\)"),
        ("nothing", "is 0 for every sample before any step"),
        ("missing", "can't be imported"),
        ("NOTHING", "is int, expected a function of"),
        ("nameless", r"gives a mapping with the names \[0, 1\], expected words"),
        ("reduced", "gives as size one number for .* samples, expected a loss for each, .N.: reduction='none'"),
        ("half_detached", "gives as size losses without a gradient"),
        ("fickle", "gives nats, weight for a batch and gave nats, size at first: give the same for every batch"),
        ("sometimes", "gives a single loss for a batch and gave nats, size at first"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_in_one_line(loss: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, loss=f"{HERE}:{loss}"))
    assert caught.value.key == "loss"
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_nan_says_only_that() -> None:
    outputs = torch.zeros(4, 3, requires_grad=True)
    torch.set_warn_always(True)
    try:
        with pytest.raises(ConfigError, match="gives nan for sample 0"):
            OwnLoss("own:broken", lambda outputs, targets: outputs.sum(1) * float("nan")).tried(outputs, torch.zeros(4))
    finally:
        torch.set_warn_always(False)


def test_several_losses_add_up_are_told_by_name_and_judged_by_their_sum() -> None:
    run = prepare(replace(CONFIG, loss=f"{HERE}:several"))
    arm, split = run.executor.arm, run.splits.judge
    with torch.no_grad():
        outputs = arm.model.eval()(split.inputs)
    parts = several(outputs, split.targets)
    total = parts["nats"] + parts["size"]
    assert float(run.task.loss(outputs, split.targets)) == pytest.approx(float(total.mean()), rel=1e-6)
    assert torch.allclose(judge_scores(arm, run.task, key=1), total.clamp(-run.task.clip, run.task.clip).double())
    metrics = evaluated(arm, run.task, split).metrics
    assert metrics == pytest.approx({f"loss {name}": float(each.mean()) for name, each in parts.items()}, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "settings", "says"),
    [
        (None, {"pcgrad": True}, "needs from 2 to 64 losses, and the built-in loss is a single one"),
        ("focal", {"pcgrad": True}, f"needs from 2 to 64 losses, and {HERE}:focal is a single one"),
        ("several", {}, "says how pcgrad works; give pcgrad too"),
        ("several", {"pcgrad": True, "accumulate": 2}, "surgery between losses takes whole batches; leave it out"),
        ("several", {"pcgrad": True, "compile": "blocks"}, "compiled blocks can't be passed backward once for each"),
    ],
)
def test_surgery_between_losses_needs_several(loss: str | None, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, loss=loss and f"{HERE}:{loss}", surgery="losses", **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 0.1), ("class_weights", "balanced")])
def test_settings_of_the_built_in_losses_are_refused_beside_it(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match="is of the built-in losses") as caught:
        prepare(replace(CONFIG, **{name: value}))
    assert caught.value.key == name


@pytest.mark.parametrize("batch", [512, 7])
def test_a_metric_sees_a_whole_set(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.tolaria.task.objective.task.JUDGE_BATCH", batch)
    run = prepare(replace(CONFIG, loss=None, metric=f"{HERE}:macro_recall"))
    arm, split = run.executor.arm, run.splits.judge
    with torch.no_grad():
        expected = float(macro_recall(arm.model.eval()(split.inputs), split.targets))
    assert evaluated(arm, run.task, split).metrics == pytest.approx({"macro_recall": expected})
    per_sample = prepare(replace(CONFIG, loss=None, metric=f"{HERE}:focal"))
    found = evaluated(per_sample.executor.arm, per_sample.task, split).metrics["focal"]
    with torch.no_grad():
        assert found == pytest.approx(float(focal(arm.model(split.inputs), split.targets).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("column", r"gives a tensor of shape \(60, 1\), expected a number, or one for each of the 60 samples"),
        ("broken", "gives (nan|inf) for the network before any step"),
        ("misfit", r"can't take outputs \(60, 3\) and targets \(60,\)"),
        ("missing", "can't be imported"),
        ("NOTHING", "expected a function"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_in_one_line(metric: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(replace(CONFIG, loss=None, metric=f"{HERE}:{metric}"))
    assert caught.value.key == "metric"
    assert "\n" not in str(caught.value)


def test_a_metric_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.tolaria.task.objective.own.VALUES_AT_ONCE", 179)
    with pytest.raises(ConfigError, match="wants all outputs of a set at once: 180 values, at most 179"):
        prepare(replace(CONFIG, metric=f"{HERE}:macro_recall"))


def test_the_launcher_takes_both_from_flags_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    (tmp_path / "run.toml").write_text(f'data = "{HERE}:plain"\nmodel = "{HERE}:net"\nloss = "{HERE}:focal"\n')
    monkeypatch.setenv("TOLARIA_METRIC", f"{HERE}:macro_recall")
    flags = ["--config", str(tmp_path / "run.toml"), "--epochs", "2", "--grow", "never", "--plain"]
    assert main([*flags, "--batch-size", "16", "--run-dir", str(place)]) == 0
    summary = json.loads((place / "summary.json").read_text())
    assert set(summary["test_metrics"]) == {"macro_recall"}
    assert f"by {HERE}:focal" in summary["task"]
    assert "macro_recall" in capsys.readouterr().out
    assert main([*flags[:4], "--compare", "--run-dir", str(tmp_path / "other")]) != 0
    assert "leave --loss out" in capsys.readouterr().err
