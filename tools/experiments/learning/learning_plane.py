"""Services that episodes share, `esper` at them, and episodes trained some at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from episodes import Episode
from launching import Places, context, launch, patiently
from learning_rows import row_of

from esper.core.storage.files import write_atomically

TOGETHER = 8
ESPER = Path(sys.executable).with_name("esper")


def esper(*words: str, may_fail: bool = False) -> str:
    """What it printed."""
    done = subprocess.run([str(ESPER), *words], capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        sys.exit(f"esper {' '.join(words)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + (done.stderr if done.returncode else "")


class Plane:
    """Services that runs share, and `esper` at them."""

    def __init__(self, flags: Sequence[str]) -> None:
        self.flags = list(flags)
        self.weatherlight = self.flags[self.flags.index("--weatherlight") + 1]
        self.tamiyo = self.flags[self.flags.index("--tamiyo") + 1]

    def collect(self, store: Path) -> str:
        return esper("simic", "collect", str(store), "--weatherlight", self.weatherlight)

    def publish(self, store: Path, *more: str) -> str:
        return esper("simic", "publish", str(store), "--weatherlight", self.weatherlight, *more)

    def refusal(self, store: Path) -> str:
        """What publishing without --unproven says."""
        words = ("simic", "publish", str(store), "--weatherlight", self.weatherlight)
        return esper(*words, may_fail=True).strip()

    def version(self) -> str:
        """Of the policy that new runs get."""
        return str(json.loads(esper("call", "tamiyo.GetStatus", "--at", self.tamiyo))["policyVersion"])

    def await_version(self, wanted: str) -> None:
        for _ in range(100):
            if self.version() == wanted:
                return
            time.sleep(0.2)
        sys.exit(f"Tamiyo decides by {self.version()}, not by {wanted}")


def settings(folder: Path, **values: object) -> list[str]:
    """Tamiyo's arguments for these settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tamiyo-{'-'.join(f'{k}{v}' for k, v in values.items())}.toml"
    path.write_text("[tamiyo]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    return ["--config", str(path)]


def gather(plane: Plane, wanted: Sequence[Episode], out: Path, store: Path, places: Places, arm: str) -> None:
    """Train episodes and take their reports into a store, some at a time; what is interrupted goes on from there."""
    for start in range(0, len(wanted), TOGETHER):
        part = wanted[start : start + TOGETHER]
        if not is_played(part, out, arm):
            rows = _trained(plane, part, out, places, arm)
            print(plane.collect(store).splitlines()[0], flush=True)
            # Only now: these services and their bus end with the process, and what has a row is not trained again.
            _record(out, rows)


def is_played(wanted: Sequence[Episode], out: Path, arm: str) -> bool:
    """Whether each of the episodes has its row."""
    return {(arm, episode.name) for episode in wanted} <= _rows(out).keys()


def _rows(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    path = out / "rows.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["arm"], row["episode"]): row for row in map(json.loads, lines)}


def _record(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows anew, as a whole: a kill leaves those of before. A row that is there already stays."""
    kept = _rows(out)
    for row in rows:
        kept.setdefault((row["arm"], row["episode"]), row)
    write_atomically(out / "rows.jsonl", "".join(f"{json.dumps(row)}\n" for row in kept.values()).encode())


def play(plane: Plane, wanted: Sequence[Episode], out: Path, places: Places, arm: str) -> list[dict[str, Any]]:
    """Train the episodes, some at a time; a row of each, kept as soon as there is one."""
    lock = Lock()

    def keep(row: dict[str, Any]) -> None:
        with lock:
            _record(out, [row])

    return _trained(plane, wanted, out, places, arm, keep)


def _trained(
    plane: Plane,
    wanted: Sequence[Episode],
    out: Path,
    places: Places,
    arm: str,
    then: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """A row of each episode. One that is kept already is not trained again."""
    server = context()
    out.mkdir(parents=True, exist_ok=True)
    known = _rows(out)

    def once(episode: Episode) -> dict[str, Any]:
        if (found := known.get((arm, episode.name))) is not None:
            return dict(found)
        folder, log = out / arm / episode.name, out / arm / f"{episode.name}.log"
        folder.parent.mkdir(parents=True, exist_ok=True)
        run_id = f"{arm}-{episode.name}"
        argv = ["--run-dir", str(folder), "--run-id", run_id, "--overwrite", "--plain", *episode.flags, *plane.flags]
        with places.taken() as place:
            started = time.monotonic()
            code = patiently(lambda: launch(server, None, [*argv, "--device", place], log))
        if code != 0:
            sys.exit(f"{run_id} failed:\n{log.read_text()[-1500:]}")
        row = row_of(arm, episode.name, folder, time.monotonic() - started)
        then(row)
        shutil.rmtree(folder)
        return row

    with ThreadPoolExecutor(places.count) as pool:
        return list(pool.map(once, wanted))
