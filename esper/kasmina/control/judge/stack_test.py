"""The judge of stacks on language models: did the deeper network pull ahead of its never-grown twin, and for good?

A stack jumps and recovers, so its gain is the mean over evaluations fixed at the graft (stack_plan.py). Two errors that
don't see each other add: that of the judging set, clustered by document, which all evaluations share, and the wander of
the gain from one evaluation to the next, which is several times larger. A handful of evaluations can't measure the
wander alone; what recorded runs showed (a fixed share of the deviation between sequences, at three sizes of network)
counts beside it, as in Smyth's moderated t (2004). Correlated evaluations are worth fewer (AR(1) in steps).
What an executor delivers for each evaluation is an `Evaluation`; nothing else is needed to decide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist, fmean, median

from esper.kasmina.control.judge.stack_plan import PlannedLook, StackSettings
from esper.kasmina.control.judge.student import student_quantile

# Nats and their squares: beyond these a figure is no loss, and no difference between two of them.
BEYOND_ANY_LOSS = 1e6
NO_VARIANCE = 1e-30


class Verdict(Enum):
    """What a look ends in."""

    KEEP = "keep"
    CONTINUE = "continue"
    CULL = "cull"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Both arms on the judging set at one step. Scores are nats per token, each token's loss clipped at 2 ln V."""

    step: int
    gain: float
    """Mean over samples of the twin's score minus the grown network's; positive favours growth."""
    variance: float
    """Variance of that difference between samples, ddof 1."""
    samples: int
    """Sequences, or whatever is scored."""
    clipped_share: float
    """Share of tokens at the clip, of the arm that has more of them, 0 to 1."""
    twin_score: float
    """Mean score of the twin."""
    error: float | None = None
    """Standard error of the gain by documents, the independent units; None where samples are independent themselves."""
    part: int | None = None
    """Part of the judging set that was scored, without a document in common with the others; None: all of it."""

    @property
    def squared_error(self) -> float:
        """Of the gain's standard error."""
        if self.error is not None:
            return self.error**2
        return self.variance / self.samples if self.samples else math.nan

    @property
    def grown_score(self) -> float:
        return self.twin_score - self.gain


@dataclass(frozen=True, kw_only=True, slots=True)
class StackLook:
    """One look's result, with what it was decided by. Numbers are NaN where the evidence has none."""

    verdict: Verdict
    reason: str
    gain: float
    document_error: float
    wander_error: float
    standard_error: float
    """Both errors together, the wander's enlarged to what Student's t asks for: z is read as a normal deviate."""
    z: float
    z_threshold: float
    clipped_share: float


def take_stack_look(look: PlannedLook, evaluations: Sequence[Evaluation], settings: StackSettings) -> StackLook:
    """Judge one planned look by the evaluations it planned; others are ignored.

    Keeps if the gain exceeds the margin by z_threshold standard errors. Evidence that can't be right (missing steps,
    not finite, no variance, too few samples) culls at once; too many clipped tokens can't keep. Otherwise the next look
    decides, and where none is left the stack is culled.
    """
    planned = set(look.evaluations)
    scored = [evaluation for evaluation in evaluations if evaluation.step in planned]
    threshold = NormalDist().inv_cdf(1.0 - look.error)
    obstacle = _obstacle(look, scored, settings)
    if obstacle is not None:
        unknown = dict.fromkeys(("gain", "document_error", "wander_error", "standard_error", "z"), math.nan)
        return StackLook(
            verdict=Verdict.CULL, reason=obstacle, z_threshold=threshold, clipped_share=math.nan, **unknown
        )
    gain = fmean(evaluation.gain for evaluation in scored)
    documents = document_error(scored)
    wander, freedom = wander_error(scored, settings)
    error = math.hypot(documents, wander * student_quantile(look.error, freedom) / threshold)
    z = (gain - settings.margin) / error
    clipped = max(evaluation.clipped_share for evaluation in scored)
    verdict, reason = _decide(look, z, threshold, clipped, settings)
    return StackLook(
        verdict=verdict,
        reason=f"{reason}: gain {gain:.4f} ± {error:.4f} against {settings.margin:g}, z = {z:.2f} of {threshold:.2f}",
        gain=gain,
        document_error=documents,
        wander_error=wander,
        standard_error=error,
        z=z,
        z_threshold=threshold,
        clipped_share=clipped,
    )


def _decide(
    look: PlannedLook, z: float, threshold: float, clipped: float, settings: StackSettings
) -> tuple[Verdict, str]:
    otherwise = Verdict.CULL if look.may_refuse else Verdict.CONTINUE
    if clipped > settings.max_clipped_share:
        return otherwise, f"{clipped:.1%} of the tokens are clipped, {settings.max_clipped_share:.1%} may be"
    if z >= threshold:
        return Verdict.KEEP, "better than the twin"
    found = "short of the margin" if z <= -threshold else "undecided"
    return otherwise, f"{found}, and no further look is left" if look.may_refuse else found


