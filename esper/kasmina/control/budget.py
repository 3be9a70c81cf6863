"""What a run may spend on growth, against what it has spent and what one more seed would cost."""

from __future__ import annotations

from esper.kasmina.control.lifecycle import FOSSILIZED
from esper.leyline import HostManifest, KasminaRunSpec, KasminaRunState
from esper.urza.cost import Cost

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Values kept for each parameter beside it, by optimiser; one that isn't listed is taken to keep two.
OPTIMIZER_STATES = {"SGD": 1, "Adam": 2, "AdamW": 2}


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


def bytes_per_parameter(manifest: HostManifest) -> int:
    """A parameter, its gradient, and what the optimiser keeps for it."""
    dtype = next((module.dtype for module in manifest.submodules if module.dtype), "float32")
    return BYTES.get(dtype.removeprefix("torch."), 4) * (2 + OPTIMIZER_STATES.get(manifest.optimizer_family, 2))
