"""A run that was trained to its end: what it came to is known, even if it was killed before that was written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import Snapshot


def finished_already(path: Path, final: Snapshot) -> ConfigError:
    """Why a finished run can't be resumed."""
    epochs = final.settings["epochs"]
    return ConfigError("resume", True, f"the run is finished: {path} is there; --epochs above {epochs} extends it")


def is_unreported(run_dir: Path) -> bool:
    """Whether a finished run has all but its report, which a kill or a full disk may have kept from being drawn."""
    summary = run_dir / "summary.json"
    is_finished = summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["finished"]
    return is_finished and not (run_dir / "report.html").exists()


def unwritten_summary(config: TrainConfig) -> Mapping[str, Any] | None:
    """The finished run's summary, where a kill kept it from being written; None for a run that is to be trained.

    Raises ConfigError for a finished run with its summary, unless the settings extend it.
    """
    store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
    state = store.final()
    final = None if state is None else Snapshot.from_state(state)
    if final is None or final.is_shorter_than(config):
        return None
    if final.summary is None or (config.run_dir / "summary.json").exists():
        raise finished_already(store.final_path, final)
    return final.summary
