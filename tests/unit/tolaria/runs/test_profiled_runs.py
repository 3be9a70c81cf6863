"""Traces of steps: each shape of the network has one, nothing is overwritten, and no weight or run hangs on them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.profiled import TRACED, steps_in, trace_folder
from esper.tolaria.record.observer import Notice, Observer
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination, judgement, keep

SLOT = "span_linear:fc1-fc2"
SCRIPT = {30: [*germination("s1", SLOT), judgement("s1", 60)], 60: keep("s1")}
CONFIG = TrainConfig(
    data="digits", hidden=(4, 4), samples=300, steps=120, min_samples=30, evaluate_every_steps=10, run_id="drawn"
)


class Told(Observer):
    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def on_events(self, notices: Sequence[Notice]) -> None:
        self.notices += [notice for notice in notices if notice.name.startswith("tolaria.profiler.")]


def run(
    folder: Path | None,
    told: Observer | None = None,
    *,
    stops_at: int = 0,
    fails_at: int = 0,
    script: dict[int, Any] | None = None,
) -> Any:
    trainer = Trainer(
        prepare(CONFIG, fetch_artifact),
        lambda opening: ScriptedControl(SCRIPT if script is None else script),
        told or Observer(),
        should_stop=lambda: bool(stops_at) and trainer.step >= stops_at,
        steps=steps_in(folder),
    )
    if fails_at:
        make = trainer.steps.make

        def failing() -> None:
            if trainer.step + 1 == fails_at:
                raise ArithmeticError(fails_at)
            make()

        trainer.steps.make = failing  # type: ignore[method-assign]
    return trainer.train()


def steps_traced(path: Path) -> int:
    return Counter(event.get("name") for event in json.loads(path.read_text())["traceEvents"])["esper.step"]


def test_every_shape_of_the_network_is_traced_and_the_weights_do_not_change(tmp_path: Path) -> None:
    folder, told = tmp_path / "made" / "here", Told()
    first, again = run(folder, told), run(folder)
    assert first["weights_digest"] == again["weights_digest"] == run(None)["weights_digest"]
    assert first["growth"]["kept"] == 1
    paths = sorted(folder.iterdir())
    assert len(paths) == 2 * len(told.notices) >= 6
    assert all(str(notice.message).split(": ")[1] in map(str, paths) for notice in told.notices)
    for path in paths:
        assert steps_traced(path) == TRACED, path
    assert {path.name.split("-")[2] for path in paths} >= {"steps12"}


def test_a_trace_that_can_not_be_kept_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "gone"

    class Removing(Told):
        def on_steps(self, steps: Sequence[Any]) -> None:
            shutil.rmtree(folder, ignore_errors=True)

    told = Removing()
    assert run(folder, told)["weights_digest"] == run(None)["weights_digest"]
    failed = [notice for notice in told.notices if notice.name == "tolaria.profiler.export_failed"]
    assert failed[0].level == "WARNING"
    assert f"{folder}/drawn-rank0-steps" in failed[0].message


@pytest.mark.parametrize(("name", "says"), [("file", "is a file, no folder"), ("file/below", "can't be made: .*")])
def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"profile = .*{says}; give another folder"):
        steps_in(tmp_path / name)


def test_a_run_that_is_stopped_or_fails_keeps_the_steps_that_were_traced(tmp_path: Path) -> None:
    run(tmp_path / "stopped", stops_at=20)
    [trace] = (tmp_path / "stopped").iterdir()
    assert trace.name.split("-")[2:4] == ["steps12", "20"]
    assert steps_traced(trace) == 9
    with pytest.raises(ArithmeticError):
        run(tmp_path / "failed", fails_at=17)
    [trace] = (tmp_path / "failed").iterdir()
    assert trace.name.split("-")[2:4] == ["steps12", "16"]
    run(tmp_path / "early", stops_at=10)
    assert not list((tmp_path / "early").iterdir())


def test_a_shape_that_comes_while_another_is_traced_has_a_trace_too(tmp_path: Path) -> None:
    run(tmp_path, script={10: [*germination("s1", SLOT)]})
    traced = {path.name.split("-")[2]: steps_traced(path) for path in tmp_path.iterdir()}
    assert traced == {"steps12": 9, "steps32": TRACED}


@pytest.mark.parametrize("name", ["", 5, b"traces"])
def test_what_names_no_folder_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"profile = .*: expected the path of a folder"):
        trace_folder(name)
