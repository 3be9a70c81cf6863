"""Depth that can't be had is one clear line with its exit code, before any step; what stays undone is warned of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esper.core.errors import ConfigError
from esper.leyline import HostManifest
from esper.tolaria.config import TrainConfig
from esper.tolaria.launcher import main
from esper.tolaria.plane.start.stack_schedule import schedule_doubts
from esper.tolaria.task.prepare import prepare
from tests.unit.tolaria.stacks.vision_hosts import ViT

HERE = __name__


class Indexed(ViT):
    """Its blocks know their place by a name that nobody else uses."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs, depth=3)
        for number, block in enumerate(self.blocks):
            block.number = number  # type: ignore[assignment]


class Counting(ViT):
    """Runs as many blocks as it was built with, whatever stands in its list."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs, depth=3)
        self.layers = nn.ModuleList(self.blocks)
        del self.blocks
        self.number_of_blocks = 3

    @property
    def blocks(self) -> list[nn.Module]:  # type: ignore[override]
        return list(self.layers)[: self.number_of_blocks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("texts")
    words = np.random.default_rng(0).choice(("the", "seed", "grows", "deeper", "than", "its", "twin"), 5000)
    (made / "text.txt").write_text(" ".join(words))
    (made / "short.txt").write_text("too short a text")
    (np.arange(5000) % 300).astype(np.uint16).tofile(made / "tokens.bin")
    return made


SMALL = "--context 16 --batch-size 8 --model transformer --width 16 --heads 2 --min-samples 50 --steps 400"
TEXT = f"--data text:text.txt {SMALL}"
IMAGES = (
    "--data digits --samples 400 --min-samples 40 --epochs 20 --model tests.unit.tolaria.stacks.vision_hosts:resnet"
)
HOST = f"--data digits --samples 400 --min-samples 40 --epochs 20 --model {HERE}:"


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (f"{TEXT} --depth 1 --target-depth 4", 78, "model = 'transformer': has no run of equal blocks that could be"),
        (f"{TEXT} --depth 1 --slots stack:blocks", 78, "can't be repeated: it has one block, a run needs two"),
        (f"{TEXT} --depth 1 --blueprints stack.double", 78, "fits none of the host's slots"),
        (f"{IMAGES} --slots stack:layer1", 78, "'stack:layer1': can't be repeated: blocks 0 and 1 differ in"),
        (f"{HOST}Indexed --target-depth 6", 78, "blocks: blocks 0 and 1 differ in number: 0 and 1"),
        (f"{HOST}Counting --target-depth 6", 78, "layers: the copied block layers.3 ran 0 times in a forward pass"),
        (f"{HOST}Counting --slots stack:layers", 78, "slots = 'stack:layers': can't be repeated: the copied block"),
        (f"{TEXT} --depth 3 --target-depth 2", 78, "target_depth = 2: a run has 3 equal blocks already; give at least"),
        (f"{TEXT} --target-depth 0", 78, "must be at least 1"),
        (f"{TEXT} --target-depth twelve", 64, "invalid int value: 'twelve'"),
        (f"{TEXT} --target-depth 100", 78, "needs 6 stacks from 2 blocks on, each at most a doubling; stack_shares"),
        ("--data text:short.txt --model transformer --steps 100", 78, "too little for sequences of 128"),
        (f"{TEXT} --min-samples 90000", 78, "; give more data, lower min_samples"),
        (f"--data tokens:tokens.bin --vocabulary 200 {SMALL}", 78, "too small for tokens.bin: give at least 300"),
        (f"{TEXT} --slots stack:nowhere", 78, "is no list of blocks; runs of equal blocks in this model: stack:blocks"),
        (f"{TEXT} --slots stack:", 78, "is no list of blocks"),
        (f"{TEXT} --target-depth 4 --slots blocks.0.mlp.fc1", 78, "names no run of blocks, as stack:PATH does"),
        (f"{TEXT} --hidden 8,16 --target-depth 4", 78, "blocks: blocks 0 and 1 differ in mlp.fc1.weight: [8, 16]"),
        (f"{TEXT} --target-depth 4 --lag 50", 78, "a stack needs 2080 steps to its verdict and to pay, 210 are left"),
        (f"{TEXT} --stack-recovery-steps 0", 78, "stack_recovery_steps = 0: must be at least 1"),
        ("--data digits --hidden 6,6 --target-depth 4", 78, "could be repeated: it has no list of blocks"),
        ("--data digits --hidden 6,6 --slots stack:fc1", 78, "runs of equal blocks in this model: none"),
        (f"{TEXT} --stack-shares 0.4,0.2", 78, "each must be larger than the one before"),
        (f"{TEXT} --stack-shares 0.4,1.2", 78, "every share must lie between 0 and 1"),
        (f"{TEXT} --stack-shares early", 64, "invalid comma-separated float value: 'early'"),
        (f"{TEXT} --target-depth 4 --stack-shares=", 78, "stack_shares = (): leaves no stack; give shares"),
        (f"{TEXT} --heads 3", 78, "heads = 3: must divide the width, which is 16"),
        (f"{TEXT} --stack-shares 0.69", 78, "0 are left from step 280 until growth ends at 280; give"),
        (f"{TEXT} --target-depth 4 --decay-fraction 1", 78, "stack_shares = "),
        (f"{TEXT} --target-depth 4 --evaluate-every-steps 24", 78, "evaluate_every_steps = 24: evaluations begin"),
        (f"{TEXT} --target-depth 4 --window-fraction 0.02", 78, "stack_evaluations = 8: they don't fit into the last"),
        (f"{TEXT} --target-depth 4 --stack-evaluations 40", 78, "stack_evaluations = 40: they don't fit into the last"),
        (f"{TEXT} --target-depth 4 --judge muted", 78, "can't judge a stack: it needs a twin; use --judge twin"),
        (f"{TEXT} --blueprints stack.double,span.linear", 78, "grows nothing else by itself; leave span.linear out"),
        (f"{TEXT} --target-depth 4 --blueprints span.linear", 78, "grows nothing else by itself; name stack.double"),
        (f"{TEXT} --blueprints stack.triple", 78, "there is no such blueprint; name one of"),
        (f"{TEXT} --stack-when soon", 64, "invalid choice: 'soon' (choose from 'shares', 'knee', 'f"),
        (f"{TEXT} --target-depth 4 --stack-when knee --growth-warmup-steps 270", 78, "growth_warmup_steps = 270: a"),
        (f"{TEXT} --target-depth 4 --stack-when knee --steps 60", 78, "stack_when = 'knee': a stack needs"),
        (f"{TEXT} --stack-when forecast --stack-shares 0.3", 78, "is not read by --stack-when forecast, which follows"),
        (f"{TEXT} --stack-when random --stack-shares=", 78, "stack_shares = (): leaves no stack to draw"),
        (f"{TEXT} --stack-when random --judge muted", 78, "grows none: --judge muted can't judge a stack; use"),
        (f"{TEXT} --stack-when knee --blueprints span.linear", 78, "grows none: --blueprints span.linear names none"),
        ("--data digits --hidden 6,6 --stack-when knee", 78, "grows none: its model has no run of equal blocks"),
        (f"{IMAGES} --stack-when knee", 78, "asks for no depth; give --target-depth"),
        (f"{TEXT} --stack-margin inf", 78, "stack_margin = inf: must be a finite number"),
        (f"{TEXT} --stack-margin nan", 78, "stack_margin = nan"),
        (f"{TEXT} --stack-error-rate 0.9", 78, "must lie between 1e-06 and 0.5"),
        (f"{TEXT} --stack-clipped-share 1.5", 78, "must lie between 0 and 1"),
    ],
)  # fmt: skip
def test_what_makes_growth_in_depth_impossible_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    assert main([*flags.split(), "--run-dir", str(tmp_path / "run")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.startswith("tolaria-train: ")
    assert not (tmp_path / "run" / "summary.json").exists()


def doubts(folder: Path, **changes: object) -> list[str]:
    config = TrainConfig(
        **{
            "data": f"text:{folder / 'text.txt'}",
            "context": 16,
            "batch_size": 8,
            "model": "transformer",
            "min_samples": 50,
            "steps": 400,
            "stack_recovery_steps": 30,
            **changes,
        }  # type: ignore[arg-type]
    )
    run = prepare(config)
    return schedule_doubts(config, run.manifest(), run.total_steps)


def test_a_schedule_that_can_be_kept_is_not_doubted(folder: Path) -> None:
    assert doubts(folder) == []
    assert doubts(folder, target_depth=8) == []
    assert doubts(folder, grow="always", stack_shares=(0.9,)) == []


def test_a_stack_that_comes_too_late_beside_one_in_time_is_told_at_once(folder: Path) -> None:
    (line,) = doubts(folder, stack_shares=(0.1, 0.6), target_depth=4)
    assert line.startswith("no stack at step 240: stack_shares = (0.1, 0.6): a stack needs 110 steps")
    assert "40 are left from step 240" in line


def test_a_short_run_that_asks_for_nothing_is_told_of_its_stacks_and_one_that_asks_is_refused(folder: Path) -> None:
    assert [line.partition(":")[0] for line in doubts(folder, steps=60)] == [
        "no stack at step 10",
        "no stack at step 24",
    ]
    with pytest.raises(ConfigError, match="stack_shares"):
        doubts(folder, steps=60, target_depth=4)
    with pytest.raises(ConfigError, match="stack_shares"):
        doubts(folder, steps=60, stack_shares=(0.2,))


def test_a_run_too_short_for_a_stack_is_told_the_length_that_is_long_enough(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"; ([\d,]+) steps are enough for a first stack$") as caught:
        doubts(folder, steps=60, target_depth=4)
    enough = int(str(caught.value).rpartition("; ")[2].split()[0])
    assert [line.partition(":")[0] for line in doubts(folder, steps=enough, target_depth=4)] == ["no stack at step 144"]
    assert enough < 400


def test_no_length_is_told_where_none_would_do(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        doubts(folder, stack_shares=(0.8,))
    assert "are enough" not in str(caught.value)


def test_a_window_shorter_than_the_recovery_is_told(folder: Path) -> None:
    (line,) = doubts(folder, stack_recovery_steps=120)
    assert line == (
        "a stack is taken to need 120 steps to recover (stack_recovery_steps), and its window has 40: it is judged "
        "early; give a larger window_fraction, or a longer run"
    )


def test_a_host_that_grows_in_width_has_no_schedule_to_doubt(folder: Path) -> None:
    assert doubts(folder, steps=60, blueprints=("span.linear",)) == []
    assert schedule_doubts(TrainConfig(), HostManifest(), 100) == []


def test_a_budget_without_room_for_one_block_is_refused_and_one_that_ends_short_of_the_depth_is_told(
    folder: Path,
) -> None:
    assert doubts(folder, max_parameters=10**9, target_depth=8) == []
    with pytest.raises(
        ConfigError, match=r"max_parameters = 10: leaves no room for one more block: stack:blocks has 2"
    ):
        doubts(folder, max_parameters=10, target_depth=4)
    run = prepare(TrainConfig(data=f"text:{folder / 'text.txt'}", context=16, model="transformer", min_samples=50))
    manifest = run.manifest()
    (slot,) = [slot for slot in manifest.slots if slot.depth]
    three_more = manifest.parameters + 3 * slot.block_parameters
    (line,) = doubts(folder, max_parameters=three_more, target_depth=8)
    assert line.startswith(f"max_parameters {three_more:,} ends growth at 5 of 8 blocks: stack:blocks has 2 blocks of")
    (line,) = doubts(folder, max_forward_macs=1)
    assert line.startswith("max_forward_macs 1 ends growth at 2 of 3 blocks")


def test_a_trial_without_room_leaves_the_answer_to_the_graft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(TrainConfig(data=f"text:{folder / 'text.txt'}", context=16, model="transformer", min_samples=50))

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.task, "loss", exhausted)
    run.executor.places.try_stacks()
    assert run.executor.places.refused_runs == ()
