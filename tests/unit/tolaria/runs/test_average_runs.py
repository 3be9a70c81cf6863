"""Whole runs with an average of the weights: resumed exactly, culled exactly, told beside the weights, exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.core.errors import ConfigError
from esper.tolaria.export import load_network
from esper.tolaria.export.writing import export
from esper.tolaria.recovery.checkpoint import CheckpointStore
from tests.unit.tolaria.runs.test_optimizer_runs import CONFIG, DECODER, STACK, run
from tests.unit.tolaria.scripted_control import ScriptedControl, directive, germination
from tests.unit.tolaria.test_trainer import CULLED, KEPT, KilledError, Recorder

AVERAGED = replace(CONFIG, ema=0.9)


def test_the_weights_are_those_of_a_run_without_an_average_and_it_stands_beside_them() -> None:
    plain, recorder = run(CONFIG)[0], Recorder()
    averaged = run(AVERAGED, observer=recorder)[0]
    assert averaged["weights_digest"] == plain["weights_digest"]
    assert plain["ema"] is None
    told = averaged["ema"]
    assert told["decay"] == 0.9
    assert told["weights_digest"] != averaged["weights_digest"]
    assert told["val_loss"] != averaged["val_loss"]
    assert recorder.epochs[-1].validation_metrics == {
        "EMA loss": told["val_loss"],
        "EMA accuracy": told["val_accuracy"],
    }


def test_a_cull_leaves_the_average_of_a_run_that_never_grew() -> None:
    culled, never = run(AVERAGED, ScriptedControl(CULLED))[0], run(AVERAGED)[0]
    assert culled["ema"] == never["ema"]


@pytest.mark.parametrize("twin", ["live", "bursts"])
def test_a_killed_run_that_resumes_ends_with_the_same_average(tmp_path: Path, twin: str) -> None:
    config, store = replace(AVERAGED, twin=twin), CheckpointStore(tmp_path, keep=2)
    whole = run(config, ScriptedControl(KEPT))[0]
    assert whole["final_widths"] == [13, 5]
    for kill_at, resume in ((15, False), (45, True)):
        with pytest.raises(KilledError):
            run(config, ScriptedControl(KEPT), observer=Recorder(kill_at), store=store, resume=resume)
    resumed = run(config, ScriptedControl(KEPT), store=store, resume=True)[0]
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["ema"] == whole["ema"]


def test_a_killed_run_that_became_deeper_ends_with_the_same_average(tmp_path: Path) -> None:
    """The checkpoint holds both arms, while the stack is judged."""
    config = replace(DECODER, ema=0.9, checkpoint_every_epochs=1)
    script = {4: germination("s1", STACK, "stack.double"), 24: [directive("s1", "DROP_TWIN")]}
    store = CheckpointStore(tmp_path, keep=2)
    whole = run(config, ScriptedControl(script))[0]
    assert whole["depths"] == {"blocks": {"from": 2, "to": 4, "others": 0}}
    for kill_at, resume in ((23, False), (37, True)):
        with pytest.raises(KilledError):
            run(config, ScriptedControl(script), observer=Recorder(kill_at), store=store, resume=resume)
    resumed = run(config, ScriptedControl(script), store=store, resume=True)[0]
    assert (resumed["weights_digest"], resumed["ema"]) == (whole["weights_digest"], whole["ema"])


def test_the_average_of_a_grown_run_is_exported_and_proven(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    summary = run(replace(AVERAGED, run_dir=tmp_path), ScriptedControl(KEPT), store=store)[0]
    network = load_network(tmp_path, "ema")
    assert network.arm.digest() == summary["ema"]["weights_digest"]
    assert load_network(tmp_path).arm.digest() == summary["weights_digest"]
    exported = export(tmp_path, tmp_path / "model.pt2", "ema")
    assert "proven without Esper" in exported.what
    inputs = network.interface.inputs(3)
    program = torch.export.load(exported.path).module()
    assert torch.allclose(program(inputs), network.outputs(inputs), atol=1e-5)


def test_a_run_without_an_average_has_none_to_export(tmp_path: Path) -> None:
    run(replace(CONFIG, run_dir=tmp_path, epochs=1), store=CheckpointStore(tmp_path / "checkpoints", keep=1))
    says = "weights = 'ema': the run kept no average of its weights; train with --ema DECAY"
    with pytest.raises(ConfigError, match=f"^{says}$"):
        load_network(tmp_path, "ema")


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0 and below 1"):
        replace(CONFIG, ema=decay)
