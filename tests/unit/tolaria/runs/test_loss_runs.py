"""Runs under every kind of loss: the weights of a bare PyTorch loop, and a seed that is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper.kasmina.executor.judge.scores import judge_scores
from esper.tolaria.config import TrainConfig
from esper.tolaria.launcher import main
from esper.tolaria.record.observer import Observers
from esper.tolaria.task.models.models import build_host
from esper.tolaria.task.objective.task import evaluated
from esper.tolaria.task.optimizers.schedule import make_schedule
from esper.tolaria.task.prepare import Prepared, make_optimizer, prepare
from esper.tolaria.task.randomness import seed_all
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loss_sources import focal, likelihood, of_sequences, pinball
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination, judgement

HERE = "tests.unit.tolaria.loss_sources"
Loss = Callable[[Tensor, Tensor], Tensor]
WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def tokens_of(outputs: Tensor, targets: Tensor, **how: object) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), **how)


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def weighed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, weight=WEIGHTS)


def binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, targets.float())


def binary_with_gaps(outputs: Tensor, targets: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(outputs, targets.clamp(min=0).float(), reduction="none")
    counts = (targets >= 0).float()
    return (each * counts).sum() / counts.sum()


# Data, network, settings, and the loss as PyTorch's users write it.
RUNS: dict[str, tuple[str, str, dict[str, object], Loss]] = {
    "ignore_index": ("gaps", "net", {"ignore_index": -100}, F.cross_entropy),
    "label_smoothing": ("plain", "net", {"label_smoothing": 0.1}, smoothed),
    "class_weights": ("plain", "net", {"class_weights": "1,2,0.5"}, weighed),
    "all three": (
        "gaps",
        "net",
        {"ignore_index": -100, "label_smoothing": 0.1, "class_weights": "1,2,0.5"},
        lambda o, t: F.cross_entropy(o, t, weight=WEIGHTS, label_smoothing=0.1),
    ),
    "one logit": ("binary", "one_logit", {}, binary),
    "one logit in a column": ("binary", "net", {"task": "binary"}, binary),
    "one logit with gaps": ("binary_gaps", "one_logit", {"ignore_index": -1}, binary_with_gaps),
    "several labels": ("tags", "net", {}, binary),
    "shares of classes": ("shares", "net", {}, F.cross_entropy),
    "pixels": ("masks", "dense", {"ignore_index": 255}, lambda o, t: F.cross_entropy(o, t, ignore_index=255)),
    "images": ("depths", "dense", {}, F.mse_loss),
    "amounts": ("amounts", "net", {}, F.mse_loss),
    "own, of a quantile": ("amounts", "net", {"loss": f"{HERE}:pinball"}, lambda o, t: pinball(o, t).mean()),
    "own, of classes": ("plain", "net", {"loss": f"{HERE}:focal"}, lambda o, t: focal(o, t).mean()),
    "own, of two outputs": ("amount", "two", {"loss": f"{HERE}:likelihood"}, lambda o, t: likelihood(o, t).mean()),
    "own, of tokens": ("padded", "decoder", {"loss": f"{HERE}:of_sequences"}, lambda o, t: of_sequences(o, t).mean()),
    "padded sequences": ("padded", "decoder", {"ignore_index": 0}, lambda o, t: tokens_of(o, t, ignore_index=0)),
}


def config_of(kind: str) -> TrainConfig:
    data, model, settings, _ = RUNS[kind]
    return TrainConfig(
        data=f"{HERE}:{data}",
        model=f"{HERE}:{model}",
        epochs=8,
        batch_size=16,
        min_samples=10,
        evaluate_every_steps=4,
        checkpoint_every_epochs=0,
        **settings,
    )


def bare(run: Prepared, loss: Loss) -> dict[str, Tensor]:
    """The weights that a loop without any of this gives."""
    model = build_host(run.config, run.splits).model.train()
    optimizer, schedule = make_optimizer(run.config, model), make_schedule(run.config, run.total_steps)
    for step in range(run.total_steps):
        seed_all(torch.device("cpu"), run.config.seed, "step", step)
        schedule.apply(optimizer, step)
        inputs, targets = run.loader.batch(step)
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("kind", RUNS)
def test_without_growth_the_weights_are_those_of_a_bare_loop(kind: str) -> None:
    run = prepare(replace(config_of(kind), grow="never"))
    expected = bare(run, RUNS[kind][-1])
    before = {name: value.clone() for name, value in run.executor.arm.model.state_dict().items()}
    summary = Trainer(run, lambda opening: ScriptedControl(), Observers()).train()
    weights = run.executor.arm.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert not any(torch.equal(before[name], value) for name, value in weights.items())
    assert summary["test_loss"] < 10


def test_a_regression_tells_what_it_explains_in_display_events_summary_and_report(tmp_path: Path) -> None:
    place = tmp_path / "run"
    flags = ["--data", f"{HERE}:depths", "--model", f"{HERE}:dense", "--epochs", "8", "--grow", "never", "--plain"]
    assert main([*flags, "--run-dir", str(place), "--batch-size", "16"]) == 0
    summary = json.loads((place / "summary.json").read_text())
    run = prepare(replace(config_of("images"), grow="never"))
    assert set(summary["test_metrics"]) == set(summary["val_metrics"]) == {"R2", "MAE"}
    variance = float(run.splits.test.targets.double().var(dim=0, correction=0).mean())
    assert summary["test_metrics"]["R2"] == pytest.approx(1 - summary["test_loss"] / variance, rel=1e-6)
    events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
    assert [event for event in events if event["kind"] == "epoch"][-1]["val_metrics"] == summary["val_metrics"]
    assert "test R2" in (place / "report.html").read_text()


@pytest.mark.parametrize("kind", RUNS)
def test_a_seed_is_judged_by_the_scores_of_its_task(kind: str) -> None:
    run = prepare(config_of(kind), fetch_artifact)
    slot = run.manifest().slots[0]
    blueprint = "span.conv" if len(run.splits.sample_shape) == 3 else "span.linear"
    control = ScriptedControl({4: [*germination("s1", slot.slot_id, blueprint), judgement("s1", 24)]})
    Trainer(run, lambda opening: control, Observers()).train()
    (found,) = [
        seen.judgement for each in control.collected for seen in each.observations if seen.HasField("judgement")
    ]
    assert found.twin.samples == len(run.splits.judge)
    assert found.mean_twin_score > 0.0 or kind == "own, of two outputs"
    assert abs(found.twin.mean) < abs(found.mean_twin_score)
    assert found.twin.variance > 0


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("kind", RUNS)
def test_a_gpu_gives_the_same_bits_twice_judges_a_seed(kind: str, amp: str) -> None:
    config = replace(config_of(kind), device="cuda", deterministic=True, amp=amp, accumulate=2)
    digests = []
    for _ in range(2):
        run = prepare(config, fetch_artifact)
        slot = run.manifest().slots[0]
        blueprint = "span.conv" if len(run.splits.sample_shape) == 3 else "span.linear"
        control = ScriptedControl({4: [*germination("s1", slot.slot_id, blueprint), judgement("s1", 24)]})
        digests.append(Trainer(run, lambda opening, control=control: control, Observers()).train()["weights_digest"])
        found = [s.judgement for each in control.collected for s in each.observations if s.HasField("judgement")]
        assert [one.twin.samples for one in found] == [len(run.splits.judge)]
    assert digests[0] == digests[1]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", RUNS)
def test_losses_scores_and_accuracies_on_a_gpu_are_those_of_the_cpu(kind: str) -> None:
    told = []
    for device in ("cpu", "cuda"):
        run = prepare(replace(config_of(kind), device=device, deterministic=True, grow="never"))
        scores = judge_scores(run.executor.arm, run.task, key=1)
        told.append((evaluated(run.executor.arm, run.task, run.splits.judge), scores))
    (expected, of_cpu), (found, of_gpu) = told
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.metrics == pytest.approx(dict(expected.metrics), rel=1e-3, abs=1e-3)
    assert torch.allclose(of_cpu, of_gpu, atol=1e-3)
