"""`esper harness`: measure a live control plane and its recovery; tools/harness of the source tree does the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import esper
from esper.cli.usage import Verbs, add_group, add_verb
from esper.core.errors import ConfigError

FEWEST_EPOCHS = 30
SOAK_EPOCHS = 100
MOST_WAIT_MS = 60_000.0

SCENARIOS: Mapping[str, str] = {
    "steady-train": "epochs of a growing run, beside a bare loop that takes turns with it",
    "rollback": "restores of stated sizes from memory and disk, and one that misses its deadline",
    "tamiyo-timeout": "a growing run whose Tamiyo is frozen again and again for longer than the deadline",
    "kasmina-prefetch": "a burst of prefetches over the bus, whose Urza is slow",
}
ALL = tuple(SCENARIOS)
TRAINING = ("steady-train", "rollback", "tamiyo-timeout")


def number(kind: type, least: float, most: float = float("inf")) -> Callable[[str], Any]:
    """A number between bounds, as argparse wants it."""

    def bounded(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            bounds = f"at least {least:g}" if most == float("inf") else f"between {least:g} and {most:g}"
            raise argparse.ArgumentTypeError(f"expected {bounds}, got {text}")
        return value

    bounded.__name__ = "number"
    return bounded


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """DEPTHxWIDTH,... of transformers."""
    try:
        found = tuple((int(depth), int(width)) for depth, width in (size.split("x") for size in text.split(",")))
    except ValueError:
        found = ()
    if not found or any(depth < 1 or width < 64 or width % 64 for depth, width in found):
        message = f"expected DEPTHxWIDTH,... with widths in multiples of 64, as 2x64,12x768, got {text}"
        raise argparse.ArgumentTypeError(message)
    return found


# Every flag, the scenarios that it acts on, and how it is read.
FLAGS: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    ("--device", TRAINING, {"default": "cpu", "help": "cpu, cuda or cuda:INDEX (cpu)"}),
    (
        "--epochs",
        TRAINING,
        {
            "type": number(int, FEWEST_EPOCHS),
            "default": 40,
            "help": f"epochs of 64 samples, at least {FEWEST_EPOCHS} (40)",
        },
    ),
    ("--batch-size", TRAINING, {"type": number(int, 1, 32), "default": 4, "help": "samples in one step (4)"}),
    ("--disable-compile", ("steady-train",), {"action": "store_true", "help": "leave torch.compile out"}),
    (
        "--deadline-ms",
        ("rollback",),
        {"type": number(float, 0.1, MOST_WAIT_MS), "default": 5.0, "help": "deadline that is missed (5)"},
    ),
    (
        "--sizes",
        ("rollback",),
        {
            "type": _sizes,
            "default": ((2, 64), (6, 384)),
            "metavar": "DxW,...",
            "help": "transformers to restore, by depth and width (2x64,6x384); 12x768 is 1 GB with Adam",
        },
    ),
    (
        "--timeout-every",
        ("tamiyo-timeout",),
        {"type": number(int, 2), "default": 2, "help": "freeze Tamiyo at every N-th packet (2)"},
    ),
    (
        "--requests",
        ("kasmina-prefetch",),
        {"type": number(int, 1), "default": 32, "help": "prefetches in all (32)"},
    ),
    (
        "--concurrency",
        ("kasmina-prefetch",),
        {"type": number(int, 1, 64), "default": 4, "help": "prefetches at a time (4)"},
    ),
    (
        "--ready-latency-ms",
        ("kasmina-prefetch",),
        {"type": number(float, 0.0, 4000.0), "default": 40.0, "help": "delay of each artefact (40)"},
    ),
    (
        "--output-dir",
        ALL,
        {"type": Path, "default": Path("runs/harness"), "metavar": "DIR", "help": "where results go (runs/harness)"},
    ),
    ("--markdown-report", ALL, {"action": "store_true", "help": "write DIR/report.md too"}),
)


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "harness", "measure a live control plane, break it, and measure again")
    for name, summary in SCENARIOS.items():
        _add(group, name, summary, (name,))
    _add(group, "all", "every scenario above", ALL)
    soak = add_verb(group, "soak", run, "a long run with many seeds: nothing may grow but the network")
    soak.add_argument(
        "--epochs",
        type=number(int, SOAK_EPOCHS),
        default=SOAK_EPOCHS,
        help=f"epochs of digits, at least {SOAK_EPOCHS} ({SOAK_EPOCHS})",
    )
    soak.set_defaults(scenarios=("soak",))
    for flag, _, how in FLAGS:
        if flag in ("--device", "--output-dir"):
            soak.add_argument(flag, **how)


def _add(group: Verbs, name: str, summary: str, scenarios: tuple[str, ...]) -> None:
    parser = add_verb(group, name, run, summary)
    for flag, acts_on, how in FLAGS:
        if set(acts_on) & set(scenarios):
            parser.add_argument(flag, **how)
    parser.set_defaults(scenarios=scenarios)


def source_tree() -> Path:
    """The root of the tree that Esper was imported from. Raises ConfigError where that is an installed copy."""
    root = Path(esper.__file__).resolve().parents[1]
    if not (root / "tools" / "harness" / "__init__.py").is_file():
        remedy = (
            "isn't a source tree, and the harness is no part of the installed package: clone Esper, make setup, and "
            "run .venv/bin/esper harness there"
        )
        raise ConfigError("harness", str(root), remedy)
    return root


def run(arguments: argparse.Namespace) -> int:
    root = str(source_tree())
    if root not in sys.path:
        sys.path.insert(0, root)
    code: int = import_module("tools.harness.command").run(arguments)
    return code
