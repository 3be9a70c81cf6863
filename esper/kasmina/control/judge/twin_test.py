"""The sequential twin test: is the grown network better than its never-grafted twin by more than growth costs?

One look compares paired, bounded scores on judging data. The threshold rises with every look since the last kept
seed, so that trying often doesn't let a useless seed through: the looks' error rates sum to at most 0.02.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from esper.leyline import JudgeResult, LifeSettings, PairedScore, TwinTest

LOOK_THRESHOLDS = (2.33, 2.71, 2.94, 3.09, 3.21, 3.30)
ERROR_RATE = 0.02
CULL_Z = 1.64
MUTED_Z = 2.0
DEFAULT_TAU_SHARE = 0.02


def look_threshold(look: int) -> float:
    """q_j for look j from 1: the table, and beyond it the quantile that the table rounds."""
    if look <= len(LOOK_THRESHOLDS):
        return LOOK_THRESHOLDS[look - 1]
    return NormalDist().inv_cdf(1.0 - ERROR_RATE / (look * (look + 1)))


def z_score(score: PairedScore, tau: float = 0.0) -> float:
    """Mean over its standard error; NaN unless both are finite and there is something to divide by."""
    error = standard_error(score, tau)
    if error == 0.0 and score.mean == 0.0:
        return 0.0
    return score.mean / error if error > 0.0 and math.isfinite(score.mean) else math.nan


def standard_error(score: PairedScore, tau: float = 0.0) -> float:
    """Standard error of the mean, with run-to-run deviation `tau`; NaN if it can't be computed.

    By documents where samples are of some, else by samples.
    """
    variance = variance_of(score)
    if score.samples == 0 or not math.isfinite(variance) or variance < 0.0:
        return math.nan
    return math.sqrt(variance / score.samples + tau * tau)


def variance_of(score: PairedScore) -> float:
    """Variance of a sample, as large as the mean's error says if samples were independent; NaN if it isn't known."""
    return score.samples * score.standard_error**2 if score.HasField("documents") else score.variance


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One look's result. `invalid` says why the evidence can't be used; then nothing else counts."""

    test: TwinTest
    standard_error: float
    invalid: str | None = None

    @property
    def is_better(self) -> bool:
        """z reaches the look's threshold: keep."""
        return self.invalid is None and self.test.z >= self.test.z_threshold

    @property
    def is_hopeless(self) -> bool:
        """Even an optimistic reading of the gain stays below the margin: cull now."""
        return self.invalid is not None or self.test.gain + CULL_Z * self.standard_error < self.test.margin


def take_look(judgement: JudgeResult, life: LifeSettings, look: int) -> Look:
    """Apply the test to one judgement."""
    score, mean_twin = judgement.twin, judgement.mean_twin_score
    tau = life.tau if life.HasField("tau") else DEFAULT_TAU_SHARE * mean_twin
    margin = max(life.margin_absolute, life.margin_relative * mean_twin)
    error = standard_error(score, tau)
    z = (score.mean - margin) / error if error > 0.0 else math.nan
    test = TwinTest(
        look=look,
        mean_twin_score=mean_twin,
        gain=score.mean,
        variance=variance_of(score),
        samples=score.samples,
        tau=tau,
        margin=margin,
        z=z,
        z_threshold=look_threshold(look),
    )
    return Look(test=test, standard_error=error, invalid=_obstacle(judgement, life, look))


def _obstacle(judgement: JudgeResult, life: LifeSettings, look: int) -> str | None:
    """Why the evidence can't be used, or None."""
    score = judgement.twin
    if judgement.look != look:
        return f"judged look {judgement.look}, look {look} was asked for"
    if not judgement.HasField("twin") or not judgement.HasField("mean_twin_score"):
        return "the judgement has no twin scores"
    if not all(map(math.isfinite, (score.mean, variance_of(score), judgement.mean_twin_score))):
        return "the scores are not finite"
    if variance_of(score) <= 0.0:
        return "the paired differences have no variance"
    if score.samples < life.min_samples:
        return f"{score.samples} samples, at least {life.min_samples} are needed"
    return None
