"""Batches that a CUDA device fetches ahead: the same bits, beside what it computes, and timed by its own clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import esper
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.feeds.copy_stream import CopyStream
from tests.unit.tolaria.door.conftest import scripted
from tests.unit.tolaria.door.test_train import Formal, loaders, rows, settings
from tests.unit.tolaria.loop.waiting import no_waits, watch_steps
from tests.unit.tolaria.runs.test_stream_runs import KilledError, Watcher, config, folder, run
from tests.unit.tolaria.scripted_control import cull, germination, judgement

__all__ = ["config", "folder", "scripted", "settings"]

pytestmark = pytest.mark.gpu

BENCH = Path(__file__).parents[4] / "tools" / "bench" / "input_pipeline.py"


@pytest.mark.parametrize("twin", ["live", "bursts"])
def test_a_stream_beside_a_twin_and_after_a_kill(tmp_path: Path, config: TrainConfig, twin: str) -> None:
    in_turn = replace(config, device="cuda", deterministic=True, twin=twin)
    ahead = replace(in_turn, gpu_prefetch=True)
    expected = run(in_turn, Observers())["weights_digest"]
    assert run(ahead, Observers())["weights_digest"] == expected
    store = CheckpointStore(tmp_path / "saved", keep=2)
    with pytest.raises(KilledError):
        run(ahead, Watcher(kill_at=19), store)
    summary = run(ahead, Observers(), store, resume=True)
    assert summary["weights_digest"] == expected
    assert summary["h2d_copy_ms"]["p50"] > 0
    assert 0 < summary["input_wait_ms"]["p50"] < 1e3


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "pin_memory": True}], ids=str)
def test_a_loader_of_any_form_beside_a_twin(
    settings: dict[str, Any], scripted: Callable[[Any], None], options: dict[str, Any]
) -> None:
    scripted({4: [*germination("s1", "span_linear:layers.0-layers.3"), judgement("s1", 16)], 16: cull("s1")})
    how = {**settings, "grow": "auto", "evaluate_every_steps": 4, "device": "cuda", "deterministic": True}
    digests = {
        esper.train(
            Formal(),
            loaders(rows, **options),
            config={**how, "gpu_prefetch": ahead, "run_dir": settings["run_dir"] / str(ahead)},
        ).summary["weights_digest"]
        for ahead in (False, True)
    }
    assert len(digests) == 1


def test_no_step_waits_for_the_device(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_steps(monkeypatch, no_waits, first=4)
    run(replace(config, device="cuda", gpu_prefetch=True), Observers())
    assert len(seen) > 20


def test_a_batch_s_memory_isn_t_given_away_while_it_is_computed_with() -> None:
    device = torch.device("cuda", 0)
    lane = CopyStream(device)
    square = torch.randn(4096, 4096, device=device)
    found: list[tuple[Tensor, int]] = []
    for number in range(20):
        (batch,) = lane.receive(lane.send((torch.full((2**22,), float(number)),)))
        for _ in range(3):  # the device is behind, and the copy stream far ahead of it
            square = square @ square * 1e-3
        found.append((batch.sum(), number))
        del batch
    assert [float(total) for total, _ in found] == [2.0**22 * number for _, number in found]


def test_copies_lie_beside_kernels_where_they_are_fetched_ahead_and_nowhere_else() -> None:
    flags = ["--rounds", "1", "--batch-mb", "16", "--width", "32768", "--json"]  # kernels outlast their launches
    done = subprocess.run([sys.executable, str(BENCH), *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    traced = json.loads(done.stdout)["traced"]
    # None runs where a boundary has just read the losses, nor where other processes have the device or the processor.
    assert traced["ahead"]["overlapped_share"] > 0.3
    assert traced["in_turn"]["overlapped_share"] < 0.1
