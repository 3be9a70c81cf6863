"""Low-rank adapters after a run: merged into plain weights, or written alone; a killed run resumes to the same ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from esper.cli.main import main
from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import export, load_network
from esper.tolaria.record.observer import Observer
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.prepare import prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import ScriptedControl, fetch_artifact, germination, keep

SLOT = "linear:fc1-fc1"
KEPT = {3: germination("s1", SLOT, "adapter.lora", rank=2), 21: keep("s1")}


def config(run_dir: Path, **fields: Any) -> TrainConfig:
    settings: dict[str, Any] = {"samples": 600, "hidden": (6, 6), "epochs": 8, "blueprints": ("adapter.lora",)}
    return TrainConfig(run_dir=run_dir, min_samples=50, evaluate_every_steps=3, **settings | fields)


def finish(settings: TrainConfig, observer: Observer | None = None, **how: Any) -> dict[str, Any]:
    store = CheckpointStore(settings.run_dir / "checkpoints", keep=2)
    run = prepare(settings, fetch_artifact)
    return Trainer(run, lambda opening: ScriptedControl(KEPT), observer or Observer(), store=store).train(**how)


def plain(settings: TrainConfig, file: Path) -> torch.nn.Module:
    """The host's own code with the exported weights."""
    model = build_model(settings, (64,), 10)
    model.load_state_dict(load_file(file))
    return model.eval()


@pytest.mark.parametrize("frozen", [(), ("fc1", "fc2")])
def test_an_exported_network_has_the_host_s_own_names_and_the_adapter_in_its_weights(
    tmp_path: Path, frozen: tuple[str, ...]
) -> None:
    settings = config(tmp_path / "run", freeze=frozen)
    summary = finish(settings)
    assert summary["contradictions"] == []
    assert [seed["is_folded"] for seed in summary["seeds"]] == [not frozen]
    network = load_network(settings.run_dir)
    if frozen:
        assert torch.equal(network.arm.model.fc1.weight, build_model(settings, (64,), 10).fc1.weight)
    export(settings.run_dir, tmp_path / "w.safetensors")
    inputs = network.interface.inputs(7)
    assert torch.allclose(plain(settings, tmp_path / "w.safetensors")(inputs), network.outputs(inputs), atol=1e-5)


def test_adapters_that_stay_are_written_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(tmp_path / "run", adapters="stay")
    finish(settings)
    out = tmp_path / "adapter.safetensors"
    assert main(["export", str(settings.run_dir), str(out), "--seeds-only"]) == 0
    assert "weights of the seeds s1 alone" in capsys.readouterr().out
    tensors, network = load_file(out), load_network(settings.run_dir)
    assert set(tensors) == {"seeds.s1.down.weight", "seeds.s1.up.weight"}
    with safe_open(out, framework="pt") as file:
        record = json.loads(file.metadata()["network"])["seeds"][0]
    scale = record["parameters"]["alpha"] / record["parameters"]["rank"]
    host = network.arm.model
    layer = host.get_submodule(record["adds_to"])
    inputs = network.interface.inputs(7)
    expected = network.outputs(inputs)
    with torch.no_grad():
        layer.weight.add_(scale * tensors["seeds.s1.up.weight"] @ tensors["seeds.s1.down.weight"])
        network.arm.detach(network.arm.grafts[0])
        assert torch.allclose(host.eval()(inputs), expected, atol=1e-5)
    export(settings.run_dir, tmp_path / "all.safetensors")
    assert set(tensors) < set(load_file(tmp_path / "all.safetensors"))


def test_what_can_t_be_written_alone_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    finish(settings)
    with pytest.raises(ConfigError, match="has no seed that stayed a module"):
        export(settings.run_dir, tmp_path / "a.safetensors", seeds_only=True)
    with pytest.raises(ConfigError, match="seeds alone are weights"):
        export(settings.run_dir, tmp_path / "a.pt2", seeds_only=True)


class KilledError(Exception):
    """Stands for kill -9."""


class Killer(Observer):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_steps(self, steps: Any) -> None:
        if any(done.step >= self._step for done in steps):
            raise KilledError


@pytest.mark.parametrize(("fields", "step"), [({}, 14), ({"freeze": ("fc1",)}, 34), ({"adapters": "stay"}, 34)])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, fields: dict[str, Any], step: int) -> None:
    settings = config(tmp_path / "run", checkpoint_every_epochs=1, **fields)
    whole = finish(replace(settings, run_dir=tmp_path / "whole", run_id="run"))
    with pytest.raises(KilledError):
        finish(settings, Killer(step))
    resumed = finish(settings, resume=True)
    same = ("weights_digest", "test_loss", "final_parameters", "seeds")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}
