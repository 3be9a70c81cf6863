"""An executor without a network: carries directives out at their steps and reports, with the evidence it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from esper.leyline import AdvanceRequest, DirectiveReport, SeedDirective, SeedObservation
from tests.unit.kasmina.control.making import K, evaluation, judgement, observation, probe, report, request, score

TIMED = (K.DIRECTIVE_KIND_FADE, K.DIRECTIVE_KIND_INCUBATE)


@dataclass
class FakeExecutor:
    """`gain` is what every judgement finds, `faults` are facts of reports by directive kind."""

    gain: float = 0.05
    warmup_steps: int = 50
    faults: dict[int, dict[str, Any]] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    queue: list[tuple[int, SeedDirective]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    reports: list[DirectiveReport] = field(default_factory=list)
    living: dict[str, int] = field(default_factory=dict)
    stacks: set[str] = field(default_factory=set)
    clipped_share: float = 0.001
    documents: dict[str, Any] = field(default_factory=dict)
    judging: dict[str, Any] = field(default_factory=dict)
    probing: dict[str, Any] = field(default_factory=dict)
    fresh: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, directives: Iterable[SeedDirective], step: int) -> None:
        """Directives as they arrive; each id counts once."""
        for directive in directives:
            if directive.directive_id not in self.done:
                self.done.append(directive.directive_id)
                due = directive.at_step if directive.HasField("at_step") else step
                delay = directive.duration_steps if directive.kind in TIMED else 0
                self.queue.append((due + delay, directive))

    def evidence_at(self, step: int, generation: int = 0) -> AdvanceRequest:
        """What the boundary at this step brings."""
        due = [entry for entry in self.queue if entry[0] <= step]
        self.queue = [entry for entry in self.queue if entry[0] > step]
        for _, directive in due:
            self._do(directive, step)
        observations = [self._observe(seed_id, since, step) for seed_id, since in self.living.items()]
        made = request(step, generation, reports=self.reports, observations=observations)
        self.reports, self.fresh = [], {}
        return made

    def _do(self, directive: SeedDirective, step: int) -> None:
        made = report(directive, step, **self.faults.get(directive.kind, {}))
        self.reports.append(made)
        seed_id = directive.seed_id
        if not made.succeeded:
            return
        if directive.kind in (K.DIRECTIVE_KIND_BUILD, K.DIRECTIVE_KIND_ATTACH):
            self.living[seed_id] = step
        if directive.kind == K.DIRECTIVE_KIND_BUILD and directive.blueprint_id.startswith("stack."):
            self.stacks.add(seed_id)
        if directive.kind == K.DIRECTIVE_KIND_DROP_TWIN and seed_id in self.stacks:
            self._forget(seed_id)
        if directive.kind in (
            K.DIRECTIVE_KIND_INSTALL_TWIN,
            K.DIRECTIVE_KIND_FADE,
            K.DIRECTIVE_KIND_REMOVE,
            K.DIRECTIVE_KIND_FOLD,
        ):
            self._forget(seed_id)
        if directive.kind == K.DIRECTIVE_KIND_PROBE:
            self.fresh.setdefault(seed_id, {})["probe"] = probe(**self.probing)
        if directive.kind == K.DIRECTIVE_KIND_JUDGE:
            self._judge(directive)
        if directive.kind == K.DIRECTIVE_KIND_INCUBATE:
            self.fresh.setdefault(seed_id, {})["incubation_score"] = score(0.01)

    def _judge(self, directive: SeedDirective) -> None:
        fresh = self.fresh.setdefault(directive.seed_id, {})
        if directive.seed_id in self.stacks:
            part = {"part": directive.part} if directive.HasField("part") else {}
            told = {"clipped_share": self.clipped_share, "documents": self.documents, **part}
            made = evaluation(directive.at_step, self.gain, **told)
            fresh.setdefault("evaluations", []).append(made)
        else:
            fresh["judgement"] = judgement(self.gain, directive.look, **self.judging)

    def _forget(self, seed_id: str) -> None:
        """Gone with what waited to be judged."""
        self.living.pop(seed_id, None)
        gone = [
            entry for entry in self.queue if entry[1].seed_id == seed_id and entry[1].kind == K.DIRECTIVE_KIND_JUDGE
        ]
        self.queue = [entry for entry in self.queue if entry not in gone]

    def _observe(self, seed_id: str, since: int, step: int) -> SeedObservation:
        is_done = step - since >= self.warmup_steps
        found = {"is_schedule_done": is_done, **self.evidence, **self.fresh.get(seed_id, {})}
        return observation(step, seed_id, **found)
