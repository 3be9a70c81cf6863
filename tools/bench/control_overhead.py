#!/usr/bin/env python3
"""What the control plane costs: the same training with and without it, in turns, by wall and by processor time.

    python tools/bench/control_overhead.py [--pairs 9] [--step-ms 10 1] [--steps N] [--json [FILE]]

Arms, each a run a round with the same steps, epoch evaluations and checkpoints:

  plain    a loop as everybody writes it, without a trainer: batch, rate, forward, backward, optimiser
  bare     the trainer's loop alone: no packets, nobody watching, no services
  never    --grow never: packets, events.jsonl, TensorBoard and display, but no services
  control  the default: three services, telemetry, and an operator's process whose signed commands are accepted and
           executed all the while; the trigger germinates nothing, so that all arms do the same work

The arms of a round train in turns of a tenth of a second, so that a machine whose speed drifts is the same one for
all. Two processes of one arm can differ by 5 % for as long as they live, by where their memory lies: so one process
trains all arms, and every third round has a new one. Times count from the first step to the end of training; start-up
comes before. All arms must end with equal weights.

Processor time is what a machine that others use lets one compare: milliseconds a step of the training thread, of the
other threads that came up in the arm's turns, and of each service and the operator during these and just after; what
others put out of the caches still counts. Wall time is to be read on a quiet machine alone. Rounds in which the host of
a virtual machine gave its processors to others are told apart from quiet ones, and up to twice as many are made to have
enough of these.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from timing.control_arms import TIMES, BareTrainer, config_of
from timing.paired import order, ratios, spread
from timing.turns import Turn, take_turns

from esper.core.errors import EsperError
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.record.ending.summary import quantile
from esper.tolaria.record.observer import Observers
from esper.tolaria.task.prepare import Prepared, prepare

ARMS = ("plain", "bare", "never", "control")
WIDTHS = (6, 64, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1536, 1792, 2048)
Round = Mapping[str, Mapping[str, Any]]  # of every arm, the summary of its run

TRAINING_MS = 5_000  # training that a run holds where --steps doesn't say otherwise
TURN_MS = 100
ROUNDS_PER_PROCESS = 3
ARM_STOP_S = 60
# A host that gives more of a processor than this to others moves wall times by more than what is measured. Judged by
# the bare arm alone, because the others' own work may be what the host withholds a processor for.
QUIET_SHARE = 0.02
MOST_ROUNDS = 2  # as many times what was asked for are made at most, to have that many quiet ones
# Else glibc gives memory back and takes it again as the heap happens to lie, and small pages make steps differ by where
# they are: either costs more than what is measured here.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def calibrate(step_ms: float) -> tuple[int, float, int]:
    """The width whose step comes closest by the thread's own time, that time, and the steps of an epoch."""
    found = []
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(config_of(Path(folder), width, 1, 1))
            times = take_turns({"bare": partial(alone, run)})["bare"]["measured"]["step_thread_ms"]
        found.append((abs(math.log(quantile(times, 0.5) / step_ms)), width, quantile(times, 0.5)))
        if found[-1][2] > 2 * step_ms:
            break
    _, width, measured_ms = min(found)
    return width, measured_ms, run.loader.steps_per_epoch


def alone(run: Prepared, turn: Turn) -> dict[str, Any]:
    """The bare loop, never interrupted."""
    return BareTrainer(turn, run.total_steps, run, lambda opening: NullControl(), Observers()).train()


