"""What a run of many ranks can't do yet: each is refused by a line before the run starts."""

from __future__ import annotations

from torch import nn

from esper.core.errors import ConfigError
from esper.tolaria.config import BY_SEEDS, TrainConfig
from esper.tolaria.ranks.group import Ranks

WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
GOING_BACK = ("on_nonfinite", "on_divergence", "on_critical_gate")
ELSE = "leave it out, and go on with --resume"
MANY = "with many ranks"


def check_settings(config: TrainConfig, ranks: Ranks) -> None:
    """Raises ConfigError for settings that many ranks don't go with."""
    if ranks.count == 1:
        return
    least = config.accumulate * ranks.count
    checks = (
        (
            "seed_conflicts",
            not config.seed_conflicts or config.surgery == BY_SEEDS,
            f"isn't supported {MANY} but with --pcgrad --surgery seeds, which measures them too",
        ),
        ("graphs", not config.graphs, f"isn't supported {MANY}: gradients are summed over the ranks within a step"),
        *((key, getattr(config, key) != "rollback", f"isn't supported {MANY}: {ELSE}") for key in GOING_BACK),
        ("device", config.device in ("cpu", "cuda"), f"{MANY} torchrun gives each its own: say cpu or cuda"),
        (
            "batch_size",
            config.batch_size >= least,
            f"has less than a sample for each of {ranks.count} ranks in {config.accumulate} microbatches: {least}",
        ),
        (
            "rank_timeout_s",
            config.rank_timeout_s > config.deadline_s,
            f"must be longer than deadline_s ({config.deadline_s:g}), for which rank 0 may wait for an answer",
        ),
    )
    for key, holds, remedy in checks:
        if not holds:
            raise ConfigError(key, getattr(config, key), remedy)


def check_run(config: TrainConfig, ranks: Ranks, *, is_replayable: bool, is_reentrant: bool) -> None:
    """Raises ConfigError for data or a network that many ranks don't go with."""
    if ranks.count > 1 and not is_replayable:
        what = f"{MANY} must give every process the same batches: a DataLoader of a Dataset with a length, or tensors"
        raise ConfigError("data", config.data, what)
    if ranks.count > 1 and is_reentrant:
        what = f"isn't supported {MANY} with re-entrant checkpoints: give them use_reentrant=False"
        raise ConfigError("model", config.model, what)


def check_alone(key: str, what: str, count: int) -> None:
    """Raises ConfigError for what one process alone can do."""
    if count > 1:
        raise ConfigError(key, what, f"isn't supported {MANY}: start it without torchrun")


def check_bare(model: nn.Module) -> None:
    """Raises ConfigError for a network that somebody has wrapped already: growth changes what is inside."""
    names = {base.__name__ for base in type(model).__mro__}  # FSDP's module takes a second to import
    if names & WRAPPERS:
        remedy = "is wrapped for many ranks already: give the network itself, a run under torchrun wraps it"
        raise ConfigError("model", type(model).__name__, remedy)
