"""Loops of a user's own on many ranks: `python -m tests.unit.tolaria.ranks.own_loops NAME,... FOLDER` in each process.

In float64, each rank with its part of the batches that one process would take.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import esper
from esper.core.errors import EsperError
from esper.leyline import SeedDirective
from esper.tolaria.ranks.place import place
from tests.unit.tolaria.door.planes import let_follow
from tests.unit.tolaria.scripted_control import cull, germination, judgement, keep

STEPS, BATCH = 20, 16
SPAN = "span_linear:fc1-fc2"
GROWN = [*germination("s1", SPAN), judgement("s1", 12)]
SCRIPTS: dict[str, dict[int, list[SeedDirective]]] = {
    "kept": {4: GROWN, 12: keep("s1")},
    "culled": {4: GROWN, 12: cull("s1")},
    "stacked": {4: germination("s1", "stack:blocks", "stack.double"), 12: keep("s1")},
    "unstacked": {4: germination("s1", "stack:blocks", "stack.double"), 12: cull("s1")},
    "never": {},
}
BASE = {
    "evaluate_every_steps": 4,
    "min_samples": 20,
    "seed": 3,
    "steps": STEPS,
    "deadline_s": 5.0,
    "checkpoint_every_epochs": 1,
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.fc2(torch.relu(self.fc1(features)))
        return scores


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.tanh(self.fc(hidden))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.blocks, self.fc2 = nn.Linear(8, 6), nn.ModuleList([Block(), Block()]), nn.Linear(6, 3)
        self.double()

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.fc1(features)
        for block in self.blocks:
            hidden = block(hidden)
        scores: Tensor = self.fc2(hidden)
        return scores


class Shares:
    """A batch sampler of the user's own: every rank draws the same batches, and takes its part of each."""

    def __iter__(self) -> Iterator[list[int]]:
        here, order = place(), torch.randperm(96).tolist()
        for start in range(0, len(order), BATCH):
            yield order[start : start + BATCH][here.rank :: here.count]

    def __len__(self) -> int:
        return 96 // BATCH


