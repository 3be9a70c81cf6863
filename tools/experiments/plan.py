"""An experiment as its file says it (plans/*.toml): the arms, what they have in common, seeds, rates and budgets.

    about = "one sentence"
    seeds = [1, 2, 3]              # runs of each arm, paired with each other
    score = "accuracy"             # what is compared: loss (the default) or accuracy, on the test set
    common = ["--data", "digits"]  # flags of tolaria-train, for every run
    rates = [1e-3, 3e-3]           # learning rates to choose from, for every arm alike
    tuning_seeds = [101, 102]      # seeds by whose judging data each arm's rate is chosen; none of `seeds`

    [text]                         # a text to be made (texts.py), for runs that train on one
    kind = "python"
    size = 8000000

    [arms.grown]                   # the first arm is the one that the others are compared with
    flags = ["--hidden", "8,8"]

    [arms.host]
    cost_of = "grown"              # as many steps as that arm of the same seed paid for
    [arms.wide]
    budgets = [1000, 2000]         # arms wide@1000 and wide@2000, of so many steps
    [arms.odd]
    control = "useless"            # grafts of control_arms.py in place of the product's own

    [arms.late]
    against = "early"              # compared with that arm, of the same budget if both have budgets, not with the first

    [arms.rival]
    made_by = "beside_gromo.py"    # a script that adds rows of its own
    label = "a rival"              # what pictures call it; by its name where there is none

    [sweep]                        # some arms as one: what choosing among them costs, and gives
    arms = ["narrow", "wide"]
    rungs = [0.25, 0.5]            # shares of a run after which successive halving drops half of them

    [frontier]                     # arms whose final scores over cost are the curve that others are held against
    arms = ["wide@1000", "wide@2000"]

    [race]                         # rules of which one is to be picked (growing/race.py), named before their budgets
    arms = ["shares", "knee"]      # the simplest first
    control = "random"             # what a rule has to be better than

An arm may have `rates` of its own; one with `cost_of` makes do with the rate of another: `rate_of = "wide"`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

SCORES = {"loss": ("test_loss", "val_loss"), "accuracy": ("test_accuracy", "val_accuracy")}
"""What each score is called in a summary: on the test set, and on the judging data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What one arm adds to the plan's common flags."""

    flags: tuple[str, ...] = ()
    cost_of: str | None = None
    """The arm whose cost this one may spend; it makes as many steps as that pays for."""
    control: str | None = None
    """A graft of control_arms.py in place of the product's own."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; empty leaves the flags as they are."""
    rate_of: str | None = None
    """The arm whose chosen rate this one takes."""
    against: str | None = None
    """The arm that this one is compared with; None: the plan's first."""
    made_by: str | None = None
    """The script that adds this arm's rows; nothing is trained for it here."""
    label: str | None = None
    """What pictures call it; None: by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Arms among which a user would have to choose."""

    arms: tuple[str, ...]
    rungs: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """Rules among which one is to be picked, the simplest first, each an arm or an arm of several budgets."""

    arms: tuple[str, ...]
    control: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        return self.arms if self.control is None else (*self.arms, self.control)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of growth among which a default is chosen, the simplest first: the arm of each by its name."""

    arms: Mapping[str, str]
    seeds: tuple[int, ...]


class Run(NamedTuple):
    """One training run of a plan; `rate` is None where the flags say it."""

    arm: str
    seed: int
    rate: float | None

    @property
    def name(self) -> str:
        """What its directory is called."""
        rate = "" if self.rate is None else f"-{self.rate:g}"
        return f"{self.arm}{rate}-{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An experiment."""

    name: str
    about: str
    common: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    score: str = "loss"
    tuning_seeds: tuple[int, ...] = ()
    sweep: Sweep | None = None
    frontier: tuple[str, ...] = ()
    race: Race | None = None
    settings: Settings | None = None
    text: Mapping[str, Any] = field(default_factory=dict)
    """A text to be made (texts.py); runs then train on it."""

    @property
    def first(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))

    def reference(self, arm: str) -> str:
        """The arm that one is compared with."""
        return self.arms[arm].against or self.first

    def budgets(self, arm: str) -> dict[str, str]:
        """The arms that one stands for, by their budget; an arm without budgets has the empty one."""
        return {budget: name for name in self.arms for base, _, budget in [name.partition("@")] if arm in {base, name}}

    @property
    def rungs(self) -> tuple[float, ...]:
        return () if self.sweep is None else self.sweep.rungs

    def flags(self, run: Run, out: Path) -> list[str]:
        """What the launcher is told, but for the steps of an arm of equal cost."""
        data = ["--data", f"text:{out / 'text'}"] if self.text else []
        rate = [] if run.rate is None else ["--lr", f"{run.rate:g}"]
        return [*data, *self.common, *self.arms[run.arm].flags, *rate, "--seed", str(run.seed)]

    def tuning(self, arms: Iterator[str]) -> list[Run]:
        """The runs by which rates are chosen: none for an arm without a choice."""
        grids = ((arm, self.arms[arm].rates) for arm in arms)
        return [Run(arm, seed, rate) for arm, rates in grids if rates for seed in self.tuning_seeds for rate in rates]


