"""A run that was trained to its end: what it came to is known, even if it was killed before that was written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import Snapshot, length_of


def finished_already(path: Path, final: Snapshot) -> ConfigError:
    """Why a finished run can't be resumed."""
    unit, length = length_of(final.settings)
    return ConfigError("resume", True, f"the run is finished: {path} is there; --{unit} above {length} extends it")


def is_unreported(config: TrainConfig) -> bool:
    """Whether the run is finished and lacks its report alone, which a kill or a full disk kept from being drawn."""
    has_summary = (config.run_dir / "summary.json").exists()
    return has_summary and not (config.run_dir / "report.html").exists() and _end(_store(config), config) is not None


def unwritten_summary(config: TrainConfig) -> Mapping[str, Any] | None:
    """The finished run's summary, where a kill kept it from being written; None for a run that is to be trained.

    Raises ConfigError for a finished run with its summary.
    """
    store = _store(config)
    final = _end(store, config)
    if final is None:
        return None
    if final.summary is None or (config.run_dir / "summary.json").exists():
        raise finished_already(store.final_path, final)
    return final.summary


def _store(config: TrainConfig) -> CheckpointStore:
    return CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)


def _end(store: CheckpointStore, config: TrainConfig) -> Snapshot | None:
    """The end of the run, unless it was not reached yet or the settings put it off."""
    state = store.final()
    final = None if state is None else Snapshot.from_state(state)
    return None if final is None or final.is_shorter_than(config) else final