def data(samples: int, seed: int) -> TensorDataset:
    inputs = torch.randn(samples, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    teacher = torch.randn(8, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return TensorDataset(inputs, (inputs @ teacher).argmax(1))


def shared() -> DataLoader[Any]:
    return DataLoader(data(96, 1), batch_sampler=Shares())  # type: ignore[arg-type]


def distributed() -> DataLoader[Any]:
    """As torch's own tutorial has it."""
    here, samples = place(), data(96, 1)
    sampler = DistributedSampler(samples, num_replicas=here.count, rank=here.rank, shuffle=True)
    return DataLoader(samples, batch_size=BATCH // here.count, sampler=sampler)


def step(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Own:
    """A script as a user writes it."""

    def __init__(self, run_dir: Path, script: str = "kept", **options: Any) -> None:
        torch.manual_seed(5 + place().rank * options.pop("draws_anew", False))
        self.model = options.pop("model", Net)()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = options.pop("scheduler", lambda optimizer: CosineAnnealingLR(optimizer, STEPS))(self.optimizer)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.loader, self.script = options.pop("loader", shared)(), script
        self.clip_norm = options.pop("clip_norm", None)
        self.parts = options.pop("parts", 1)
        self.before: Callable[[Own, int], None] = options.pop("before", lambda own, number: None)
        self.config = {**BASE, "run_dir": run_dir, **options.pop("config", {})}
        self.judge = options.pop("judge", lambda: DataLoader(data(60, 2), batch_size=20))()
        self.is_bare = options.pop("is_bare", False)
        self.options = options
        self.changes: list[esper.Change] = []

    def run(self) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            let_follow(monkeypatch, SCRIPTS[self.script])
            self.growth = esper.Growth(
                self.model,
                self.optimizer,
                step=step,
                judge=self.judge,
                scheduler=self.scheduler,
                ema=self.ema,
                clip_norm=self.clip_norm,
                config=self.config,
                on_change=self.changes.append,
                **self.options,
            )
            with self.growth as growth:
                for number, batch in enumerate(growth.steps(self.loader)):
                    self.before(self, number)
                    growth.note(self.one_round(growth, batch))
        return self.told(growth.result)

    def one_round(self, growth: esper.Growth, batch: Sequence[Tensor]) -> Tensor:
        self.optimizer.zero_grad()
        passed = self.model if self.is_bare else growth.model
        if self.parts > 1:
            loss = self.accumulated(growth, batch)
        else:
            loss = step(passed, batch).mean()
            loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step(*([loss.detach()] if isinstance(self.scheduler, ReduceLROnPlateau) else []))
        self.ema.update_parameters(self.model)
        return loss

    def accumulated(self, growth: esper.Growth, batch: Sequence[Tensor]) -> Tensor:
        """Two passes, of which the last one alone has gradients reduced."""
        parts = list(zip(*(tensor.chunk(2) for tensor in batch), strict=True))
        with growth.no_sync():
            first = step(growth.model, parts[0]).mean() / 2
            first.backward()
        last = step(growth.model, parts[1]).mean() / 2
        last.backward()
        return first.detach() + last.detach()

    def trains_alone(self) -> bool:
        """Whether a process can pass the model by itself afterwards, as no other does now."""
        self.optimizer.zero_grad()
        if place().rank == 0:
            step(self.model, data(4, 1)[:]).mean().backward()
        return all(parameter.grad is not None for parameter in self.model.parameters())

    def told(self, result: esper.Result) -> dict[str, Any]:
        summary = result.summary
        return {
            "weights": {name: value.detach().clone() for name, value in self.model.state_dict().items()},
            "average": {name: value.detach().clone() for name, value in self.ema.module.state_dict().items()},
            "val_loss": summary["val_loss"],
            "fates": [seed["fate"] for seed in summary["seeds"]],
            "digest": summary["weights_digest"],
            "steps": summary["steps"],
            "ranks": summary["ranks"],
            "reproducible_cause": summary["reproducible_cause"],
            "changes": [(change.step, change.kind) for change in self.changes],
            "trains_alone": self.trains_alone(),
        }


def failure_of(own: Own) -> str:
    """What an error says."""
    try:
        own.run()
    except EsperError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def killed(own: Own, number: int) -> None:
    if number == 14:
        raise KeyError("killed")


def resumed(folder: Path) -> Any:
    """Stopped by an error of every rank beside a live twin, and gone on with."""
    how: dict[str, Any] = {"script": "unstacked", "model": Deep, "loader": distributed}
    whole = Own(folder / "whole", **how).run()
    with pytest.raises(KeyError):
        Own(folder / "killed", before=killed, **how).run()
    again = Own(folder / "killed", resume=True, **how).run()
    return {"whole": whole["digest"], **again}


def early(folder: Path) -> Any:
    """The first rank still holds what it has of one run when the others come to the next."""
    first = Own(folder / "first", script="never")
    first.run()
    if place().rank == 0:
        time.sleep(0.5)
    del first
    gc.collect()
    return Own(folder / "second", script="never").run()["digest"]


def mismatched(folder: Path) -> Any:
    """The last rank's graft fails, as for lack of memory there alone."""

    def break_graft(own: Own, number: int) -> None:
        if not number and place().rank == place().count - 1:
            own.growth._course.run.executor.arm.attach = _refuse  # type: ignore[union-attr,method-assign]

    return failure_of(Own(folder / "run", before=break_graft))


def _refuse(graft: Any) -> None:
    raise RuntimeError("no room")


def failing(folder: Path) -> Any:
    """The last rank's loop raises by itself; the others are in a backward pass of theirs."""

    def fail(own: Own, number: int) -> None:
        if number == 9 and place().rank == place().count - 1:
            raise ValueError("no such file")

    try:
        return failure_of(Own(folder / "run", before=fail))
    except ValueError as error:
        return str(error)


def refused(folder: Path) -> Any:
    """What can be checked cheaply of what the ranks bring."""
    here = place()

    def alike() -> DataLoader[Any]:
        return DataLoader(data(96, 1), batch_size=8, shuffle=True)

    def longer() -> DataLoader[Any]:
        return DataLoader(data(96 + 16 * here.rank, 1 + here.rank), batch_size=8)

    def other() -> DataLoader[Any]:
        return DataLoader(data(60, 2 + here.rank), batch_size=20)

    def plateau(optimizer: Any) -> Any:
        return ReduceLROnPlateau(optimizer, patience=0, threshold=0.3 - 0.6 * here.rank)

    cases: dict[str, dict[str, Any]] = {
        "alike": {"loader": alike},
        "longer": {"loader": longer},
        "judge": {"judge": other},
        "bare": {"is_bare": True},
        "plateau": {"scheduler": plateau, "script": "never"},
        "incubate": {"config": {"incubate": "shadow"}},
        "patience": {"config": {"rank_timeout_s": 4.0}},
    }
    return {name: failure_of(Own(folder / name, **options)) for name, options in cases.items()}


def left_by(folder: Path) -> Any:
    """A run that this number of ranks has left behind a checkpoint."""
    try:
        return Own(folder / "run", before=killed).run()
    except KeyError:
        return "killed"


def gone_on(folder: Path) -> Any:
    return failure_of(Own(folder / "run", resume=True))


def grown(**options: Any) -> Callable[[Path], Any]:
    return lambda folder: Own(folder / "run", **options).run()


SCENARIOS: dict[str, Callable[[Path], Any]] = {
    "kept": grown(),
    "stacked": grown(script="stacked", model=Deep, clip_norm=0.5),
    "culled": grown(script="culled"),
    "unstacked": grown(script="unstacked", model=Deep),
    "accumulated": grown(parts=2),
    "draws_anew": grown(draws_anew=True),
    "ungrown": grown(config={"grow": "never"}, loader=lambda: list(shared())),
    "early": early,
    "resumed": resumed,
    "mismatched": mismatched,
    "failing": failing,
    "refused": refused,
    "left_by": left_by,
    "gone_on": gone_on,
}


def main(names: Sequence[str], folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for name in names:
        (folder / name).mkdir(exist_ok=True)
        try:
            results[name] = SCENARIOS[name](folder / name)
        except EsperError as error:
            results[name] = f"{type(error).__name__}: {error}"
    torch.save(results, folder / f"{place().rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]))
