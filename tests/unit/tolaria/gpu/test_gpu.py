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
from esper.tolaria.recovery.tiers import fast
from esper.tolaria.recovery.tiers.copies import Buffers, Memory, copy_of
from esper.tolaria.task.data import Split, Splits
from esper.tolaria.task.device import open_device
from esper.tolaria.task.objective.task import evaluate, make_task
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trial import tried_checkpoint, try_host
from tests.unit.tolaria.loop.waiting import no_waits, watch_steps
from tests.unit.tolaria.runs.test_setbacks import BAD_STEP, Course
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.stacks.test_stack_runs import KEPT as KEPT_STACKS
from tests.unit.tolaria.stacks.test_stack_runs import UNDONE, Killer
from tests.unit.tolaria.stacks.test_stack_runs import KilledError as KilledStackError
from tests.unit.tolaria.stacks.test_stack_runs import config as stack_config
from tests.unit.tolaria.stacks.test_stack_runs import run as run_stacks
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, KilledError, Recorder, check_cull, run

__all__ = ["stack_config"]

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
        {"pcgrad": True, "surgery": "seeds", "seed_weights": "stage"},
        {"pcgrad": True, "surgery": "seeds", "amp": "fp16"},
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


@pytest.mark.parametrize(
    "optimizer", ["rmsprop", "adagrad", "adadelta", "adafactor", "adamax", "nadam", "radam", "muon"]
)
@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_cull_on_a_gpu_is_exact_under_every_optimizer(optimizer: str, amp: str) -> None:
    settings = {"optimizer": optimizer, "schedule": "cosine", "weight_decay": 0.1, "decay_rule": "matrices"}
    config = replace(ON_GPU, amp=amp, **settings)
    assert run(config, ScriptedControl(CULLED))["weights_digest"] == run(config)["weights_digest"]


def test_the_trial_of_a_twin_compares_bits_also_where_the_run_is_free() -> None:
    config = TrainConfig(data="pytext", model="transformer", samples=600, epochs=1, device="cuda", min_samples=50)
    prepared = prepare(config)
    try_host(prepared)
    assert tried_checkpoint(prepared)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw", "clip_norm": 0.5, "amp": "bf16", "deterministic": None},
        {"optimizer": "adamw", "clip_norm": 0.5, "amp": "bf16", "deterministic": None, "compile": "blocks"},
        {"optimizer": "adamw", "clip_norm": 0.5},
        {"optimizer": "sgd", "accumulate": 4},
        {"optimizer": "muon", "weight_decay": 0.1, "decay_rule": "matrices", "schedule": "cosine"},
        {"accumulate": 4, "pcgrad": True},
        {"optimizer": "adamw", "clip_norm": 0.5, "amp": "fp16"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_no_step_of_a_stack_and_its_twin_waits_for_the_device(
    stack_config: TrainConfig, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first steps set up optimisers and compile.
    is_compiled = "compile" in change
    seen = watch_steps(monkeypatch, no_waits, first=2, lets_compile=is_compiled)
    config = replace(stack_config, **{"device": "cuda", "deterministic": True, **change})
    run_stacks(config, UNDONE)
    assert len(seen) == (26 if is_compiled else 28)
    assert sum(has_twin for _, has_twin in seen) > 10


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 0.5},
        {"accumulate": 8, "pcgrad": True},
        {"seed_conflicts": True},
        {"pcgrad": True, "surgery": "seeds", "seed_weights": "stage"},
    ],
    ids=str,
)
def test_no_step_of_a_seed_and_its_twin_waits_for_the_device(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_steps(monkeypatch, no_waits, first=2)
    run(replace(ON_GPU, **change), ScriptedControl(KEPT))
    assert sum(has_twin for _, has_twin in seen) > 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_on_a_gpu_share_their_graphs_and_resume(
    stack_config: TrainConfig, tmp_path: Path, amp: str
) -> None:
    config = replace(stack_config, device="cuda", deterministic=True, compile="blocks", amp=amp)
    whole, _ = run_stacks(config, KEPT_STACKS)
    assert whole["compile"]["graphs"] <= 5
    assert (whole["compile"]["graph_breaks"], whole["compile"]["fallbacks"]) == (0, 0)
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledStackError):
        run_stacks(config, KEPT_STACKS, Killer(), store=store)
    resumed, _ = run_stacks(config, KEPT_STACKS, store=store, resume=True)
    assert resumed["weights_digest"] == whole["weights_digest"]


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_evaluations_on_a_gpu_are_near_those_on_the_cpu(stack_config: TrainConfig, amp: str) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        prepared = prepare(replace(stack_config, device=device, amp=amp))
        loss, _ = evaluate(prepared.executor.arm, prepared.task, prepared.splits.judge)
        losses.append(loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2 if amp == "bf16" else 1e-4)


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


def test_a_poisoned_batch_takes_a_run_back_to_pinned_memory_and_ends_as_on_the_disk_s_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(ON_GPU, on_nonfinite="rollback", checkpoint_every_epochs=1)
    digests = []
    for tier in ("memory", "disk"):
        if tier == "disk":
            monkeypatch.setattr(fast.FastTier, "newest", lambda self, to_step=None: None)
        course = Course(settings, CheckpointStore(tmp_path / tier, keep=3), bad={BAD_STEP})
        summary = course.train()
        assert course.is_finite
        assert f"to step 8 from {tier} in" in course.told("tolaria.rollback")[0]
        digests.append(summary["weights_digest"])
    assert digests[0] == digests[1]


def test_steps_counted_on_the_host_and_a_scalar_s_moments_are_not_taken_for_each_other() -> None:
    """Both are one float32 without a shape."""
    steps = [torch.tensor(float(number)) for number in range(3)]
    moments = [torch.tensor(number + 0.5, device="cuda") for number in range(3)]
    state = {"steps": steps, "moments": moments}
    buffers = Buffers()
    buffers.take(state)
    kept = buffers.take(state)
    torch.cuda.synchronize()
    assert [each.is_pinned() for each in kept["steps"]] == [False] * 3
    held = Memory([*moments, *steps])

    def target(tensor: torch.Tensor) -> torch.Tensor:
        found = held.take(tensor)
        return torch.empty_like(tensor) if found is None else found

    back = copy_of(kept, target)
    assert [(each.item(), each.is_cuda) for each in back["steps"]] == [(0.0, False), (1.0, False), (2.0, False)]
    assert [(each.item(), each.is_cuda) for each in back["moments"]] == [(0.5, True), (1.5, True), (2.5, True)]
