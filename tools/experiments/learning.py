#!/usr/bin/env python3
"""Learns when and what to grow from episodes, and asks on other tasks and sizes whether that was worth it.

    learning.py loop               # the whole loop, small: explore, learn, publish, swap, decide; and its shuffled control
    learning.py explore STORE      # episodes whose growth is drawn at random, reports into a replay store
    learning.py compare STORE      # held-out episodes under the heuristic, at random, and under STORE's weights
    learning.py table --out DIR    # what compare wrote, as a table again

Episodes stand in episodes.py. Services, bus, signatures and runs are the product's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from episodes import HELD_OUT, LEARNED_FROM, Episode, episodes
from launching import context, launch, shared_services
from learning_table import table
from learning_rows import row_of

ESPER = Path(sys.executable).with_name("esper")
FIRST_SEED, HELD_OUT_SEED = 1000, 50_000


class Plane:
    """Services that runs share, and `esper` at them."""

    def __init__(self, flags: Sequence[str]) -> None:
        self.flags = list(flags)
        self.weatherlight = self.flags[self.flags.index("--weatherlight") + 1]
        self.tamiyo = self.flags[self.flags.index("--tamiyo") + 1]

    def esper(self, *words: str, may_fail: bool = False) -> str:
        done = subprocess.run([str(ESPER), *words], capture_output=True, text=True, check=False)
        if done.returncode and not may_fail:
            sys.exit(f"esper {' '.join(words)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def collect(self, store: Path) -> str:
        return self.esper("simic", "collect", str(store), "--weatherlight", self.weatherlight)

    def publish(self, store: Path, *more: str) -> str:
        return self.esper("simic", "publish", str(store), "--weatherlight", self.weatherlight, *more)


def settings(folder: Path, **values: object) -> list[str]:
    """Tamiyo's arguments for these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tamiyo-{'-'.join(f'{k}{v}' for k, v in values.items())}.toml"
    path.write_text("[tamiyo]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    return ["--config", str(path)]


def play(plane: Plane, wanted: Sequence[Episode], out: Path, processes: int, arm: str) -> list[dict[str, Any]]:
    """Train the episodes, some at a time; a row of each. A row that is there already is not trained again."""
    server = context()
    out.mkdir(parents=True, exist_ok=True)
    rows_path = out / "rows.jsonl"
    lines = rows_path.read_text().splitlines() if rows_path.exists() else []
    known = {(row["arm"], row["episode"]): row for row in map(json.loads, lines)}

    def once(episode: Episode) -> dict[str, Any]:
        if (found := known.get((arm, episode.name))) is not None:
            return found
        folder, log = out / arm / episode.name, out / arm / f"{episode.name}.log"
        folder.parent.mkdir(parents=True, exist_ok=True)
        run_id = f"{arm}-{episode.name}"
        argv = ["--run-dir", str(folder), "--run-id", run_id, "--overwrite", "--plain", *episode.flags, *plane.flags]
        started = time.monotonic()
        if launch(server, None, argv, log) != 0:
            sys.exit(f"{run_id} failed:\n{log.read_text()[-1500:]}")
        row = row_of(arm, episode.name, folder, time.monotonic() - started)
        with rows_path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(folder)
        return row

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(once, wanted))


def explore(options: argparse.Namespace) -> int:
    out = options.out
    wanted = episodes(LEARNED_FROM, options.episodes, first_seed=options.first_seed)
    with shared_services(settings(out, explore=1.0)) as flags:
        plane = Plane(flags)
        for start in range(0, len(wanted), 16):
            play(plane, wanted[start : start + 16], out, options.processes, "explored")
            print(plane.collect(options.store).splitlines()[0], flush=True)
    return 0


def compare(options: argparse.Namespace) -> int:
    wanted = episodes(HELD_OUT, options.episodes, first_seed=HELD_OUT_SEED)
    arms: dict[str, dict[str, object]] = {
        "heuristic": {"explore": 0.0},
        "random": {"explore": 1.0},
        options.name: {"explore": 0.0, "shadow_decisions": 0},
    }
    for arm, values in arms.items():
        with shared_services(settings(options.out, **values)) as flags:
            plane = Plane(flags)
            if arm == options.name:
                print(plane.publish(options.store, "--unproven"), end="", flush=True)
                await_version(plane)
            play(plane, wanted, options.out, options.processes, arm)
            plane.collect(options.out / f"held_out_{arm}")
    never = [Episode(name=e.name, flags=(*e.flags, "--grow", "never")) for e in wanted]
    with shared_services() as flags:
        play(Plane(flags), never, options.out, options.processes, "never")
    return show(options)


def await_version(plane: Plane) -> None:
    """Wait until weights are in force for new runs."""
    for _ in range(100):
        told = json.loads(plane.esper("call", "tamiyo.GetStatus", "--at", plane.tamiyo))
        if told["policyVersion"] != "1.0.0":
            return
        time.sleep(0.2)
    sys.exit(f"Tamiyo still decides by {told['policyVersion']}")


def show(options: argparse.Namespace) -> int:
    rows = [json.loads(line) for line in (options.out / "rows.jsonl").read_text().splitlines()]
    found = table(rows)
    print(json.dumps(found, indent=2) if options.json else found["text"])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, run, count in (("explore", explore, 160), ("compare", compare, 36), ("table", show, 0)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run=run)
        verb.add_argument("--out", type=Path, default=Path("runs/learning"))
        verb.add_argument("--episodes", type=int, default=count)
        verb.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
        verb.add_argument("--json", action="store_true")
        if name != "table":
            verb.add_argument("store", type=Path)
        verb.add_argument("--name", default="bandit", help="of the learned arm")
        verb.add_argument("--first-seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
