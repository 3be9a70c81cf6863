"""The trainer on a CUDA device: the same promises as on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.leyline import TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.device import open_device
from esper.tolaria.task.prepare import prepare
from esper.tolaria.task.task import make_task
from esper.tolaria.trial import tried_checkpoint, try_host
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, KilledError, Recorder, check_cull, run

pytestmark = pytest.mark.gpu

ON_GPU = replace(CONFIG, device="cuda", deterministic=True)


def test_equal_seeds_give_equal_weights() -> None:
    assert run(ON_GPU)["weights_digest"] == run(ON_GPU)["weights_digest"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "sgd", "clip_norm": 0.5},
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"accumulate": 8, "pcgrad": True},
        {"accumulate": 8, "pcgrad": True, "amp": "fp16"},
        {"accumulate": 4},
    ],
    ids=str,
)
def test_after_culls_the_weights_are_those_of_the_run_that_never_grew(change: dict[str, Any]) -> None:
    config = replace(ON_GPU, **change)
    culled, never = run(config, ScriptedControl(CULLED)), run(config)
    assert culled["weights_digest"] == never["weights_digest"]
    assert culled["training_macs"] > never["training_macs"]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_killed_run_that_resumes_ends_with_the_same_weights(tmp_path: Path, amp: str) -> None:
    config = replace(ON_GPU, amp=amp)
    whole = run(config, ScriptedControl(KEPT))
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run(config, ScriptedControl(KEPT), observer=Recorder(23), store=store)
    resumed = run(config, ScriptedControl(KEPT), store=store, resume=True)
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["final_widths"] == [13, 5]


def test_by_default_algorithms_are_free_and_the_summary_says_so() -> None:
    summary = run(replace(ON_GPU, deterministic=None), ScriptedControl(CULLED))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not summary["reproducible"]
    assert summary["contradictions"] == []


def test_a_cull_on_a_gpu_gives_the_host_the_digest_of_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    check_cull(replace(ON_GPU, deterministic=None), monkeypatch)


def test_the_trial_of_a_twin_compares_bits_also_where_the_run_is_free() -> None:
    config = TrainConfig(data="pytext", model="transformer", samples=600, epochs=1, device="cuda", min_samples=50)
    prepared = prepare(config)
    try_host(prepared)
    assert tried_checkpoint(prepared)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_narrow_host_learns_the_digits() -> None:
    summary = run(TrainConfig(hidden=(32, 32), epochs=20, grow="never", device="cuda"))
    assert summary["test_accuracy"] > 0.9


@pytest.mark.parametrize(("data", "model"), [("digits", "cnn"), ("mnist1d", "conv1d"), ("pytext", "transformer")])
def test_every_named_model_trains_reproducibly(data: str, model: str) -> None:
    config = TrainConfig(data=data, model=model, samples=600, epochs=2, grow="never", device="cuda", deterministic=True)
    assert run(config)["weights_digest"] == run(config)["weights_digest"]


def test_labels_of_positions_have_a_loss_that_is_the_same_every_time() -> None:
    device = open_device("cuda", is_deterministic=True)
    images, masks = torch.randn(4, 2, 9, 7), torch.randint(0, 3, (4, 9, 7))
    part = Split(images, masks)
    data = Splits(train=part, judge=part, test=part, task=TaskType.TASK_TYPE_CLASSIFICATION, outputs=3).to(device)
    task, layer = make_task(data), torch.nn.Conv2d(2, 3, 1, device=device)
    losses, gradients = [], []
    for _ in range(2):
        loss = task.loss(layer(data.train.inputs), data.train.targets)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, layer.weight)[0])
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradients[0], gradients[1])
    plain = torch.nn.functional.cross_entropy(layer(data.train.inputs).cpu(), masks)
    assert torch.allclose(losses[0].cpu(), plain, atol=1e-5)
    assert task.scores(layer(data.train.inputs), data.train.targets).shape == (4,)
