"""What a run may still spend on growth, by the cost model alone: parameters, MACs, memory, number of seeds.

The training forecast assumes that the rest of the run costs what the past did, plus the seed, plus its twin.
"""

from __future__ import annotations

from esper.leyline import Budget, SystemStatePacket
from esper.tamiyo.context import RunContext
from esper.urza.cost import bytes_per_parameter


def objection(packet: SystemStatePacket, context: RunContext, *, parameters: int, forward_macs: int) -> str | None:
    """Why a seed of this size can't be afforded, in words; None if it can."""
    budget, metrics = context.spec.budget, packet.metrics
    totals = {
        "max_parameters": metrics.parameters + parameters,
        "max_forward_macs": metrics.forward_macs + forward_macs,
        "max_training_macs": forecast_training_macs(packet, context, forward_macs=forward_macs),
        "max_seeds": packet.growth.germinated + 1,
        "max_memory_bytes": (metrics.parameters + parameters) * bytes_per_parameter(context.spec.manifest),
    }
    for name, total in totals.items():
        limit = _limit(budget, name)
        if limit is not None and total > limit:
            return f"budget: {name} is {limit}, {total} would be needed"
    return None


def forecast_training_macs(packet: SystemStatePacket, context: RunContext, *, forward_macs: int) -> int:
    """Training MACs of the whole run if a seed of this size is germinated now and kept."""
    metrics, total_steps = packet.metrics, context.spec.total_steps
    if packet.step == 0 or metrics.forward_macs == 0:
        return metrics.training_macs
    steps_left = max(0, total_steps - packet.step)
    # Whole numbers only: a forecast must come out alike on every machine.
    host = metrics.training_macs * steps_left // packet.step
    seed = host * forward_macs // metrics.forward_macs
    twin = metrics.training_macs * min(steps_left, context.spec.life.window_steps) // packet.step
    return metrics.training_macs + host + seed + twin


def _limit(budget: Budget, name: str) -> int | None:
    return int(getattr(budget, name)) if budget.HasField(name) else None
