"""Training steps as CUDA graphs on a device: the weights of eager steps, and what is counted.

Replayed steps run the kernels of eager ones but for rates, which are float32 on the device instead of Python's numbers:
weights agree within 1e-5 relative (1e-3 where products are in half precision) after some dozens of steps. NAdam keeps
its products of momenta in float32 on the device, and in Python's numbers otherwise: 1e-4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation.meter import sample_of_gradients
from esper.tolaria.loop.graphs.captured import CapturedStep
from esper.tolaria.loop.graphs.graphs import WARM_UP_STEPS
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loop.test_graphs import JUDGED, Run, measured_of
from tests.unit.tolaria.scripted_control import ScriptedControl, cull, fetch_artifact, germination, keep
from tests.unit.tolaria.stacks.test_stack_runs import KEPT as KEPT_STACKS
from tests.unit.tolaria.stacks.test_stack_runs import config as stack_config
from tests.unit.tolaria.stacks.test_stack_runs import run as run_stacks
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, SLOT, KilledError, Recorder
from tests.unit.tolaria.test_trainer import run as run_to_summary

__all__ = ["stack_config"]

pytestmark = pytest.mark.gpu

ON_GPU = replace(CONFIG, device="cuda", deterministic=True)
PLAIN = replace(ON_GPU, grow="never", dropout=0.0)
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adadelta", "adamax", "nadam", "radam")
OUTSIDE = ("adagrad", "adafactor", "muon")


def run(config: TrainConfig, script: Any = None) -> tuple[Trainer, Recorder, GraphCounts | None]:
    recorder = Recorder()
    control = NullControl() if script is None else ScriptedControl(script)
    trainer = Trainer(prepare(config, fetch_artifact), lambda opening: control, recorder)
    trainer.train()
    return trainer, recorder, trainer._session.graphs


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [value for value in trainer._run.executor.arm.model.state_dict().values() if value.is_floating_point()]


def check_like_eager(config: TrainConfig, script: Any = None) -> GraphCounts:
    """Runs with and without graphs; their weights and losses agree, and nothing fell back."""
    eager, told, _ = run(config, script)
    graphed, heard, counts = run(replace(config, graphs=True), script)
    assert counts is not None
    print(counts.in_words(), counts.capture_ms)
    losses = [[done.loss for done in recorder.steps] for recorder in (told, heard)]
    difference = max(abs(left - right) for left, right in zip(*losses, strict=True))
    spread = max(float((one - other).abs().max()) for one, other in zip(weights(graphed), weights(eager), strict=True))
    print(f"largest difference of a loss {difference:.2e}, of a weight {spread:.2e}")
    assert [notice.message for notice in heard.notices if notice.name == "tolaria.graph_fallback"] == []
    rtol = 1e-3 if config.amp != "off" else 1e-4 if config.optimizer == "nadam" else 1e-5
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=rtol, atol=rtol)
    assert losses[1] == pytest.approx(losses[0], rel=rtol, abs=rtol)
    assert not counts.fallbacks
    return counts


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dropout": 0.2},
        {"clip_norm": 0.5},
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"accumulate": 4},
        {"accumulate": 4, "pcgrad": True},
        {"accumulate": 4, "pcgrad": True, "amp": "fp16"},
        {"schedule": "cosine", "warmup_steps": 4},
        {"ema": 0.9},
        {"deterministic": None},
        {"model": "cnn", "hidden": ()},
    ],
    ids=str,
)
def test_replayed_steps_end_at_the_weights_of_eager_ones(change: dict[str, Any]) -> None:
    config = replace(PLAIN, **change)
    counts = check_like_eager(config)
    assert counts.replays == 48 - WARM_UP_STEPS
    assert (counts.captures, counts.eager) == (1, {"warm_up": WARM_UP_STEPS})
    assert counts.steps_optimizer


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *OUTSIDE])
def test_every_optimizer_trains_alike_in_the_graph_or_behind_it(optimizer: str) -> None:
    counts = check_like_eager(replace(PLAIN, optimizer=optimizer, schedule="cosine"))
    assert counts.steps_optimizer == (optimizer in OPTIMIZERS)


def test_the_short_last_batch_of_an_epoch_has_a_graph_of_its_own() -> None:
    counts = check_like_eager(replace(PLAIN, samples=570, epochs=12))
    assert counts.captures == 2
    assert counts.eager == {"warm_up": 2 * WARM_UP_STEPS}


@pytest.mark.parametrize("script", [KEPT, CULLED], ids=["kept", "culled"])
@pytest.mark.parametrize(
    "change", [{}, {"optimizer": "sgd", "clip_norm": 0.5}, {"amp": "bf16"}, {"accumulate": 2}], ids=str
)
def test_a_graft_and_its_live_twin_are_recorded_once_each(script: Any, change: dict[str, Any]) -> None:
    counts = check_like_eager(replace(ON_GPU, **change), script)
    # The host; it and its twin with a seed, and its third step before a boundary; what came of that; the same once more
    # with another seed, whose phase is too short for the third.
    assert counts.captures == 8
    assert (counts.measured_replays, counts.eager["measured"]) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"clip_norm": 0.5},
        {"seed_conflicts": True},
        {"seed_conflicts": True, "amp": "bf16"},
        {"amp": "fp16"},
        {"accumulate": 2},
        {"optimizer": "adagrad"},
        {"deterministic": None},
    ],
    ids=str,
)
def test_steps_that_measure_seeds_are_replayed_and_tell_what_eager_ones_do(change: dict[str, Any]) -> None:
    config = replace(ON_GPU, evaluate_every_steps=2, **change)
    eager = Run(config, None, JUDGED, measure_every_steps=3)
    graphed = Run(replace(config, graphs=True), None, JUDGED, measure_every_steps=3)
    entry = graphed.summary["graphs"]
    print(entry)
    rtol = 1e-3 if config.amp != "off" else 1e-5
    torch.testing.assert_close(graphed.weights, eager.weights, rtol=rtol, atol=rtol)
    assert graphed.losses == pytest.approx(eager.losses, rel=rtol, abs=rtol)
    assert graphed.notices("tolaria.graph_fallback") == []
    assert set(entry["eager"]) == {"warm_up", "behind"}
    assert entry["measured_replays"] == 14
    told, heard = measured_of(graphed), measured_of(eager)
    assert [len(figures) for figures in told] == [len(figures) for figures in heard]
    for figures, expected in zip(told, heard, strict=True):
        assert figures == pytest.approx(expected, rel=100 * rtol, abs=100 * rtol, nan_ok=True)


def asking(*arguments: Any) -> Any:
    """A measure that waits for the device."""
    sample = sample_of_gradients(*arguments)
    assert sample is not None
    return sample if float(sample.table.sum()) else None


def test_a_measure_that_asks_the_host_stays_eager_and_leaves_draws_and_memory_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout, whose draws other graphs would miss."""
    config = replace(ON_GPU, evaluate_every_steps=2, dropout=0.2)
    eager = Run(config, None, JUDGED)
    monkeypatch.setattr("esper.tolaria.loop.aggregation.sources.sample_of_gradients", asking)
    graphed = Run(replace(config, graphs=True), None, JUDGED)
    entry = graphed.summary["graphs"]
    print(entry, graphed.notices("tolaria.graph_fallback"))
    assert entry["fallbacks"] == {"measured": 1}
    assert entry["eager"]["measured"] > 10
    assert entry["replays"] > 10
    torch.testing.assert_close(graphed.weights, eager.weights, rtol=1e-5, atol=1e-5)


