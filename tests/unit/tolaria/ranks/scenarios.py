"""What ranks do in tests: `python -m tests.unit.tolaria.ranks.scenarios NAME,... FOLDER` in each process of a run.

Networks and data are in float64, so that what differs between numbers of ranks is the order of sums alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from esper.core.errors import EsperError
from esper.leyline import SeedDirective
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.shared_control import hearing, telling, told_artifact
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.joining import joined
from esper.tolaria.ranks.place import place
from esper.tolaria.ranks.sharing import over
from esper.tolaria.record.observer import Observers
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.task.data import load_splits
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.given import Given
from esper.tolaria.task.objective import task
from esper.tolaria.task.objective.task import evaluated
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer
from tests.unit.tolaria.scripted_control import (
    ScriptedControl,
    cull,
    directive,
    fetch_artifact,
    germination,
    judgement,
    keep,
)

HERE = "tests.unit.tolaria.ranks.scenarios"
LATE_S = 12.0
SLOT, STACK = "span_linear:fc1-fc2", "stack:blocks"
# The last batch of an epoch is short: 345 samples in batches of 64.
CONFIG = TrainConfig(
    samples=600,
    steps=24,
    epochs=4,
    min_samples=50,
    evaluate_every_steps=4,
    checkpoint_every_epochs=1,
    warmup_steps=2,
    deadline_s=5.0,
    rank_timeout_s=60.0,
)
GROWN = [*germination("s1", SLOT), judgement("s1", 16)]
SCRIPTS: dict[str, dict[int, list[SeedDirective]]] = {
    "kept": {4: GROWN, 16: keep("s1")},
    "culled": {4: GROWN, 16: cull("s1")},
    "inner": {4: [*germination("s1", "span_linear:fc2-fc3"), judgement("s1", 16)], 16: keep("s1")},
    "stacked": {4: germination("s1", STACK, "stack.double"), 16: [directive("s1", "DROP_TWIN")]},
    "ordered": {
        4: germination("s1", STACK, "stack.double"),
        12: [directive("order", "ROLLBACK")],
        16: [directive("s1", "DROP_TWIN")],
    },
    "unstacked": {4: germination("s1", STACK, "stack.double"), 16: cull("s1")},
    "attending": {
        4: [*germination("s1", "residual_linear:blocks.0-blocks.0", "attention.self"), judgement("s1", 16)],
        16: keep("s1"),
    },
    "incubated": {
        4: [*GROWN[:2], directive("s1", "INCUBATE", slot_id=SLOT, duration_steps=6)],
        12: [GROWN[2]],
        20: keep("s1"),
    },
}


class Host(nn.Module):
    """An MLP in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 10)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        hidden = torch.relu(self.fc1(inputs.flatten(1)))
        outputs: torch.Tensor = self.fc3(torch.relu(self.fc2(hidden)))
        return outputs


class Masked(nn.Module):
    """Lines of a picture, of which some samples leave out the last ones, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.blocks, self.last = nn.Linear(8, 6), nn.ModuleList([Padded()]), nn.Linear(6, 10)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        lines = inputs.view(-1, 8, 8)
        lengths = torch.where(lines[:, 3].sum(1) > lines[:, 4].sum(1), 5, 8)
        is_padding = torch.arange(8) >= lengths[:, None]
        hidden = self.blocks[0](self.read(lines), key_padding_mask=is_padding)
        outputs: torch.Tensor = self.last(hidden.masked_fill(is_padding[..., None], 0.0).sum(1))
        return outputs


class Padded(nn.Module):
    """A step that is told of padding, which it has no use for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, hidden: torch.Tensor, key_padding_mask: torch.Tensor) -> torch.Tensor:
        """What goes in, and what is made of it."""
        return hidden + torch.relu(self.fc(hidden))


class Block(nn.Module):
    """A residual step."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What goes in, and what is made of it."""
        return hidden + torch.relu(self.fc(self.norm(hidden)))