@contextmanager
def trainer_process(*numbers: int) -> Iterator[Callable[[Sequence[str]], Round]]:
    """The process that trains; each call of what is given makes a run of each arm, in turns, the named first."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        command = [
            sys.executable,
            str(Path(__file__).parent / "timing" / "control_arms.py"),
            "serve",
            folder,
            *map(str, numbers),
        ]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def answer() -> str:
            line = process.stdout.readline() if process.stdout else ""
            return line or sys.exit(f"the training process ended with {process.wait()}")

        def make_round(arms: Sequence[str]) -> Round:
            print(*arms, file=process.stdin, flush=True)
            summaries: Round = json.loads(answer())
            return summaries

        answer()  # it says that it is ready
        try:
            yield make_round
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(ARM_STOP_S)


def check_round(summaries: Round) -> None:
    """All arms did the same work, and the control plane did its own."""
    digests = {arm: summary["weights_digest"] for arm, summary in summaries.items()}
    if len(set(digests.values())) > 1:
        sys.exit(f"the arms' weights differ, so they didn't do the same work: {digests}")
    control = summaries["control"]
    commands, failures = control["commands"], control["control_failures"]
    if failures or commands["rejected"] or not commands["accepted"]:
        sys.exit(f"the control plane didn't work as it should: {failures} failures, commands {commands}")


def compare(step_ms: float, pairs: int, steps: int | None) -> dict[str, Any]:
    """Every arm once a round, until there are `pairs` quiet rounds, at one step time."""
    width, measured_ms, steps_per_epoch = calibrate(step_ms)
    steps = steps or max(200, round(TRAINING_MS / measured_ms))
    turn_steps = max(1, round(TURN_MS / measured_ms))
    rounds: list[Round] = []
    while not are_enough(rounds, pairs):
        with trainer_process(width, steps, steps_per_epoch, turn_steps) as make_round:
            # The first run of each arm loads libraries and grows memory: it is not counted.
            check_round(make_round(ARMS))
            last = len(rounds) + ROUNDS_PER_PROCESS
            while len(rounds) < last and not are_enough(rounds, pairs):
                summaries = make_round(order(ARMS, len(rounds)))
                check_round(summaries)
                rounds.append(summaries)
                walls = ", ".join(f"{arm} {summaries[arm]['measured']['wall_s']:.2f} s" for arm in ARMS)
                state = "" if is_quiet(summaries) else f"; {stolen_share(summaries, 'bare'):.0%} of a processor stolen"
                print(f"{step_ms:g} ms, round {len(rounds)}: {walls}{state}", file=sys.stderr, flush=True)
    quiet = [summaries for summaries in rounds if is_quiet(summaries)]
    return {
        "step_ms": {"asked": step_ms, "calibrated": measured_ms},
        "hidden": [width, width],
        "steps": rounds[0]["bare"]["steps"],
        "boundaries": len(rounds[0]["bare"]["measured"]["boundary_step_ms"]),
        "commands_accepted": [summaries["control"]["commands"]["accepted"] for summaries in rounds],
        "all_rounds": figures(rounds),
        "quiet_rounds": figures(quiet) if quiet else None,
        "stolen_share": {arm: spread([stolen_share(each, arm) for each in rounds]).to_json() for arm in ARMS},
        "weights_digest": rounds[0]["bare"]["weights_digest"],
        "load_average": os.getloadavg(),
    }


def stolen_share(summaries: Round, arm: str) -> float:
    """What the host took from the machine while an arm ran, in processors."""
    measured = summaries[arm]["measured"]
    return float(measured["stolen_s"] / measured["wall_s"])


def is_quiet(summaries: Round) -> bool:
    """Whether the bare arm had a processor for itself."""
    return stolen_share(summaries, "bare") <= QUIET_SHARE


def are_enough(rounds: Sequence[Round], pairs: int) -> bool:
    """Whether so many rounds were quiet, or the most that are made were made."""
    return len(rounds) >= MOST_ROUNDS * pairs or sum(map(is_quiet, rounds)) >= pairs


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Ratios of totals, and what a step takes, at a boundary and between two."""
    measured = [{arm: summaries[arm]["measured"] for arm in ARMS} for summaries in rounds]
    walls = [{arm: times[arm]["wall_s"] for arm in ARMS} for times in measured]
    threads = [{arm: times[arm]["thread_s"] for arm in ARMS} for times in measured]
    pooled = {arm: {name: [t for times in measured for t in times[arm][name]] for name in TIMES} for arm in ARMS}
    return {
        "wall_ratio": compared(walls),
        "training_thread_ratio": compared(threads),
        "processor_ms_a_step": {arm: processor_ms(rounds, arm) for arm in ARMS},
        "wall_s": {arm: spread([wall[arm] for wall in walls]).to_json() for arm in ARMS},
        "quantiles_ms": {
            arm: {name: {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)} for name, times in named.items()}
            for arm, named in pooled.items()
        },
    }


