"""Reports as numbers: what was seen, what could have been taken with what probability, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from esper.core.clock import nanoseconds
from esper.leyline import FieldReport, FieldReportOutcome, ObservedFeature
from esper.tamiyo.learned.linear import Floats, Layout, as_array
from esper.tamiyo.learned.observation import VERSION
from esper.tamiyo.learned.reward import Worth, worth_of
from esper.tamiyo.learned.weights import FEATURE_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One germination with its outcome: N candidates, F features of run and candidate together."""

    report_id: str
    run_id: str
    candidates: Floats
    """Features [N, F], NaN where absent."""
    layout: Layout
    """Where they stand."""
    chances: Floats
    """With which each was taken, given that something was grown [N]; they add up to 1."""
    chosen: int
    worth: Worth
    opened_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Decisions that can be learned from, and how many reports can't, by the reason."""

    decisions: tuple[Decision, ...]
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def runs(self) -> list[str]:
        return sorted({decision.run_id for decision in self.decisions})

    def halves(self) -> tuple[Dataset, Dataset]:
        """The runs that began first, and the others."""
        began: dict[str, int] = {}
        for decision in self.decisions:
            began[decision.run_id] = min(decision.opened_ns, began.get(decision.run_id, decision.opened_ns))
        ordered = sorted(began, key=lambda run: (began[run], run))
        return self.of(ordered[: len(ordered) // 2]), self.of(ordered[len(ordered) // 2 :])

    def of(self, runs: Iterable[str]) -> Dataset:
        """The decisions of some runs."""
        wanted = set(runs)
        return replace(self, decisions=tuple(d for d in self.decisions if d.run_id in wanted))

    def taken(self) -> Floats:
        """Features of what was taken [D, F]."""
        rows = [decision.candidates[decision.chosen] for decision in self.decisions]
        return np.asarray(rows).reshape(len(rows), len(FEATURE_NAMES))

    def rewards(self, price: float) -> Floats:
        return np.array([decision.worth.reward(price) for decision in self.decisions])

    def heads(self, price: float) -> Floats:
        """What the model's heads are fitted to [D, H]."""
        rows = [(d.worth.reward(price), d.worth.gain, float(d.worth.kept)) for d in self.decisions]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), 3)


def dataset_of(reports: Iterable[FieldReport]) -> Dataset:
    """What the reports teach; reports of other features are left out, never read by place."""
    decisions, left_out = [], Counter[str]()
    for report in reports:
        why = _useless(report)
        worth = None if why else worth_of(report)
        if worth is None:
            left_out[why or "not judged, or without its cost"] += 1
        else:
            decisions.append(_decision(report, worth))
    return Dataset(decisions=tuple(decisions), left_out=left_out)


def shuffled(data: Dataset, seed: int) -> Dataset:
    """The control: every outcome stands beside another decision's observation."""
    order = np.random.default_rng(seed).permutation(len(data))
    moved = (data.decisions[place].worth for place in order)
    return replace(data, decisions=tuple(replace(d, worth=w) for d, w in zip(data.decisions, moved, strict=True)))


def _useless(report: FieldReport) -> str | None:
    if not report.HasField("observation"):
        return "not a germination"
    if report.observation.version != VERSION:
        return f"features {report.observation.version}, {VERSION} is read"
    if report.outcome == FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED:
        return "aborted"
    return None


def _decision(report: FieldReport, worth: Worth) -> Decision:
    seen = report.observation
    run = _values(seen.features)
    rows = [[*run, *_values(candidate.features)] for candidate in seen.candidates]
    chances = np.array([candidate.probability for candidate in seen.candidates])
    return Decision(
        report_id=report.report_id,
        run_id=report.training_run_id,
        candidates=as_array(rows, len(FEATURE_NAMES)),
        layout=Layout(
            slots=[candidate.slot_id for candidate in seen.candidates],
            blueprints=[candidate.blueprint_id for candidate in seen.candidates],
        ),
        chances=chances / chances.sum(),
        chosen=seen.chosen,
        worth=worth,
        opened_ns=nanoseconds(report.opened_at),
    )


def _values(features: Sequence[ObservedFeature]) -> list[float | None]:
    return [each.value if each.HasField("value") else None for each in features]
