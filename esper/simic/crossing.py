"""Policies asked only about runs that they weren't fitted to: runs are dealt into folds, each fold has its own model.

What weights say of the reports that they were fitted to is flattery; this is what is told instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esper.simic.dataset import Dataset, Decision, shuffled
from esper.simic.trainer import Form, chosen_form, crossed_models
from esper.simic.value import Choose, Estimate, as_logged, at_random, doubly_robust, greedy, importance_weighted
from esper.tamiyo.learned.linear import Floats, LinearModel, Model
from esper.tamiyo.learned.weights import BANDIT, GRAPH

CONTROLS = 10
"""Policies of shuffled outcomes that a learned one is held against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossed:
    """Models by the run that they were fitted without."""

    deciding: Mapping[str, Model]
    models: Mapping[str, LinearModel]
    """Linear ones, by which values are estimated whatever decides; they ask for no torch, as the bandit does."""
    form: Form
    explained: float
    """Share of the rewards' variance that the deciding ones explain."""

    @property
    def name(self) -> str:
        if self.deciding is not self.models:
            return "graph"
        return f"{'crossed' if self.form.is_crossed else 'linear'}, strength {self.form.strength:g}"


def crossed(data: Dataset, price: float, policy: str = BANDIT) -> Crossed:
    """Of at least two runs."""
    form, explained = chosen_form(data, price)
    models = crossed_models(data, form, price)
    if policy != GRAPH:
        return Crossed(deciding=models, models=models, form=form, explained=explained)
    from esper.simic.graph_trainer import crossed_graphs, explained_by  # torch, which the bandit does without

    graphs = crossed_graphs(data, price)
    return Crossed(deciding=graphs, models=models, form=form, explained=explained_by(graphs, data, price))


def values(data: Dataset, found: Crossed, price: float, caution: float) -> dict[str, Estimate]:
    """What policies are worth for each opportunity."""
    learned = _choosing(found.deciding, caution)
    return {
        "learned": doubly_robust(data, learned, found.models, price),
        "learned - as logged": doubly_robust(data, learned, found.models, price, beside=as_logged),
        "learned, importance weighted": importance_weighted(data, learned, price),
        "as logged": doubly_robust(data, as_logged, found.models, price),
        "at random": doubly_robust(data, at_random, found.models, price),
    }


def beside_shuffled(data: Dataset, found: Crossed, price: float, caution: float) -> dict[str, Estimate]:
    """The control: policies of shuffled outcomes, one of them drawn for each run, and the learned one beside them."""
    learned, control = _choosing(found.deciding, caution), _mixed(_controls(data, price, caution))
    return {
        "shuffled": doubly_robust(data, control, found.models, price),
        "learned - shuffled": doubly_robust(data, learned, found.models, price, beside=control),
    }


def _controls(data: Dataset, price: float, caution: float) -> Sequence[Choose]:
    """Each fitted as in earnest, its form chosen anew, without the run that it is asked about."""
    mixed = (shuffled(data, seed) for seed in range(CONTROLS))
    return [_choosing(crossed_models(each, chosen_form(each, price)[0], price), caution) for each in mixed]


def _choosing(models: Mapping[str, Model], caution: float) -> Choose:
    by_run = {run: greedy(model, caution) for run, model in models.items()}
    return lambda decision: by_run[decision.run_id](decision)


def _mixed(policies: Sequence[Choose]) -> Choose:
    def choose(decision: Decision) -> Floats:
        return np.asarray(np.mean([policy(decision) for policy in policies], axis=0))

    return choose