def test_a_twin_whose_step_can_t_be_recorded_leaves_the_main_arm_s_draws_and_memory_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The capture itself ends as it should: the error is Python's, and comes in the middle of it."""
    plain = CapturedStep._compute

    def failing(self: CapturedStep, backend: Any, step: int) -> torch.Tensor:
        told = plain(self, backend, step)
        if self._resident is None:
            raise RuntimeError("no room for the twin")
        return told

    monkeypatch.setattr(CapturedStep, "_compute", failing)
    config = replace(ON_GPU, graphs=True, dropout=0.2)
    culled = run_to_summary(config, ScriptedControl(CULLED))
    assert culled["graphs"]["fallbacks"] == {"capture_failed": 2}
    assert culled["weights_digest"] == run_to_summary(config)["weights_digest"]


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_a_killed_run_that_resumes_ends_with_the_same_bits(tmp_path: Path, amp: str) -> None:
    config = replace(ON_GPU, amp=amp, graphs=True)
    whole = run_to_summary(config, ScriptedControl(KEPT))
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run_to_summary(config, ScriptedControl(KEPT), observer=Recorder(23), store=store)
    resumed = run_to_summary(config, ScriptedControl(KEPT), store=store, resume=True)
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["graphs"]["fallbacks"] == {}


@pytest.mark.parametrize("change", [{}, {"optimizer": "sgd", "clip_norm": 0.5}, {"amp": "bf16"}], ids=str)
def test_after_culls_the_bits_are_those_of_the_run_that_never_grew(change: dict[str, Any]) -> None:
    config = replace(ON_GPU, graphs=True, **change)
    culled, never = run_to_summary(config, ScriptedControl(CULLED)), run_to_summary(config)
    assert culled["weights_digest"] == never["weights_digest"]