def _obstacle(look: PlannedLook, scored: Sequence[Evaluation], settings: StackSettings) -> str | None:
    """Why the evidence can't be right, or None."""
    steps = tuple(evaluation.step for evaluation in scored)
    figures = [(e.gain, e.variance, e.squared_error, e.clipped_share, e.twin_score) for e in scored]
    fewest = sum(min(each.samples for each in scored if each.part == part) for part in {each.part for each in scored})
    if steps != look.evaluations:
        return f"evaluated at steps {list(steps)}, planned were {list(look.evaluations)}"
    if not all(abs(figure) < BEYOND_ANY_LOSS for row in figures for figure in row):
        return "the scores are not finite, or no losses"
    if min(evaluation.variance for evaluation in scored) < NO_VARIANCE:
        return "the paired differences have no variance"
    if len({evaluation.gain for evaluation in scored}) == 1:
        return "the gain is the same at every evaluation: nothing was trained between them"
    if len(scored) < settings.min_evaluations:
        return f"{len(scored)} evaluations, at least {settings.min_evaluations} are needed"
    if fewest < settings.min_samples:
        return f"{fewest} samples, at least {settings.min_samples} are needed"
    return None


def document_error(scored: Sequence[Evaluation]) -> float:
    """Standard error that the judging set gives to the mean gain.

    Evaluations of one part share its error, so that none averages it out; those of several have errors of their own.
    """
    shares = Counter(evaluation.part for evaluation in scored)
    return math.sqrt(sum((shares[part] / len(scored)) ** 2 * square for part, square in _by_part(scored).items()))


def _shared(scored: Sequence[Evaluation], weights: Sequence[float]) -> float:
    """Variance that the judging set gives to a weighted sum of gains, in which those of one part err alike."""
    return sum(
        squared_error * sum(w for w, each in zip(weights, scored, strict=True) if each.part == part) ** 2
        for part, squared_error in _by_part(scored).items()
    )


def _by_part(scored: Sequence[Evaluation]) -> dict[int | None, float]:
    """Squared error of each part's gain."""
    parts = dict.fromkeys(evaluation.part for evaluation in scored)
    return {part: fmean(each.squared_error for each in scored if each.part == part) for part in parts}


def wander_error(scored: Sequence[Evaluation], settings: StackSettings) -> tuple[float, int]:
    """Standard error that the gain's wander between evaluations gives to its mean, and its degrees of freedom.

    A rising gain is a graft still recovering, and its slope is no scatter; a falling gain's slope is. Squares are
    divided by what they are expected to be under the assumed correlation, which makes them small. The median variance
    stands for the sequences, because one of them can blow up at one evaluation. By how much gains of several parts are
    expected to differ for being of other documents is taken off: that stands in the judging set's error.
    """
    gains, steps = [evaluation.gain for evaluation in scored], [evaluation.step for evaluation in scored]
    count, mean, middle = len(gains), fmean(gains), fmean(steps)
    offsets = [step - middle for step in steps]
    spread = sum(offset * offset for offset in offsets)
    slope = sum(offset * gain for offset, gain in zip(offsets, gains, strict=True)) / spread
    inflation = _quadratic([1.0] * count, steps, settings) / count
    squares, expected, freedom = sum((gain - mean) ** 2 for gain in gains), count - inflation, count - 1
    if slope > 0.0:
        squares -= slope * slope * spread
        expected -= _quadratic(offsets, steps, settings) / spread
        freedom -= 1
    squares -= _squares_of_parts(scored, offsets if slope > 0.0 else None)
    known = settings.wander_share**2 * median(evaluation.variance for evaluation in scored)
    weight = settings.wander_weight
    variance = (weight * known + freedom * max(0.0, squares) / expected) / (weight + freedom)
    return math.sqrt(variance * inflation / count), weight + freedom


def _squares_of_parts(scored: Sequence[Evaluation], offsets: Sequence[float] | None) -> float:
    """Squares about the mean, or about the line over `offsets`, that the parts' own errors are expected to make."""
    by_part, count = _by_part(scored), len(scored)
    if len(by_part) == 1:
        return 0.0
    about_mean = sum(by_part[each.part] for each in scored) - _shared(scored, [1.0] * count) / count
    if offsets is None:
        return about_mean
    return about_mean - _shared(scored, offsets) / sum(offset * offset for offset in offsets)


def _quadratic(weights: Sequence[float], steps: Sequence[int], settings: StackSettings) -> float:
    """Variance of a weighted sum of evaluations of unit variance."""
    return sum(
        left * right * _correlation(abs(first - second), settings)
        for left, first in zip(weights, steps, strict=True)
        for right, second in zip(weights, steps, strict=True)
    )


def _correlation(distance: int, settings: StackSettings) -> float:
    if distance == 0:
        return 1.0
    return math.exp(-distance / settings.memory_steps) if settings.memory_steps > 0.0 else 0.0
