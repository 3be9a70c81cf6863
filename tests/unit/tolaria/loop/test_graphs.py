"""Recorded steps on the CPU: which steps are replayed, what makes a recording void, and the same weights.

Rates are float32 in a recording and Python's numbers in eager runs: weights agree within 1e-6 relative after 48 steps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import BlendConfig, BlendMode, BlendSchedule
from esper.tolaria import trainer as trainer_module
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation import sources
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.graphs import graphs as bookkeeping
from esper.tolaria.loop.graphs.graphs import MEASURED_WARM_UP_STEPS, WARM_UP_STEPS
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.ranks.support import check_settings
from esper.tolaria.record.course.events import incident_kind
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.objective.task import LabelTask
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.loop.recording import RecordingBackend
from tests.unit.tolaria.ranks.test_ranks import Recorded
from tests.unit.tolaria.scripted_control import ScriptedControl, directive, fetch_artifact, germination, keep
from tests.unit.tolaria.stacks.test_stack_runs import KEPT as STACKS
from tests.unit.tolaria.stacks.test_stack_runs import config_in as stacks_in
from tests.unit.tolaria.test_trainer import CONFIG, CULLED, KEPT, SLOT, KilledError, Recorder

PLAIN = replace(CONFIG, grow="never", dropout=0.0, epochs=4)
STEPS = 24


class Run:
    """A whole run, with recorded steps where there is a backend."""

    def __init__(
        self,
        config: TrainConfig,
        backend: RecordingBackend | None = None,
        script: Any = None,
        observer: Recorder | None = None,
        **options: Any,
    ) -> None:
        self.told = observer or Recorder()
        self.control = NullControl() if script is None else ScriptedControl(script)
        steps = ArmSteps if backend is None else partial(ArmSteps, backend=backend)
        store, resume = options.get("store"), options.get("resume", False)
        run = prepare(config, fetch_artifact)
        state = run.executor._state
        every = options.get("measure_every_steps", state.config.measure_every_steps)
        state.config = replace(state.config, measure_every_steps=every)
        trainer = Trainer(run, lambda _: self.control, self.told, steps=steps, store=store)
        self.summary = trainer.train(resume=resume)
        self.model = trainer._run.executor.arm.model

    @property
    def weights(self) -> list[torch.Tensor]:
        return [value for value in self.model.state_dict().values() if value.is_floating_point()]

    @property
    def losses(self) -> list[float]:
        return [done.loss for done in self.told.steps]

    def notices(self, name: str) -> list[str]:
        return [notice.message for notice in self.told.notices if notice.name == name]


def check_alike(recorded: Run, eager: Run, rtol: float = 1e-6) -> None:
    torch.testing.assert_close(recorded.weights, eager.weights, rtol=rtol, atol=rtol)
    assert recorded.losses == pytest.approx(eager.losses, rel=rtol)
    assert [done.step for done in recorded.told.steps] == [done.step for done in eager.told.steps]
    assert [done.learning_rate for done in recorded.told.steps] == [done.learning_rate for done in eager.told.steps]
    norms = [[done.gradient_norm for done in run.told.steps] for run in (recorded, eager)]
    assert [norm is None for norm in norms[0]] == [norm is None for norm in norms[1]]
    assert [norm for norm in norms[0] if norm] == pytest.approx([norm for norm in norms[1] if norm], rel=rtol)


@pytest.mark.parametrize(
    "change",
    [
        {"dropout": 0.2, "clip_norm": 0.5},
        {"optimizer": "adamw", "schedule": "cosine", "ema": 0.9},
        {"optimizer": "sgd", "accumulate": 4},
        {"amp": "bf16"},
    ],
    ids=str,
)
def test_replayed_steps_end_at_the_weights_of_eager_ones(change: dict[str, Any]) -> None:
    config, backend = replace(PLAIN, **change), RecordingBackend()
    recorded = Run(config, backend)
    check_alike(recorded, Run(config))
    entry = recorded.summary["graphs"]
    assert (entry["captures"], entry["replays"]) == (1, STEPS - WARM_UP_STEPS)
    assert (entry["eager"], entry["fallbacks"]) == ({"warm_up": WARM_UP_STEPS}, {})
    assert entry["optimizer"] == "in the graph"
    assert (backend.captures, backend.warm_steps) == (1, WARM_UP_STEPS)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_norm_that_only_boundaries_tell_is_no_part_of_each_replay(clip_norm: float | None) -> None:
    config, backend = replace(PLAIN, clip_norm=clip_norm), RecordingBackend()
    check_alike(Run(config, backend), Run(config))
    assert ("aten::_foreach_norm" in backend.operators[0]) is (clip_norm is not None)


def test_an_optimizer_that_can_t_be_recorded_steps_behind_each_replay() -> None:
    config = replace(PLAIN, optimizer="rmsprop", clip_norm=0.5)
    recorded = Run(config, RecordingBackend())
    check_alike(recorded, Run(config))
    assert recorded.summary["graphs"]["optimizer"] == "eager"
    assert recorded.summary["graphs"]["replays"] == STEPS - WARM_UP_STEPS


@pytest.mark.parametrize("script", [KEPT, pytest.param(CULLED, marks=pytest.mark.slow)])
def test_a_graft_and_its_twin_are_recorded_once_each(script: Any) -> None:
    """With dropout in host and seed; the host, it and its twin with a seed, what became of it, and all that again."""
    recorded = Run(CONFIG, RecordingBackend(), script)
    check_alike(recorded, Run(CONFIG, script=script), rtol=1e-5)
    entry = recorded.summary["graphs"]
    # Of the first seed the third step before a boundary is recorded; the second has no third.
    assert entry["captures"] == 1 + 3 + 1 + 2 + 1
    assert set(entry["eager"]) == {"warm_up", "behind"}
    assert entry["measured_replays"] == 1
    assert entry["fallbacks"] == {}
    assert len(recorded.notices("tolaria.graph_captured")) >= 5
    assert incident_kind("tolaria.graph_captured") == "graph"


def measured_of(run: Run) -> list[list[float]]:
    """What was told of seeds: at boundaries, then at ends of epochs."""
    assert isinstance(run.control, ScriptedControl)
    seen = [seed for collected in run.control.collected for seed in collected.observations]
    figures = [[seed.gradient_norm, seed.rms_ratio, seed.blend.alpha_mean] for seed in seen]
    sources = [seed.gradient for told in run.told.epochs if told.aggregation for seed in told.aggregation.seeds]
    for source in sources:
        blend = [source.blended.mean, source.blended.p95, source.blended.sparsity, source.blended.clamped_fraction]
        layers = [norm for _, norm in source.layers]
        figures.append([source.steps, source.norm, source.share, source.teacher_share or 0.0, *blend, *layers])
    return figures


JUDGED = {4: germination("s1", SLOT), 44: keep("s1")}
LIVELY = replace(CONFIG, evaluate_every_steps=2)
"""Boundaries after every two steps; with outputs measured at every third all kinds of measured steps come."""


@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 0.5},
        {"seed_conflicts": True, "amp": "bf16"},
        pytest.param({"optimizer": "rmsprop", "accumulate": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_steps_that_measure_seeds_are_replayed_and_tell_what_eager_ones_do(change: dict[str, Any]) -> None:
    config = replace(LIVELY, **change)
    recorded = Run(config, RecordingBackend(), JUDGED, measure_every_steps=3)
    eager = Run(config, None, JUDGED, measure_every_steps=3)
    check_alike(recorded, eager, rtol=1e-5)
    told, heard = measured_of(recorded), measured_of(eager)
    assert len(heard) > 20
    assert any(len(figures) > 3 for figures in heard)
    assert [len(figures) for figures in told] == [len(figures) for figures in heard]
    for figures, expected in zip(told, heard, strict=True):
        assert figures == pytest.approx(expected, rel=1e-4, abs=1e-7)
    entry = recorded.summary["graphs"]
    assert set(entry["eager"]) == {"warm_up", "behind"}
    assert entry["fallbacks"] == {}
    # The plain step is recorded at step 14; of those before step 46 from there on, this many measure
    gradients, outputs, both = 10, 5, 5
    assert entry["measured_replays"] == gradients + outputs + both - 3 * MEASURED_WARM_UP_STEPS


def test_what_is_measured_of_a_short_phase_is_not_worth_a_recording() -> None:
    script = {4: germination("s1", SLOT), 16: keep("s1")}
    entry = Run(replace(CONFIG, epochs=4), RecordingBackend(), script).summary["graphs"]
    assert (entry["captures"], entry["measured_replays"]) == (1 + 2 + 1, 0)
    assert set(entry["eager"]) == {"warm_up", "behind"}


def test_a_measure_that_asks_the_host_stays_eager_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sources.sample_of_gradients

    def asking(*arguments: Any) -> Any:
        sample = plain(*arguments)
        assert sample is not None
        return sample if float(sample.table.sum()) else None

    eager = Run(LIVELY, None, JUDGED)
    monkeypatch.setattr(sources, "sample_of_gradients", asking)
    recorded = Run(LIVELY, RecordingBackend(), JUDGED)
    check_alike(recorded, eager, rtol=1e-5)
    entry = recorded.summary["graphs"]
    assert entry["fallbacks"] == {"measured": 1}
    assert entry["eager"]["measured"] > 10
    # What had been recorded is recorded anew, because a failed recording leaves generators in another state.
    assert entry["captures"] == 1 + 2 + 2
    assert recorded.notices("tolaria.graph_fallback") == [
        "a step can't be recorded and stays eager: measured: "
        "operation not permitted when stream is capturing: a value is read"
    ]


def test_where_a_twin_s_step_can_t_be_recorded_the_main_arm_s_is_recorded_anew() -> None:
    tries = iter(range(100))

    def third() -> None:
        if next(tries) == 2:
            out_of_memory()

    script = {4: germination("s1", SLOT), 20: [directive("s1", "INSTALL_TWIN")]}
    config = replace(CONFIG, epochs=4)
    recorded = Run(config, RecordingBackend(third), script)
    assert recorded.summary["weights_digest"] == Run(config, RecordingBackend()).summary["weights_digest"]
    entry = recorded.summary["graphs"]
    assert entry["fallbacks"] == {"out_of_memory": 1}
    assert entry["eager"]["given_up"] > 0
    assert entry["captures"] == 1 + 1 + 1


@pytest.mark.slow
def test_of_a_run_that_is_grown_by_stacks_only_warm_ups_are_eager(tmp_path: Path) -> None:
    entry = Run(stacks_in(tmp_path), RecordingBackend(), STACKS).summary["graphs"]
    assert entry["eager"] == {"warm_up": WARM_UP_STEPS * entry["captures"]}
    assert (entry["captures"], entry["measured_replays"], entry["fallbacks"]) == (1 + 2 + 2, 0, {})


def blended(mode: BlendMode, **fields: Any) -> dict[int, Any]:
    """A seed whose alpha moves with each step."""
    blend = BlendConfig(
        mode=mode,
        alpha_start=0.1,
        alpha_target=0.9,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=24,
        **fields,
    )
    first = germination("s1", SLOT)[:2]
    return {4: [*first, directive("s1", "ATTACH", slot_id=SLOT, blend=blend)], 24: keep("s1")}


def test_a_moving_alpha_and_a_falling_rate_record_nothing_anew() -> None:
    config = replace(CONFIG, schedule="cosine")
    script = blended(BlendMode.BLEND_MODE_CONVEX)
    recorded = Run(config, RecordingBackend(), script)
    check_alike(recorded, Run(config, script=script), rtol=1e-5)
    alphas = {seed.alpha for boundary in recorded.told.boundaries for seed in boundary.seeds}
    assert len(alphas) > 3
    # The seed is kept beside its layers, and alpha moves on; what is measured of it is recorded in two ways.
    assert recorded.summary["graphs"]["captures"] == 1 + 2 + 2


def test_the_short_last_batch_of_an_epoch_has_a_recording_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PLAIN, samples=570)
    recorded = Run(config, RecordingBackend())
    check_alike(recorded, Run(config))
    entry = recorded.summary["graphs"]
    assert entry["captures"] == 2
    assert entry["eager"] == {"warm_up": 2 * WARM_UP_STEPS}
    monkeypatch.setattr(bookkeeping, "FORMS", 1)
    entry = Run(config, RecordingBackend()).summary["graphs"]
    assert entry["captures"] == 1
    assert entry["eager"] == {"warm_up": WARM_UP_STEPS, "shape": config.epochs}


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    config, script = replace(CONFIG, epochs=5), {4: germination("s1", SLOT), 20: keep("s1")}
    whole = Run(config, RecordingBackend(), script)
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        Run(config, RecordingBackend(), script, Recorder(23), store=store)
    resumed = Run(config, RecordingBackend(), script, store=store, resume=True)
    assert resumed.summary["weights_digest"] == whole.summary["weights_digest"]


def test_where_an_evaluation_has_no_room_graphs_are_let_go_of_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, failures = RecordingBackend(), iter([True])
    plain = trainer_module.evaluated

    def scarce(*arguments: Any) -> Any:
        if backend.captures and next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*arguments)

    monkeypatch.setattr(trainer_module, "evaluated", scarce)
    recorded = Run(PLAIN, backend)
    assert recorded.summary["graphs"]["captures"] == 2
    assert recorded.summary["graphs"]["eager"] == {"warm_up": 2 * WARM_UP_STEPS}
    assert backend.forgotten >= 1


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_what_can_t_be_recorded_is_told_with_its_reason_and_trains_on_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = Run(PLAIN)
    full = Run(PLAIN, RecordingBackend(out_of_memory))
    check_alike(full, eager)
    assert full.summary["graphs"]["fallbacks"] == {"out_of_memory": 1}
    assert full.summary["graphs"]["eager"] == {"warm_up": WARM_UP_STEPS, "given_up": STEPS - WARM_UP_STEPS}
    assert full.notices("tolaria.graph_fallback") == [
        "a step can't be recorded and stays eager: out_of_memory: CUDA out of memory"
    ]

    def reading(self: LabelTask, outputs: Any, targets: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        share = plain(self, outputs, targets, dtype)
        return share if float(share) >= 0.0 else -share

    plain = LabelTask.accuracy
    monkeypatch.setattr(LabelTask, "accuracy", reading)
    waiting = Run(PLAIN, RecordingBackend())
    check_alike(waiting, eager)
    assert waiting.summary["graphs"]["fallbacks"] == {"capture_failed": 1}
    assert "a value is read" in waiting.notices("tolaria.graph_fallback")[0]
    assert waiting.summary["graphs"]["replays"] == 0


CONFIDENT = blended(BlendMode.BLEND_MODE_CONFIDENCE, gate_slope=4.0, gate_threshold=0.5, confidence=1)


@pytest.mark.parametrize(
    ("change", "script", "reason"),
    [
        ({"accumulate": 2, "pcgrad": True}, None, "surgery_waits"),
        ({"pcgrad": True, "surgery": "seeds", "grow": "auto"}, {4: germination("s1", SLOT)}, "surgery_by_seeds"),
        ({"grow": "auto"}, CONFIDENT, "confidence_blend"),
    ],
    ids=["surgery_waits", "surgery_by_seeds", "confidence_blend"],
)
def test_known_obstacles_are_named_before_anything_is_recorded(
    change: dict[str, Any], script: Any, reason: str
) -> None:
    config = replace(PLAIN, **change)
    recorded = Run(config, RecordingBackend(), script)
    check_alike(recorded, Run(config, script=script), rtol=1e-5)
    assert set(recorded.summary["graphs"]["fallbacks"]) == {reason}
    assert all(reason in told for told in recorded.notices("tolaria.graph_fallback"))


def test_graphs_are_for_cuda_and_one_process() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(graphs=True)
    assert str(caught.value) == "graphs = True: needs a CUDA device, got device cpu; leave it out"
    with pytest.raises(ConfigError, match="graphs = True: isn't supported with many ranks"):
        check_settings(TrainConfig(graphs=True, device="cuda"), Recorded(0, []))


def test_counts_are_told_in_words() -> None:
    counts = GraphCounts(replays=1234, capture_ms=[3.0])
    counts.eager["warm_up"] += 3
    assert counts.in_words() == "graphs: 1 captured, 1,234 steps replayed, eager: 3 warm_up; fallbacks: none"


def test_a_twin_that_waits_voids_what_its_fetching_moves_and_ends_at_the_same_bits() -> None:
    config, script = replace(CONFIG, epochs=5), {4: germination("s1", SLOT), 20: [directive("s1", "INSTALL_TWIN")]}
    live = Run(replace(config, twin="live"), RecordingBackend(), script)
    waiting = Run(replace(config, twin="bursts"), RecordingBackend(), script)
    assert waiting.summary["weights_digest"] == live.summary["weights_digest"]
    assert waiting.summary["graphs"]["eager"]["late"] > 0
    assert waiting.summary["graphs"]["fallbacks"] == {}
