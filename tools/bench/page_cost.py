#!/usr/bin/env python3
"""What a run that is watched costs its training thread, in processor time: with page and telemetry, and without.

    python tools/bench/page_cost.py [--rounds 9] [--step-ms 10 1] [--steps N] [--json [FILE]]

Arms, each a run a round with the same steps and boundaries:

  without  nobody hears of the run: no events.jsonl, no telemetry, no page
  record   events.jsonl alone
  with     events.jsonl, telemetry to a Weatherlight, and `esper ui` following the run, asked for its view every second

The arms of a round train in turns of a tenth of a second in one process, in threads of their own; each thread's own
processor time counts, from its first step to the last one's boundary, and steps are so many milliseconds of it. All
arms must end with equal weights. Page, Weatherlight and who asks are processes of their own, which take processors and
no time of the thread. Caches that others empty move the ratio on a loaded machine; *told* moves less: the thread's time
in the calls of events.jsonl and telemetry, as a ratio of all of it to the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from control_overhead import WIDTHS
from timing.control_arms import TimedTrainer, config_of
from timing.paired import order, ratios, spread
from timing.turns import Turn, take_turns

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, new_secret
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import TelemetrySender
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.services import SECRET_VARIABLE, Services, ServicesConfig
from esper.tolaria.record.course.events import EventLog
from esper.tolaria.record.observer import Observer, Observers
from esper.tolaria.record.telemetry import TelemetryObserver
from esper.tolaria.recovery.generation import Generation
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.task.prepare import Prepared, prepare

ARMS = ("without", "record", "with")
LIMIT = 1.01
TRAINING_MS, TURN_MS = 4_000, 100
CLOSE_S = 3.0
ASKING = """
import json, sys, time, urllib.error, urllib.request
url = sys.argv[1]
read = lambda address: json.load(urllib.request.urlopen(address, timeout=20))
while True:
    try:
        for name in read(url.replace("/?", "/api/runs?"))["runs"][:1]:
            read(url.replace("/?", f"/api/view?run={name}&"))
    except urllib.error.HTTPError as error:
        if error.code != 404:  # another run began between the two questions
            raise
    time.sleep(1)
"""


class CountedTrainer(TimedTrainer):
    """Takes turns, and counts the processor time of its own thread."""

    cpu_s = 0.0

    def _begin(self, snapshot: Snapshot | None) -> Generation:
        generation = super()._begin(snapshot)
        self._began_s = time.thread_time()
        return generation

    def drain(self) -> None:
        super().drain()
        self.cpu_s = time.thread_time() - self._began_s


class Timed(Observer):
    """Another observer, and the processor time of the calls to it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.spent_s = 0.0

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("on_"):
            return found

        def timed(told: Any) -> None:
            began_s = time.thread_time()
            getattr(self._observer, name)(told)
            self.spent_s += time.thread_time() - began_s

        return timed