def read_plan(path: Path) -> Plan:
    """The plan of a file. Raises SystemExit for one that can't be run."""
    told = tomllib.loads(path.read_text())
    rates = told.pop("rates", [])
    arms = {name: arm for given, table in told.pop("arms").items() for name, arm in _arms(given, table, rates)}
    sweep, frontier, race = told.pop("sweep", None), told.pop("frontier", {}), told.pop("race", None)
    settings = told.pop("settings", None)
    lists = {name: tuple(told.pop(name, ())) for name in ("common", "seeds", "tuning_seeds")}
    plan = Plan(
        name=path.stem,
        arms=arms,
        sweep=None if sweep is None else Sweep(arms=tuple(sweep["arms"]), rungs=tuple(sweep.get("rungs", ()))),
        frontier=tuple(frontier.get("arms", ())),
        race=None if race is None else Race(arms=tuple(race["arms"]), control=race.get("control")),
        settings=None if settings is None else Settings(arms=settings["arms"], seeds=tuple(settings["seeds"])),
        **lists,
        **told,
    )
    for wrong in _wrong(plan):
        sys.exit(f"{path}: {wrong}")
    return plan


def compared_otherwise(plan: Plan, *, against: str | None, frontier: Sequence[str], seeds: Sequence[int]) -> Plan:
    """The plan with one arm that all others are compared with, another frontier, other seeds; None or empty: its own.

    Raises SystemExit for what can't be compared.
    """
    arms = plan.arms
    if against is not None:
        if against not in arms:
            sys.exit(f"--against {against}: no such arm; expected one of {', '.join(arms)}")
        arms = {
            name: replace(arms[name], against=None) for name in (against, *(name for name in arms if name != against))
        }
    other = replace(plan, arms=arms, frontier=tuple(frontier) or plan.frontier, seeds=tuple(seeds) or plan.seeds)
    for wrong in _wrong(other):
        sys.exit(f"{plan.name}, compared as asked: {wrong}")
    return other


def _arms(name: str, table: Mapping[str, Any], rates: list[float]) -> Iterator[tuple[str, Arm]]:
    """An arm for each of its budgets, or the one."""
    settings = dict(table)
    budgets = settings.pop("budgets", None)
    flags = tuple(settings.pop("flags", ()))
    grid = tuple(settings.pop("rates", [] if {"cost_of", "rate_of"} & {*settings} else rates))
    if budgets is None:
        yield name, Arm(flags=flags, rates=grid, **settings)
        return
    against = settings.pop("against", None)
    for steps in budgets:
        same = None if against is None else f"{against}@{steps}"
        yield f"{name}@{steps}", Arm(flags=(*flags, "--steps", str(steps)), rates=grid, against=same, **settings)


def _wrong(plan: Plan) -> Iterator[str]:
    """What keeps a plan from being run."""
    for name, arm in plan.arms.items():
        yield from _wrong_with_arm(plan, name, arm)
    own_seeds = {*plan.seeds, *(() if plan.settings is None else plan.settings.seeds)}
    if both := sorted(own_seeds & {*plan.tuning_seeds}):
        yield f"seeds {both} would choose rates and report them; expected other tuning_seeds"
    if plan.frontier and plan.score != "loss":
        yield "a frontier needs score = 'loss': by seed, accuracies don't rise with the size; expected a sweep"
    if plan.score not in SCORES:
        yield f"score = {plan.score!r}; expected one of {', '.join(SCORES)}"
    named = [*plan.frontier, *(() if plan.sweep is None else plan.sweep.arms)]
    named += () if plan.settings is None else plan.settings.arms.values()
    for name in named:
        if name not in plan.arms:
            yield f"{name!r} is to be compared; expected one of the arms {', '.join(plan.arms)}"
    for rule in () if plan.race is None else plan.race.all:
        if not plan.budgets(rule):
            yield f"{rule!r} is to race; expected the name of an arm before its budgets, of {', '.join(plan.arms)}"
        if any(plan.arms[arm].rates for arm in plan.budgets(rule).values()):
            yield f"{rule!r} is to race with rates to choose from; expected its one rate among its flags"


def _wrong_with_arm(plan: Plan, name: str, arm: Arm) -> Iterator[str]:
    if arm.cost_of is not None and (arm.cost_of not in plan.arms or plan.arms[arm.cost_of].cost_of is not None):
        yield f"arm {name} costs what {arm.cost_of!r} costs; expected an arm with steps of its own"
    if arm.against is not None and arm.against not in plan.arms:
        yield f"arm {name} is held against {arm.against!r}; expected one of the arms {', '.join(plan.arms)}"
    if arm.rates and not plan.tuning_seeds:
        yield f"arm {name} has rates to choose from; expected tuning_seeds to choose them by"
    if arm.rates and (arm.cost_of is not None or arm.rate_of is not None):
        yield f"arm {name} has rates beside cost_of or rate_of; expected rate_of alone to say its rate"
    if arm.rate_of is not None and not (arm.rate_of in plan.arms and plan.arms[arm.rate_of].rates):
        yield f"arm {name} has the rate of {arm.rate_of!r}; expected an arm with rates to choose from"
