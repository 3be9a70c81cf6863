"""One run in its directory: what it leaves after an end, a crash and an interruption, and what it never touches."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esper.core.errors import ConfigError, NonFiniteLoss, RunContradicted, ServiceUnavailable
from esper.rpc.reporting.telemetry import UNHEARD
from esper.tolaria import run as module
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.course.reading import read_events
from esper.tolaria.record.observer import Boundary, Notice, Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from tests.unit.tolaria.scripted_control import ScriptedControl

PLAIN = RunOptions(tensorboard=False)
RESUME = RunOptions(resume=True, tensorboard=False)


def config(run_dir: Path, **fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (5, 5), "epochs": 3, "grow": "never", "lr": 0.01}
    return TrainConfig(run_dir=run_dir, min_samples=50, evaluate_every_steps=3, **settings | fields)


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


class At(Observer):
    """Does something at the first boundary at or after a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step = step
        self._act: Callable[[], None] | None = act

    def on_boundary(self, boundary: Boundary) -> None:
        if self._act is not None and boundary.step >= self._step:
            act, self._act = self._act, None
            act()


class Silent:
    """Stands for whatever is only told things."""

    plane = UNHEARD
    sent = failures = queued = 0
    last_latency_ms = 0.0

    def send(self, packet: Any) -> None:
        pass

    def close(self, timeout_s: float) -> None:
        pass


