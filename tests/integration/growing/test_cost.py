"""The cost model against seeds that the executor really builds and attaches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.passes.batches import called
from esper.leyline import DirectiveKind, DirectiveReport, ParameterValue, SeedDirective, TaskType
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog, completed, misfit
from esper.urza.cost import Cost, cost
from tests.unit.kasmina.control.making import rising_blend

K = DirectiveKind


class Probe:
    """As much of a task as building and attaching needs."""

    type = TaskType.TASK_TYPE_CLASSIFICATION
    judge_documents = None
    forward = staticmethod(called)

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().mean()

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.square().flatten(1).mean(1)

    def judge_batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        return [(self.inputs, torch.zeros(len(self.inputs)))]

    def over_judging(self, measure: Callable[[Any], Tensor]) -> list[Tensor]:
        return [measure(batch) for batch in self.judge_batches()]

    def probe_inputs(self) -> Tensor:
        return self.inputs


def mlp() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)]
    return nn.Sequential(*layers), torch.randn(4, 16)


def cnn() -> tuple[nn.Module, Tensor]:
    convolutions = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(5 * 4 * 4, 3)), torch.randn(4, 1, 8, 8)


def sequence() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8), nn.LayerNorm(8)), torch.randn(4, 5, 8)


@pytest.mark.parametrize("host", [mlp, cnn, sequence])
def test_every_seed_costs_what_the_model_says(host: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, inputs = host()
    arm = TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1), None)
    config = ExecutorConfig(run_seed=1, offers_layers=True)
    executor = SeedExecutor(arm, Probe(inputs), fetch_artifact=ArtifactStore().get, config=config)
    seen = set()
    manifest = executor.manifest()
    for slot in manifest.slots:
        for blueprint in Catalog.builtin().for_slot(slot.kind):
            if misfit(blueprint, slot, manifest.task):
                continue
            seed_id = f"{blueprint.blueprint_id} in {slot.slot_id}"
            values = completed(blueprint, {"rank": 2} if blueprint.blueprint_id.startswith("adapter.") else {})
            build = SeedDirective(
                seed_id=seed_id,
                slot_id=slot.slot_id,
                blueprint_id=blueprint.blueprint_id,
                kind=K.DIRECTIVE_KIND_BUILD,
                artifact_digest=blueprint.artifact.digest,
                parameters=[ParameterValue(name=name, value=value) for name, value in values.items()],
                initialization_seed=1,
            )
            attach = SeedDirective(
                seed_id=seed_id, slot_id=slot.slot_id, kind=K.DIRECTIVE_KIND_ATTACH, blend=rising_blend()
            )
            remove = SeedDirective(seed_id=seed_id, kind=K.DIRECTIVE_KIND_REMOVE)
            report = done(executor, [build, attach, remove])
            paid = Cost(parameters=report.added_parameters, forward_macs=report.added_forward_macs)
            assert paid == cost(blueprint, slot, None, values, manifest.task), seed_id
            seen.add(blueprint.blueprint_id)
    assert len(seen) >= 4


def done(executor: SeedExecutor, directives: list[SeedDirective]) -> DirectiveReport:
    """Carry the directives out and return the report of the attachment."""
    for directive in directives:
        directive.directive_id = f"{directive.seed_id} {directive.kind}"
    executor.execute(directives, 0)
    reports = {report.kind: report for report in executor.collect(0).reports}
    assert all(report.succeeded for report in reports.values()), reports
    return reports[K.DIRECTIVE_KIND_ATTACH]