class Deep(nn.Module):
    """Residual blocks in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.last = nn.Linear(64, 6), nn.ModuleList([Block(), Block()]), nn.Linear(6, 10)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        hidden = self.first(inputs.flatten(1))
        for block in self.blocks:
            hidden = block(hidden)
        outputs: torch.Tensor = self.last(hidden)
        return outputs


def deep() -> nn.Module:
    torch.manual_seed(3)
    return Deep()


def host() -> nn.Module:
    torch.manual_seed(3)
    return Host()


def masked() -> nn.Module:
    torch.manual_seed(3)
    return Masked()


def doubled(config: TrainConfig) -> Splits:
    """The digits in float64."""
    splits = load_splits(replace(config, data="digits"))

    def of(split: Split) -> Split:
        return Split(split.inputs.double(), split.targets, split.documents)

    return replace(splits, train=of(splits.train), judge=of(splits.judge), test=of(splits.test))


def train(
    config: TrainConfig,
    script: dict[int, list[SeedDirective]],
    *,
    ranks: Ranks,
    folder: Path | None = None,
    resume: bool = False,
    stop_at: int | None = None,
    before: Callable[[Prepared], None] = lambda run: None,
    model: Callable[[], nn.Module] = host,
) -> dict[str, Any]:
    """One run under a scripted control plane; what each rank came to."""
    controls: list[ScriptedControl] = []

    def opened(opening: object) -> ScriptedControl:
        controls.append(ScriptedControl(script))
        return controls[-1]

    fetch = told_artifact(fetch_artifact, ranks)
    run = prepare(config, fetch, Given(model=model(), splits=doubled), ranks=ranks)
    before(run)
    store = CheckpointStore(folder / "checkpoints", 9) if folder is not None and ranks.is_first else None
    open_control = telling(opened, ranks) if ranks.is_first else hearing(ranks)
    trainer: Trainer
    trainer = Trainer(
        run, open_control, Observers(), store=store, should_stop=lambda: ranks.any(stop_at == trainer.step)
    )
    summary = trainer.train(resume=resume)
    signals = trainer._session.progress.signals
    return {
        "weights": {name: value.clone() for name, value in run.executor.arm.model.state_dict().items()},
        "digest": run.executor.arm.digest(),
        "loss": signals.loss.mean,
        "val_loss": summary["val_loss"],
        "seeds": summary["seeds"],
        "steps": summary["steps"],
        "rollbacks": summary["rollbacks"],
        "resumed_at": trainer._saves._resumed_at,
        "reproducible_cause": summary["reproducible_cause"],
        "failed": [
            report.failure
            for control in controls
            for each in control.collected
            for report in each.reports
            if not report.succeeded
        ],
        "collected": [part for control in controls for each in control.collected for part in each.observations],
    }


def failure_of(make: Callable[[], Any]) -> str:
    """What an error says."""
    try:
        make()
    except EsperError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def grown(script: str, **settings: Any) -> Callable[[Ranks, Path], Any]:
    config = replace(CONFIG, **settings)
    return lambda ranks, folder: train(config, SCRIPTS[script], ranks=ranks)


def stacked(ranks: Ranks, folder: Path) -> Any:
    """Grown in depth, and kept."""
    return train(replace(CONFIG, optimizer="adamw"), SCRIPTS["stacked"], ranks=ranks, model=deep)


def attending(ranks: Ranks, folder: Path) -> Any:
    """With a seed that attends and knows what is padding."""
    return train(CONFIG, SCRIPTS["attending"], ranks=ranks, model=masked)


def compiled(ranks: Ranks, folder: Path) -> Any:
    """Grown in depth, with compiled blocks."""
    config = replace(CONFIG, optimizer="adamw", compile="blocks")
    return train(config, SCRIPTS["stacked"], ranks=ranks, model=deep)


def sharded(script: str = "stacked", **settings: Any) -> Callable[[Ranks, Path], Any]:
    """Grown in depth, with weights in parts where there are many ranks."""
    config = replace(CONFIG, **{"optimizer": "adamw", "parallel": "shard", **settings})
    return lambda ranks, folder: train(config, SCRIPTS[script], ranks=ranks, model=deep)


def shared(ranks: Ranks, folder: Path) -> Any:
    """What each judging batch comes to, how many of them this rank passed, and an evaluation of the whole set."""
    run = prepare(replace(CONFIG, samples=1600), given=Given(model=host(), splits=doubled), ranks=ranks)
    passed = []

    def measure(batch: Any) -> torch.Tensor:
        passed.append(len(batch[0]))
        return run.executor.arm.model(batch[0]).detach().sum(1)

    with patch.object(task, "JUDGE_BATCH", 64):
        told = run.task.over_judging(measure)
        evaluation = evaluated(run.executor.arm, run.task, run.splits.judge)
    fewer = over([(torch.ones(3), torch.ones(3))], lambda batch: batch[0].double(), ranks)
    return {
        "told": [part.tolist() for part in told],
        "passed": passed,
        "evaluation": evaluation,
        "fewer": [part.tolist() for part in fewer],
    }


def resumed(ranks: Ranks, folder: Path) -> Any:
    """Stopped in the twin's window, and gone on with."""
    first = train(CONFIG, SCRIPTS["kept"], ranks=ranks, folder=folder, stop_at=12)
    last = train(CONFIG, SCRIPTS["kept"], ranks=ranks, folder=folder, resume=True)
    return {"stopped": first["steps"], **last}


