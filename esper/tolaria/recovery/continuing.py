"""The settings of a run that goes on: its own, except what the user gives anew."""

from __future__ import annotations

from dataclasses import fields, replace

from esper.core.config import Loaded
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.snapshot import FREE_SETTINGS, config_of


def continued(loaded: Loaded[TrainConfig]) -> TrainConfig:
    """Fill in from the newest checkpoint what has to be as it was. Raises DependencyViolationError without one."""
    config = loaded.value
    store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
    state = store.final() or store.newest().state
    own = config_of(state["settings"])
    fixed = {setting.name for setting in fields(TrainConfig)} - FREE_SETTINGS | {"run_id"}
    absent = sorted(name for name in fixed if loaded.origins[name] == "default")
    return replace(config, **{name: getattr(own, name) for name in absent})
