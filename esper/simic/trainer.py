"""Fits the bandit: ridge regression, which is a Bayesian linear model, its strength chosen by runs left out.

Inverse-propensity weights, clipped, turn what was taken into what could have been. Fits are closed-form, so the same
reports give the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from esper.simic.dataset import Dataset
from esper.tamiyo.learned.linear import HEADS, Floats, LinearModel
from esper.tamiyo.learned.weights import FEATURE_NAMES

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 5
MAX_WEIGHT = 10.0
"""Importance weights are clipped here, as shares of their mean: a rare draw must not be the whole fit."""
CROSSED = ("widening", "added", "width", "bottleneck", "position", "kept", "error", "loss_share", "fall", "progress")
"""Features whose squares and products are terms, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a fit may choose: terms and strength."""

    is_crossed: bool
    strength: float

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        places = [FEATURE_NAMES.index(name) for name in CROSSED]
        return list(combinations_with_replacement(places, 2)) if self.is_crossed else []


FORMS = tuple(Form(is_crossed=crossed, strength=strength) for crossed in (False, True) for strength in STRENGTHS)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken in D decisions, as a fit needs it."""

    features: Floats
    """[D, F]"""
    targets: Floats
    """[D, H]"""
    raw: Floats
    """Inverse propensities, as shares of a draw that prefers nothing [D]."""

    @classmethod
    def of(cls, data: Dataset, price: float) -> Taken:
        raw = np.array([1.0 / (d.chances[d.chosen] * len(d.chances)) for d in data.decisions])
        return cls(data.taken(), data.heads(price), raw)

    def some(self, places: NDArray[np.bool_]) -> Taken:
        return Taken(self.features[places], self.targets[places], self.raw[places])


def fit(data: Dataset, form: Form, price: float) -> LinearModel:
    """The model of this form. `data` must hold at least two decisions."""
    return _fit(Taken.of(data, price), form)


def _fit(taken: Taken, form: Form) -> LinearModel:
    center, scale = scaling(taken.features)
    pairs = np.array(form.pairs, dtype=np.int64).reshape(-1, 2)
    bare = LinearModel(
        center=center,
        scale=scale,
        pairs=pairs,
        coefficients=np.zeros((len(HEADS), 0)),
        covariance=np.zeros((0, 0)),
        noise=np.zeros(len(HEADS)),
    )
    terms, weights = bare.terms(taken.features), clipped(taken.raw)
    penalty = form.strength * np.eye(terms.shape[1])
    penalty[0, 0] = 1e-6
    weighted = terms * weights[:, None]
    covariance = np.linalg.inv(terms.T @ weighted + penalty)
    coefficients = (covariance @ (weighted.T @ taken.targets)).T
    left = taken.targets - terms @ coefficients.T
    noise = np.sqrt((weights[:, None] * left**2).sum(axis=0) / weights.sum())
    return LinearModel(
        center=center,
        scale=scale,
        pairs=pairs,
        coefficients=coefficients,
        covariance=(covariance + covariance.T) / 2,
        noise=noise,
    )


def scaling(features: Floats) -> tuple[Floats, Floats]:
    """Means and deviations [F] of what is there of features [D, F]; 1 where a feature never changes."""
    known = np.isfinite(features)
    counts = np.maximum(1, known.sum(axis=0))
    center = np.where(known, features, 0.0).sum(axis=0) / counts
    deviation = np.sqrt((np.where(known, features - center, 0.0) ** 2).sum(axis=0) / counts)
    return center, np.where(deviation > 1e-9, deviation, 1.0)


def clipped(raw: Floats) -> Floats:
    """Weights [D] of mean 1 that undo the logging policy's preferences among candidates; rare draws count for less."""
    return np.asarray(np.minimum(raw / raw.mean(), MAX_WEIGHT), dtype=np.float64)


def folds(data: Dataset, count: int = FOLDS) -> Iterator[tuple[list[str], list[str]]]:
    """Runs to fit and runs to ask about, each run asked about once."""
    runs = data.runs
    for fold in range(min(count, len(runs))):
        asked = runs[fold::count]
        yield [run for run in runs if run not in asked], asked


def chosen_form(data: Dataset, price: float) -> tuple[Form, float]:
    """The form whose rewards of unseen runs are predicted best, and the share of their variance that it explains."""
    taken, runs = Taken.of(data, price), np.array([d.run_id for d in data.decisions])
    unseen = [np.isin(runs, asked) for _, asked in folds(data)]
    scores = {form: _unseen_error(taken, unseen, form) for form in FORMS}
    best = min(scores, key=lambda form: scores[form])
    rewards = taken.targets[:, HEADS.index("reward")]
    spread = float(rewards.var())
    return best, 1.0 - scores[best] / spread if spread else 0.0


def _unseen_error(taken: Taken, unseen: Sequence[NDArray[np.bool_]], form: Form) -> float:
    """Mean squared error of predicted rewards of runs that weren't fitted to."""
    total = 0.0
    for places in unseen:
        there = taken.some(places)
        found = _fit(taken.some(~places), form).predict(there.features).means["reward"]
        total += float(np.square(found - there.targets[:, HEADS.index("reward")]).sum())
    return total / len(taken.features)


def crossed_models(data: Dataset, form: Form, price: float) -> dict[str, LinearModel]:
    """By run, a model that was fitted without it."""
    found = {}
    for fitted, asked in folds(data):
        model = fit(data.of(fitted), form, price)
        found.update(dict.fromkeys(asked, model))
    return found