def go_on(ranks: Ranks, folder: Path) -> Any:
    """Goes on with what another number of ranks has left."""
    return train(CONFIG, SCRIPTS["kept"], ranks=ranks, folder=folder, resume=True)


def leave_off(ranks: Ranks, folder: Path) -> Any:
    return train(CONFIG, SCRIPTS["kept"], ranks=ranks, folder=folder, stop_at=12)


def in_parts(resume: bool, stop_at: int | None, parallel: str) -> Callable[[Ranks, Path], Any]:
    """Begins or goes on with a run whose stack stands beside its twin when it is left."""
    config = replace(CONFIG, optimizer="adamw", parallel=parallel)

    def run(ranks: Ranks, folder: Path) -> Any:
        script = SCRIPTS["stacked"]
        return train(config, script, ranks=ranks, folder=folder, model=deep, resume=resume, stop_at=stop_at)

    return run


def parts_resumed(ranks: Ranks, folder: Path) -> Any:
    """The two, one after the other."""
    in_parts(False, 12, "shard")(ranks, folder)
    return in_parts(True, None, "shard")(ranks, folder)


def sizes(ranks: Ranks, folder: Path) -> Any:
    """What a rank holds of both arms as a step ends, beside the stack's twin: weights, and moments."""
    held: list[tuple[int, ...]] = []

    def watch(run: Prepared) -> None:
        def note(*told: Any) -> None:
            arms = [arm for arm in (run.executor.arm, run.executor.twin) if arm is not None]
            weights = [parameter for arm in arms for parameter in arm.model.parameters()]
            states = [state for arm in arms for state in arm.optimizer.state.values()]
            moments = [value for state in states for value in state.values() if value.dim()]
            held.append((len(arms), *(sum(part.numel() for part in parts) for parts in (weights, moments))))

        run.executor.arm.optimizer.register_step_post_hook(note)

    config = replace(CONFIG, optimizer="adamw", parallel="shard")
    train(config, SCRIPTS["stacked"], ranks=ranks, model=deep, before=watch, stop_at=12)
    return held[-1]


def damaged(ranks: Ranks, folder: Path) -> Any:
    """The newest checkpoint's parts of the last rank are damaged before it goes on."""
    in_parts(False, 12, "shard")(ranks, folder)
    if ranks.is_first:
        path = sorted((folder / "checkpoints").glob("step-*.parts"))[-1] / f"__{ranks.count - 1}_0.distcp"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    ranks.told(b"")
    return in_parts(True, None, "shard")(ranks, folder)


def counting(ranks: Ranks, folder: Path) -> Any:
    """A network that counts its passes where nobody sees it."""

    class Counting(Deep):
        def __init__(self) -> None:
            super().__init__()
            self.passes = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.passes += self.training
            return super().forward(inputs)

    config = replace(CONFIG, parallel="shard")
    return failure_of(lambda: train(config, {}, ranks=ranks, model=Counting))


def refused_in_parts(ranks: Ranks, folder: Path) -> Any:
    """Optimisers, slots and networks that can't be in parts."""

    def of(model: Callable[[], nn.Module] = deep, **settings: Any) -> str:
        config = replace(CONFIG, **{"parallel": "shard", **settings})
        return failure_of(lambda: train(config, {}, ranks=ranks, model=model))

    def scaled() -> nn.Module:
        made = deep()
        made.scale = nn.Parameter(torch.tensor(1.0))
        return made

    return [of(optimizer="muon"), of(slots=(SLOT,)), of(host), of(scaled)]


def poisoned(**settings: Any) -> Callable[[Ranks, Path], Any]:
    """A batch gives no loss: the run goes back, and a second time passes over it, beside a stack and its twin."""
    config = replace(CONFIG, optimizer="adamw", on_nonfinite="rollback", **settings)

    def poison(run: Prepared) -> None:
        draw = run.loader.batch

        def batch(step: int) -> Any:
            inputs, targets = draw(step)
            return (inputs * float("nan") if step == 13 else inputs), targets

        run.loader.batch = batch  # type: ignore[method-assign]

    def run(ranks: Ranks, folder: Path) -> Any:
        return train(config, SCRIPTS["stacked"], ranks=ranks, folder=folder, model=deep, before=poison)

    return run


def own_weights(ranks: Ranks, folder: Path) -> Any:
    """Each process draws other weights: the first one's count."""

    def drawn() -> nn.Module:
        torch.manual_seed(3 + ranks.rank)
        return Host()

    return train(CONFIG, SCRIPTS["kept"], ranks=ranks, model=drawn)


