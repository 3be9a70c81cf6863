"""soak: a long run with many seeds. Nothing may grow but the network, and no stage of a seed's life may stay empty.

Counted after each epoch in this process (memory, threads, handles, hooks, optimiser groups) and in each service
(memory, threads, handles). What the last epochs have must not be more than the most that there was in the first half:
pools breathe, leaks don't. Only quiet epochs are compared, those without a seed in the host.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.core.enums import short_name
from esper.leyline import SeedStage
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.ending.summary import quantile
from esper.tolaria.record.observer import Boundary, EpochDone, Observer, RunStarted
from esper.tolaria.task.prepare import Prepared
from tools.harness.faults.processes import services_of
from tools.harness.live import Lived, live
from tools.harness.packets import last
from tools.harness.result import Result, unlearnt, unless

SCENARIO, SLUG = "seed_soak", "seed_soak"
TRAINER = "trainer"
FEWEST_SEEDS = 4
STAGES = (
    *("DORMANT", "GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"),
    *("FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING"),
)
"""Stages that seeds of a run enter by themselves; TERMINATED is for those that its end finds alive."""
WARM_SHARE, LAST_SHARE = 0.1, 0.2
"""Epochs left out at the start, and those that are held against the first half."""
ROOM_SHARE, ROOM_BYTES = 0.05, 8 * 2**20
"""Memory may differ by allocators' whims: by the larger of both."""
POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads that a service reads its database in, made when they are first wanted (asyncio's own pool)."""
SERVICE_ROOM = {"threads": POOL, "database_handles": 2 * POOL}
"""Each of them opens a connection, which holds the database and its log."""
COUNTS = ("threads", "handles", "database_handles")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One process after an epoch. Hooks and groups are the trainer's."""

    epoch: int
    process: str
    is_quiet: bool
    memory_bytes: int
    threads: int
    handles: int
    """Open files and sockets, databases left out."""
    database_handles: int
    hooks: int = 0
    groups: int = 0
    device_bytes: int = 0


class Samples(Observer):
    """Observer that takes the samples, and notes which stages seeds enter and the alphas that they reach."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.stages: Counter[str] = Counter()
        self.alphas: dict[str, float] = {}
        self._run: Prepared | None = None
        self._services: dict[str, int] = {}

    def prepared(self, run: Prepared) -> None:
        """What is trained."""
        self._run = run

    def on_start(self, started: RunStarted) -> None:
        if self._run is not None:
            self._services = services_of(self._run.config.run_dir)

    def on_boundary(self, boundary: Boundary) -> None:
        for seed in boundary.seeds:
            self.alphas[seed.seed_id] = max(seed.alpha, self.alphas.get(seed.seed_id, 0.0))
        for transition in boundary.result.transitions if boundary.result else ():
            self.stages[short_name(SeedStage, transition.to_stage)] += 1

    def on_epoch(self, done: EpochDone) -> None:
        if self._run is None:
            return
        executor = self._run.executor
        is_quiet = not executor.seeds and executor.twin is None
        for name, pid in {TRAINER: os.getpid(), **self._services}.items():
            own = of_trainer(self._run) if name == TRAINER else {}
            sample = Sample(epoch=done.epoch, process=name, is_quiet=is_quiet, **of_process(pid), **own)
            self.samples.append(sample)


def of_process(pid: int) -> dict[str, int]:
    """What the kernel says of a process."""
    place = Path("/proc") / str(pid)
    targets = [target for handle in (place / "fd").iterdir() if (target := _target(handle))]
    databases = sum(".db" in Path(target).name for target in targets)
    pages = int((place / "statm").read_text().split()[1])
    return {
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": len(list((place / "task").iterdir())),
        "handles": len(targets) - databases,
        "database_handles": databases,
    }


def _target(handle: Path) -> str:
    try:
        return os.readlink(handle)
    except OSError:  # it was the one that lists them, or was closed meanwhile
        return ""


def of_trainer(run: Prepared) -> dict[str, int]:
    """Hooks on the network, groups of its optimiser, memory of its device."""
    arm = run.executor.arm
    return {
        "hooks": sum(map(_hooks_of, arm.model.modules())) + sum(map(_hooks_of, arm.model.parameters())),
        "groups": len(arm.optimizer.param_groups),
        "device_bytes": torch.cuda.memory_allocated(run.device) if run.device.type == "cuda" else 0,
    }


def _hooks_of(owner: nn.Module | nn.Parameter) -> int:
    own = sum(len(getattr(owner, name, None) or ()) for name in _HOOKS)
    return own + len(getattr(owner, "_post_accumulate_grad_hooks", None) or ())


def configured(run_dir: Path, options: argparse.Namespace) -> TrainConfig:
    """A narrow host on digits, and short lives: many seeds, some of which pay."""
    return TrainConfig(
        data="digits",
        model="mlp",
        hidden=(4, 4),
        epochs=options.epochs,
        device=options.device,
        grow="always",
        span_width="+8",
        growth_warmup_steps=40,
        incubate="shadow",
        incubate_fraction=0.02,
        isolate=True,
        window_fraction=0.03,
        embargo_fraction=0.01,
        max_culls=100,
        run_dir=run_dir,
    )


def run(options: argparse.Namespace) -> Result:
    samples = Samples()
    lived = live(partial(configured, options=options), samples, shown=(samples.prepared,), beside_bare=False)
    return result_of(lived, samples)


def result_of(lived: Lived, samples: Samples) -> Result:
    """What grew, and which stages stayed empty."""
    summary = lived.summary or {}
    growth, violations = summary["growth"], last(lived.packets, "kasmina.isolation.violations")
    empty = [stage for stage in STAGES if not samples.stages[stage]]
    kept = [seed["seed_id"] for seed in summary["seeds"] if seed["fate"] == "kept"]
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "epochs": summary["epochs"],
            **growth,
            "alpha_of_kept": min((samples.alphas[seed] for seed in kept), default=0.0),
            "isolation_violations": violations,
            "accuracy_final": summary["val_accuracy"],
        },
        details={
            "stages": dict(samples.stages),
            "compared": {name: compared(samples.samples, name) for name in processes(samples.samples)},
            "samples": [asdict(sample) for sample in samples.samples],
        },
        failures=[
            *lived.failures,
            *unlearnt(lived.meter.epochs),
            *(f"no seed was ever {stage}" for stage in empty),
            *unless(growth["germinated"] >= FEWEST_SEEDS, f"{growth['germinated']} seeds, expected {FEWEST_SEEDS}"),
            *unless(growth["kept"] > 0, "no seed was kept"),
            *unless(not violations, f"{violations:g} isolation violations"),
            *(f"{seed} was kept at alpha {samples.alphas[seed]:g}" for seed in kept if samples.alphas[seed] < 1.0),
            *unless(any(each.hooks for each in samples.samples), "no hook was seen, so that none could be missed"),
            *grown(samples.samples),
        ],
    )


def processes(samples: list[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.process for sample in samples))


def compared(samples: list[Sample], process: str) -> dict[str, dict[str, float]]:
    """Of one process's quiet epochs: the most in the first half, the warm-up left out, and the median of the last."""
    mine = [sample for sample in samples if sample.process == process]
    last_epoch = mine[-1].epoch
    quiet = [each for each in mine if each.is_quiet]
    before = [each for each in quiet if WARM_SHARE < each.epoch / last_epoch <= 0.5]
    after = [each for each in quiet if each.epoch / last_epoch > 1 - LAST_SHARE]
    names = ("memory_bytes", *COUNTS, *(("hooks", "groups", "device_bytes") if process == TRAINER else ()))
    return {
        name: {
            "most_before": max((float(getattr(each, name)) for each in before), default=0.0),
            "last": quantile([float(getattr(each, name)) for each in after], 0.5),
        }
        for name in names
    }


def grown(samples: list[Sample]) -> Iterator[str]:
    """A line for everything that is more at the end than it was before."""
    for process in processes(samples):
        for name, ends in compared(samples, process).items():
            room = 0.0 if process == TRAINER else SERVICE_ROOM.get(name, 0.0)
            if name.endswith("_bytes"):
                room = max(ROOM_SHARE * ends["most_before"], ROOM_BYTES)
            if ends["last"] > ends["most_before"] + room:
                yield f"{name} of {process} grew from {ends['most_before']:,.0f} to {ends['last']:,.0f}"


def summary(result: Result, environment: dict[str, Any]) -> dict[str, Any]:
    """What seed_soak_summary.json holds."""
    return {
        "scenario": result.scenario,
        "environment": environment,
        "failures": result.failures,
        "metrics": result.metrics,
        **result.details,
    }
