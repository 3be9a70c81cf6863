"""The settings of a run that goes on: its own, all of them, except what the user gives anew.

So a run that shared its services is with the same ones again, whoever resumes it; and one whose directory was renamed
or copied keeps its name.
"""

from __future__ import annotations

from dataclasses import replace

from esper.core.config import Loaded
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import config_of


def continued(loaded: Loaded[TrainConfig]) -> TrainConfig:
    """Fill in from the newest checkpoint what isn't given. Raises DependencyViolationError without one."""
    config = loaded.value
    store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
    state = store.final() or store.newest().state
    # A name that nobody gave is the directory's of then; that of now may be another.
    own = replace(config_of(state["settings"]), run_id=state["run_id"])
    given = {name: getattr(config, name) for name, origin in loaded.origins.items() if origin != "default"}
    return replace(own, **{**given, "run_dir": config.run_dir})
