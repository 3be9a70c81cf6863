"""Runs of several losses at once, with surgery between them: culled and resumed exactly, each loss told by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from esper.tolaria.record.course.events import EventLog
from esper.tolaria.recovery.checkpoint import CheckpointStore
from tests.unit.tolaria.runs.test_optimizer_runs import CONFIG, run
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.test_trainer import CULLED, KEPT, KilledError, Recorder

SEVERAL = replace(
    CONFIG, epochs=5, lr=0.01, loss="tests.unit.tolaria.loss_sources:several", pcgrad=True, surgery="losses"
)
LOSSES, COSINE = {"loss nats", "loss size"}, "cosine nats, size"


def test_a_cull_leaves_the_run_that_never_grew_and_every_step_names_its_losses() -> None:
    recorder = Recorder()
    culled, never = run(SEVERAL, ScriptedControl(CULLED), observer=recorder)[0], run(SEVERAL)[0]
    assert culled["weights_digest"] == never["weights_digest"]
    assert all(set(done.named) == LOSSES | {COSINE} for done in recorder.steps)
    assert set(culled["val_metrics"]) == set(culled["test_metrics"]) == LOSSES
    for done in recorder.steps:
        assert done.loss == pytest.approx(done.named["loss nats"] + done.named["loss size"], rel=1e-5)


def test_a_killed_run_resumes_to_the_same_weights_and_its_events_name_losses_and_cosines(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    whole = run(SEVERAL, ScriptedControl(KEPT))[0]
    with pytest.raises(KilledError):
        run(SEVERAL, ScriptedControl(KEPT), observer=Recorder(23), store=store)
    with EventLog(tmp_path / "events.jsonl") as log:
        resumed = run(SEVERAL, ScriptedControl(KEPT), observer=log, store=store, resume=True)[0]
    assert resumed["weights_digest"] == whole["weights_digest"]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    named = [event["named"] for event in events if event["kind"] == "boundary"]
    assert named
    assert all(set(each) == LOSSES | {COSINE} and -1 <= each[COSINE] <= 1 for each in named)
