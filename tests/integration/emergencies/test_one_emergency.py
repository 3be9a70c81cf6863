"""One emergency, end to end: whoever raises it, every open run of the plane hears it, acts, and goes on after one word.

Services in processes of their own, runs in threads of this one.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main as esper
from esper.core.clock import SYSTEM_CLOCK, timestamp
from esper.core.errors import PlaneNotNormal, RollbackFailed
from esper.leyline import (
    AcknowledgeEmergencyRequest,
    AdaptationCommand,
    ApplyCommandRequest,
    EmergencyAcknowledgement,
    EmergencyLevel,
    EmergencyOrder,
    EmergencySignal,
    EvaluateRequest,
    ModeUpdate,
    RaiseEmergencyRequest,
    RollbackDeadlineSignal,
    RunClosure,
    SignalRollbackDeadlineRequest,
    SystemMode,
    TamiyoServiceCloseRunRequest,
    TamiyoServiceOpenRunRequest,
    WeatherlightServiceGetStatusRequest,
)
from esper.rpc.clients import KasminaClient, TamiyoClient
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.course.reading import read_events
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from tests.integration.services.service_process import SECRET, SIGNER, TIMEOUT_S, ServiceProcess, weatherlight_client
from tests.unit.tamiyo.builders import packet, spec

SETTINGS = '[weatherlight]\nrollback_deadline_level = "L4_HALT"\n[weatherlight.mode]\ndwell_s = 0.1\nclear_s = 0.1\n'
AT_STEP = 30
PATIENCE_S = 60.0
ESCALATED = "tolaria.emergency.escalated"


class Plane:
    """Three services."""

    def __init__(self, directory: Path) -> None:
        settings = directory / "weatherlight.toml"
        settings.write_text(SETTINGS)
        self.weatherlight = ServiceProcess("weatherlight", directory / "w", "--config", str(settings))
        place = ("--weatherlight", self.weatherlight.endpoint)
        self.tamiyo = ServiceProcess("tamiyo", directory / "t", *place)
        self.kasmina = ServiceProcess("kasmina", directory / "k", *place)
        self.services = (self.weatherlight, self.tamiyo, self.kasmina)

    def mode(self) -> ModeUpdate:
        request = WeatherlightServiceGetStatusRequest()
        return weatherlight_client(self.weatherlight.channel).get_status(request, timeout_s=TIMEOUT_S).mode

    def raise_emergency(self, level: str) -> None:
        signal = EmergencySignal(
            emergency_id=f"test-{level}",
            level=EmergencyLevel.Value(f"EMERGENCY_LEVEL_{level}"),
            cause="drill",
            detail="a drill",
            origin="operator:test",
            raised_at=timestamp(SYSTEM_CLOCK.now_ns()),
        )
        request = RaiseEmergencyRequest(command=SIGNER.sign(signal, audience="weatherlight/-"))
        weatherlight_client(self.weatherlight.channel).raise_emergency(request, timeout_s=TIMEOUT_S)

    def acknowledge(self) -> int:
        """One word for each emergency that is open; gives their number."""
        opened = self.mode().open_emergencies
        for signal in opened:
            word = EmergencyAcknowledgement(
                emergency_id=signal.emergency_id, acknowledged_by="operator:test", resolved=True
            )
            command = SIGNER.sign(word, audience=f"weatherlight/{signal.training_run_id or '-'}")
            request = AcknowledgeEmergencyRequest(command=command)
            weatherlight_client(self.weatherlight.channel).acknowledge_emergency(request, timeout_s=TIMEOUT_S)
        return len(opened)


@contextmanager
def serving(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    """The services of a test, from their start to their end."""
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    made = Plane(directory)
    for service in made.services:
        service.start()
    yield made
    for service in reversed(made.services):
        service.__exit__(None, None, None)


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with serving(tmp_path, monkeypatch) as plane:
        yield plane


def config(plane: Plane, run_dir: Path, **fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (5, 5), "epochs": 12, "lr": 0.01, "grow": "always"}
    return TrainConfig(
        run_dir=run_dir,
        run_id=run_dir.name,
        min_samples=50,
        evaluate_every_steps=3,
        weatherlight=plane.weatherlight.endpoint,
        tamiyo=plane.tamiyo.endpoint,
        kasmina=plane.kasmina.endpoint,
        **settings | fields,
    )


class Run(Observer):
    """A run in a thread. From its first boundary after `hold_at` on it waits at each until `let_go`."""

    def __init__(self, settings: TrainConfig, *, resume: bool = False, hold_at: float = AT_STEP) -> None:
        self.boundaries: list[Boundary] = []
        self.result: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.is_held, self._free = threading.Event(), threading.Event()
        self._hold_at = hold_at
        self._arguments = (settings, RunOptions(resume=resume, overwrite=not resume, tensorboard=False))
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        try:
            self.result = grow(*self._arguments, [self], Interruption())
        except BaseException as error:  # noqa: BLE001 - told by `end`
            self.error = error
        finally:
            self.is_held.set()

    def on_boundary(self, boundary: Boundary) -> None:
        self.boundaries.append(boundary)
        if boundary.step >= self._hold_at:
            self.is_held.set()
            assert self._free.wait(PATIENCE_S)

    def held(self) -> Run:
        assert self.is_held.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return self

    def let_go(self) -> None:
        self._free.set()

    def end(self) -> dict[str, Any]:
        self.let_go()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def reached(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def by_weatherlight(plane: Plane, tmp_path: Path) -> None:
    late = RollbackDeadlineSignal(training_run_id="one", generation=1, step=9, deadline_ms=500.0, elapsed_ms=900.0)
    request = SignalRollbackDeadlineRequest(command=SIGNER.sign(late, audience="weatherlight/one"))
    weatherlight_client(plane.weatherlight.channel).signal_rollback_deadline(request, timeout_s=TIMEOUT_S)


def by_operator(plane: Plane, tmp_path: Path) -> None:
    place = ("--weatherlight", plane.weatherlight.endpoint)
    assert esper(["emergency", "raise", *place, "--level", "L4", "--why", "a drill"]) == 0


def by_kasmina(plane: Plane, tmp_path: Path) -> None:
    order = EmergencyOrder(level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT, rationale="a drill")
    command = AdaptationCommand(
        command_id="stop", training_run_id="one", generation=1, step=0, issued_by="operator:test", emergency=order
    )
    request = ApplyCommandRequest(command=SIGNER.sign(command, audience="kasmina/one"))
    assert KasminaClient(plane.kasmina.channel).apply_command(request, timeout_s=TIMEOUT_S).outcome.accepted


def by_tamiyo(plane: Plane, tmp_path: Path) -> None:
    run = spec()
    command = SIGNER.sign(run, audience=f"tamiyo/{run.training_run_id}")
    opened = TamiyoClient(plane.tamiyo.channel).open_run(
        TamiyoServiceOpenRunRequest(command=command), timeout_s=TIMEOUT_S
    )
    client = TamiyoClient(plane.tamiyo.channel, token=opened.run_token)
    client.evaluate(EvaluateRequest(packet=packet(10, loss=math.nan)), timeout_s=TIMEOUT_S)
    # Its conservative mode would degrade the plane for as long as it is open.
    closure = RunClosure(training_run_id=run.training_run_id, generation=run.generation, step=10, reason="drilled")
    command = SIGNER.sign(closure, audience=f"tamiyo/{run.training_run_id}")
    client.close_run(TamiyoServiceCloseRunRequest(command=command), timeout_s=TIMEOUT_S)


def by_trainer(plane: Plane, tmp_path: Path) -> None:
    broken = config(plane, tmp_path / "broken", lr=1e30, on_nonfinite="rollback", max_rollbacks=0)
    with pytest.raises(RollbackFailed):
        Run(broken, hold_at=math.inf).end()
    told = [
        event["detail"].partition(":")[0]
        for event in read_events(tmp_path / "broken")
        if event.get("name") == ESCALATED
    ]
    assert told == ["L4_HALT"]


PLACES = {
    "trainer": by_trainer,
    "tamiyo": by_tamiyo,
    "kasmina": by_kasmina,
    "weatherlight": by_weatherlight,
    "operator": by_operator,
}


@pytest.mark.slow  # five planes, each with five runs
@pytest.mark.parametrize("place", PLACES)
def test_an_l4_from_anywhere_halts_every_open_run_with_a_checkpoint_and_clears_after_one_acknowledgement(
    plane: Plane, tmp_path: Path, place: str
) -> None:
    settings = {name: config(plane, tmp_path / name) for name in ("one", "two")}
    runs = {name: Run(each).held() for name, each in settings.items()}
    steps = {name: run.boundaries[-1].step for name, run in runs.items()}
    PLACES[place](plane, tmp_path)
    reached(lambda: plane.mode().mode == SystemMode.SYSTEM_MODE_EMERGENCY)
    time.sleep(0.2)  # what was told is heard
    halted = {name: run.end() for name, run in runs.items()}
    for name, summary in halted.items():
        assert summary["stop_reason"].startswith("halted: emergency"), summary["stop_reason"]
        assert summary["steps"] == steps[name] + 3
        assert summary["halted_by"]["level"] == "L4_HALT"
        assert not summary["reproducible"]
        assert read_events(tmp_path / name)[-2]["kind"] != "failure"
        assert "tolaria.emergency.halt" in {event.get("name") for event in read_events(tmp_path / name)}
        assert any(str(summary["steps"]) in path.name for path in (tmp_path / name / "checkpoints").iterdir())
    with pytest.raises(PlaneNotNormal, match="esper emergency acknowledge"):
        Run(settings["one"], resume=True, hold_at=math.inf).end()
    assert plane.acknowledge() == 1
    assert plane.mode().mode == SystemMode.SYSTEM_MODE_NORMAL
    resumed = {name: Run(each, resume=True, hold_at=math.inf).end() for name, each in settings.items()}
    unbroken = Run(config(plane, tmp_path / "unbroken"), hold_at=math.inf).end()
    for name, summary in resumed.items():
        assert summary["finished"]
        was_commanded = (place, name) == ("kasmina", "one")
        assert summary["reproducible"] == (not was_commanded), summary["reproducible_cause"]
        assert summary["weights_digest"] == unbroken["weights_digest"]


def test_l2_and_l1_let_a_run_go_on_and_l2_germinates_nothing(plane: Plane, tmp_path: Path) -> None:
    run = Run(config(plane, tmp_path / "one"), hold_at=3).held()
    plane.raise_emergency("L2_ELEVATED")
    plane.raise_emergency("L1_NOTICE")
    time.sleep(0.2)
    summary = run.end()
    assert summary["finished"]
    later = [boundary for boundary in run.boundaries if boundary.step > 6]
    assert {boundary.mode for boundary in later} == {"conservative"}
    assert later[-1].plane.level == EmergencyLevel.EMERGENCY_LEVEL_L2_ELEVATED
    assert summary["growth"]["germinated"] <= 1  # what was decided before the plane's word was heard
    assert "L2_ELEVATED" in summary["reproducible_cause"]
    (told,) = [event for event in read_events(tmp_path / "one") if event.get("name") == "tolaria.plane_mode"]
    assert "raised by operator:test" in json.dumps(told)


def test_l3_ends_the_seed_in_flight_and_growth_until_it_is_acknowledged(plane: Plane, tmp_path: Path) -> None:
    run = Run(config(plane, tmp_path / "one", epochs=40), hold_at=60).held()
    alive = [seed.seed_id for seed in run.boundaries[-1].seeds if seed.stage not in ("FOSSILIZED", "CULLED")]
    plane.raise_emergency("L3_CONSERVATIVE")
    time.sleep(0.2)
    run.let_go()
    reached(lambda: run.boundaries[-1].mode == "emergency")
    summary = run.end()
    assert summary["finished"]
    fates = {seed["seed_id"]: seed["fate"] for seed in summary["seeds"]}
    assert alive
    assert {fates[seed_id] for seed_id in alive} == {"culled"}
    assert len(fates) == len(run.boundaries[20].seeds)
    assert "L3_CONSERVATIVE" in summary["reproducible_cause"]


def test_no_growing_run_opens_while_an_emergency_stands_also_after_kill_9_of_weatherlight(
    plane: Plane, tmp_path: Path
) -> None:
    run = Run(config(plane, tmp_path / "one")).held()
    plane.raise_emergency("L3_CONSERVATIVE")
    plane.weatherlight.kill()
    plane.weatherlight.start()
    assert plane.mode().mode == SystemMode.SYSTEM_MODE_EMERGENCY
    with pytest.raises(PlaneNotNormal, match=r"L3_CONSERVATIVE: a drill .raised by operator:test, id test-L3"):
        Run(config(plane, tmp_path / "two"), hold_at=math.inf).end()
    time.sleep(1.5)  # the trainer's line to Weatherlight is back
    assert run.end()["emergency_level"] == EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE
    assert plane.acknowledge() == 1
    assert Run(config(plane, tmp_path / "two"), hold_at=math.inf).end()["finished"]
