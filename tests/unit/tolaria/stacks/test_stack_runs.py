"""Whole runs that grow in depth: killed and resumed, undone, kept and exported; and wishes that can't be met."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.core.errors import ConfigError
from esper.leyline import HostManifest, SeedDirective, StackRule, TaskType
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import export, load_network
from esper.tolaria.launcher import main
from esper.tolaria.plane.start.stack_growth import check_stacks, stack_rule, stack_steps
from esper.tolaria.record.course.events import EventLog
from esper.tolaria.record.course.reading import read_events, standing
from esper.tolaria.record.observer import Observer, Observers, StepDone, TwinStep
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import (
    Script,
    ScriptedControl,
    cull,
    directive,
    fetch_artifact,
    germination,
)

SLOT = "stack:blocks"
LOADER = """
import sys, torch
sys.modules["esper"] = None
network = torch.export.load(sys.argv[1]).module()
torch.save(network(torch.load(sys.argv[2])), sys.argv[3])
"""
EVALUATED = (9, 13, 18)


def evaluations(seed_id: str) -> list[SeedDirective]:
    made = [directive(seed_id, "JUDGE", at_step=step, look=1) for step in EVALUATED]
    for number, each in enumerate(made):
        each.directive_id += str(number)
    return made


STACK = [*germination("s1", SLOT, "stack.double"), *evaluations("s1")]
UNDONE: Script = {4: STACK, 20: cull("s1")}
KEPT: Script = {
    4: STACK,
    20: [directive("s1", "DROP_TWIN")],
    22: germination("s2", SLOT, "stack.part", blocks=1),
    26: [directive("s2", "DROP_TWIN")],
}


class KilledError(Exception):
    """Stands for kill -9."""


class Killer(Observer):
    def on_steps(self, steps: Sequence[StepDone]) -> None:
        if any(done.step >= 15 for done in steps):
            raise KilledError


def config_in(folder: Path) -> TrainConfig:
    words = np.random.default_rng(0).choice(("the", "seed", "grows", "deeper", "than", "its", "twin"), 5000)
    (folder / "text.txt").write_text(" ".join(words))
    return TrainConfig(
        data=f"text:{folder / 'text.txt'}",
        context=16,
        batch_size=8,
        model="transformer",
        depth=2,
        width=16,
        heads=2,
        dropout=0.1,
        steps=30,
        steps_per_epoch=6,
        min_samples=50,
        evaluate_every_steps=2,
        checkpoint_every_epochs=1,
        run_dir=folder / "run",
    )


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return config_in(tmp_path)


def run(config: TrainConfig, script: Script, observer: Observer | None = None, **how: Any) -> Any:
    control, store = ScriptedControl(script), how.pop("store", None)
    prepared = prepare(config, fetch_artifact)
    trainer = Trainer(prepared, lambda opening: control, observer or Observers(), store=store)
    return trainer.train(**how), control


class Losses(Observer):
    """Both arms' losses by step."""

    def __init__(self) -> None:
        self.main: dict[int, float] = {}
        self.twin: dict[tuple[str, int], float] = {}

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self.main |= {done.step: done.loss for done in steps}

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        assert not {(done.seed_id, done.step) for done in steps} & set(self.twin), "told twice"
        self.twin |= {(done.seed_id, done.step): done.loss for done in steps}


@dataclass(frozen=True, slots=True)
class Told:
    """A run's summary, what was heard of it, and both arms' losses."""

    summary: dict[str, Any]
    control: ScriptedControl
    losses: Losses


def told(config: TrainConfig, script: Script) -> Told:
    losses = Losses()
    summary, control = run(config, script, losses)
    return Told(summary, control, losses)


