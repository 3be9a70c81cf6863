"""Runs from trained weights: what they start from, what they say of it, and that they resume without the file."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.dry_run import dry_run
from esper.tolaria.export import export
from esper.tolaria.launcher import main
from esper.tolaria.record.course.reading import read_events
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.starting import starting_weights
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination, keep

PLAIN = RunOptions(tensorboard=False)
RESUME = RunOptions(resume=True, tensorboard=False)
GROWN = {3: germination("s1", "span_linear:fc1-fc2"), 18: keep("s1")}


def config(run_dir: Path, **fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (5, 5), "epochs": 2, "grow": "never", "lr": 0.01}
    return TrainConfig(run_dir=run_dir, min_samples=50, evaluate_every_steps=3, **settings | fields)


class Stop(Observer):
    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step == 6:
            signal.raise_signal(signal.SIGTERM)


def grown_run(run_dir: Path, script: Any = GROWN, **fields: Any) -> Prepared:
    """A finished run that kept a seed."""
    run = prepare(config(run_dir, grow="auto", epochs=4, **fields), fetch_artifact)
    store = CheckpointStore(run_dir / "checkpoints", keep=1)
    Trainer(run, lambda opening: ScriptedControl(script), Observer(), store=store).train()
    return run


def test_a_run_starts_from_another_s_network_and_says_so(tmp_path: Path) -> None:
    first = grow(config(tmp_path / "a"), PLAIN, (), Interruption())
    export(tmp_path / "a", tmp_path / "a.safetensors")
    expected = load_file(tmp_path / "a.safetensors")
    for place in ("a", "a.safetensors"):
        settings = config(tmp_path / "b", init_from=str(tmp_path / place), lr=1e-12, warmup_steps=0)
        second = grow(settings, RunOptions(overwrite=True, tensorboard=False), (), Interruption())
        with safe_open(tmp_path / "b" / "init.safetensors", framework="pt") as file:
            assert all(torch.equal(file.get_tensor(name), value) for name, value in expected.items())
            assert json.loads(file.metadata()["init"]) == second["init"]
        assert second["init"]["from"] == str(tmp_path / place)
        assert second["init"]["tensors"] == len(expected)
        assert second["reproducible"]
        assert second["test_loss"] == pytest.approx(first["test_loss"], rel=1e-4)
    told = [event for event in read_events(tmp_path / "b") if event.get("name") == "tolaria.started_from"]
    assert "starts from" in told[0]["detail"]


@pytest.mark.parametrize("loss", [None, "torch.nn.functional:cross_entropy"])
def test_an_interrupted_run_resumes_to_the_same_weights_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str | None
) -> None:
    own = None if loss is None else f"{__name__}:each_cross_entropy"
    grow(config(tmp_path / "a"), PLAIN, (), Interruption())
    export(tmp_path / "a", tmp_path / "w.safetensors")
    settings = config(tmp_path / "b", init_from=str(tmp_path / "w.safetensors"), loss=own, init_except=("fc3",))
    whole = grow(replace(settings, run_dir=tmp_path / "c"), PLAIN, (), Interruption())
    grow(settings, PLAIN, [Stop()], Interruption())
    (tmp_path / "w.safetensors").unlink()
    resumed = grow(settings, RESUME, (), Interruption())
    same = ("weights_digest", "test_loss", "init", "task", "reproducible")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}


def each_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_a_copy_that_is_gone_ends_a_resume_in_one_line(tmp_path: Path) -> None:
    grow(config(tmp_path / "a"), PLAIN, (), Interruption())
    settings = config(tmp_path / "b", init_from=str(tmp_path / "a"))
    grow(settings, PLAIN, [Stop()], Interruption())
    (tmp_path / "b" / "init.safetensors").unlink()
    with pytest.raises(ConfigError, match="--overwrite starts anew"):
        grow(settings, RESUME, (), Interruption())


def test_a_grown_network_needs_a_host_built_like_it(tmp_path: Path) -> None:
    ended = grown_run(tmp_path / "a").executor.arm.model.state_dict()
    start = starting_weights(config(tmp_path / "b", init_from=str(tmp_path / "a")))
    with pytest.raises(ConfigError, match=r"its topology is another, was it grown. --hidden 13,5 builds it so"):
        prepare(config(tmp_path / "b", init_from=str(tmp_path / "a")), start=start)
    wider = prepare(config(tmp_path / "b", init_from=str(tmp_path / "a"), hidden=(13, 5)), start=start)
    assert all(torch.equal(value, ended[name]) for name, value in wider.executor.arm.model.state_dict().items())


def test_seeds_that_stayed_modules_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    script = {3: germination("s1", "residual_linear:act1-act1", "residual.linear"), 18: keep("s1")}
    grown_run(tmp_path / "a", script)
    settings = config(tmp_path / "b", init_from=str(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"unexpected \(seeds.s1.0.weight.*esper export merges adapters"):
        prepare(settings, start=starting_weights(settings))
    settings = replace(settings, init_except=("seeds",))
    assert prepare(settings, start=starting_weights(settings)).started is not None


def test_a_run_that_isn_t_finished_is_refused(tmp_path: Path) -> None:
    grow(config(tmp_path / "a"), PLAIN, [Stop()], Interruption())
    with pytest.raises(ConfigError, match="isn't finished"):
        starting_weights(config(tmp_path / "b", init_from=str(tmp_path / "a")))


def test_weights_that_nobody_read_are_no_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weren't read"):
        prepare(config(tmp_path, init_from="a"))


def test_a_dry_run_tells_of_the_weights_and_a_comparison_refuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare(config(tmp_path / "a")).executor.arm.model
    save_file({f"module.{name}": value for name, value in made.state_dict().items()}, tmp_path / "w.safetensors")
    said = dry_run(config(tmp_path / "b", init_from=str(tmp_path / "w.safetensors")), PLAIN)
    assert "weights: starts from" in said
    assert "prefix module. taken off" in said
    flags = ["--init-from", str(tmp_path / "w.safetensors"), "--compare", "--run-dir", str(tmp_path / "c")]
    assert main(flags) == 64
    assert "trains all networks from random weights" in capsys.readouterr().err
