"""How a process that torchrun started becomes a rank of a run, and how it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from esper.core.errors import EsperError, RankLost
from esper.core.plain import clause
from esper.tolaria.config import TrainConfig
from esper.tolaria.ranks.group import ALONE, ManyRanks, Ranks
from esper.tolaria.ranks.place import Place, place
from esper.tolaria.ranks.pulse import Pulse

CUDA_BACKEND = "cpu:gloo,cuda:nccl"
_RUNS = count()  # of this process: each has keys of its own, and all ranks make the same runs
_STORES: dict[Place, Store] = {}


@contextmanager
def joined(config: TrainConfig) -> Iterator[Ranks]:
    """The ranks of a run. What ends this one is told to the others, and who was lost is named: RankLost."""
    here = place()
    if here.count == 1:
        yield ALONE
        return
    ranks, pulse = _join(config, here)
    try:
        yield ranks
    except BaseException as error:
        silent = error.ranks if isinstance(error, RankLost) else ()
        pulse.end(in_words(error), silent)
        if not ranks.is_first and _is_told_by_first(error, pulse):
            error.is_told = True  # type: ignore[attr-defined]
        raise
    pulse.end("it is done")
    dist.destroy_process_group(ranks.group)


def is_told(error: object) -> bool:
    """Whether another rank tells it."""
    return getattr(error, "is_told", False)


def in_words(error: BaseException) -> str:
    """An error in a line."""
    words = clause(str(error).splitlines()[0]) if str(error) else ""
    return words if isinstance(error, EsperError) and words else f"{type(error).__name__} {words}".strip()


def _join(config: TrainConfig, here: Place) -> tuple[ManyRanks, Pulse]:
    limit = timedelta(seconds=config.rank_timeout_s)
    # A run that goes on may turn out to have its device from a checkpoint.
    backend = CUDA_BACKEND if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store = _store(here, limit)
        # Torchrun's store outlives the processes that it starts anew.
        own = PrefixStore(f"esper-{here.restarts}-{next(_RUNS)}", store)
        if dist.is_initialized():  # by a script, for itself
            group = dist.new_group(backend=backend, timeout=limit)
        else:
            dist.init_process_group(backend, store=own, rank=here.rank, world_size=here.count, timeout=limit)
            group = dist.group.WORLD
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"the {here.count} ranks did not meet: {in_words(error)}") from error
    pulse = Pulse(own, here.rank, here.count)
    return ManyRanks(here, group, pulse, limit), pulse


def _store(here: Place, limit: timedelta) -> Store:
    """One for all runs of this process: a first rank that served each anew would drop who was early for the next."""
    if here not in _STORES:
        _STORES[here] = next(rendezvous("env://", timeout=limit))[0]
    _STORES[here].set_timeout(limit)
    return _STORES[here]


def _is_told_by_first(error: BaseException, pulse: Pulse) -> bool:
    """The first rank speaks for all, unless it is the one that is gone, or doesn't know."""
    if isinstance(error, RankLost):
        return 0 not in error.ranks
    return pulse.has_told(0, in_words(error))
