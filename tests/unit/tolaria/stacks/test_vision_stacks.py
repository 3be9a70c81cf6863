"""Classifiers grow in depth too: a ViT and the tail of a ResNet stage, kept, undone, saved and exported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.cli.main import main as esper
from esper.leyline import SlotKind
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import load_network
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import prepare
from tests.drilled import drilled
from tests.unit.tolaria.scripted_control import cull, directive, germination
from tests.unit.tolaria.stacks.test_stack_runs import LOADER, evaluations, run
from tests.unit.tolaria.stacks.vision_hosts import resnet, vit

SHAPE, CLASSES = (1, 8, 8), 10


@dataclass(frozen=True)
class Kind:
    """A host, its run of blocks beside others in its list, and the same factory for twice the run."""

    model: str
    slot: str
    depth: int
    others: int
    deeper: Callable[[], nn.Module]


KINDS = {
    "vit": Kind("vit", "stack:blocks", 3, 0, lambda: vit(SHAPE, CLASSES, depth=6)),
    "resnet": Kind("resnet", "stack:layer2", 2, 1, lambda: resnet(SHAPE, CLASSES, layers=(2, 5))),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def config_of(kind: Kind, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        data="digits",
        samples=400,
        batch_size=16,
        model=f"tests.unit.tolaria.stacks.vision_hosts:{kind.model}",
        steps=26,
        min_samples=40,
        evaluate_every_steps=2,
        run_dir=run_dir,
    )


def test_the_slots_of_a_classifier_hold_its_blocks(kind: Kind, tmp_path: Path) -> None:
    manifest = prepare(config_of(kind, tmp_path)).manifest()
    (slot,) = [slot for slot in manifest.slots if slot.kind == SlotKind.SLOT_KIND_STACK]
    assert (slot.slot_id, slot.depth) == (kind.slot, kind.depth)
    assert slot.block_forward_macs > 0


def test_a_kept_stack_of_a_classifier_is_the_deeper_network_that_the_factory_builds(kind: Kind, tmp_path: Path) -> None:
    config = replace(config_of(kind, tmp_path / "run"), target_depth=2 * kind.depth)
    script = {
        4: [*germination("s1", kind.slot, "stack.double"), *evaluations("s1")],
        20: [directive("s1", "DROP_TWIN")],
    }
    summary, control = run(config, script, store=CheckpointStore(config.run_dir / "checkpoints", keep=1))
    assert [report.failure for c in control.collected for report in c.reports if not report.succeeded] == []
    found = [found for c in control.collected for o in c.observations for found in o.evaluations]
    assert [(e.step, e.clipped_share, e.twin.samples) for e in found] == [(9, 0.0, 79), (13, 0.0, 79), (18, 0.0, 79)]
    assert all(0.0 < e.mean_twin_score < 2.0 for e in found)  # Brier scores
    assert summary["final_parameters"] > summary["host_parameters"]
    grew = {"from": kind.depth, "to": config.target_depth, "others": kind.others}
    assert summary["depths"] == {kind.slot.removeprefix("stack:"): grew}
    assert summary["depth_shortfall"] is None
    grown, deeper = load_network(config.run_dir).arm.model, kind.deeper()
    assert list(grown.state_dict()) == list(deeper.state_dict())
    deeper.load_state_dict(grown.state_dict())
    images = torch.rand(5, *SHAPE)
    with torch.no_grad():
        assert torch.equal(deeper.eval()(images), grown.eval()(images))


@pytest.mark.parametrize("name", drilled(KINDS, lambda name: name == "resnet"))
def test_an_undone_stack_of_a_classifier_leaves_the_never_grown_weights_and_statistics(
    name: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    config = config_of(kind, tmp_path / "run")
    script = {4: [*germination("s1", kind.slot, "stack.double"), *evaluations("s1")], 20: cull("s1")}
    grown, _ = run(config, script)
    never, _ = run(replace(config, grow="never"), {})
    assert grown["weights_digest"] == never["weights_digest"]


@pytest.mark.slow
def test_a_classifiers_stack_is_exported_by_the_command_and_runs_without_esper(kind: Kind, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path / "run")
    script = {4: [*germination("s1", kind.slot, "stack.double")], 20: [directive("s1", "DROP_TWIN")]}
    run(config, script, store=CheckpointStore(config.run_dir / "checkpoints", keep=1))
    path = tmp_path / "grown.pt2"
    assert esper(["export", str(config.run_dir), str(path)]) == 0
    images = torch.rand(7, *SHAPE)
    torch.save(images, tmp_path / "inputs.pt")
    parts = [sys.executable, "-W", "ignore", "-c", LOADER, path, tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    subprocess.run([str(part) for part in parts], check=True, timeout=100)
    with torch.no_grad():
        expected = load_network(config.run_dir).arm.model.eval()(images)
    assert torch.allclose(torch.load(tmp_path / "outputs.pt"), expected, atol=1e-5)
