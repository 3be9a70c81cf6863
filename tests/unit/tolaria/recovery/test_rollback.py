"""Rollback: from memory where it is there, else from the disk, else an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import RollbackFailed
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode
from esper.tolaria.recovery.rollback import Rollback


def test_the_newest_state_comes_from_memory(tmp_path: Path) -> None:
    rollback = Rollback(CheckpointStore(tmp_path, keep=2), ManualClock())
    rollback.remember(10, encode({"step": 10}))
    restored = rollback.restore()
    assert (restored.state, restored.tier, restored.latency_ms) == ({"step": 10}, "memory", 0.0)


def test_an_older_state_comes_from_the_disk(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.write(encode({"step": 5}), 5)
    rollback = Rollback(store, ManualClock())
    rollback.remember(10, encode({"step": 10}))
    restored = rollback.restore(to_step=9)
    assert (restored.state, restored.tier) == ({"step": 5}, "disk")


def test_a_state_too_large_for_memory_is_left_to_the_disk(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    content = encode({"step": 10})
    store.write(content, 10)
    rollback = Rollback(store, ManualClock(), limit_bytes=len(content) - 1)
    rollback.remember(10, content)
    assert rollback.restore().tier == "disk"


@pytest.mark.parametrize("has_store", [True, False])
def test_nothing_to_go_back_to_is_an_error(tmp_path: Path, has_store: bool) -> None:
    rollback = Rollback(CheckpointStore(tmp_path, keep=2) if has_store else None, ManualClock())
    with pytest.raises(RollbackFailed, match="nothing to go back to"):
        rollback.restore()
