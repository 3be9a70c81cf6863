"""Whether the stacks that a run is to grow can be grown at all: told at its start, not found out at their steps.

The rules are those that will be applied: Tamiyo's time for a stack's life, Kasmina's plan of looks.
"""

from __future__ import annotations

from math import ceil, floor, log2

from esper.core.errors import ConfigError
from esper.core.growth import no_growth, stack_life_steps
from esper.kasmina.control.stages.stack_course import check_plan
from esper.kasmina.control.stages.turn import Turn
from esper.leyline import HostManifest, KasminaRunSpec, KasminaRunState
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.start.opening import life_settings
from esper.tolaria.plane.start.stack_growth import DEFAULT_SHARES, RULES, is_named, stack_rule, stack_steps, stacks_of
from esper.urza.catalog import Catalog

LONGEST_RUN = 10**8
# The judge's own names of what the run's settings call otherwise.
SETTINGS = {"min_evaluations": "stack_evaluations"}


def schedule_doubts(config: TrainConfig, manifest: HostManifest, total_steps: int) -> list[str]:
    """What of the schedule will not be as it says, a line each.

    Raises ConfigError where growth in depth is asked for and the schedule has no room for any, or too few stacks for
    the depth to end at.
    """
    steps, is_asked_for = _due_steps(config, manifest, total_steps), is_named(config)
    if not steps and is_asked_for:
        raise ConfigError("stack_shares", config.stack_shares, "leaves no stack; give shares of the run, as 0.2,0.4")
    if not steps or config.grow != "auto":
        return []
    if config.stack_when not in RULES:
        _check_target(config, manifest, len(steps))
    found = [(step, obstacle) for step in steps if (obstacle := _obstacle(config, manifest, total_steps, step))]
    if len(found) == len(steps) and (is_asked_for or config.stack_shares != DEFAULT_SHARES):
        raise _with_length(found[0][1], config, manifest, total_steps)
    return [
        *_beyond_budget(config, manifest, is_asked_for=is_asked_for),
        *(f"no stack at step {step}: {obstacle}" for step, obstacle in found),
        *(_short_window(config, total_steps) if len(found) < len(steps) else ()),
    ]


def _due_steps(config: TrainConfig, manifest: HostManifest, total_steps: int) -> list[int]:
    """Steps at which a stack is due, as far as they are known: of a rule, the earliest."""
    if not stack_rule(config, manifest):
        return stack_steps(config, manifest, total_steps)
    earliest = config.growth_warmup_steps
    return [max(1, total_steps // 10 if earliest is None else earliest)]


def _check_target(config: TrainConfig, manifest: HostManifest, stacks: int) -> None:
    if config.target_depth is None:
        return
    depth = max(slot.depth for slot in stacks_of(manifest))
    needed = ceil(log2(config.target_depth / depth))
    if needed > stacks:
        remedy = f"needs {needed} stacks from {depth} blocks on, each at most a doubling; stack_shares has {stacks}"
        raise ConfigError("target_depth", config.target_depth, f"{remedy}: give more shares, or begin deeper")


def _beyond_budget(config: TrainConfig, manifest: HostManifest, *, is_asked_for: bool) -> list[str]:
    """What a budget keeps a run from reaching. Raises ConfigError where not even one more block is left of it."""
    slot = max(stacks_of(manifest), key=lambda slot: slot.depth)
    sizes = {
        "max_parameters": (manifest.parameters, slot.block_parameters),
        "max_forward_macs": (manifest.forward_macs, slot.block_forward_macs),
    }
    found = []
    for key, (host, block) in sizes.items():
        limit, depth = getattr(config, key), config.target_depth or slot.depth + 1
        most = slot.depth if limit is None else slot.depth + max(0, limit - host) // max(1, block)
        if limit is None or depth <= most:
            continue
        what = f"{slot.slot_id} has {slot.depth} blocks of {block:,}, the host has {host:,} in all"
        if most == slot.depth and depth > slot.depth and is_asked_for:
            raise ConfigError(key, limit, f"leaves no room for one more block: {what}; give more, or begin with less")
        found.append(f"{key} {limit:,} ends growth at {most} of {depth} blocks: {what}")
    return found


def _obstacle(config: TrainConfig, manifest: HostManifest, total_steps: int, due_step: int) -> ConfigError | None:
    """Why a stack that is due then can't be grown, or None."""
    life, every = life_settings(config, manifest.task, total_steps), config.packet_steps
    decided, needed = max(1, ceil(due_step / every)) * every, stack_life_steps(life, total_steps)
    if decided + needed > life.growth_end_step:
        left = max(0, life.growth_end_step - decided)
        key, sooner = _time_setting(config)
        remedy = (
            f"a stack needs {needed} steps to its verdict and to pay, {left} are left from step {decided} until "
            f"growth ends at {life.growth_end_step}; give {sooner}, a longer run, or a smaller "
            "window_fraction or stack_recovery_steps"
        )
        return ConfigError(key, getattr(config, key), remedy)
    spec = KasminaRunSpec(total_steps=total_steps, manifest=manifest, life=life)
    state = KasminaRunState(growth=no_growth())
    turn = Turn(spec=spec, state=state, catalog=Catalog.builtin(), step=decided)
    try:
        check_plan(turn, decided + 4 * life.reaction_steps)
    except ConfigError as error:
        return ConfigError(SETTINGS.get(error.key, error.key), error.value, error.remedy)
    return None


def _with_length(error: ConfigError, config: TrainConfig, manifest: HostManifest, total_steps: int) -> ConfigError:
    """The same, and how long a run would do, whatever else stands in the way of a shorter one."""
    enough = _enough_steps(config, manifest, total_steps)
    if enough is None:
        return error
    return ConfigError(error.key, error.value, f"{error.remedy}; {enough:,} steps are enough for a first stack")


def _time_setting(config: TrainConfig) -> tuple[str, str]:
    """The setting that says when a first stack is due, and what of it makes that sooner."""
    if config.stack_when not in RULES:
        return "stack_shares", "smaller shares"
    return "stack_when" if config.growth_warmup_steps is None else "growth_warmup_steps", "fewer steps before growth"


def _enough_steps(config: TrainConfig, manifest: HostManifest, total_steps: int) -> int | None:
    """A length of run, to about 1 %, in which the first stack can be grown; None where longer runs don't help."""
    if ":" in config.schedule:  # only the user's own function knows where growth ends then
        return None

    def suffices(steps: int) -> bool:
        return _obstacle(config, manifest, steps, _due_steps(config, manifest, steps)[0]) is None

    too_few, enough = total_steps, 2 * total_steps
    while not suffices(enough):
        too_few, enough = enough, 2 * enough
        if enough > LONGEST_RUN:
            return None
    while enough - too_few > max(1, enough // 100):
        between = (too_few + enough) // 2
        too_few, enough = (too_few, between) if suffices(between) else (between, enough)
    return enough


def _short_window(config: TrainConfig, total_steps: int) -> list[str]:
    longest = floor(config.window_fraction * total_steps)
    if config.stack_recovery_steps <= longest:
        return []
    return [
        f"a stack is taken to need {config.stack_recovery_steps} steps to recover (stack_recovery_steps), and its "
        f"window has {longest}: it is judged early; give a larger window_fraction, or a longer run"
    ]