@pytest.fixture(scope="module")
def undone(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told(config_in(tmp_path_factory.mktemp("undone")), UNDONE)


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return told(replace(config_in(tmp_path_factory.mktemp("never")), grow="never"), {})


def test_the_twins_losses_are_those_of_the_run_that_never_grew_and_end_where_it_is_installed(
    undone: Told, never: Told
) -> None:
    # Ordered at steps 4 and 20, executed a packet later.
    grown, plain = undone.losses, never.losses.main
    assert grown.twin == {("s1", step): plain[step] for step in range(7, 23)}
    assert {step for step in plain if grown.main[step] != plain[step]} == set(range(7, 23))
    assert never.losses.twin == {}


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that keeps its stacks: its directory, summary, events and what was heard of it."""

    config: TrainConfig
    summary: dict[str, Any]
    events: dict[Any, Any]
    control: ScriptedControl


def recorded(config: TrainConfig, folder: Path, *others: Observer, **how: Any) -> tuple[Any, ScriptedControl]:
    folder.mkdir(exist_ok=True)
    with EventLog(folder / "events.jsonl") as log:
        found: tuple[Any, ScriptedControl] = run(config, KEPT, Observers(log, *others), **how)
    return found


def standing_events(folder: Path) -> dict[Any, Any]:
    """Losses of both arms by step, and gains; each once."""
    found: dict[Any, Any] = {}
    for event in standing(read_events(folder)):
        kinds = {
            "boundary": (event.get("loss"),),
            "twin": event.get("losses", ()),
            "evaluation": (event.get("gain"),),
        }
        for step, value in enumerate(kinds.get(event["kind"], ()), event.get("from_step", event.get("step", 0))):
            key = event["kind"], event.get("seed_id"), step
            assert key not in found
            found[key] = value
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("whole")
    config = config_in(folder)
    store = CheckpointStore(config.run_dir / "checkpoints", keep=1)
    summary, control = recorded(config, folder, store=store)
    return Kept(config, summary, standing_events(folder), control)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("resumed")
    config, store = config_in(folder), CheckpointStore(folder / "saved", keep=2)
    with pytest.raises(KilledError):
        recorded(config, folder, Killer(), store=store)
    summary, control = recorded(config, folder, store=store, resume=True)
    return Kept(config, summary, standing_events(folder), control)


def test_a_run_killed_between_a_stacks_evaluations_resumes_to_the_same_weights_and_evidence(
    whole: Kept, resumed: Kept
) -> None:
    same = ("weights_digest", "val_loss", "test_loss", "training_macs_by_use", "final_parameters")
    assert {name: resumed.summary[name] for name in same} == {name: whole.summary[name] for name in same}
    assert evidence(resumed.control)[-1] == evidence(whole.control)[-1]


def test_a_run_killed_in_the_window_tells_each_step_of_each_arm_once_in_what_stands_of_its_events(
    whole: Kept, resumed: Kept
) -> None:
    assert resumed.events == whole.events
    found = {(kind, seed_id) for kind, seed_id, _ in whole.events}
    assert found >= {("twin", "s1"), ("twin", "s2"), ("evaluation", "s1")}


def evidence(control: ScriptedControl) -> list[bytes]:
    return [
        found.SerializeToString(deterministic=True)
        for collected in control.collected
        for observation in collected.observations
        for found in observation.evaluations
    ]


def test_evaluations_are_made_at_their_steps_also_between_two_packets(undone: Told) -> None:
    control = undone.control
    seen = [(c.observations, p.step) for c, p in zip(control.collected, control.packets, strict=True)]
    steps = [(found.step, step) for observations, step in seen for o in observations for found in o.evaluations]
    assert steps == [(9, 10), (13, 14), (18, 18)]


def test_an_undone_stack_leaves_the_never_grown_weights(undone: Told, never: Told) -> None:
    assert undone.summary["weights_digest"] == never.summary["weights_digest"]
    assert undone.summary["training_macs"] > never.summary["training_macs"]


@pytest.mark.slow
def test_a_kept_stack_is_saved_exported_and_loaded_without_esper(tmp_path: Path, config: TrainConfig) -> None:
    summary, _ = run(config, KEPT, store=CheckpointStore(config.run_dir / "checkpoints", keep=1))
    assert summary["final_parameters"] > summary["host_parameters"]
    grown = load_network(config.run_dir)
    assert len(grown.arm.model.blocks) == 5  # type: ignore[arg-type]
    path = tmp_path / "grown.pt2"
    export(config.run_dir, path)
    inputs = grown.interface.inputs(7)
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOADER, path, tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    subprocess.run([str(part) for part in command], check=True, timeout=100)
    with torch.no_grad():
        expected = grown.arm.model.eval()(inputs)
    assert torch.allclose(torch.load(tmp_path / "outputs.pt"), expected, atol=1e-5)


def test_a_kept_stacks_weights_are_those_of_the_deeper_model_that_one_builds_directly(whole: Kept) -> None:
    grown = load_network(whole.config.run_dir)
    deeper = prepare(replace(whole.config, depth=5)).executor.arm.model
    deeper.load_state_dict(grown.arm.model.state_dict())
    inputs = grown.interface.inputs(3)
    with torch.no_grad():
        assert torch.equal(deeper.eval()(inputs), grown.arm.model.eval()(inputs))


def manifest(prepared: Prepared) -> HostManifest:
    return prepared.manifest()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"depth": 1, "target_depth": 4}, "no run of equal blocks that could be repeated: blocks: it has one block"),
        ({"depth": 3, "target_depth": 2}, "target_depth = 2: a run has 3 equal blocks already"),
        ({"target_depth": 4, "judge": "muted"}, "can't judge a stack"),
    ],
)
def test_a_depth_that_cannot_be_had_is_one_clear_line(config: TrainConfig, changes: dict[str, Any], line: str) -> None:
    prepared = prepare(replace(config, **changes))
    with pytest.raises(ConfigError, match=line) as caught:
        check_stacks(prepared.config, manifest(prepared), prepared.executor.places.refused_runs)
    assert "\n" not in str(caught.value)


def test_a_named_stack_of_one_block_and_a_text_too_short_are_one_clear_line_each(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", config.data, "--model", "transformer", "--context", "16", "--run-dir", str(config.run_dir)]
    assert main([*flags, "--depth", "1", "--slots", SLOT, "--min-samples", "50", "--steps", "9"]) == 78
    assert "slots = 'stack:blocks': can't be repeated: it has one block" in capsys.readouterr().err
    assert main([*flags, "--min-samples", "90000", "--steps", "9"]) == 78
    assert "the judging set has only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [5, 12]),
        ({"stack_shares": (0.5,)}, [15]),
        ({"stack_shares": ()}, []),
        ({"blueprints": ("span.linear",)}, []),
        ({"blueprints": ("stack.double",)}, [5, 12]),
        ({"judge": "muted"}, []),
        ({"depth": 1}, []),
        ({"stack_when": "knee"}, []),
        ({"stack_when": "random", "stack_shares": ()}, []),
    ],
)
def test_a_language_model_with_blocks_grows_in_depth_unless_told_otherwise(
    config: TrainConfig, changes: dict[str, Any], steps: list[int]
) -> None:
    prepared = prepare(replace(config, **changes))
    assert stack_steps(prepared.config, manifest(prepared), prepared.total_steps) == steps


def test_another_kind_of_task_grows_in_depth_only_where_it_is_asked_for(config: TrainConfig) -> None:
    told = HostManifest()
    told.CopyFrom(manifest(prepare(config)))
    told.task = TaskType.TASK_TYPE_CLASSIFICATION
    assert stack_steps(config, told, 30) == []
    assert stack_steps(replace(config, blueprints=("stack.double",)), told, 30) == [5, 12]


def test_random_times_are_as_many_as_the_shares_and_hang_on_the_seed_alone(config: TrainConfig) -> None:
    prepared = prepare(config)

    def drawn(seed: int, total_steps: int = 10_000) -> list[int]:
        settings = replace(prepared.config, stack_when="random", seed=seed)
        return stack_steps(settings, manifest(prepared), total_steps)

    found = [drawn(seed) for seed in range(200)]
    assert drawn(3) == found[3]
    assert len({tuple(steps) for steps in found}) == 200
    assert all(500 <= first < 3000 <= second < 5500 for first, second in found)
    for place, middle in enumerate((1750, 4250)):
        assert abs(sum(steps[place] for steps in found) / 200 - middle) < 250


@pytest.mark.parametrize(
    ("when", "judge", "rule"),
    [
        ("shares", "twin", StackRule.STACK_RULE_UNSPECIFIED),
        ("random", "twin", StackRule.STACK_RULE_UNSPECIFIED),
        ("knee", "twin", StackRule.STACK_RULE_KNEE),
        ("forecast", "twin", StackRule.STACK_RULE_FORECAST),
        ("forecast", "muted", StackRule.STACK_RULE_UNSPECIFIED),
    ],
)
def test_a_rule_is_told_where_the_run_grows_in_depth(
    config: TrainConfig, when: str, judge: str, rule: StackRule
) -> None:
    prepared = prepare(config)
    assert stack_rule(replace(config, stack_when=when, judge=judge), manifest(prepared)) == rule


@pytest.mark.parametrize("shares", [(0.0,), (1.0,), (0.4, 0.2)])
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="stack_shares"):
        TrainConfig(stack_shares=shares)


@pytest.mark.slow
def test_the_dry_run_names_the_blocks_of_a_stack(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", config.data, "--model", "transformer", "--context", "16", "--run-dir", str(config.run_dir)]
    assert main([*flags, "--width", "16", "--heads", "2", "--min-samples", "50", "--steps", "9", "--dry-run"]) == 0
    assert "slot: stack:blocks, 2 blocks of 3,216 parameters" in capsys.readouterr().out
