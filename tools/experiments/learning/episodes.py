"""Episodes to learn growth from: small tasks, hosts too narrow and wide enough, rates that suit and that don't.

Tasks and sizes in HELD_OUT are in no episode that is learned from, and nothing was chosen by them: what a policy is
made of (features, price, caution, exploration) was tried on DEVELOPMENT. NECKS are the loop's, short runs in which much
depends on a decision: UNSEEN_NECKS are other sizes of them, and another data set. Each episode is one run of
tolaria-train; what it is follows from its number alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

STEPS, SHORT_STEPS = 1500, 800


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is trained: its flags, the widths that its hosts have, and rates."""

    flags: tuple[str, ...]
    widths: tuple[str, ...]
    rates: tuple[float, ...] = (1e-3, 3e-3)
    steps: tuple[int, ...] = (STEPS, STEPS * 3 // 2)
    culls: int = 6
    """Refused seeds in a row after which a run grows nothing more."""


def _short(data: str, *widths: str) -> Task:
    return Task(
        flags=("--data", data, "--model", "mlp"), widths=widths, rates=(5e-3, 1e-2), steps=(SHORT_STEPS,), culls=3
    )


LEARNED_FROM: dict[str, Task] = {
    "digits": Task(
        flags=("--data", "digits", "--model", "mlp"), widths=("4,4", "6,6", "8,4", "16,16", "48,48", "6,24")
    ),
    "mnist1d_mlp": Task(flags=("--data", "mnist1d", "--model", "mlp"), widths=("8,8", "20,20", "64,64", "8,32")),
    "noise": Task(flags=("--data", "tasks:random_labels", "--model", "mlp"), widths=("6,6", "24,24")),
    "deep_digits": Task(flags=("--data", "digits", "--model", "mlp"), widths=("5,5,5", "24,6,24")),
}
DEVELOPMENT: dict[str, Task] = {
    "hastie": Task(flags=("--data", "tasks:hastie", "--model", "mlp"), widths=("3,3", "12,12", "40,40")),
    "photos": Task(flags=("--data", "tasks:photos", "--model", "mlp"), widths=("4,4", "32,32")),
    "digits_of_other_sizes": Task(
        flags=("--data", "digits", "--model", "mlp"), widths=("5,10", "10,5", "12,12", "96,96", "4,4,12")
    ),
}
HELD_OUT: dict[str, Task] = {
    "clusters": Task(flags=("--data", "tasks:clusters", "--model", "mlp"), widths=("4,4", "12,20", "64,64")),
    "pairs": Task(flags=("--data", "tasks:pairs", "--model", "mlp"), widths=("6,6", "16,16", "96,32")),
    "waves": Task(flags=("--data", "tasks:waves", "--model", "mlp"), widths=("3,3", "10,10", "48,48")),
    "random_clusters": Task(flags=("--data", "tasks:random_clusters", "--model", "mlp"), widths=("8,8", "40,40")),
}
"""Chosen before any of them was run; labels of one say nothing, so that there is nothing to gain."""

NECKS: dict[str, Task] = {
    "neck": _short("digits", "32,3", "24,2", "48,3"),
    "deep_neck": _short("digits", "24,2,24", "32,3,32"),
    "wide": _short("digits", "32,32", "24,24", "64,64"),
    "noise": _short("tasks:random_labels", "32,3", "24,2,24", "32,32"),
}
"""Layers of two or three units, at which a widening pays by far; layers wide enough, and labels that say nothing."""
UNSEEN_NECKS: dict[str, Task] = {
    "neck": _short("digits", "40,2", "28,3", "56,3"),
    "deep_neck": _short("digits", "32,2,32", "20,3,20"),
    "wide": _short("digits", "40,40", "28,28", "80,80"),
    "noise": _short("tasks:random_labels", "40,2", "20,3,20", "28,28"),
    "table": _short("tasks:hastie", "24,2", "40,40"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One run: its name and the flags that make it."""

    name: str
    flags: tuple[str, ...]


def episodes(tasks: dict[str, Task], count: int, *, first_seed: int) -> Sequence[Episode]:
    """So many, each task in turn; the same for every policy that is asked."""
    return [_episode(*list(tasks.items())[number % len(tasks)], first_seed + number) for number in range(count)]


def _episode(name: str, task: Task, seed: int) -> Episode:
    draw = random.Random(f"episode {seed}")
    width, rate = draw.choice(task.widths), draw.choice(task.rates)
    steps = draw.choice(task.steps)
    flags = (
        *task.flags,
        *("--hidden", width, "--lr", str(rate), "--steps", str(steps), "--seed", str(seed)),
        *("--max-culls", str(task.culls), "--embargo-fraction", "0.05", "--checkpoint-every-epochs", "1000"),
    )
    return Episode(name=f"{name}-{width.replace(',', 'x')}-{seed}", flags=flags)
