"""Whether a report can be believed: its probabilities, its numbers and its names must agree with each other.

A signature says who wrote a report, not that it makes sense; one poisoned report must not move a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from esper.leyline import FieldReport, FieldReportOutcome
from esper.tamiyo.learned.observation import CANDIDATE_FEATURES, RUN_FEATURES, VERSION

TOLERANCE = 1e-6
MAX_FEATURE = 1e6
MAX_GAIN_SHARE = 3.0
"""A gain can't be more than the twin's whole score but by noise."""
SUCCESS = FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS


def fault_of(report: FieldReport) -> str | None:
    """What is wrong with a valid report, in words with its numbers; None if nothing is."""
    if report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_UNSPECIFIED:
        return "it is still open: reports are published with their outcome"
    if not report.HasField("observation"):
        return None
    return next((words for look in _LOOKS if (words := look(report)) is not None), None)


def _probabilities(report: FieldReport) -> str | None:
    seen = report.observation
    total = math.fsum([seen.wait_probability, *(each.probability for each in seen.candidates)])
    if abs(total - 1.0) > TOLERANCE:
        return f"the probabilities of its {len(seen.candidates)} candidates and of waiting add up to {total:.6g}, not 1"
    if seen.chosen >= len(seen.candidates):
        return f"candidate {seen.chosen} of {len(seen.candidates)} was chosen"
    chosen = seen.candidates[seen.chosen]
    if chosen.probability <= 0:
        return "what was chosen had no chance to be"
    if abs(math.log(chosen.probability) - report.decision.policy.log_probability) > TOLERANCE:
        told = report.decision.policy.log_probability
        return f"the chosen candidate's probability is {chosen.probability:.6g}, its logarithm is told as {told:.6g}"
    if (chosen.slot_id, chosen.blueprint_id) != (report.slot_id, report.blueprint_id):
        return f"{chosen.blueprint_id} in {chosen.slot_id} was chosen, {report.blueprint_id} in {report.slot_id} grown"
    return None


def _features(report: FieldReport) -> str | None:
    seen = report.observation
    if seen.version != VERSION:
        return None
    found = {"the run's": [each.name for each in seen.features]}
    found |= {f"candidate {i}'s": [each.name for each in c.features] for i, c in enumerate(seen.candidates)}
    for whose, names in found.items():
        expected = list(RUN_FEATURES if whose == "the run's" else CANDIDATE_FEATURES)
        if names != expected:
            return f"{whose} features are {', '.join(names)}; {VERSION} has {', '.join(expected)}"
    features = [*seen.features, *(each for candidate in seen.candidates for each in candidate.features)]
    wild = next((each for each in features if each.HasField("value") and abs(each.value) > MAX_FEATURE), None)
    return None if wild is None else f"feature {wild.name} is {wild.value:g}, beyond {MAX_FEATURE:g}"


def _numbers(report: FieldReport) -> str | None:
    delta = report.delta
    if not delta.HasField("effect"):
        return None
    expected = delta.gain if report.outcome == SUCCESS else 0.0
    if abs(delta.effect - expected) > TOLERANCE:
        return f"its effect is {delta.effect:.6g}, its outcome leaves {expected:.6g}"
    if delta.HasField("twin_score") and abs(delta.gain) > MAX_GAIN_SHARE * abs(delta.twin_score):
        return f"a gain of {delta.gain:.4g} on a score of {delta.twin_score:.4g} is beyond belief"
    return None


_LOOKS: tuple[Callable[[FieldReport], str | None], ...] = (_probabilities, _features, _numbers)
