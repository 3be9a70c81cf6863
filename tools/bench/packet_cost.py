#!/usr/bin/env python3
"""What a packet costs in each process of the plane, by processor time, and what a plane costs that waits.

    python tools/bench/packet_cost.py [--turns 5] [--against CHECKOUT] [--epochs 80] [--idle-s 12] [--json [FILE]]

Each turn starts the three services anew, lets them wait, and then has a small network on digits trained with a packet
every ten steps, a checkpoint every ten epochs and nothing grown. `--against` has another checkout take turns with this
one: the machine's load moves processor time, too, by what it puts out of the caches, so that only turns compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timing.control_arms import Uninterrupted
from timing.paired import spread
from timing.processor_time import process_s

from esper.core.security.keys import new_secret
from esper.tolaria import run as tolaria_run
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.services import SECRET_VARIABLE, START_ORDER, Services, ServicesConfig
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.run import RunOptions, grow
from esper.tolaria.trainer import Trainer

HERE = Path(__file__).resolve()
SETTLE_S = 2.0
NO_GROWTH_STEPS = 10**6


def spent_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Seconds that each service has run, and the threads of this process other than the one that asks."""
    return {name: process_s(pid) for name, pid in processes.items()} | {
        "trainer's threads": time.process_time() - time.thread_time()
    }


def wakes(pid: int) -> int:
    """How often threads of a process have gone to wait."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found += next(int(line.split()[1]) for line in status.open() if line.startswith("voluntary_ctxt_switches"))
    return found


def once(idle_s: float, epochs: int) -> dict[str, Any]:
    """One turn."""
    os.environ[SECRET_VARIABLE] = secret = new_secret()
    with tempfile.TemporaryDirectory(prefix="packet-cost-") as folder:
        settings = ServicesConfig(state_dir=Path(folder) / "services")
        with Services(settings, secret, lambda name, text: print(f"{name}: {text}", file=sys.stderr)) as services:
            processes = {name: pid for name in START_ORDER if (pid := services.pid(name)) is not None}
            return {**waiting(processes, idle_s), **training(services, processes, Path(folder) / "run", epochs)}


def waiting(processes: Mapping[str, int], idle_s: float) -> dict[str, Any]:
    """Milliseconds a minute and wakes a second of services for which there is nothing to do."""
    time.sleep(SETTLE_S)
    woken, spent, began = {name: wakes(pid) for name, pid in processes.items()}, spent_s(processes), time.monotonic()
    time.sleep(idle_s)
    took_s, now = time.monotonic() - began, spent_s(processes)
    return {
        "idle_ms_a_minute": {name: 60e3 * (now[name] - spent[name]) / took_s for name in processes},
        "idle_wakes_a_second": {name: (wakes(pid) - woken[name]) / took_s for name, pid in processes.items()},
    }


def training(services: Services, processes: Mapping[str, int], run_dir: Path, epochs: int) -> dict[str, Any]:
    """Milliseconds a packet, from the first step to the end of the run."""
    marks: list[dict[str, float]] = []

    class Marked(Trainer):
        def _begin(self, snapshot: Snapshot | None) -> Any:
            begun = super()._begin(snapshot)
            marks.append(spent_s(processes))
            return begun

        def train(self, *, resume: bool = False) -> dict[str, Any]:
            summary = super().train(resume=resume)
            marks.append(spent_s(processes))
            return summary

    tolaria_run.Trainer = Marked  # type: ignore[misc,attr-defined]
    config = TrainConfig(
        hidden=(128, 128),
        epochs=epochs,
        run_dir=run_dir,
        growth_warmup_steps=NO_GROWTH_STEPS,
        evaluate_every_steps=10,
        **{name: services.endpoints[name] for name in START_ORDER},
    )
    summary = grow(config, RunOptions(), [], Uninterrupted())
    packets = summary["steps"] // config.packet_steps
    first, last = marks[0], marks[-1]
    taken = {name: 1e3 * (last[name] - first[name]) / packets for name in first}
    return {"ms_a_packet": {**taken, "sum": sum(taken.values())}, "weights_digest": summary["weights_digest"]}


def turns_of(checkouts: Mapping[str, Path], turns: int, arguments: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Every checkout in turn, forth and back."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for turn in range(turns):
        for name in list(checkouts) if turn % 2 else reversed(list(checkouts)):
            environ = {**os.environ, "PYTHONPATH": str(checkouts[name]), "OMP_NUM_THREADS": "1"}
            # Services are modules of the folder that their run is started in.
            command = [sys.executable, HERE, "once", *arguments]
            made = subprocess.run(command, env=environ, cwd=checkouts[name], stdout=subprocess.PIPE)
            if made.returncode:
                sys.exit(f"packet_cost: a turn of {checkouts[name]} ended with {made.returncode}")
            found[name].append(json.loads(made.stdout))
            print(f"turn {turn + 1} of {name}: {found[name][-1]['ms_a_packet']['sum']:.2f} ms", file=sys.stderr)
    return found


def compared(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and ranges; the weights of every turn are the same."""
    digests = {turn["weights_digest"] for turns in found.values() for turn in turns}
    if len(digests) > 1:
        sys.exit(f"packet_cost: the turns' weights differ: {sorted(digests)}")
    parts = ("ms_a_packet", "idle_ms_a_minute", "idle_wakes_a_second")
    return {
        name: {
            part: {who: spread([turn[part][who] for turn in turns]).to_json() for who in turns[0][part]}
            for part in parts
        }
        for name, turns in found.items()
    }


def show(result: Mapping[str, Any]) -> None:
    """For a person."""
    for name, parts in result.items():
        for part, by_whom in parts.items():
            listed = (f"{who} {ms['median']:.2f} ({ms['low']:.2f} to {ms['high']:.2f})" for who, ms in by_whom.items())
            print(f"{name:8} {part.replace('_', ' '):20} {', '.join(listed)}")


def main(argv: list[str]) -> int:
    if argv[:1] == ["once"]:
        print(json.dumps(once(float(argv[1]), int(argv[2]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="turns of each checkout (default: 5)")
    parser.add_argument("--against", type=Path, help="another checkout, built as this one is")
    parser.add_argument("--epochs", type=int, default=80, help="epochs of 18 steps (default: 80)")
    parser.add_argument("--idle-s", type=float, default=12.0, help="seconds that the plane waits (default: 12)")
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), help="write JSON here, - for the terminal")
    options = parser.parse_args(argv)
    if min(options.turns, options.epochs, options.idle_s) <= 0:
        parser.error("--turns, --epochs and --idle-s must be positive")
    checkouts = {"this": HERE.parents[2]}
    if options.against is not None:
        if not (options.against / "esper").is_dir():
            parser.error(f"--against is {options.against}, which holds no package esper: give a checkout")
        checkouts["other"] = options.against.resolve()
    result = compared(turns_of(checkouts, options.turns, (str(options.idle_s), str(options.epochs))))
    text = json.dumps(result, indent=2)
    if options.json == Path("-"):
        print(text)
        return 0
    show(result)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
