"""What is fixed about a run while it is open: everything that a decision needs beside packet and state."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

from esper.core.growth import stack_life_steps
from esper.leyline import (
    IncubationMode,
    IssuedCommand,
    SeedStage,
    SlotKind,
    SlotSpec,
    StackRule,
    TamiyoRunSpec,
    TriggerSettings,
)
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.trigger import Trigger, resolve

LIVE_STAGES = frozenset(
    {
        SeedStage.SEED_STAGE_GERMINATED,
        SeedStage.SEED_STAGE_TRAINING,
        SeedStage.SEED_STAGE_BLENDING,
        SeedStage.SEED_STAGE_SHADOWING,
        SeedStage.SEED_STAGE_PROBATIONARY,
    }
)
# A culled seed's twin is still to be installed, so nothing else may be germinated before that.
BUSY_STAGES = LIVE_STAGES | {SeedStage.SEED_STAGE_CULLED}
# A slot is closed while one of these is being cleared from it.
CLOSING_STAGES = frozenset(
    {SeedStage.SEED_STAGE_CULLED, SeedStage.SEED_STAGE_EMBARGOED, SeedStage.SEED_STAGE_RESETTING}
)
_NUMBERED = re.compile(r".+-g\d+-c(\d+)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One generation of a run."""

    spec: TamiyoRunSpec
    config: TamiyoConfig
    trigger: Trigger

    @cached_property
    def stacks(self) -> tuple[SlotSpec, ...]:
        """The host's runs of equal blocks."""
        return tuple(slot for slot in self.spec.manifest.slots if slot.kind == SlotKind.SLOT_KIND_STACK)

    @property
    def run_id(self) -> str:
        return self.spec.training_run_id

    @property
    def deadline_steps(self) -> int:
        """Steps after a decision within which its command must be executed."""
        return max(self.config.command_deadline_steps, 10 * self.spec.life.reaction_steps)

    @property
    def grows_stacks(self) -> bool:
        """Whether this run grows in depth, at fixed steps or by a rule; then it grows nothing else by itself."""
        return (bool(self.trigger.stack_steps) or self.stacks_by_rule) and bool(self.stacks)

    @property
    def stacks_by_rule(self) -> bool:
        """Whether the course of the loss says when a stack is due."""
        return self.trigger.stack_rule != StackRule.STACK_RULE_UNSPECIFIED

    @property
    def life_steps(self) -> int:
        """Steps from a decision to germinate until its seed's fate is carried out; a stack then has a recovery left."""
        life = self.spec.life
        if self.grows_stacks:
            return stack_life_steps(life, self.spec.total_steps)
        incubates = life.incubation == IncubationMode.INCUBATION_MODE_SHADOW
        return life.window_steps + (life.incubation_steps if incubates else 0) + 4 * life.reaction_steps

    def command_id(self, number: int) -> str:
        """Id of the run's n-th command."""
        return f"{self.run_id}-g{self.spec.generation}-c{number}"

    def initialization_seed(self, number: int) -> int:
        """Seed of the n-th seed's initial weights: a function of the run's seed alone."""
        text = f"ESPER-INIT-V1\n{self.spec.seed}\n{number}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1

    def replayed_at(self, step: int) -> tuple[IssuedCommand, ...]:
        """Commands of an earlier generation that Kasmina delivers again for this step's packet."""
        return tuple(command for command in self.spec.replay if command.decision_step == step)


def context_of(spec: TamiyoRunSpec, settings: TriggerSettings, config: TamiyoConfig) -> RunContext:
    """Context of a run under the trigger settings in force. Raises ContractError for numbers out of range."""
    task = spec.manifest.task
    trigger = resolve(settings, task=task, total_steps=spec.total_steps, config=config)
    return RunContext(spec=spec, config=config, trigger=trigger)


def command_number(command_id: str) -> int | None:
    """Number of a command that this service issued; None for anyone else's id."""
    match = _NUMBERED.match(command_id)
    return int(match[1]) if match else None
