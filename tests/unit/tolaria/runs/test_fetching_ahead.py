"""Runs whose batches are fetched ahead end with the weights of runs whose batches come in their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

import esper
from esper.tolaria.config import TrainConfig
from esper.tolaria.door import own_run
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task import prepare
from esper.tolaria.task.feeds.carrier import FetchingAhead
from tests.unit.tolaria.door.conftest import scripted
from tests.unit.tolaria.door.test_train import Formal, loaders, network, pairs, rows, settings
from tests.unit.tolaria.runs.test_stream_runs import KilledError, Watcher, config, folder, run
from tests.unit.tolaria.scripted_control import cull, germination, judgement
from tests.unit.tolaria.task.feeds.lanes import HostLane

__all__ = ["config", "folder", "scripted", "settings"]


@pytest.fixture
def fetch_ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[], HostLane]:
    """From here on runs fetch ahead, over the lane that is returned."""

    def switch() -> HostLane:
        lane = HostLane()
        for room in (prepare, own_run):
            monkeypatch.setattr(room, "carrier_for", lambda config, device: FetchingAhead(device, lane))
        return lane

    return switch


SAME = ("weights_digest", "val_loss", "test_loss", "training_macs_by_use")


@pytest.mark.slow  # four runs of a transformer
def test_a_stream_beside_a_twin_and_after_a_kill(
    tmp_path: Path, config: TrainConfig, fetch_ahead: Callable[[], HostLane]
) -> None:
    in_turn = run(config, Observers())
    lane = fetch_ahead()
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(config, Watcher(kill_at=19), store)
    resumed = run(config, Observers(), store, resume=True)
    assert {name: resumed[name] for name in SAME} == {name: in_turn[name] for name in SAME}
    assert lane.sent > 30


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_of_any_form_beside_a_twin(
    settings: dict[str, Any],
    scripted: Callable[[Any], None],
    fetch_ahead: Callable[[], HostLane],
    workers: int,
) -> None:
    scripted({4: [*germination("s1", "span_linear:layers.0-layers.3"), judgement("s1", 16)], 16: cull("s1")})
    grows = {**settings, "grow": "auto", "evaluate_every_steps": 4}

    def trained(name: str) -> dict[str, Any]:
        run_dir = settings["run_dir"] / name
        return esper.train(Formal(), loaders(rows, num_workers=workers), config={**grows, "run_dir": run_dir}).summary

    in_turn = trained("in turn")
    fetch_ahead()
    ahead = trained("ahead")
    assert ahead["seeds"][0]["fate"] == "culled"
    assert ahead["h2d_copy_ms"] == {"p50": 2.0, "p95": 2.0}
    assert in_turn["h2d_copy_ms"] is None
    assert in_turn["input_wait_ms"]["p95"] > 0
    assert {name: ahead[name] for name in SAME} == {name: in_turn[name] for name in SAME}


class Drawn(IterableDataset[tuple[Tensor, Tensor]]):
    """Draws from the generator that dropout draws from, and counts."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.at += 1
            inputs = torch.randn(8, 8) + self.at
            yield inputs, (inputs.sum(1) > 8 * self.at).long()


def test_a_loop_of_one_s_own_whose_loader_draws_as_its_network_does(
    tmp_path: Path, fetch_ahead: Callable[[], HostLane]
) -> None:
    def trained(name: str) -> tuple[list[float], Drawn]:
        model, seen, data = network(), [], Drawn()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        judge = [pairs(60, 2)]

        def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        settings = {"run_dir": tmp_path / name, "grow": "never", "steps": 12, "min_samples": 20, "steps_per_epoch": 6}
        torch.manual_seed(3)
        with esper.Growth(model, optimizer, step=step, judge=judge, config=settings) as growth:
            for batch in growth.steps(data):
                optimizer.zero_grad()
                loss = step(model, batch).mean()
                growth.note(loss)
                loss.backward()
                optimizer.step()
                seen.append(float(loss.detach()))
        return seen, data

    in_turn, data = trained("in turn")
    fetch_ahead()
    ahead, data_ahead = trained("ahead")
    assert ahead == in_turn
    assert data_ahead.at == data.at  # nothing is drawn beyond the last step
