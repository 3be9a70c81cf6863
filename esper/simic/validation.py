"""The gate: weights leave only if runs that they weren't fitted to say that they decide better.

Each rule is one line of a table, with the number that it measured. An empty, a tiny or a shifted store fails, and so
does what was learned from shuffled rewards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from esper.simic.bounds import MIN_DECISIONS, MIN_RUNS
from esper.simic.crossing import crossed, values
from esper.simic.dataset import Dataset, shuffled
from esper.simic.trainer import Form, chosen_form, fit
from esper.simic.value import Estimate
from esper.tamiyo.learned.graph import GraphModel
from esper.tamiyo.learned.linear import LIMIT, LinearModel
from esper.tamiyo.learned.weights import BANDIT, GRAPH

MIN_EFFECTIVE = 10.0
MAX_SHIFT = 0.05
SHUFFLES = 19
"""More than all of them explain has a chance of 5 % where nothing can be learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One rule, what it measured, and whether it holds."""

    name: str
    measured: float
    needed: str
    holds: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What the gate found."""

    checks: tuple[Check, ...]
    values: dict[str, Estimate]
    explained: float
    form: str

    @property
    def passed(self) -> bool:
        return all(check.holds for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "explained": self.explained,
            "form": self.form,
            "checks": [asdict(check) for check in self.checks],
            "values": {name: {**asdict(found), "low": found.low} for name, found in self.values.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A fitted model with what the gate says of it; none where there was too little to fit."""

    model: LinearModel | GraphModel | None
    validation: Validation


def train(data: Dataset, *, price: float, caution: float, policy: str = BANDIT) -> Trained:
    """Fit to everything, and judge by runs left out: each run is decided on by a model that never saw it."""
    amount = tuple(_amount(data))
    if not all(check.holds for check in amount):
        return Trained(model=None, validation=Validation(checks=amount, values={}, explained=0.0, form="none"))
    found = crossed(data, price, policy)
    decided = values(data, found, price, caution)
    checks = (*amount, *_worth(decided, found.explained, _by_chance(data, price)), _shift(data))
    validation = Validation(checks=checks, values=decided, explained=found.explained, form=found.name)
    return Trained(model=_fitted(data, found.form, price, policy), validation=validation)


def _fitted(data: Dataset, form: Form, price: float, policy: str) -> LinearModel | GraphModel:
    if policy != GRAPH:
        return fit(data, form, price)
    from esper.simic.graph_trainer import fit_graph

    return fit_graph(data, price)


def _by_chance(data: Dataset, price: float) -> float:
    """The most of shuffled rewards' variance that a fit explains, its form chosen each time, as in earnest."""
    return max(chosen_form(shuffled(data, seed), price)[1] for seed in range(SHUFFLES))


def _amount(data: Dataset) -> Iterator[Check]:
    runs, decisions = len(data.runs), len(data)
    yield Check(name="runs", measured=runs, needed=f"at least {MIN_RUNS}", holds=runs >= MIN_RUNS)
    yield Check(
        name="decisions", measured=decisions, needed=f"at least {MIN_DECISIONS}", holds=decisions >= MIN_DECISIONS
    )
    explored = sum(float(d.chances[d.chosen]) < 1.0 for d in data.decisions)
    needed = f"at least {MIN_DECISIONS // 2} that were drawn"
    yield Check(name="explored", measured=explored, needed=needed, holds=explored >= MIN_DECISIONS // 2)


def _worth(values: dict[str, Estimate], explained: float, by_chance: float) -> Iterator[Check]:
    learned, more = values["learned"], values["learned - as logged"]
    yield Check(
        name="explained variance of unseen runs",
        measured=explained,
        needed=f"above {by_chance:.4g}, the most that {SHUFFLES} shuffles of the outcomes reach",
        holds=explained > max(0.0, by_chance),
    )
    yield Check(
        name="effective decisions",
        measured=learned.effective,
        needed=f"at least {MIN_EFFECTIVE:g}",
        holds=learned.effective >= MIN_EFFECTIVE,
    )
    yield Check(
        name="value above growing nothing, 95 % bound",
        measured=learned.low,
        needed="above 0",
        holds=learned.low > 0.0,
    )
    yield Check(
        name="value above what was done, 95 % bound",
        measured=more.low,
        needed="above 0",
        holds=more.low > 0.0,
    )


def _shift(data: Dataset) -> Check:
    """Later runs must look like earlier ones: what was learned from others doesn't hold for them."""
    known, later = (half.taken() for half in data.halves())
    center, scale = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    far = np.abs((later - center) / scale) > 2 * LIMIT
    share = float(np.mean(far.any(axis=1))) if len(later) else 1.0
    needed = f"at most {MAX_SHIFT:g} of the decisions"
    return Check(name="later runs far from earlier ones", measured=share, needed=needed, holds=share <= MAX_SHIFT)