@pytest.mark.parametrize("conflicts", [False, True])
def test_a_kill_and_a_cull_among_measured_replays_leave_the_same_bits(tmp_path: Path, conflicts: bool) -> None:
    config = replace(ON_GPU, graphs=True, evaluate_every_steps=2, seed_conflicts=conflicts)
    script = {4: germination("s1", SLOT), 40: cull("s1")}
    whole = run_to_summary(config, ScriptedControl(script))
    assert whole["graphs"]["measured_replays"] > 5
    assert whole["weights_digest"] == run_to_summary(replace(config, seed_conflicts=False))["weights_digest"]
    kept = run_to_summary(config, ScriptedControl(JUDGED))
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run_to_summary(config, ScriptedControl(JUDGED), observer=Recorder(31), store=store)
    resumed = run_to_summary(config, ScriptedControl(JUDGED), store=store, resume=True)
    assert resumed["weights_digest"] == kept["weights_digest"]
    assert resumed["graphs"]["fallbacks"] == {}


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("blocks", ["off", "blocks"])
def test_a_language_model_s_seed_is_measured_in_replays(stack_config: TrainConfig, blocks: str) -> None:
    slot = "span_linear:blocks.0.mlp.fc1-blocks.0.mlp.fc2"
    config = replace(stack_config, device="cuda", deterministic=True, compile=blocks, target_depth=None)
    script = {4: germination("s1", slot), 26: keep("s1")}
    eager = Run(config, None, script)
    graphed = Run(replace(config, graphs=True), None, script)
    entry = graphed.summary["graphs"]
    print(entry, graphed.summary["compile"])
    assert graphed.notices("tolaria.graph_fallback") == []
    assert entry["measured_replays"] > 3
    assert graphed.summary["val_loss"] == pytest.approx(eager.summary["val_loss"], rel=1e-4)


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_are_recorded_as_they_are(stack_config: TrainConfig) -> None:
    config = replace(stack_config, device="cuda", deterministic=True, compile="blocks")
    compiled, _ = run_stacks(config, KEPT_STACKS)
    graphed, _ = run_stacks(replace(config, graphs=True), KEPT_STACKS)
    print(graphed["graphs"], graphed["compile"])
    assert graphed["graphs"]["fallbacks"] == {}
    assert graphed["compile"]["fallbacks"] == 0
    assert graphed["val_loss"] == pytest.approx(compiled["val_loss"], rel=1e-4)


@pytest.mark.parametrize("twin", ["live", "bursts"])
def test_a_twin_that_waits_ends_at_the_bits_of_one_that_is_live(twin: str) -> None:
    config = replace(ON_GPU, graphs=True, twin=twin)
    summary = run_to_summary(config, ScriptedControl(CULLED))
    assert ("late" in summary["graphs"]["eager"]) == (twin == "bursts")
    assert summary["weights_digest"] == run_to_summary(replace(config, grow="never"))["weights_digest"]
    assert summary["graphs"]["fallbacks"] == {}


def test_a_language_model_that_keeps_stacks(stack_config: TrainConfig) -> None:
    config = replace(stack_config, device="cuda", deterministic=True)
    eager, _ = run_stacks(config, KEPT_STACKS)
    graphed, _ = run_stacks(replace(config, graphs=True), KEPT_STACKS)
    print(graphed["graphs"])
    assert graphed["graphs"]["fallbacks"] == {}
    assert graphed["val_loss"] == pytest.approx(eager["val_loss"], rel=1e-4)


def test_the_digits_are_learned_by_replays() -> None:
    config = TrainConfig(hidden=(32, 32), epochs=20, grow="never", device="cuda", graphs=True)
    trainer, recorder, counts = run(config)
    assert trainer.summary is not None
    assert counts is not None
    assert trainer.summary["test_accuracy"] > 0.9
    assert recorder.steps[-1].loss < recorder.steps[0].loss / 3
    assert counts.replays == trainer.step - sum(counts.eager.values())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_no_replayed_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.tolaria.loop.waiting import no_waits, watch_steps

    seen = watch_steps(monkeypatch, no_waits, first=4)
    _, _, counts = run(replace(PLAIN, graphs=True))
    assert counts is not None
    assert counts.replays == 45
    # In rows that end at boundaries after every four steps and with epochs of six.
    assert [step for step, _ in seen] == [step for step in range(4, 48) if not (step % 4 and step % 6)]


def test_what_waits_in_a_step_falls_back_and_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.tolaria.task.objective.task import SplitTask

    plain = SplitTask.accuracy

    def waiting(self: Any, outputs: Any, targets: Any, dtype: torch.dtype = torch.float32) -> Any:
        share = plain(self, outputs, targets, dtype)
        assert float(share) >= 0.0
        return share

    eager, _, _ = run(replace(PLAIN, dropout=0.2))
    monkeypatch.setattr(SplitTask, "accuracy", waiting)
    monkeypatch.setattr("esper.tolaria.task.objective.task.LabelTask.accuracy", waiting)
    graphed, recorder, counts = run(replace(PLAIN, dropout=0.2, graphs=True))
    assert counts is not None
    assert counts.fallbacks == {"capture_failed": 1}
    assert counts.replays == 0
    assert [notice.level for notice in recorder.notices if notice.name == "tolaria.graph_fallback"] == ["WARNING"]
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=1e-5, atol=1e-6)
