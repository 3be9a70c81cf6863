"""A rank that is not the first: it trains alike, and hears all else of the first. It writes and shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.core.process.leaving import kept_inside
from esper.leyline import ModeUpdate
from esper.rpc.reporting.telemetry import UNHEARD
from esper.tolaria.loop.profiled import steps_in
from esper.tolaria.loop.session import Session
from esper.tolaria.own_blueprints import own_blueprints
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.shared_control import hearing, told_artifact, told_mode
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.shared import agree_on_data, heard_call, heard_summary
from esper.tolaria.recovery.starting import starting_weights
from esper.tolaria.run import Interruption, try_run
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.given import NOTHING, Given
from esper.tolaria.task.prepare import Prepared, no_artifacts, prepare
from esper.tolaria.trainer import Steps, Trainer
from esper.tolaria.trial import Step


@kept_inside()
def follow(
    ranks: Ranks,
    interruption: Interruption,
    given: Given = NOTHING,
    note: Callable[[Prepared], None] = lambda run: None,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Train with the first rank; returns its summary. Traces of steps go to `profile`."""
    config, resumes, summary = heard_call(ranks)
    if config is None:
        return summary
    start = starting_weights(config, resumes=resumes)
    own = own_blueprints(config, resumes=resumes)
    run = prepare(config, told_artifact(no_artifacts, ranks), given, start=start, ranks=ranks, own=own)
    agree_on_data(run)
    note(run)
    trainer = follower(run, interruption, resumes=resumes, steps=steps_in(profile))
    with interruption.watched():
        trainer.train(resume=resumes)
    return heard_summary(ranks)


def follower(
    run: Prepared,
    interruption: Interruption,
    *,
    resumes: bool,
    steps: Callable[[Session], Steps],
    tried: Step | None = None,
) -> Trainer:
    """The trainer of such a rank, as `opened` gives the first one's; it is to be driven to its end."""
    ranks = run.ranks
    try_run(run, RunOptions(resume=resumes), tried)
    is_grown = run.config.grow != "never"
    return Trainer(
        run,
        hearing(ranks) if is_grown else lambda opening: NullControl(),
        Observers(),
        should_stop=lambda: ranks.any(interruption.is_set()),
        steps=steps,
        plane=told_mode(_unheard, ranks) if is_grown else _unheard,
    )


def _unheard() -> ModeUpdate:
    return UNHEARD
