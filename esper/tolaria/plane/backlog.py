"""Evidence on its way to Kasmina: what a failed call did not deliver goes with the next one."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper.kasmina.executor import Collected
from esper.leyline import DirectiveReport, SeedObservation, SlotSignal


@dataclass(slots=True)
class Backlog:
    """Evidence that Kasmina has not acknowledged yet; nothing is lost when a call fails."""

    observations: dict[str, SeedObservation] = field(default_factory=dict)
    reports: list[DirectiveReport] = field(default_factory=list)
    slots: tuple[SlotSignal, ...] = ()

    def add(self, collected: Collected) -> None:
        for observation in collected.observations:
            self.observations[observation.seed_id] = _joined(self.observations.get(observation.seed_id), observation)
        self.reports.extend(collected.reports)
        self.slots = tuple(collected.slots) or self.slots

    @property
    def has_evidence(self) -> bool:
        """Whether Kasmina should hear of it now."""
        return bool(self.reports) or any(
            observation.HasField("probe") or observation.HasField("judgement") or observation.is_schedule_done
            for observation in self.observations.values()
        )

    def clear(self) -> None:
        self.observations.clear()
        self.reports.clear()
        self.slots = ()


def _joined(old: SeedObservation | None, new: SeedObservation) -> SeedObservation:
    """The newer observation, with evidence that only the older one carries."""
    joined = SeedObservation()
    if old is not None:
        joined.CopyFrom(old)
    joined.MergeFrom(new)
    if old is not None:
        joined.isolation_violations = old.isolation_violations + new.isolation_violations
    return joined
