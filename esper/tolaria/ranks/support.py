"""What a run of many ranks can't do yet: each is refused by a line before the run starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.fold.optimizer import JOINED
from esper.tolaria.config import BY_SEEDS, SHARD, TrainConfig
from esper.tolaria.ranks.group import Ranks

WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
IN_PARTS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("pcgrad", lambda wished: not wished, "works on whole gradients"),
    ("seed_conflicts", lambda wished: not wished, "works on whole gradients"),
    ("ema", lambda decay: decay is None, "keeps whole averages"),
    ("amp", lambda kind: kind != "fp16", "scales the loss by whether any whole gradient overflows: say bf16"),
    ("twin", lambda mode: mode != "bursts", "moves whole arms to host memory: say auto, for a live one"),
    ("incubate", lambda how: how == "none", "trains modules, and stacks alone grow"),
    ("isolate", lambda wished: not wished, "is of modules, and stacks alone grow"),
    ("teacher", lambda path: path is None, "is for modules, and stacks alone grow"),
)
"""What doesn't go with weights in parts, as a setting's values that do, and why."""
MANY = "with many ranks"


def check_settings(config: TrainConfig, ranks: Ranks) -> None:
    """Raises ConfigError for settings that many ranks don't go with."""
    if ranks.count == 1:
        return
    least = config.accumulate * ranks.count
    parts = counted(config.accumulate, "microbatch", "microbatches")
    in_parts = IN_PARTS if is_in_parts(config, ranks) else ()
    checks = (
        (
            "seed_conflicts",
            not config.seed_conflicts or config.surgery == BY_SEEDS,
            f"isn't supported {MANY} but with --pcgrad --surgery seeds, which measures them too",
        ),
        ("graphs", not config.graphs, f"isn't supported {MANY}: gradients are summed over the ranks within a step"),
        ("device", config.device in ("cpu", "cuda"), f"{MANY} torchrun gives each its own: say cpu or cuda"),
        (
            "batch_size",
            config.batch_size >= least,
            f"has less than a sample for each of {ranks.count} ranks in {parts}: {least}",
        ),
        _patience(config),
        *(
            (key, holds(getattr(config, key)), f"isn't supported by --parallel shard: it {why}; or give --parallel ddp")
            for key, holds, why in in_parts
        ),
    )
    _require(config, checks)


def check_own_loop(config: TrainConfig, count: int) -> None:
    """Raises ConfigError for settings that many ranks with a loop of the user's own don't go with."""
    if count > 1:
        alone = f"trains seeds on a batch of one process, and {MANY} each has its own: leave it out, or use esper.train"
        _require(config, (("incubate", config.incubate == "none", alone), _patience(config)))


def _patience(config: TrainConfig) -> tuple[str, bool, str]:
    waits = f"must be longer than deadline_s ({config.deadline_s:g}), for which rank 0 may wait for an answer"
    return "rank_timeout_s", config.rank_timeout_s > config.deadline_s, waits


def _require(config: TrainConfig, checks: Iterable[tuple[str, bool, str]]) -> None:
    for key, holds, remedy in checks:
        if not holds:
            raise ConfigError(key, getattr(config, key), remedy)


def is_in_parts(config: TrainConfig, ranks: Ranks) -> bool:
    """Whether each rank holds a part of the weights; one that is alone holds all."""
    return config.parallel == SHARD and ranks.count > 1


def check_parts(config: TrainConfig, arm: TrainingArm) -> None:
    """Raises ConfigError for a network or an optimiser that can't be in parts."""
    remedy = "or give --parallel ddp"
    if type(arm.optimizer) not in JOINED:
        what = "isn't known to work value by value, as weights in parts (--parallel shard) need it"
        raise ConfigError("optimizer", type(arm.optimizer).__name__, f"{what}: say adamw or sgd, {remedy}")
    places: dict[int, str] = {}
    for name, parameter in arm.model.named_parameters():
        other = places.setdefault(parameter.data_ptr(), name) if parameter.numel() else name
        if why := _obstacle(parameter) or (f"shares memory with {other} without being the same" * (other != name)):
            raise ConfigError("model", name, f"can't be in parts (--parallel shard): it {why}; change it, {remedy}")


def _obstacle(parameter: nn.Parameter) -> str:
    facts = (
        (parameter.dim() == 0, "is a single number: make it one of shape [1]"),
        (not parameter.is_contiguous(), "isn't contiguous"),
        (bool(parameter._backward_hooks) or bool(parameter._post_accumulate_grad_hooks), "has hooks of its own"),
    )
    return next((why for is_so, why in facts if is_so), "")


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


def check_bare(model: nn.Module, *, is_own_loop: bool = False) -> None:
    """Raises ConfigError for a network that somebody has wrapped already: growth changes what is inside."""
    names = {base.__name__ for base in type(model).__mro__}  # FSDP's module takes a second to import
    if names & WRAPPERS:
        remedy = "is wrapped for many ranks already: give the network itself, a run under torchrun wraps it"
        how = ", anew after every graft: pass batches through growth.model" if is_own_loop else ""
        raise ConfigError("model", type(model).__name__, f"{remedy}{how}")
