"""What a run may spend on growth, against what it has spent and what one more seed would cost."""

from __future__ import annotations

from esper.kasmina.control.stages.lifecycle import FOSSILIZED
from esper.leyline import JudgeMode, KasminaRunSpec, KasminaRunState
from esper.urza.cost import Account, Cost, forecast_training_macs, memory
from esper.urza.stack_cost import forecast_stack_macs, stack_account


def budget_problem(spec: KasminaRunSpec, state: KasminaRunState, cost: Cost, *, step: int | None = None) -> str | None:
    """Which limit one more seed of this cost would break, or None; give the step of now for a stack."""
    budget = spec.budget
    present = spec.manifest.parameters + state.growth.added_parameters
    parameters = present + cost.parameters
    has_twin = spec.life.judge == JudgeMode.JUDGE_MODE_TWIN
    held = memory(spec.manifest, parameters=present, added=cost.parameters, has_twin=has_twin)
    kept_macs = sum(seed.state.forward_macs for seed in state.seeds if seed.state.stage == FOSSILIZED)
    forward_macs = spec.manifest.forward_macs + kept_macs
    spent = (
        ("max_seeds", state.growth.germinated + 1),
        ("max_parameters", parameters),
        ("max_forward_macs", forward_macs + cost.forward_macs),
        ("max_training_macs", _forecast(spec, state, forward_macs, cost, step)),
        ("max_memory_bytes", held.total),
    )
    for name, value in spent:
        if budget.HasField(name) and value > getattr(budget, name):
            return f"{name} is {getattr(budget, name)}, with this seed it would be {value}"
    return None


def _forecast(spec: KasminaRunSpec, state: KasminaRunState, forward_macs: int, cost: Cost, step: int | None) -> int:
    """Training MACs of the whole run, by the trainer's last account of them; 0 before the first."""
    seeds = [record.state for record in state.seeds]
    if step is not None:
        seen = [record.evaluations[-1].twin.samples for record in state.seeds if record.evaluations]
        account = stack_account(
            spec.life,
            total_steps=spec.total_steps,
            training_macs=state.training_macs,
            steps_done=state.training_macs_step,
            forward_macs=forward_macs,
            graft_step=max(step, state.training_macs_step) + spec.life.reaction_steps,
            seen_samples=max(seen, default=0),
        )
        return forecast_stack_macs(account, seeds, added_macs=cost.forward_macs)
    run = Account(
        training_macs=state.training_macs,
        steps_done=state.training_macs_step,
        total_steps=spec.total_steps,
        window_steps=spec.life.window_steps,
        forward_macs=forward_macs,
        has_twin=spec.life.judge == JudgeMode.JUDGE_MODE_TWIN,
    )
    return forecast_training_macs(run, seeds, added_macs=cost.forward_macs)
