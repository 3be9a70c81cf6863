"""Control arms: grafts that the product doesn't have are what they say, undone bit for bit, and named in their runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.stacks.run import Run
from esper.tolaria import run as training
from esper.tolaria.run_dir import RunOptions
from tests.unit.kasmina.executor.conftest import Rig, TokenTask, Transformer
from tests.unit.tools.experiments.loading import load

control_arms = load("control_arms")
NAMES = sorted(control_arms.VARIANTS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rig() -> Rig:
    torch.default_generator.manual_seed(2)
    return Rig(Transformer(), TokenTask(), optimizer="adamw")


def places_of_equal_blocks(run: Rig) -> list[tuple[int, ...]]:
    """For each block the places of those with its first layer."""
    weights = [block.fc1.weight for block in run.arm.model.blocks]
    return [tuple(at for at, other in enumerate(weights) if torch.equal(weight, other)) for weight in weights]


@pytest.mark.parametrize("name", NAMES)
def test_copies_stand_where_the_arm_says_and_the_proof_takes_them(name: str) -> None:
    run = rig()
    run.train(3)
    with control_arms.grafting(control_arms.VARIANTS[name]):
        run.stack()
    beside = [(0, 1), (0, 1), (2, 3), (2, 3)]
    behind = [(0, 2), (1, 3), (0, 2), (1, 3)]
    assert places_of_equal_blocks(run) == (behind if name == "fresh-moments" else beside)


@pytest.mark.parametrize(("name", "preserves"), [("zero-output", True), ("useless", True), ("interleaved", False)])
def test_copies_with_zero_outputs_leave_the_function_as_it_is(name: str, preserves: bool) -> None:
    run = rig()
    run.train(3)
    before = run.outputs()
    with control_arms.grafting(control_arms.VARIANTS[name]):
        report = run.stack().reports[-1]
    assert torch.equal(run.outputs(), before) is preserves
    assert (report.max_logit_delta == 0.0) is preserves


def test_the_optimiser_knows_nothing_of_copies_with_fresh_moments_alone() -> None:
    for name in NAMES:
        run = rig()
        run.train(3)
        with control_arms.grafting(control_arms.VARIANTS[name]):
            run.stack()
        states = run.arm.optimizer.state
        known = [block.fc1.weight in states for block in run.arm.model.blocks]
        assert known == ([True, True, False, False] if name == "fresh-moments" else [True] * 4)
        run.train(2)


def test_zero_outputs_learn_and_those_of_a_useless_stack_never_do() -> None:
    moved = {}
    for name in ("zero-output", "useless"):
        run = rig()
        with control_arms.grafting(control_arms.VARIANTS[name]):
            run.stack()
        run.train(6)
        twin = run.executor.twin
        assert twin is not None
        moved[name] = bool(run.arm.model.blocks[1].fc2.weight.any())
        originals = [parameter for block in run.arm.model.blocks[::2] for parameter in block.parameters()]
        pairs = zip(originals, twin.model.blocks.parameters(), strict=True)
        learns_as_the_twin = all(torch.equal(mine, theirs) for mine, theirs in pairs)
        assert learns_as_the_twin is (name == "useless")
    assert moved == {"zero-output": True, "useless": False}


@pytest.mark.parametrize("name", NAMES)
def test_a_culled_arm_ends_in_the_never_grafted_run(name: str) -> None:
    run, plain = rig(), rig()
    for each in (run, plain):
        each.train(3)
    with control_arms.grafting(control_arms.VARIANTS[name]):
        run.stack()
        run.executor.execute([run.directive("JUDGE", look=1, at_step=5)], run.step)
        run.train(4)
        run.do(run.directive("INSTALL_TWIN"))
        plain.train(4)
        for each in (run, plain):
            each.train(3)
    assert run.arm.digest() == plain.arm.digest()


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_is_taken_out_and_put_back_from_a_saved_state(name: str) -> None:
    with control_arms.grafting(control_arms.VARIANTS[name]):
        run, other = rig(), rig()
        run.train(2)
        before = run.arm.digest()
        run.stack()
        run.train(2)
        saved = copy.deepcopy(run.executor.state_dict())
        run.train(3)
        other.executor.load_state_dict(saved)
        other.step = 4
        frozen = [not block.fc2.weight.requires_grad for block in other.arm.model.blocks]
        assert frozen == ([False, True] * 2 if name == "useless" else [False] * 4)
        other.train(3)
        assert other.arm.digest() == run.arm.digest()

        fresh = rig()
        fresh.train(2)
        fresh.arm.repeat(Run("blocks", 0, 2))
        fresh.arm.take_out_copies()
        assert fresh.arm.digest() == before
        assert len(fresh.arm.optimizer.param_groups[0]["params"]) == len(list(fresh.arm.model.parameters()))


def test_blocks_whose_outputs_have_no_known_name_are_refused_before_anything_changes() -> None:
    run = rig()
    before = run.arm.digest()
    variant = control_arms.Variant(is_interleaved=True, has_zero_outputs=True, outputs="nothing")
    with control_arms.grafting(variant), pytest.raises(GraftFailed, match=r"--outputs: norm, fc1, act, fc2"):
        run.arm.repeat(Run("blocks", 0, 2))
    assert run.arm.digest() == before


def test_the_products_own_graft_is_back_afterwards() -> None:
    before = control_arms.arms.repeat, control_arms.arms.take_out
    with control_arms.grafting(control_arms.VARIANTS["useless"]):
        assert control_arms.arms.repeat != before[0]
    assert (control_arms.arms.repeat, control_arms.arms.take_out) == before


def test_a_run_says_which_arm_it_is(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--grow", "never", "--epochs", "1", "--plain", "--run-dir", str(tmp_path / "run")]
    assert control_arms.main(["zero-output", "--", *flags]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["control_arm"] == "zero-output"
    assert control_arms.arm_of(tmp_path / "run") == "zero-output"


@pytest.mark.parametrize(("begun", "told"), [("useless", "begun as useless"), (None, "begun as the product grafts")])
def test_a_run_is_not_gone_on_with_as_another_arm(tmp_path: Path, begun: str | None, told: str) -> None:
    note = {"kind": "doubt", "name": control_arms.NOTE, "detail": begun} if begun else {"kind": "run", "name": "x"}
    (tmp_path / "events.jsonl").write_text(json.dumps(note) + "\n")
    with control_arms.named("zero-output"), pytest.raises(ConfigError, match=told):
        training.claim(tmp_path, RunOptions(resume=True))
