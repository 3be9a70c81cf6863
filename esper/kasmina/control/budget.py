"""What a run may spend on growth, against what it has spent and what one more seed would cost."""

from __future__ import annotations

from esper.kasmina.control.lifecycle import FOSSILIZED
from esper.leyline import KasminaRunSpec, KasminaRunState
from esper.urza.cost import Cost, bytes_per_parameter


def budget_problem(spec: KasminaRunSpec, state: KasminaRunState, cost: Cost) -> str | None:
    """Which limit one more seed of this cost would break, or None. Training MACs are the trainer's to watch."""
    budget = spec.budget
    parameters = spec.manifest.parameters + state.growth.added_parameters + cost.parameters
    kept_macs = sum(seed.state.forward_macs for seed in state.seeds if seed.state.stage == FOSSILIZED)
    spent = (
        ("max_seeds", state.growth.germinated + 1),
        ("max_parameters", parameters),
        ("max_forward_macs", spec.manifest.forward_macs + kept_macs + cost.forward_macs),
        ("max_memory_bytes", parameters * bytes_per_parameter(spec.manifest)),
    )
    for name, value in spent:
        if budget.HasField(name) and value > getattr(budget, name):
            return f"{name} is {getattr(budget, name)}, with this seed it would be {value}"
    return None