def two_losses(outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each sample's cross-entropy, and the size of its scores."""
    return {
        "error": nn.functional.cross_entropy(outputs, targets, reduction="none"),
        "size": 0.1 * outputs.square().mean(1),
    }


def mismatched(ranks: Ranks, folder: Path) -> Any:
    """The last rank's graft fails, as for lack of memory there alone."""

    def break_graft(run: Prepared) -> None:
        if ranks.rank == ranks.count - 1:
            run.executor.arm.attach = _refuse  # type: ignore[method-assign]

    return failure_of(lambda: train(CONFIG, SCRIPTS["kept"], ranks=ranks, before=break_graft))


def astray(ranks: Ranks, folder: Path) -> Any:
    """The last rank's weights are another's at the end, and no checkpoint is written."""

    def change_weights(run: Prepared) -> None:
        if ranks.rank == ranks.count - 1:
            weights = next(run.executor.arm.model.parameters())

            def stray(*told: Any) -> None:
                weights.data.add_(1e-9)

            run.executor.arm.optimizer.register_step_post_hook(stray)

    config = replace(CONFIG, checkpoint_every_epochs=0)
    return failure_of(lambda: train(config, {}, ranks=ranks, before=change_weights))


def _refuse(graft: Any) -> None:
    raise RuntimeError("no room")


def late(ranks: Ranks, folder: Path) -> Any:
    """The last rank is there, and makes no step for longer than the others wait."""

    def sleep_once(run: Prepared) -> None:
        draw = run.loader.batch

        def batch(step: int) -> Any:
            if step == 5 and ranks.rank == ranks.count - 1:
                time.sleep(LATE_S)
            return draw(step)

        run.loader.batch = batch  # type: ignore[method-assign]

    return train(CONFIG, SCRIPTS["kept"], ranks=ranks, before=sleep_once)


def other_data(ranks: Ranks, folder: Path) -> Any:
    from esper.tolaria.recovery.shared import agree_on_data

    config = replace(CONFIG, samples=600 + ranks.rank)
    return failure_of(lambda: agree_on_data(prepare(config, ranks=ranks)))


SCENARIOS: dict[str, Callable[[Ranks, Path], Any]] = {
    "kept": grown("kept"),
    "culled": grown("culled"),
    "bursts": grown("kept", twin="bursts"),
    "accumulated": grown("kept", accumulate=3, clip_norm=0.5),
    "surgery": grown("kept", accumulate=3, pcgrad=True),
    "losses": grown("kept", pcgrad=True, surgery="losses", loss=f"{HERE}:two_losses"),
    "seeds": grown("inner", accumulate=2, pcgrad=True, surgery="seeds"),
    "incubated": grown("incubated"),
    "stacked": stacked,
    "attending": attending,
    "compiled": compiled,
    "sharded": sharded(),
    "sharded_culled": sharded("unstacked"),
    "sharded_clipped": sharded(accumulate=3, clip_norm=0.5, optimizer="sgd", momentum=0.9),
    "sharded_compiled": sharded(compile="blocks"),
    "parts_resumed": parts_resumed,
    "leave_parts": in_parts(False, 12, "shard"),
    "leave_whole": in_parts(False, 12, "ddp"),
    "take_parts": in_parts(True, None, "shard"),
    "take_whole": in_parts(True, None, "ddp"),
    "sizes": sizes,
    "damaged": damaged,
    "counting": counting,
    "refused_in_parts": refused_in_parts,
    "ordered_back": sharded("ordered", snapshot_every_steps=8),
    "back_in_memory": poisoned(snapshot_every_steps=8),
    "parts_back_in_memory": poisoned(snapshot_every_steps=8, parallel="shard"),
    "back_from_disk": poisoned(snapshot_every_steps=0),
    "parts_back_from_disk": poisoned(snapshot_every_steps=0, parallel="shard"),
    "shared": shared,
    "resumed": resumed,
    "leave_off": leave_off,
    "go_on": go_on,
    "own_weights": own_weights,
    "mismatched": mismatched,
    "astray": astray,
    "other_data": other_data,
    "late": late,
}


def alone(name: str, folder: Path) -> Any:
    """The same in a process by itself."""
    return SCENARIOS[name](ALONE, folder)


def main(names: Sequence[str], folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for name in names:
        there = folder / name
        there.mkdir(exist_ok=True)
        try:
            with joined(replace(CONFIG, rank_timeout_s=6.0) if name == "late" else CONFIG) as ranks:
                results[name] = SCENARIOS[name](ranks, there)
        except EsperError as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, folder / f"{place().rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]))
