"""Growth in depth as a run wants it: whether it does, at which steps, and what makes the wish impossible."""

from __future__ import annotations

from collections.abc import Sequence

from esper.core.errors import ConfigError
from esper.leyline import HostManifest, SlotKind, SlotSpec, StackJudging, StackRule, TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.randomness import key

PREFIX = "stack."
DEFAULT_SHARES = TrainConfig().stack_shares
WINDOW_RECOVERIES = 1.5
RULES = {"knee": StackRule.STACK_RULE_KNEE, "forecast": StackRule.STACK_RULE_FORECAST}
DRAWN_SHARES = 0.05, 0.55
"""Between which stacks at random times lie: later ones would not be judged before the learning rate falls."""


def stacks_of(manifest: HostManifest) -> list[SlotSpec]:
    """The host's runs of equal blocks."""
    return [slot for slot in manifest.slots if slot.kind == SlotKind.SLOT_KIND_STACK]


def is_named(config: TrainConfig) -> bool:
    """Whether the user asks for depth: by a blueprint, by a slot or by the depth itself."""
    names = (*config.blueprints, *(slot.replace(":", ".") for slot in config.slots))
    return config.target_depth is not None or any(name.startswith(PREFIX) for name in names)


def stack_steps(config: TrainConfig, manifest: HostManifest, total_steps: int) -> list[int]:
    """Steps at which a stack is due; empty where none is, or a rule says when."""
    if not grows_stacks(config, manifest) or config.stack_when in RULES:
        return []
    shares = _drawn(config) if config.stack_when == "random" else config.stack_shares
    return sorted({max(1, round(share * total_steps)) for share in shares})


def stack_rule(config: TrainConfig, manifest: HostManifest) -> StackRule:
    """The rule by which the course of the loss says when a stack is due, if one does."""
    named = RULES.get(config.stack_when, StackRule.STACK_RULE_UNSPECIFIED)
    return named if grows_stacks(config, manifest) else StackRule.STACK_RULE_UNSPECIFIED


def grows_stacks(config: TrainConfig, manifest: HostManifest) -> bool:
    """Whether the run grows in depth: a language model with a run of blocks, or where the user asks for depth.

    Other blueprints that the user names leave no room for it.
    """
    is_wanted = manifest.task == TaskType.TASK_TYPE_LANGUAGE_MODEL and not config.blueprints
    return config.judge == "twin" and bool(stacks_of(manifest)) and (is_wanted or is_named(config))


def _drawn(config: TrainConfig) -> list[float]:
    """As many shares as the run has, drawn uniformly by its seed, one in each equal stretch: none waits long."""
    (first, last), count = DRAWN_SHARES, len(config.stack_shares)
    draws = [key(config.seed, "stacks", number) / 2**63 for number in range(count)]
    return [first + (last - first) * (number + draw) / count for number, draw in enumerate(draws)]


def stack_judging(config: TrainConfig) -> StackJudging:
    """How stacks are judged."""
    return StackJudging(
        margin=config.stack_margin,
        error_rate=config.stack_error_rate,
        evaluations=config.stack_evaluations,
        max_clipped_share=config.stack_clipped_share,
        window_fraction=config.window_fraction,
        window_recoveries=WINDOW_RECOVERIES,
        recovery_steps=config.stack_recovery_steps,
        parts=config.stack_evaluations,
    )


def check_stacks(config: TrainConfig, manifest: HostManifest, refused: Sequence[str]) -> None:
    """Raise ConfigError where depth is asked for and can't be had; `refused` are lists of blocks that are no runs."""
    if not is_named(config):
        return
    stack_names = [name for name in config.blueprints if name.startswith(PREFIX)]
    others = [name for name in config.blueprints if name not in stack_names]
    if others:
        remedy = "a run that grows in depth grows nothing else by itself"
        remedy += f"; leave {', '.join(others)} out" if stack_names else "; name stack.double, or leave the depth open"
        raise ConfigError("blueprints", config.blueprints, remedy)
    stacks = stacks_of(manifest)
    if not stacks and config.slots:
        raise ConfigError("slots", config.slots, "names no run of blocks, as stack:PATH does, and depth is asked for")
    if not stacks:
        looked_at = "; ".join(refused) or "it has no list of blocks"
        raise ConfigError("model", config.model, f"has no run of equal blocks that could be repeated: {looked_at}")
    if config.judge != "twin":
        raise ConfigError("judge", config.judge, "can't judge a stack: it needs a twin; use --judge twin")
    deepest = max(slot.depth for slot in stacks)
    if config.target_depth is not None and config.target_depth < deepest:
        remedy = f"a run has {deepest} equal blocks already; give at least as many, or begin with fewer"
        raise ConfigError("target_depth", config.target_depth, remedy)


def check_times(config: TrainConfig, manifest: HostManifest) -> None:
    """Raise ConfigError for times of stacks that would not act."""
    when, shares = config.stack_when, config.stack_shares
    if when == "shares":
        return
    if when in RULES and shares != DEFAULT_SHARES:
        remedy = f"is not read by --stack-when {when}, which follows the loss; leave one of them out"
        raise ConfigError("stack_shares", shares, remedy)
    if not shares:
        raise ConfigError("stack_shares", shares, "leaves no stack to draw; give as many shares as there may be stacks")
    if not grows_stacks(config, manifest):
        remedy = f"says when stacks are due, and this run grows none: {_why_none(config, manifest)}; or leave it out"
        raise ConfigError("stack_when", when, remedy)


def _why_none(config: TrainConfig, manifest: HostManifest) -> str:
    reasons = (
        (not stacks_of(manifest), "its model has no run of equal blocks; take one that has"),
        (config.judge != "twin", f"--judge {config.judge} can't judge a stack; use --judge twin"),
        (bool(config.blueprints), f"--blueprints {','.join(config.blueprints)} names none; name stack.double"),
        (True, "it isn't a language model and asks for no depth; give --target-depth"),
    )
    return next(why for is_so, why in reasons if is_so)