def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Weatherlight: nobody is told anything, and nothing is heard."""
    monkeypatch.setattr(module, "TelemetrySender", lambda *given, **named: Silent())
    monkeypatch.setattr(module, "Alarm", lambda *given: Silent())
    monkeypatch.setattr(module, "require_normal", lambda *given: None)


def plane(refused: tuple[tuple[str, str], ...]) -> Any:
    """A control plane that never grows anything, as a context."""
    link = SimpleNamespace(
        open_control=lambda opening: ScriptedControl(),
        opened=SimpleNamespace(refused_slots=refused),
        finish=lambda step, reason: None,
    )
    services = SimpleNamespace(endpoints={"weatherlight": "unix:/x"}, tls=lambda name: None, wake=lambda: None)
    return nullcontext(SimpleNamespace(services=services, keyring=None, link=link))


def interrupted(run_dir: Path, step: int = 6) -> dict[str, Any]:
    interruption = Interruption()
    return grow(config(run_dir), PLAIN, [At(step, lambda: signal.raise_signal(signal.SIGTERM))], interruption)


def test_a_finished_run_leaves_summary_events_and_its_last_state(tmp_path: Path) -> None:
    summary = grow(config(tmp_path / "run"), PLAIN, (), Interruption())
    assert summary["finished"]
    assert summary_of(tmp_path / "run") == json.loads(json.dumps(summary))
    assert [event["kind"] for event in read_events(tmp_path / "run")][-1] == "finished"
    assert not (tmp_path / "run" / "secret").exists()


def test_a_crash_leaves_its_events_and_the_reason_last(tmp_path: Path) -> None:
    def crash() -> None:
        raise NonFiniteLoss(6, "the training loss is nan")

    with pytest.raises(NonFiniteLoss):
        grow(config(tmp_path), PLAIN, [At(6, crash)], Interruption())
    last = read_events(tmp_path)[-1]
    assert (last["kind"], last["name"], last["step"]) == ("failure", "tolaria.run_failed", 6)
    assert last["detail"] == "step 6: the training loss is nan; the state of step 3 is kept as a checkpoint"
    assert not (tmp_path / "summary.json").exists()


def test_an_interruption_leaves_a_checkpoint_from_which_the_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    stopped = interrupted(tmp_path / "run")
    assert (stopped["finished"], stopped["stop_reason"]) == (False, "interrupted")
    assert 6 <= stopped["steps"] < stopped["total_steps"]
    resumed = grow(config(tmp_path / "run"), RESUME, (), Interruption())
    unbroken = grow(config(tmp_path / "other"), PLAIN, (), Interruption())
    assert resumed["weights_digest"] == unbroken["weights_digest"] != stopped["weights_digest"]
    kinds = [event["kind"] for event in read_events(tmp_path / "run")]
    assert (kinds.count("run"), kinds.count("resumed"), kinds.count("finished")) == (1, 1, 2)


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    interrupted(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="the checkpoint's run has"):
        grow(config(tmp_path, lr=0.02), RESUME, (), Interruption())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_finished_run_keeps_its_summary_when_someone_resumes_it(tmp_path: Path) -> None:
    grow(config(tmp_path), PLAIN, (), Interruption())
    with pytest.raises(ConfigError, match="finished"):
        grow(config(tmp_path), RESUME, (), Interruption())
    assert summary_of(tmp_path)["finished"]


def test_a_run_killed_between_its_last_checkpoint_and_its_summary_gets_the_summary_on_resume(tmp_path: Path) -> None:
    summary = grow(config(tmp_path), PLAIN, (), Interruption())
    written = (tmp_path / "summary.json").read_bytes()
    (tmp_path / "summary.json").unlink()
    told: list[Any] = []

    class Display(Observer):
        def on_finish(self, summary: Any) -> None:
            told.append(summary)

    with (tmp_path / "events.jsonl").open("a") as events:
        events.write('{"torn')
    assert grow(config(tmp_path), RESUME, [Display()], Interruption()) == summary
    assert (tmp_path / "summary.json").read_bytes() == written
    assert told == [summary]
    assert read_events(tmp_path)[-1]["kind"] == "finished"
    with pytest.raises(ConfigError, match="--epochs above 3 extends it"):
        grow(config(tmp_path), RESUME, (), Interruption())


def test_a_finished_run_goes_on_for_more_epochs_and_says_so(tmp_path: Path) -> None:
    first = grow(config(tmp_path), PLAIN, (), Interruption())
    longer = grow(config(tmp_path, epochs=5), RESUME, (), Interruption())
    steps = first["total_steps"] // 3
    assert (first["steps"], longer["steps"], longer["total_steps"]) == (3 * steps, 5 * steps, 5 * steps)
    assert (longer["finished"], longer["epochs"], longer["reproducible"]) == (True, 5, False)
    boundary = 3 * steps - 3 * steps % 3
    assert longer["reproducible_cause"] == f"extended from 3 to 5 epochs at step {boundary}"
    events = read_events(tmp_path)
    assert [event["step"] for event in events if event["kind"] == "resumed" and "run_id" in event] == [boundary]
    (told,) = [event["detail"] for event in events if event.get("name") == "tolaria.extended"]
    assert "the learning rate, 0.01 from here, decays from step" in told
    steps_told = [event["step"] for event in events if event["kind"] == "boundary"]
    assert sorted(set(steps_told)) == list(range(3, 5 * steps + 1, 3))
    assert summary_of(tmp_path) == json.loads(json.dumps(longer))


def test_an_extension_that_is_interrupted_goes_on_without_being_told_again(tmp_path: Path) -> None:
    grow(config(tmp_path), PLAIN, (), Interruption())
    stop = At(0, lambda: signal.raise_signal(signal.SIGTERM))
    stopped = grow(config(tmp_path, epochs=5), RESUME, [stop], Interruption())
    assert (stopped["finished"], stopped["total_steps"] > stopped["steps"]) == (False, True)
    with pytest.raises(
        ConfigError, match=r"epochs = 3: the checkpoint's run has 5; give the same, or more to extend it"
    ):
        grow(config(tmp_path), RESUME, (), Interruption())
    resumed = grow(config(tmp_path, epochs=5), RESUME, (), Interruption())
    assert resumed["finished"]
    assert resumed["reproducible_cause"].count("extended") == 1


def test_an_extension_that_never_began_leaves_the_run_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(config(tmp_path), PLAIN, (), Interruption())
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").glob("*.ckpt")}

    class Unreachable:
        def __init__(self) -> None:
            raise ServiceUnavailable("tolaria", "service", "kasmina", "start it")

    monkeypatch.setattr(module, "NullControl", Unreachable)
    with pytest.raises(ServiceUnavailable):
        grow(config(tmp_path, epochs=5), RESUME, (), Interruption())
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").glob("*.ckpt")} == before
    assert summary_of(tmp_path)["finished"]


def test_a_longer_run_tells_of_the_boundary_that_it_could_not_go_on_from(tmp_path: Path) -> None:
    grow(config(tmp_path), PLAIN, (), Interruption())
    for path in (tmp_path / "checkpoints").glob("step-*.ckpt"):
        path.write_bytes(path.read_bytes()[:-3])
    grow(config(tmp_path, epochs=4), RESUME, (), Interruption())
    told = [event for event in read_events(tmp_path) if event.get("name") == "tolaria.checkpoint_damaged"]
    assert told
    assert all(event["detail"].startswith("passed over: ") and ".ckpt" in event["detail"] for event in told)


@pytest.mark.parametrize("every_epochs", [0, 1])
def test_a_run_that_was_interrupted_may_be_given_more_epochs_too(tmp_path: Path, every_epochs: int) -> None:
    stopped = interrupted(tmp_path)
    longer = grow(config(tmp_path, epochs=4, checkpoint_every_epochs=every_epochs), RESUME, (), Interruption())
    assert (longer["finished"], longer["epochs"]) == (True, 4)
    assert longer["reproducible_cause"] == f"extended from 3 to 4 epochs at step {stopped['steps']}"


def test_where_the_services_states_were_not_kept_a_longer_run_trains_without_growth_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "connected", lambda *given: plane(refused=()))
    silence(monkeypatch)
    grow(config(tmp_path, grow="auto", checkpoint_every_epochs=0), PLAIN, (), Interruption())
    opened: list[Any] = []

    def never(opening: Any) -> Any:
        opened.append(opening)

    def without(*given: Any) -> Any:
        context = plane(refused=())
        context.enter_result.link.open_control = never
        return context

    monkeypatch.setattr(module, "connected", without)
    settings = config(tmp_path, grow="auto", checkpoint_every_epochs=0, epochs=5)
    longer = grow(settings, RESUME, (), Interruption())
    assert (longer["finished"], longer["epochs"], opened) == (True, 5, [])
    (told,) = [event["detail"] for event in read_events(tmp_path) if event.get("name") == "tolaria.growth_over"]
    assert told == "the run's end kept no state of the services, so training goes on without growth"


def test_a_resumed_run_has_no_summary_of_its_interruption_while_it_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path)
    seen: list[bool] = []
    grow(config(tmp_path), RESUME, [At(0, lambda: seen.append((tmp_path / "summary.json").exists()))], Interruption())
    assert seen == [False]


def test_the_first_signal_is_noted_and_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interruption = Interruption()
    with interruption.watched():
        assert not interruption.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert interruption.is_set()
    assert interruption.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "_exit", sys.exit)
    with Interruption().watched():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGINT)
    assert ended.value.code == 130


def test_a_hang_up_is_heard_as_often_as_it_is_told_and_never_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "_exit", sys.exit)
    interruption = Interruption()
    with interruption.watched():
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert interruption.number == signal.SIGHUP
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_a_hang_up_that_is_ignored_already_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with (interruption := Interruption()).watched():
            signal.raise_signal(signal.SIGHUP)
        assert not interruption.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_summary_is_written_before_anybody_is_told_of_the_end(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Last(Observer):
        def on_finish(self, summary: Any) -> None:
            seen.append(summary_of(tmp_path)["finished"])

    grow(config(tmp_path), PLAIN, [Last()], Interruption())
    assert seen == [True]


def test_scalars_that_cant_be_written_are_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Observer):
        def on_boundary(self, boundary: Boundary) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_scalars", lambda *given: Full())
    assert grow(config(tmp_path), PLAIN, (), Interruption())["finished"]
    (lost,) = [event for event in read_events(tmp_path) if event.get("name") == "tolaria.scalars_lost"]
    assert lost["detail"] == "no more scalars: [Errno 28] No space left on device"


def test_what_services_say_from_their_thread_stands_in_the_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins: list[Callable[[str, str], None]] = []

    def connected(config: TrainConfig, run_id: str, tell: Callable[[str, str], None], own: Any) -> Any:
        pins.append(tell)
        return plane(refused=())

    monkeypatch.setattr(module, "connected", connected)
    silence(monkeypatch)
    lose = At(6, lambda: pins[0]("service_lost", "tamiyo ended with signal SIGKILL"))
    grow(config(tmp_path, grow="auto"), PLAIN, [lose], Interruption())
    (lost,) = [event for event in read_events(tmp_path) if event["kind"] == "service"]
    assert (lost["name"], lost["detail"]) == ("service_lost", "tamiyo ended with signal SIGKILL")
    assert lost["step"] >= 6


def test_slots_that_kasmina_refuses_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Notice] = []

    class Listener(Observer):
        def on_events(self, notices: Any) -> None:
            told.extend(notices)

    monkeypatch.setattr(module, "connected", lambda *given: plane(refused=(("a", "nothing fits"),)))
    silence(monkeypatch)
    grow(config(tmp_path, grow="auto"), PLAIN, [Listener()], Interruption())
    assert [(notice.step, notice.message) for notice in told] == [(0, "slot a stays closed: nothing fits")]


def test_a_run_whose_network_is_not_the_one_it_tells_of_fails_after_its_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esper.tolaria.record.ending import summary as summaries

    evaluated, more = summaries.evaluated, iter([1.0, 0.0])

    def other(*given: Any) -> Any:
        told = evaluated(*given)
        return replace(told, loss=told.loss + next(more))

    monkeypatch.setattr(summaries, "evaluated", other)
    with pytest.raises(RunContradicted, match="the last validation gave loss"):
        grow(config(tmp_path), PLAIN, [], Interruption())
    assert summary_of(tmp_path)["finished"]
    assert not summary_of(tmp_path)["reproducible"]
    assert (tmp_path / "checkpoints" / "final.ckpt").exists()
    assert [event["name"] for event in read_events(tmp_path) if event["kind"] == "failure"][-1] == "tolaria.run_failed"


def test_a_demonstrations_short_deadline_is_the_planes_and_no_setting_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []

    def connected(config: TrainConfig, *given: Any) -> Any:
        heard.append(config.deadline_s)
        raise ServiceUnavailable("tolaria", "service", "kasmina", "start it")

    prepared: list[TrainConfig] = []
    prepare = module.prepare
    monkeypatch.setattr(
        module, "prepare", lambda config, *rest, **named: prepared.append(config) or prepare(config, *rest, **named)
    )
    monkeypatch.setattr(module, "connected", connected)
    faults = RunOptions(demo_faults=True, tensorboard=False)
    with pytest.raises(ServiceUnavailable):
        grow(config(tmp_path, grow="auto", deadline_s=20.0), faults, (), Interruption())
    assert (heard, [given.deadline_s for given in prepared]) == ([1.0], [20.0])


def test_who_asks_to_stop_wakes_the_services_once() -> None:
    interruption, woken = Interruption(), []
    interruption.tell = lambda: woken.append(interruption.number)
    with interruption.watched():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert woken == [signal.SIGHUP]
