"""What a configuration can say of a grown network decides what may grow, and it is rewritten at the fold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor import ExecutorConfig, SeedExecutor
from esper.kasmina.executor.pretrained.config import find_pretrained
from esper.kasmina.executor.pretrained.loader import LOADER, SIZES, save_grown, sizes_beyond

ALL = "span_linear:network.layers.*.up-network.layers.*.down"
ONE = "span_linear:network.layers.1.up-network.layers.1.down"


@dataclass
class Config:
    """One width for all blocks, of at most 11."""

    intermediate_size: int = 6
    num_layers: int = 2

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        if values["intermediate_size"] > 11:
            raise ValueError("wider than 11")
        return cls(**values)


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.intermediate_size = config.intermediate_size
        self.up, self.down = nn.Linear(12, config.intermediate_size), nn.Linear(config.intermediate_size, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Network(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config.to_dict()))
        torch.save(self.state_dict(), folder / "weights.pt")


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network(Config())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.fixture
def grown(rig_of, toy_task):
    """Makes a run whose network grows under one of the two rules."""

    def make(widths: str):
        torch.default_generator.manual_seed(2)
        run = rig_of(Host(), toy_task, double=True)
        config = ExecutorConfig(run_seed=7, config_widths=widths)
        run.executor = SeedExecutor(run.arm, toy_task, fetch_artifact=run.recipes.__getitem__, config=config)
        return run

    return make


def folded(run, slot_id: str, seed_id: str = "s1", **parameters: float) -> None:
    run.train(2)
    assert run.graft("span.linear", slot_id, seed_id, **parameters).reports[-1].max_logit_delta == 0.0
    run.train(6)
    before = run.outputs()
    report = run.do(run.directive("FOLD", seed_id), run.directive("DROP_TWIN", seed_id)).reports[0]
    assert (report.folded, report.failure) == (True, "")
    assert torch.allclose(run.outputs(), before, rtol=0, atol=1e-12)


def spans(run) -> list[str]:
    return [slot.slot_id for slot in run.executor.manifest().slots if slot.slot_id.startswith("span")]


def test_one_seed_widens_all_blocks_and_the_configuration_says_it(grown, tmp_path):
    run = grown("refuse")
    assert spans(run) == [ALL]
    spec = run.executor.manifest().slots[0]
    assert (spec.width, spec.read_kernel, spec.write_kernel) == (6, 2, 2)
    folded(run, ALL, width=3)
    network = run.arm.model.network
    assert network.config.intermediate_size == 9
    assert [layer.intermediate_size for layer in network.layers] == [9, 9]
    assert save_grown(run.arm.model, tmp_path / "saved") is None
    again = Network(Config.from_dict(json.loads((tmp_path / "saved/config.json").read_text()))).double()
    again.load_state_dict(torch.load(tmp_path / "saved/weights.pt"))
    assert torch.equal(again(run.task.probe_inputs()), network(run.task.probe_inputs()))


def test_copies_made_by_a_stack_are_widened_with_the_others(grown):
    run = grown("refuse")
    run.stack("s1", "stack:network.layers")
    run.do(run.directive("DROP_TWIN"))
    folded(run, ALL, "s2", width=3)
    config = run.arm.model.network.config
    assert (config.intermediate_size, config.num_layers) == (9, 4)
    assert [layer.up.out_features for layer in run.arm.model.network.layers] == [9] * 4


def test_a_width_that_the_configuration_refuses_is_refused_before_the_graft(grown):
    run = grown("refuse")
    failure = run.failure(run.build("span.linear", ALL, width=6))
    assert "Config refuses it (ValueError: wider than 11)" in failure
    assert "--config-widths loader" in failure


def test_a_culled_seed_leaves_the_configuration_as_it_was(grown):
    run = grown("refuse")
    run.graft("span.linear", ALL, width=3)
    run.train(3)
    run.do(run.directive("INSTALL_TWIN"))
    assert run.arm.model.network.config == Config()


def test_with_a_loader_each_block_grows_by_itself(grown, tmp_path):
    run = grown("loader")
    assert ONE in spans(run)
    folded(run, ONE, width=3)
    model = run.arm.model
    assert model.network.config == Config()
    assert save_grown(model, tmp_path) == tmp_path / LOADER
    expected = {
        "layers.1": {"shapes": {}, "counts": {"intermediate_size": 9}},
        "layers.1.up": {"shapes": {"weight": [9, 12], "bias": [9]}, "counts": {"out_features": 9}},
        "layers.1.down": {"shapes": {"weight": [12, 9]}, "counts": {"in_features": 9}},
    }
    assert json.loads((tmp_path / SIZES).read_text()) == expected
    assert sizes_beyond(next(find_pretrained(model))) == expected
    compile((tmp_path / LOADER).read_text(), LOADER, "exec")