def compared(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Every arm over those before it."""
    return {
        f"{arm}/{over}": spread(ratios(rounds, arm, over)).to_json()
        for place, arm in enumerate(ARMS)
        for over in ARMS[:place]
    }


def processor_ms(rounds: Sequence[Round], arm: str) -> dict[str, Any]:
    """What a step of an arm takes of processors, and who takes it."""
    taken = []
    for summaries in rounds:
        measured, steps = summaries[arm]["measured"], summaries[arm]["steps"]
        taken.append({"thread": measured["thread_s"], **measured["beside_s"]})
        taken[-1] = {name: 1e3 * spent_s / steps for name, spent_s in taken[-1].items()}
    return {name: spread([each[name] for each in taken]).to_json() for name in taken[0]}


def show(result: Mapping[str, Any]) -> None:
    """One comparison for a person."""
    print(
        f"\n{result['step_ms']['calibrated']:.2f} ms a step, hidden {result['hidden']}, {result['steps']} steps, "
        f"{result['boundaries']} boundaries"
    )
    for which in ("all_rounds", "quiet_rounds"):
        if result[which] is not None and (which == "all_rounds" or result[which] != result["all_rounds"]):
            show_rounds(which.replace("_", " "), result[which])


def show_rounds(which: str, found: Mapping[str, Any]) -> None:
    """The figures of some rounds."""
    print(f"{which}, {found['wall_ratio']['control/bare']['count']}:")
    for name in ("wall_ratio", "training_thread_ratio"):
        for arms, ratio in found[name].items():
            interval = ratio["interval"]
            surely = "" if interval is None else f", 90 % sure {interval[0]:.3f} to {interval[1]:.3f}"
            print(
                f"  {name:22} {arms:14} {ratio['median']:.3f}{surely}; range {ratio['low']:.3f} to {ratio['high']:.3f}"
            )
    for arm, took in found["processor_ms_a_step"].items():
        by_whom = ", ".join(f"{name} {ms['median']:.4f}" for name, ms in took.items())
        print(f"  {arm:8} processor ms a step: {by_whom}")
    for arm, named in found["quantiles_ms"].items():
        for clock, which in (("thread", "step_thread_ms"), ("wall", "step_ms")):
            between, at = named[which], named[f"boundary_{which}"]
            print(
                f"  {arm:8} steps, {clock:6} p50 {between['p50']:.2f} p99 {between['p99']:.2f} ms; "
                f"at a boundary p50 {at['p50']:.2f} p99 {at['p99']:.2f} ms"
            )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="quiet rounds of every arm (default: 9)")
    parser.add_argument("--step-ms", type=float, nargs="+", default=[10.0, 1.0], help="steps to find a host for")
    parser.add_argument("--steps", type=int, help="steps of a run, rounded up to epochs (default: about five seconds)")
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), help="write JSON here, - for the terminal")
    options = parser.parse_args(argv)
    if options.pairs < 1 or min(options.step_ms) <= 0 or (options.steps is not None and options.steps < 1):
        parser.error("--pairs, --step-ms and --steps must be positive")
    results = [compare(step_ms, options.pairs, options.steps) for step_ms in options.step_ms]
    record = {"machine": {"cpus": os.cpu_count(), "platform": platform.platform()}, "comparisons": results}
    text = json.dumps(record, indent=2)
    if options.json == Path("-"):
        print(text)
        return 0
    for result in results:
        show(result)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        # Read once, when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    try:
        sys.exit(main(sys.argv[1:]))
    except EsperError as error:
        sys.exit(f"control_overhead: {error}")
