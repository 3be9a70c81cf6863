"""A run that goes on for more epochs than it was to have: the state it goes on from, and the doubt that this casts."""

from __future__ import annotations

from dataclasses import replace

from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.snapshot import Snapshot, length_of, settings_of


def extended(snapshot: Snapshot, config: TrainConfig) -> Snapshot:
    """The same moment of a longer run, which is another run: decay and judging windows are shares of its length."""
    history = snapshot.progress["history"]
    (unit, had), (_, has) = length_of(snapshot.settings), length_of(settings_of(config))
    cause = f"extended from {had} to {has} {unit} at step {snapshot.progress['step']}"
    # The policy's digest covers the length of the run: the longer one pins its own.
    history = {**history, "causes": [*history["causes"], cause], "policy_digest": None}
    # And it waits anew for a gain.
    best = {**snapshot.progress.get("best", {}), "idle_epochs": 0}
    progress = {**snapshot.progress, "history": history, "best": best}
    return replace(snapshot, settings=settings_of(config), progress=progress, is_final=False, summary=None)
