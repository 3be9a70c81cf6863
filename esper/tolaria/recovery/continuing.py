"""The settings of a run that goes on: its own, all of them, except what the user gives anew.

So a run that shared its services is with the same ones again, whoever resumes it; and one whose directory was renamed
or copied keeps its name.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from esper.core.settings.config import Loaded
from esper.core.storage.files import write_atomically
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import config_of
from esper.tolaria.run_dir import LAUNCHED_BY, RunOptions


def mark_launch(run_dir: Path) -> None:
    """Note who started the processes of a run, which may start them anew."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / LAUNCHED_BY, f"{os.getppid()}\n".encode())


def restarted(how: RunOptions, run_dir: Path, restarts: int) -> RunOptions:
    """What processes do that torchrun has started anew: go on with the run that they had begun, and with no other."""
    if not restarts or not (path := run_dir / LAUNCHED_BY).exists():
        return how
    is_same = path.read_bytes().strip() == str(os.getppid()).encode()
    has_checkpoint = bool(CheckpointStore(run_dir / "checkpoints", 1).paths())
    return replace(how, resume=True, overwrite=False) if is_same and has_checkpoint else how


def continued(loaded: Loaded[TrainConfig]) -> TrainConfig:
    """Fill in from the newest checkpoint what isn't given. Raises DependencyViolationError without one."""
    config = loaded.value
    store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
    state = store.final() or store.newest().state
    # A name that nobody gave is the directory's of then; that of now may be another.
    own = replace(config_of(state["settings"]), run_id=state["run_id"])
    given = {name: getattr(config, name) for name, origin in loaded.origins.items() if origin != "default"}
    return replace(own, **{**given, "run_dir": config.run_dir})
