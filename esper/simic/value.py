"""What another policy would have been worth on logged decisions: doubly robust, with errors over runs.

A decision is an opportunity at which something was grown; a policy may take any of its candidates, or decline, which
is worth 0 for certain. The estimate of one opportunity is

    sum_a pi(a) q(a)  +  pi(a_logged) / mu(a_logged) * (r - q(a_logged))

(Dudik, Langford, Li: Doubly Robust Policy Evaluation and Learning, ICML 2011, arXiv:1103.4601). mu are the logged
probabilities, q a model that was not fitted to the run that it is asked about. Decisions of one run share much, so the
standard error is that of the runs' means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esper.simic.dataset import Dataset, Decision
from esper.tamiyo.learned.linear import Floats, Model

Choose = Callable[[Decision], Floats]
"""A policy's probabilities of the candidates [N]; what is missing to 1 declines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value for each opportunity."""

    value: float
    error: float
    """Standard error over runs."""
    runs: int
    decisions: int
    effective: float
    """Decisions that the importance ratios leave: (sum w)^2 / sum w^2."""

    @property
    def low(self) -> float:
        """One-sided 95 % bound."""
        return self.value - 1.645 * self.error


def greedy(model: Model, caution: float) -> Choose:
    """The policy that Tamiyo makes of a model."""

    def choose(decision: Decision) -> Floats:
        found = model.predict(decision.candidates, decision.layout)
        cautious = found.means["reward"] - caution * found.errors["reward"]
        best = int(cautious.argmax())
        wanted = np.zeros(len(cautious))
        wanted[best] = float(cautious[best] > 0)
        return wanted

    return choose


def as_logged(decision: Decision) -> Floats:
    """Whatever was done."""
    return decision.chances


def at_random(decision: Decision) -> Floats:
    """Any candidate, as likely as each other."""
    count = len(decision.candidates)
    return np.full(count, 1.0 / count)


def never(decision: Decision) -> Floats:
    return np.zeros(len(decision.candidates))


def doubly_robust(
    data: Dataset, choose: Choose, models: Mapping[str, Model], price: float, *, beside: Choose = never
) -> Estimate:
    """How much more a policy is worth than `beside`, by default than growing nothing.

    `models` are by run, each fitted without it. Both policies are asked about the same decisions, so that what is
    common to them makes no error.
    """
    values, ratios = [], []
    for decision in data.decisions:
        wanted = choose(decision) - beside(decision)
        expected = models[decision.run_id].predict(decision.candidates, decision.layout).means["reward"]
        ratio = float(wanted[decision.chosen] / decision.chances[decision.chosen])
        surprise = decision.worth.reward(price) - float(expected[decision.chosen])
        values.append(float(wanted @ expected) + ratio * surprise)
        ratios.append(ratio)
    return _summed(data, values, ratios)


def importance_weighted(data: Dataset, choose: Choose, price: float) -> Estimate:
    """The same without a model: unbiased, and noisier."""
    ratios = [float(choose(d)[d.chosen] / d.chances[d.chosen]) for d in data.decisions]
    values = [ratio * d.worth.reward(price) for ratio, d in zip(ratios, data.decisions, strict=True)]
    return _summed(data, values, ratios)


def _summed(data: Dataset, values: Sequence[float], ratios: Sequence[float]) -> Estimate:
    by_run: dict[str, list[float]] = {}
    for decision, value in zip(data.decisions, values, strict=True):
        by_run.setdefault(decision.run_id, []).append(value)
    count, runs = len(values), len(by_run)
    mean = float(np.mean(values)) if count else 0.0
    # The error of a mean whose parts come in clusters (runs): from the clusters' summed deviations.
    sums = np.array([sum(v - mean for v in found) for found in by_run.values()])
    error = float(np.sqrt((sums**2).sum() * runs / max(1, runs - 1)) / max(1, count)) if runs > 1 else float("inf")
    squares = float(np.square(ratios).sum())
    effective = float(np.sum(ratios)) ** 2 / squares if squares else 0.0
    return Estimate(value=mean, error=error, runs=runs, decisions=count, effective=effective)
