"""The training loop over a scripted control plane: reproducible, exact after a kill, exact after a cull."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError, NonFiniteLoss, RollbackFailed
from esper.kasmina.executor.actions import actions
from esper.leyline import DirectiveKind
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.open_control import Opening
from esper.tolaria.record.observer import Boundary, CheckpointWritten, Notice, Observer, Observers, RunStarted, StepDone
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from esper.tolaria.trial import try_host
from tests.drilled import drilled
from tests.unit.tolaria.scripted_control import (
    ScriptedControl,
    cull,
    directive,
    fetch_artifact,
    germination,
    judgement,
    keep,
)
from tests.unit.tolaria.task import foreign_hosts

SLOT = "span_linear:fc1-fc2"
# Four epochs of six steps with dropout, so that a step that drew other random numbers would show.
CONFIG = TrainConfig(
    samples=600,
    hidden=(5, 5),
    dropout=0.1,
    epochs=8,
    min_samples=50,
    evaluate_every_steps=4,
    checkpoint_every_epochs=1,
    keep_checkpoints=3,
)
KEPT = {4: [*germination("s1", SLOT), judgement("s1", 16)], 20: keep("s1"), 24: germination("s2", SLOT), 36: cull("s2")}
CULLED = {
    4: [*germination("s1", SLOT), judgement("s1", 16)],
    20: cull("s1"),
    24: germination("s2", SLOT),
    36: cull("s2"),
}


class KilledError(Exception):
    """Stands for kill -9: nothing after it is done."""


class Recorder(Observer):
    """Observer that keeps what it is told and may kill the run."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.started: list[RunStarted] = []
        self.steps: list[StepDone] = []
        self.boundaries: list[Boundary] = []
        self.notices: list[Notice] = []
        self.epochs: list[Any] = []
        self.checkpoints: list[CheckpointWritten] = []
        self.summary: Mapping[str, Any] = {}

    def on_start(self, started: RunStarted) -> None:
        self.started.append(started)

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        for done in steps:
            if done.step == self.kill_at:
                raise KilledError
            self.steps.append(done)

    def on_boundary(self, boundary: Boundary) -> None:
        self.boundaries.append(boundary)

    def on_events(self, notices: Any) -> None:
        self.notices.extend(notices)

    def on_epoch(self, done: Any) -> None:
        self.epochs.append(done)

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        self.checkpoints.append(written)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self.summary = summary


class KilledAfterRollback(Recorder):
    """Dies at a step of the course that follows a rollback."""

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        if any(notice.name == "tolaria.rollback" for notice in self.notices):
            super().on_steps(steps)


