"""What a run may still spend on growth, by the cost model alone: parameters, MACs, memory, number of seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from esper.leyline import Budget, JudgeMode, SystemStatePacket
from esper.tamiyo.context import RunContext
from esper.urza import cost, stack_cost

BUDGET = "budget"
PREFIX = f"{BUDGET}: "
"""How the objection of a budget begins."""


class Purse:
    """What a run may spend as of one packet; asked about many seeds, each size is reckoned once."""

    has_refused: bool
    """Whether it had an objection to anything that was asked about."""

    def __init__(self, packet: SystemStatePacket, context: RunContext) -> None:
        self.has_refused = False
        self._packet, self._context = packet, context
        totals: dict[str, Callable[[int, int], int]] = {
            "max_parameters": lambda parameters, _: packet.metrics.parameters + parameters,
            "max_forward_macs": lambda _, forward_macs: packet.metrics.forward_macs + forward_macs,
            "max_training_macs": lambda _, forward_macs: self._training_macs(forward_macs),
            "max_seeds": lambda *_: packet.growth.germinated + 1,
            "max_memory_bytes": lambda parameters, _: self._memory(parameters),
        }
        budget = context.spec.budget
        limits = {name: _limit(budget, name) for name in totals}
        self._limited = [(name, limit, totals[name]) for name, limit in limits.items() if limit is not None]
        self._known: dict[tuple[int, int], str | None] = {}

    def objection(self, parameters: int, forward_macs: int) -> str | None:
        """Why a seed of this size can't be afforded, in words; None if it can. A bigger one is never cheaper."""
        size = parameters, forward_macs
        if self._limited and size not in self._known:
            self._known[size] = self._reckoned(*size)
        words = self._known.get(size)
        self.has_refused |= words is not None
        return words

    def _reckoned(self, parameters: int, forward_macs: int) -> str | None:
        for name, limit, needed in self._limited:
            total = needed(parameters, forward_macs)
            if total > limit:
                return f"{PREFIX}{name} is {limit}, {total} would be needed"
        return None

    def _memory(self, parameters: int) -> int:
        spec, held = self._context.spec, self._packet.metrics.parameters
        has_twin = spec.life.judge == JudgeMode.JUDGE_MODE_TWIN
        return cost.memory(spec.manifest, parameters=held, added=parameters, has_twin=has_twin).total

    @cached_property
    def _training_macs(self) -> Callable[[int], int]:
        return training_macs_forecast(self._packet, self._context)


def objection(packet: SystemStatePacket, context: RunContext, *, parameters: int, forward_macs: int) -> str | None:
    """Why a seed of this size can't be afforded, in words; None if it can."""
    return Purse(packet, context).objection(parameters, forward_macs)


def training_macs_forecast(packet: SystemStatePacket, context: RunContext) -> Callable[[int], int]:
    """By a seed's forward MACs, the training MACs of the whole run if it is germinated now and kept."""
    if context.grows_stacks:
        account = stack_cost.stack_account(
            context.spec.life,
            total_steps=context.spec.total_steps,
            training_macs=packet.metrics.training_macs,
            steps_done=packet.step,
            forward_macs=packet.metrics.forward_macs,
            # Kasmina counts from the graft, which is later: what is affordable here isn't refused there.
            graft_step=packet.step,
        )
        return lambda added_macs: stack_cost.forecast_stack_macs(account, packet.seeds, added_macs=added_macs)
    run = cost.Account(
        training_macs=packet.metrics.training_macs,
        steps_done=packet.step,
        total_steps=context.spec.total_steps,
        window_steps=context.spec.life.window_steps,
        forward_macs=packet.metrics.forward_macs,
        has_twin=context.spec.life.judge == JudgeMode.JUDGE_MODE_TWIN,
    )
    return cost.training_macs_forecast(run, packet.seeds)


def forecast_training_macs(packet: SystemStatePacket, context: RunContext, *, forward_macs: int) -> int:
    """Training MACs of the whole run if a seed of this size is germinated now and kept."""
    return training_macs_forecast(packet, context)(forward_macs)


def _limit(budget: Budget, name: str) -> int | None:
    return int(getattr(budget, name)) if budget.HasField(name) else None
