"""What a run may still spend on growth, by the cost model alone: parameters, MACs, memory, number of seeds."""

from __future__ import annotations

from esper.leyline import Budget, JudgeMode, SystemStatePacket
from esper.tamiyo.context import RunContext
from esper.urza import cost, stack_cost


def objection(packet: SystemStatePacket, context: RunContext, *, parameters: int, forward_macs: int) -> str | None:
    """Why a seed of this size can't be afforded, in words; None if it can."""
    budget, metrics, spec = context.spec.budget, packet.metrics, context.spec
    if not budget.ListFields():
        return None
    has_twin = spec.life.judge == JudgeMode.JUDGE_MODE_TWIN
    held = cost.memory(spec.manifest, parameters=metrics.parameters, added=parameters, has_twin=has_twin)
    totals = {
        "max_parameters": metrics.parameters + parameters,
        "max_forward_macs": metrics.forward_macs + forward_macs,
        "max_training_macs": forecast_training_macs(packet, context, forward_macs=forward_macs),
        "max_seeds": packet.growth.germinated + 1,
        "max_memory_bytes": held.total,
    }
    for name, total in totals.items():
        limit = _limit(budget, name)
        if limit is not None and total > limit:
            return f"budget: {name} is {limit}, {total} would be needed"
    return None


def forecast_training_macs(packet: SystemStatePacket, context: RunContext, *, forward_macs: int) -> int:
    """Training MACs of the whole run if a seed of this size is germinated now and kept."""
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
        return stack_cost.forecast_stack_macs(account, packet.seeds, added_macs=forward_macs)
    run = cost.Account(
        training_macs=packet.metrics.training_macs,
        steps_done=packet.step,
        total_steps=context.spec.total_steps,
        window_steps=context.spec.life.window_steps,
        forward_macs=packet.metrics.forward_macs,
        has_twin=context.spec.life.judge == JudgeMode.JUDGE_MODE_TWIN,
    )
    return cost.forecast_training_macs(run, packet.seeds, added_macs=forward_macs)


def _limit(budget: Budget, name: str) -> int | None:
    return int(getattr(budget, name)) if budget.HasField(name) else None