def run(
    config: TrainConfig,
    control: Any = None,
    *,
    observer: Observer | None = None,
    store: CheckpointStore | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    chosen = NullControl() if control is None else control
    trainer = Trainer(
        prepare(config, fetch_artifact),
        lambda opening: chosen,
        observer or Observers(),
        store=store,
        should_stop=should_stop,
    )
    return trainer.train(resume=resume)


def test_the_task_and_what_makes_one_doubt_the_data_are_told_at_the_start() -> None:
    recorder = Recorder()
    run(TrainConfig(samples=30, batch_size=8, epochs=1, grow="never"), observer=recorder)
    assert recorder.started[0].task == "classification, 10 classes, smallest 1"
    assert [(notice.step, notice.name, notice.level) for notice in recorder.notices] == [
        (0, "tolaria.data_doubt", "WARNING")
    ]
    assert "a single training sample" in recorder.notices[0].message


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    digests = [run(replace(CONFIG, seed=seed))["weights_digest"] for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_after_culls_the_weights_are_those_of_the_run_that_never_grew() -> None:
    culled, never = run(CONFIG, ScriptedControl(CULLED)), run(CONFIG)
    assert culled["weights_digest"] == never["weights_digest"]
    assert culled["training_macs"] > never["training_macs"] == never["training_macs_by_use"]["main"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_cull_is_exact_under_every_optimizer_with_clipping_and_microbatches(optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer, lr=0.01, clip_norm=0.5, accumulate=3, pcgrad=True, epochs=5)
    assert run(config, ScriptedControl(CULLED))["weights_digest"] == run(config)["weights_digest"]


def test_a_kept_seed_is_folded_into_a_wider_plain_network() -> None:
    control = ScriptedControl(KEPT)
    summary = run(CONFIG, control)
    assert summary["final_widths"] == [13, 5]
    assert summary["final_parameters"] > summary["host_parameters"]
    reports = [report for collected in control.collected for report in collected.reports]
    assert all(report.succeeded for report in reports)
    assert next(report.max_logit_delta for report in reports if report.directive_id == "s1:ATTACH") == 0.0


@cache
def unbroken(config: TrainConfig) -> dict[str, Any]:
    return run(config, ScriptedControl(KEPT))


CONTROL_MODES: tuple[dict[str, Any], ...] = ({"lag": 1}, {"lag": 2}, {"control": "sync"})
KILLS = (9, 23, 45)


def is_told_apart(control_mode: dict[str, Any], kill_at: int) -> bool:
    return CONTROL_MODES.index(control_mode) == KILLS.index(kill_at)


@pytest.mark.parametrize(("control_mode", "kill_at"), drilled(product(CONTROL_MODES, KILLS), is_told_apart))
def test_a_killed_run_that_resumes_ends_with_the_same_weights(
    tmp_path: Path, control_mode: dict[str, Any], kill_at: int
) -> None:
    config = replace(CONFIG, **control_mode)
    whole = unbroken(config)
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run(config, ScriptedControl(KEPT), observer=Recorder(kill_at), store=store)
    recorder = Recorder()
    resumed = run(config, ScriptedControl(KEPT), observer=recorder, store=store, resume=True)
    assert recorder.started[0].is_resumed
    assert recorder.started[0].generation == 2
    same = ("weights_digest", "training_macs_by_use", "final_widths", "val_loss", "test_accuracy", "commands", "seeds")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}


class Rows(nn.Module):
    """Reads an image row by row."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.cells = nn.GRU(8, 6, batch_first=True, bidirectional=True)
        self.fc1, self.fc2 = nn.Linear(12, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(self.cells(x.reshape(-1, 8, 8))[0][:, -1])))


def rows(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Rows(outputs)


def test_a_recurrent_host_grows_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, model=f"{__name__}:rows", hidden=(), dropout=0.0)
    try_host(prepare(config))
    whole, store = run(config, ScriptedControl(KEPT)), CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run(config, ScriptedControl(KEPT), observer=Recorder(45), store=store)
    resumed = run(config, ScriptedControl(KEPT), store=store, resume=True)
    assert resumed["growth"]["kept"] == 1
    assert resumed["reproducible"]
    assert resumed["weights_digest"] == whole["weights_digest"]


def test_an_interrupted_run_stops_at_a_boundary_and_goes_on_from_there(tmp_path: Path) -> None:
    store, recorder = CheckpointStore(tmp_path, keep=2), Recorder()
    stopped = run(
        CONFIG, ScriptedControl(KEPT), observer=recorder, store=store, should_stop=lambda: len(recorder.steps) >= 12
    )
    assert not stopped["finished"]
    assert stopped["stop_reason"] == "interrupted"
    assert stopped["reproducible"]
    resumed = run(CONFIG, ScriptedControl(KEPT), store=store, resume=True)
    assert resumed["weights_digest"] == unbroken(CONFIG)["weights_digest"]


def test_a_run_that_was_killed_twice_has_three_generations(tmp_path: Path) -> None:
    store, recorder = CheckpointStore(tmp_path, keep=2), Recorder()
    for kill_at, resume in ((15, False), (16, True)):
        with pytest.raises(KilledError):
            run(CONFIG, ScriptedControl(KEPT), observer=Recorder(kill_at), store=store, resume=resume)
    summary = run(CONFIG, ScriptedControl(KEPT), observer=recorder, store=store, resume=True)
    assert summary["generation"] == 3
    assert {boundary.packet.generation for boundary in recorder.boundaries} == {3}


def test_a_finished_run_cannot_be_resumed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    run(replace(CONFIG, epochs=2), store=store)
    with pytest.raises(ConfigError, match="finished"):
        run(replace(CONFIG, epochs=2), store=store, resume=True)


def test_resuming_under_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run(CONFIG, observer=Recorder(30), store=store)
    with pytest.raises(ConfigError, match="lr"):
        run(replace(CONFIG, lr=0.1), store=store, resume=True)


def test_directives_are_executed_lag_packets_after_the_packet_that_caused_them() -> None:
    executed = {}
    for name, mode in (("sync", {"control": "sync"}), ("lag 1", {"lag": 1}), ("lag 3", {"lag": 3})):
        control = ScriptedControl({8: germination("s1", SLOT), 36: cull("s1")})
        run(replace(CONFIG, evaluate_every_steps=1, **mode), control)
        reports = [report for collected in control.collected for report in collected.reports]
        executed[name] = reports[0].step
    assert executed == {"sync": 8, "lag 1": 9, "lag 3": 11}


def test_packets_go_out_every_few_steps_and_after_the_last() -> None:
    control = ScriptedControl()
    run(replace(CONFIG, epochs=3, checkpoint_every_epochs=0), control)
    assert [packet.step for packet in control.packets] == [4, 8, 12, 16, 18]
    # Epochs end after steps 6, 12 and 18.
    assert [packet.is_epoch_end for packet in control.packets] == [False, True, True, False, True]
    assert [sample.step for packet in control.packets for sample in packet.recent_steps] == list(range(1, 19))
    assert control.is_closed


def test_a_checkpoint_comes_with_the_first_packet_after_its_epoch_and_with_the_last(tmp_path: Path) -> None:
    control, recorder, store = ScriptedControl(), Recorder(), CheckpointStore(tmp_path, keep=2)
    run(replace(CONFIG, epochs=5, checkpoint_every_epochs=2), control, observer=recorder, store=store)
    # Epochs 2 and 4 end after steps 12 and 24; the last boundary is where more epochs would go on from.
    assert [written.step for written in recorder.checkpoints] == [12, 24, 28]
    run(replace(CONFIG, epochs=5, checkpoint_every_epochs=1), control, observer=recorder, store=store)
    assert [written.step for written in recorder.checkpoints][3:] == [8, 12, 20, 24, 28]


def test_every_epochs_mean_loss_is_that_of_its_own_steps() -> None:
    recorder = Recorder()
    run(replace(CONFIG, epochs=3, evaluate_every_steps=7), observer=recorder)
    assert [done.step for done in recorder.epochs] == [6, 12, 18]
    for done in recorder.epochs:
        own = [step.loss for step in recorder.steps if done.step - 6 < step.step <= done.step]
        assert len(own) == 6
        assert done.train_loss == pytest.approx(sum(own) / 6)


def test_a_missing_answer_is_counted_named_and_makes_the_run_irreproducible() -> None:
    recorder = Recorder()
    summary = run(CONFIG, ScriptedControl(KEPT, failures=[5]), observer=recorder)
    assert summary["timeouts"] == 1
    assert not summary["reproducible"]
    assert "deadline" in summary["reproducible_cause"]
    modes = [boundary.mode for boundary in recorder.boundaries]
    assert modes.count("conservative") == 5
    assert modes[-1] == "normal"
    assert [notice.name for notice in recorder.notices].count("tolaria.tamiyo_timeout") == 1


class Losing(ScriptedControl):
    """Every second of some packets needs a service that is lost."""

    def take(self, packet_index: int) -> PacketResult:
        result = super().take(packet_index)
        return (
            replace(result, failure="lost", cause="kasmina can't be reached") if packet_index in (2, 4, 6) else result
        )


def test_a_lost_service_is_told_once_though_not_every_packet_needs_it() -> None:
    recorder = Recorder()
    run(replace(CONFIG, epochs=12), Losing(), observer=recorder)
    assert [notice.name for notice in recorder.notices if notice.level == "WARNING"] == [
        "tolaria.service_failure",
        "tolaria.mode_changed",
        "tolaria.mode_changed",
    ]


def test_a_checkpoint_without_the_services_states_is_postponed_and_told_once(tmp_path: Path) -> None:
    recorder, store = Recorder(), CheckpointStore(tmp_path, keep=9)
    run(CONFIG, ScriptedControl(has_states=lambda step: step not in (8, 12)), observer=recorder, store=store)
    assert [written.step for written in recorder.checkpoints][:3] == [16, 20, 24]
    assert [notice.step for notice in recorder.notices if "postponed" in notice.name] == [8]


def test_a_halt_order_stops_the_run_after_a_boundary_and_says_why() -> None:
    script = {12: [directive("", "HALT", rationale="L4: operator")]}
    summary = run(CONFIG, ScriptedControl(script))
    assert summary["stop_reason"] == "halted: L4: operator"
    assert summary["steps"] < summary["total_steps"]
    assert not summary["reproducible"]


def test_a_rollback_order_restores_the_checkpoint_under_a_new_generation(tmp_path: Path) -> None:
    openings: list[Opening] = []
    controls = [ScriptedControl({16: [directive("", "ROLLBACK", rationale="operator")]}), ScriptedControl()]

    def open_control(opening: Opening) -> ScriptedControl:
        openings.append(opening)
        return controls[len(openings) - 1]

    recorder = Recorder()
    store = CheckpointStore(tmp_path, keep=2)
    summary = Trainer(prepare(CONFIG), open_control, recorder, store=store).train()
    assert [opening.generation for opening in openings] == [1, 2]
    assert openings[1].states is not None
    assert openings[1].step == 20
    assert summary["rollbacks"] == 1
    assert summary["training_macs_by_use"]["undone"] == 0  # ordered where the checkpoint was just written
    assert summary["weights_digest"] == run(CONFIG)["weights_digest"]


def test_a_rollback_order_that_is_in_flight_at_the_state_gone_back_to_is_obeyed_once(tmp_path: Path) -> None:
    controls = [ScriptedControl({16: [directive("", "ROLLBACK", rationale="operator")]}), ScriptedControl()]
    config = replace(CONFIG, snapshot_every_steps=1, checkpoint_every_epochs=0)
    recorder, left = Recorder(), iter(controls)
    summary = Trainer(prepare(config), lambda opening: next(left), recorder, store=CheckpointStore(tmp_path, 2)).train()
    assert [notice.step for notice in recorder.notices if notice.name == "tolaria.rollback"] == [16]
    assert summary["rollbacks"] == 1
    assert [report.step for report in controls[1].collected[0].reports] == [20], "its execution is told"
    assert summary["weights_digest"] == run(CONFIG)["weights_digest"]


@pytest.mark.parametrize(
    ("settings", "order", "why"),
    [
        (
            {},
            {"to_step": 3},
            r"no state up to step 3 is kept; it can go back to \d+(, \d+)*: name one of them or a later step",
        ),
        ({"max_rollbacks": 0}, {}, "0 of max_rollbacks = 0 were made already"),
        ({"checkpoint_every_epochs": 0, "snapshot_every_steps": 0}, {}, "no state was kept yet"),
    ],
)
def test_a_rollback_order_that_leads_nowhere_is_refused_and_the_run_goes_on(
    tmp_path: Path, settings: dict[str, Any], order: dict[str, Any], why: str
) -> None:
    control, recorder = ScriptedControl({16: [directive("", "ROLLBACK", rationale="operator", **order)]}), Recorder()
    config, store = replace(CONFIG, **settings), CheckpointStore(tmp_path, keep=2)
    summary = Trainer(prepare(config), lambda opening: control, recorder, store=store).train()
    (said,) = [notice.message for notice in recorder.notices if notice.name == "tolaria.rollback_refused"]
    command_id = re.escape(directive("", "ROLLBACK").command_id)
    assert re.fullmatch(f"rollback ordered: operator; refused: command {command_id}: {why}", said)
    (report,) = [report for collected in control.collected for report in collected.reports]
    assert not report.succeeded
    assert said.endswith(report.failure)
    assert (summary["rollbacks"], summary["steps"]) == (0, summary["total_steps"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step() -> None:
    with pytest.raises(NonFiniteLoss, match=r"step \d+: the training loss is (nan|inf)"):
        run(replace(CONFIG, optimizer="sgd", lr=1e38))


def test_rollback_after_a_loss_that_is_not_finite_goes_on_more_slowly(tmp_path: Path, monkeypatch: Any) -> None:
    from esper.tolaria.loop.step import Stepper

    whole_run, poisoned = Stepper.run, []

    def poison_once(self: Stepper, arm: Any, batch: Any, step: int, *rest: Any, **options: Any) -> Any:
        if step == 17 and not poisoned:
            poisoned.append(step)
            next(iter(arm.model.parameters())).data.fill_(float("nan"))
        return whole_run(self, arm, batch, step, *rest, **options)

    monkeypatch.setattr(Stepper, "run", poison_once)
    recorder, openings = Recorder(), []

    def open_control(opening: Opening) -> NullControl:
        openings.append(opening)
        return NullControl()

    config = replace(CONFIG, on_nonfinite="rollback")
    trainer = Trainer(prepare(config), open_control, recorder, store=CheckpointStore(tmp_path, keep=2))
    summary = trainer.train()
    assert summary["finished"]
    assert summary["rollbacks"] == 1
    assert summary["training_macs_by_use"]["undone"] > 0
    before = next(done.learning_rate for done in recorder.steps if done.step == 13)
    after = [done.learning_rate for done in recorder.steps if done.step == 13][-1]
    assert after == pytest.approx(before * config.rollback_lr_factor)
    assert [opening.gives_up_course for opening in openings] == [False, True]
    saved = [written.step for written in recorder.checkpoints]
    assert saved[:3] == [8, 12, 16]  # the first boundaries of two epochs, and the one after the return to step 12


@pytest.mark.parametrize("kill_at", [13, 17, 25])
def test_a_run_killed_after_such_a_rollback_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: Any, kill_at: int
) -> None:
    """Killed before the next boundary it goes back once more, after it the checkpoint knows of the slower course."""
    from esper.tolaria.loop.step import Stepper

    whole_run = Stepper.run

    def diverge(self: Stepper, arm: Any, batch: Any, step: int, *rest: Any, **options: Any) -> Any:
        if step == 14 and arm.scheduler.factor == 1.0:
            next(iter(arm.model.parameters())).data.fill_(float("nan"))
        return whole_run(self, arm, batch, step, *rest, **options)

    monkeypatch.setattr(Stepper, "run", diverge)
    config = replace(CONFIG, on_nonfinite="rollback")
    openings: list[Opening] = []

    def open_control(opening: Opening) -> ScriptedControl:
        openings.append(opening)
        return ScriptedControl(KEPT)

    def course(observer: Recorder, store: CheckpointStore, *, resume: bool = False) -> dict[str, Any]:
        return Trainer(prepare(config, fetch_artifact), open_control, observer, store=store).train(resume=resume)

    whole = course(Recorder(), CheckpointStore(tmp_path / "whole", keep=2))
    assert [opening.gives_up_course for opening in openings] == [False, True]
    openings.clear()
    store = CheckpointStore(tmp_path / "killed", keep=2)
    with pytest.raises(KilledError):
        course(KilledAfterRollback(kill_at), store)
    resumed = course(Recorder(), store, resume=True)
    same = ("weights_digest", "final_widths", "val_loss", "rollbacks", "seeds")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}


def test_a_run_that_never_becomes_finite_gives_up_after_its_rollbacks(tmp_path: Path) -> None:
    config = replace(CONFIG, optimizer="sgd", lr=1e38, on_nonfinite="rollback")
    with pytest.raises(RollbackFailed, match="nothing to go back to"):
        run(config, store=CheckpointStore(tmp_path, keep=2))


def test_a_run_where_measured_time_may_decide_is_not_reproducible() -> None:
    summary = run(replace(CONFIG, epochs=1, latency_rules=True))
    assert (summary["reproducible"], summary["reproducible_cause"]) == (
        False,
        "measured time may decide (latency_rules)",
    )


def test_the_summary_holds_what_a_reader_needs() -> None:
    summary = run(CONFIG, ScriptedControl(KEPT))
    wanted = {
        *("run_id", "data", "splits", "epochs", "steps", "seed", "val_accuracy", "val_loss", "test_accuracy"),
        *("host_parameters", "final_parameters", "training_macs", "growth", "seeds", "commands", "step_ms"),
        *("control_overhead_ms", "timeouts", "reproducible", "reproducible_cause", "weights_digest"),
    }
    assert wanted <= set(summary)
    assert summary["growth"].keys() == {"germinated", "judged", "kept"}
    assert summary["step_ms"].keys() == {"p50", "p95"}
    uses = summary["training_macs_by_use"]
    assert summary["training_macs"] == sum(uses.values())
    assert uses["twin"] > 0
    assert uses["side"] > 0


def test_work_that_cannot_be_counted_is_told_once_at_the_start() -> None:
    recorder = Recorder()
    model = "tests.unit.tolaria.task.foreign_hosts:unwilling"
    run(replace(CONFIG, model=model, hidden=(), dropout=0.0, grow="never", epochs=1), observer=recorder)
    assert [notice.message for notice in recorder.notices] == [
        "multiply-accumulates count as 0: LookupError: I will not be watched"
    ]


def test_a_compiled_host_trains_in_compiled_code_and_ends_with_the_plain_ones_weights() -> None:
    foreign_hosts.BATCHES.clear()
    digests = [
        run(
            replace(CONFIG, model=f"tests.unit.tolaria.task.foreign_hosts:{name}", hidden=(), dropout=0.0, grow="never")
        )
        for name in ("plain", "compiled")
    ]
    assert digests[0]["weights_digest"] == digests[1]["weights_digest"]
    assert len(foreign_hosts.BATCHES) == digests[1]["steps"]


def test_a_cull_gives_the_host_the_digest_of_its_twin_also_where_nothing_is_reproducible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_cull(replace(CONFIG, deterministic=False), monkeypatch)


def check_cull(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    digests: list[tuple[str, str, str]] = []

    def install(state: Any, order: Any, step: int) -> Any:
        grown, twin = state.arm.digest(), state.twin.digest()
        facts = actions.install_twin(state, order, step)
        digests.append((grown, twin, state.arm.digest()))
        return facts

    monkeypatch.setitem(actions.ACTIONS, DirectiveKind.DIRECTIVE_KIND_INSTALL_TWIN, install)
    summary = run(config, ScriptedControl(CULLED))
    assert not summary["reproducible"]
    assert summary["reproducible_cause"] == "without --deterministic, algorithms need not compute the same twice"
    assert len(digests) == 2
    for grown, twin, after in digests:
        assert grown != twin == after


def test_a_run_is_resumed_as_deterministic_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    with pytest.raises(KilledError):
        run(CONFIG, observer=Recorder(23), store=store)
    with pytest.raises(ConfigError, match=r"deterministic = False: the checkpoint's run has True; give the same"):
        run(replace(CONFIG, deterministic=False), store=store, resume=True)
    # The default of the CPU, said aloud, is the same run.
    assert run(replace(CONFIG, deterministic=True), store=store, resume=True)["reproducible"]