class Arms:
    """Every arm as a run in turns."""

    def __init__(self, turn_steps: int, endpoint: str, keyring: Keyring) -> None:
        self._turn_steps = turn_steps
        self._endpoint = endpoint
        self._keyring = keyring

    def without(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        return self._trained(config, turn, Observers())

    def record(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        with EventLog(config.run_dir / "events.jsonl") as log:
            return self._trained(config, turn, log)

    def with_page(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        sender = TelemetrySender(self._endpoint, self._keyring, "tolaria")
        alarm = Alarm(self._endpoint, self._keyring, SYSTEM_CLOCK, "tolaria", config.run_dir / "alarms", None)
        try:
            with EventLog(config.run_dir / "events.jsonl") as log:
                told = Observers(log, TelemetryObserver(sender, SYSTEM_CLOCK, alarm))
                summary = self._trained(config, turn, told)
                return {**summary, "dropped": sender.dropped}
        finally:
            alarm.close(CLOSE_S)
            sender.close(CLOSE_S)

    def _trained(self, config: TrainConfig, turn: Turn, observer: Observer) -> dict[str, Any]:
        timed = Timed(observer)
        trainer = CountedTrainer(turn, self._turn_steps, prepare(config), lambda opening: NullControl(), timed)
        summary = trainer.train()
        told = {name: summary[name] for name in ("weights_digest", "steps")}
        return {**told, "cpu_s": trainer.cpu_s, "told_s": timed.spent_s}


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """`esper ui` over the folder's runs, and somebody who asks for the newest one's view every second."""
    url_file = folder / "page.url"
    page = [sys.executable, "-m", "esper.cli.main", "ui", str(folder), "--url-file", str(url_file)]
    with ExitStack() as stack:
        served = stack.enter_context(subprocess.Popen(page, stdout=subprocess.PIPE, text=True))
        stack.callback(served.kill)
        if served.stdout is None or not served.stdout.readline():
            sys.exit("esper ui didn't start")
        asking = stack.enter_context(subprocess.Popen([sys.executable, "-c", ASKING, url_file.read_text().strip()]))
        stack.callback(asking.kill)
        yield
        if served.poll() is not None or asking.poll() is not None:
            sys.exit("the page was not there to the end: nothing was measured")


def calibrate(step_ms: float) -> tuple[int, float, int]:
    """The width whose step comes closest in processor time, that time, and the steps of an epoch."""
    found = []
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(config_of(Path(folder), width, 1, 1))
            own_ms = take_turns({"alone": partial(_alone, run)})["alone"]
        found.append((abs(math.log(own_ms / step_ms)), width, own_ms))
        if own_ms > 2 * step_ms:
            break
    _, width, own_ms = min(found)
    return width, own_ms, run.loader.steps_per_epoch


def _alone(run: Prepared, turn: Turn) -> float:
    """Milliseconds of a step."""
    trainer = CountedTrainer(turn, run.total_steps, run, lambda opening: NullControl(), Observers())
    trainer.train()
    return 1e3 * trainer.cpu_s / run.total_steps


def measured(step_ms: float, rounds: int, steps: int | None) -> dict[str, Any]:
    """Processor time of every arm's training thread, round by round, at one step time."""
    width, calibrated_ms, steps_per_epoch = calibrate(step_ms)
    steps = steps or max(200, round(TRAINING_MS / step_ms))
    found = []
    with tempfile.TemporaryDirectory(prefix="page-cost-") as name, ExitStack() as stack:
        folder = Path(name)
        os.environ[SECRET_VARIABLE] = secret = new_secret()
        settings = ServicesConfig(state_dir=folder / "services", names=("weatherlight",))
        services = stack.enter_context(Services(settings, secret, lambda name, text: print(text, file=sys.stderr)))
        (folder / "runs").mkdir()
        stack.enter_context(watched(folder / "runs"))
        turn_steps = max(1, round(TURN_MS / step_ms))
        arms = Arms(turn_steps, services.endpoints["weatherlight"], Keyring.from_secret(secret))
        calls = {"without": arms.without, "record": arms.record, "with": arms.with_page}
        for index in range(rounds):
            configs = {
                arm: config_of(folder / "runs" / f"{index}-{arm}", width, steps, steps_per_epoch)
                for arm in order(ARMS, index)
            }
            summaries = take_turns({arm: partial(calls[arm], config) for arm, config in configs.items()})
            check(summaries)
            found.append(summaries)
    cpu = [{arm: summaries[arm]["cpu_s"] for arm in ARMS} for summaries in found]
    return {
        "step_ms": step_ms,
        "calibrated_ms": calibrated_ms,
        "width": width,
        "steps": found[0]["with"]["steps"],
        "cpu_ms_a_step": {
            arm: 1e3 * spread([each[arm] for each in cpu]).median / found[0]["with"]["steps"] for arm in ARMS
        },
        "ratios": {arm: spread(ratios(cpu, arm, "without")).to_json() for arm in ("record", "with")},
        "told": {arm: spread([_told(summaries[arm]) for summaries in found]).to_json() for arm in ("record", "with")},
        "rounds": cpu,
    }


def _told(summary: Mapping[str, Any]) -> float:
    """All of the thread's time over what it would be without the calls of observers."""
    return float(summary["cpu_s"]) / (summary["cpu_s"] - summary["told_s"])


def check(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """All arms did the same work, and the telemetry arrived."""
    digests = {arm: summary["weights_digest"] for arm, summary in summaries.items()}
    if len(set(digests.values())) > 1:
        sys.exit(f"the arms' weights differ, so they didn't do the same work: {digests}")
    if summaries["with"]["dropped"]:
        sys.exit(f"{summaries['with']['dropped']} packets were dropped: the telemetry didn't do its work")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step-ms", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--steps", type=int, help="steps of a run (default: four seconds of them)")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it there")
    options = parser.parse_args()
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "limit": LIMIT,
        "results": [measured(step_ms, options.rounds, options.steps) for step_ms in options.step_ms],
    }
    text = json.dumps(told, indent=2)
    if options.json == "-":
        print(text)
        return
    if options.json:
        Path(options.json).write_text(text + "\n")
    for result in told["results"]:
        print(
            f"steps of {result['calibrated_ms']:.2f} ms, {len(result['rounds'])} rounds: processor time of the thread"
        )
        for arm, figures in result["ratios"].items():
            interval = figures["interval"] and "{:.4f} to {:.4f}".format(*figures["interval"])
            verdict = "" if arm != "with" else f", {'met' if figures['median'] <= LIMIT else 'MISSED'}: at most {LIMIT}"
            told_s = result["told"][arm]
            own = f"; told {told_s['median']:.4f} ({told_s['low']:.4f} to {told_s['high']:.4f})"
            print(f"  {arm:8} {figures['median']:.4f} of without (90 %: {interval}){verdict}{own}")


if __name__ == "__main__":
    main()
