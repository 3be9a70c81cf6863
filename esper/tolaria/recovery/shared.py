"""What the first rank alone decides, reads or measures, for all ranks of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from esper.core.errors import EsperError, RollbackFailed
from esper.tolaria.config import TrainConfig
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.recovery.checkpoint import decode, encode
from esper.tolaria.recovery.snapshot import Snapshot, config_of, settings_of
from esper.tolaria.task.objective.task import Evaluation
from esper.tolaria.task.prepare import Prepared

YES, NO = b"+", b"-"


def call(ranks: Ranks, config: TrainConfig, *, resumes: bool) -> None:
    """Have the other ranks begin the run, under these settings."""
    _tell(ranks, {"settings": settings_of(config), "resumes": resumes})


def heard_call(ranks: Ranks) -> tuple[TrainConfig | None, bool, dict[str, Any]]:
    """Settings, and whether the run goes on; no settings but the summary where it is over already."""
    word = _heard(ranks)
    if "summary" in word:
        return None, False, word["summary"]
    return config_of(word["settings"]), word["resumes"], {}


def tell_summary(ranks: Ranks, summary: Mapping[str, Any]) -> None:
    """Give the other ranks the summary of a run that is over."""
    _tell(ranks, {"summary": dict(summary)})


def heard_summary(ranks: Ranks) -> dict[str, Any]:
    """The same for another rank."""
    return dict(_heard(ranks)["summary"])


def agree_on_data(run: Prepared) -> None:
    """Raises RanksDiffer where processes were given other data."""
    if run.ranks.count > 1:
        run.ranks.agree("data set", run.splits.digest())


def shared_snapshot(ranks: Ranks, read: Callable[[], Snapshot]) -> Snapshot:
    """The state that the first rank reads, whole and verified on each; where it can't, all raise what it raised."""
    if ranks.count == 1:
        return read()
    if not ranks.is_first:
        told = ranks.told(b"")
        if told[:1] == NO:
            raise RollbackFailed(told[1:].decode())
        return Snapshot.from_state(decode(told[1:], "the checkpoint from rank 0"))
    try:
        snapshot = read()
    except EsperError as error:
        ranks.told(NO + str(error).encode())
        raise
    ranks.told(YES + bytes(encode(snapshot.to_state())))
    return snapshot


def shared_evaluation(ranks: Ranks, found: Evaluation) -> Evaluation:
    """The first rank's figures: what follows from them, such as an early end, must follow on all ranks."""
    if ranks.count == 1:
        return found
    return Evaluation(**json.loads(ranks.told(json.dumps(asdict(found)).encode())))


def _tell(ranks: Ranks, word: Mapping[str, Any]) -> None:
    if ranks.count > 1:
        ranks.told(json.dumps(word).encode())


def _heard(ranks: Ranks) -> dict[str, Any]:
    return dict(json.loads(ranks.told(b"")))
