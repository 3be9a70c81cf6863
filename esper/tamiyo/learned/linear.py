"""The bandit's arithmetic: a Bayesian linear model of what a candidate is worth, with its uncertainty.

Features are brought to mean 0 and deviation 1, what is absent counts as the mean, and nothing counts for more than
LIMIT deviations, so that a host unlike all that were seen moves a prediction no further than the seen ones do. Terms
are a constant, each feature, and products of chosen pairs. Heads share the terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from esper.tamiyo.learned.arrays import NDArray, np

HEADS = ("reward", "gain", "keep")
"""What a head predicts: the reward, the gain as a share of the twin's score, and whether the judge keeps."""
LIMIT = 3.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Of each candidate, mean and standard error of the mean of each head [candidates]."""

    means: Mapping[str, Floats]
    errors: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where N candidates stand: names of their slots and blueprints. What follows from one is kept by its identity."""

    slots: Sequence[str]
    blueprints: Sequence[str]


class Model(Protocol):
    """What predicts the candidates of one packet."""

    def predict(self, features: Floats, layout: Layout) -> Prediction:
        """Of features [N, F] with NaN for what is absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearModel:
    """Weights of the bandit: F features, P pairs, T = 1 + F + P terms, H heads."""

    center: Floats
    """Means of the features [F]."""
    scale: Floats
    """Their deviations [F], above 0."""
    pairs: NDArray[np.int64]
    """Features that are multiplied with each other [P, 2]."""
    coefficients: Floats
    """Of each head's terms [H, T]."""
    covariance: Floats
    """Of the terms' coefficients for noise of variance 1 [T, T]."""
    noise: Floats
    """Standard deviation of what each head leaves unexplained [H]."""

    def terms(self, features: Floats) -> Floats:
        """Terms [N, T] of features [N, F]; NaN is absent."""
        z = standard(features, self.center, self.scale)
        products = z.take(self.pairs[:, 0], axis=1) * z.take(self.pairs[:, 1], axis=1)
        return np.concatenate([np.ones((len(z), 1)), z, products], axis=1)

    def predict(self, features: Floats, layout: Layout | None = None) -> Prediction:
        """What each of N candidates [N, F] is worth, wherever it stands."""
        terms = self.terms(features)
        means = terms @ self.coefficients.T
        spread = np.sqrt(np.maximum(0.0, ((terms @ self.covariance) * terms).sum(axis=1)))
        return Prediction(
            means={name: means[:, head] for head, name in enumerate(HEADS)},
            errors={name: spread * self.noise[head] for head, name in enumerate(HEADS)},
        )


def standard(features: Floats, center: Floats, scale: Floats) -> Floats:
    """Features [N, F] in deviations from their means, within LIMIT; what is absent is 0."""
    z: Floats = np.minimum(np.maximum((features - center) / scale, -LIMIT), LIMIT)
    z[np.isnan(z)] = 0.0
    return z


def as_array(rows: Sequence[Sequence[float | None]], width: int) -> Floats:
    """Features [N, width] with NaN for what is absent."""
    numbers = [[np.nan if value is None else value for value in row] for row in rows]
    return np.asarray(numbers, dtype=np.float64).reshape(len(rows), width)
