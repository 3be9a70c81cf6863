#!/usr/bin/env python3
"""What the control plane costs: the same training with and without it, in turns, judged by total wall time.

    python tools/bench/control_overhead.py [--pairs 5] [--step-ms 10 1] [--steps N] [--json [FILE]]

Arms, each in a process of its own, with the same steps, epoch evaluations and checkpoints:

  bare     the training loop alone: no packets, nobody watching, no services
  never    --grow never: packets, events.jsonl, TensorBoard and display, but no services
  control  the default: three services, telemetry, and an operator's process whose signed commands are accepted and
           executed all the while; the trigger germinates nothing, so that all arms do the same work

Times count from the first step to the end of training; start-up comes before. All arms must end with equal weights.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from paired import order, ratios, spread

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError
from esper.core.keys import Keyring, new_secret
from esper.core.signing import Signer
from esper.leyline import AdaptationCommand, ApplyCommandRequest, RunStateBlob
from esper.rpc.clients import KasminaClient, channel
from esper.tolaria import run as tolaria_run
from esper.tolaria.boundaries import Boundaries
from esper.tolaria.checkpoint import CheckpointStore
from esper.tolaria.config import TrainConfig
from esper.tolaria.display import PlainDisplay
from esper.tolaria.null_control import NullControl
from esper.tolaria.observer import Boundary, Observers
from esper.tolaria.packet_result import PacketResult, RunStates
from esper.tolaria.pipeline import Pipeline
from esper.tolaria.prepare import prepare
from esper.tolaria.run import Interruption, RunOptions, grow
from esper.tolaria.scalars import TensorBoardScalars
from esper.tolaria.services import SECRET_VARIABLE, START_ORDER, Services, ServicesConfig
from esper.tolaria.summary import quantile
from esper.tolaria.trainer import Trainer

ARMS = ("bare", "never", "control")
WIDTHS = (6, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
COMMAND_EVERY_STEPS = 50
TRAINING_MS = 6_000  # training that a run holds where --steps doesn't say otherwise
COMMAND_TIMEOUT_S = 10.0
ARM_TIMEOUT_S = 600


class TimedTrainer(Trainer):
    """Measures whole steps, their boundaries included, and the training from its first step on."""

    def _begin(self, snapshot: Any) -> None:
        super()._begin(snapshot)
        self._step_ms: list[float] = []
        self._boundary_step_ms: list[float] = []
        self._started = time.perf_counter(), time.process_time()

    def _advance(self) -> None:
        started = time.perf_counter()
        super()._advance()
        step_ms = 1e3 * (time.perf_counter() - started)
        (self._boundary_step_ms if self._is_boundary else self._step_ms).append(step_ms)

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        summary = super().train(resume=resume)
        wall_s, cpu_s = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        times = {"step_ms": self._step_ms, "boundary_step_ms": self._boundary_step_ms}
        return {**summary, "measured": {"wall_s": wall_s, "cpu_s": cpu_s, **times}}


class BareTrainer(TimedTrainer):
    """Reads its losses, evaluates and saves as ever, and does nothing else."""

    def _open(self, snapshot: Any) -> None:
        super()._open(snapshot)
        self._boundaries = Readings(self._session, NothingInFlight(self._control, 1))


class Readings(Boundaries):
    """Boundaries at which only the losses are read."""

    def cross(self, *, want_state: bool) -> None:
        self._read_steps()

    def drain(self) -> None:
        """Nothing is in flight."""


class NothingInFlight(Pipeline):
    """A checkpoint without services has no states to wait for."""

    def settle(self) -> tuple[tuple[PacketResult, ...], RunStates | None]:
        nothing = RunStateBlob(state_type="", state=b"", digest="", step=0)
        return (), RunStates(kasmina=nothing, tamiyo=nothing)


class Pacer(Observers):
    """Observer that lets the operator's process command, so many steps apart."""

    def __init__(self, operator: subprocess.Popen[str]) -> None:
        super().__init__()
        self._operator = operator
        self._next_step = COMMAND_EVERY_STEPS

    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step >= self._next_step and self._operator.stdin is not None:
            self._next_step += COMMAND_EVERY_STEPS
            self._operator.stdin.write(f"{boundary.packet.generation} {boundary.step}\n")
            self._operator.stdin.flush()


def operate(endpoint: str, run_id: str) -> int:
    """The operator: for each line read, sign a command that changes nothing and have it executed; prints how many."""
    signer = Signer(Keyring.from_secret(os.environ[SECRET_VARIABLE]), SYSTEM_CLOCK)
    kasmina, accepted = KasminaClient(channel(endpoint)), 0
    print("ready", flush=True)
    for line in sys.stdin:
        generation, step = map(int, line.split())
        command = AdaptationCommand(
            command_id=f"operator-{step}",
            training_run_id=run_id,
            generation=generation,
            step=step,
            issued_by="operator:bench",
        )
        command.optimizer.learning_rate_factor = 1.0
        request = ApplyCommandRequest(command=signer.sign(command, audience=f"kasmina/{run_id}"))
        outcome = kasmina.apply_command(request, timeout_s=COMMAND_TIMEOUT_S).outcome
        if not outcome.accepted:
            sys.exit(f"{command.command_id} was refused: {outcome.detail}")
        accepted += 1
    print(accepted)
    return 0


@contextmanager
def operator_of(endpoint: str, run_id: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--operate", endpoint, run_id]
    operator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if operator.stdout is None or operator.stdout.readline() != "ready\n":
            sys.exit("the operator's process didn't start")
        yield operator
    finally:
        operator.kill()
        operator.wait()


def train_arm(arm: str, config: TrainConfig) -> dict[str, Any]:
    """One training run, in this process."""
    if arm == "bare":
        store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
        return BareTrainer(prepare(config), lambda opening: NullControl(), Observers(), store=store).train()
    tolaria_run.Trainer = TimedTrainer  # type: ignore[misc,attr-defined]
    with (config.run_dir.parent / f"{config.run_dir.name}.txt").open("w") as terminal:
        watching = [PlainDisplay(terminal), TensorBoardScalars(config.run_dir / "tensorboard")]
        if arm == "never":
            return grow(replace(config, grow="never"), RunOptions(), watching, Interruption())
        os.environ[SECRET_VARIABLE] = secret = new_secret()
        # Started here and not by the run: the operator must know where Kasmina is.
        settings = ServicesConfig(state_dir=config.run_dir.parent / "services")
        with (
            Services(settings, secret, lambda name, text: sys.exit(f"{name}: {text}")) as services,
            operator_of(services.endpoints["kasmina"], config.run_dir.name) as operator,
        ):
            connected = replace(config, **{name: services.endpoints[name] for name in START_ORDER})
            summary = grow(connected, RunOptions(), [*watching, Pacer(operator)], Interruption())
            summary["operator_accepted"] = int(operator.communicate(timeout=COMMAND_TIMEOUT_S)[0] or 0)
    return summary


def config_of(run_dir: Path, width: int, steps: int, steps_per_epoch: int) -> TrainConfig:
    """The run of every arm: whole epochs, a host of two hidden layers, a trigger that never comes to it."""
    epochs = math.ceil(steps / steps_per_epoch)
    return TrainConfig(hidden=(width, width), epochs=epochs, run_dir=run_dir, growth_warmup_steps=2 * steps + 1000)


def calibrate(step_ms: float) -> tuple[int, float, int]:
    """The width whose step comes closest, its step in milliseconds, and the steps of an epoch."""
    found = []
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as folder:
            run = prepare(config_of(Path(folder), width, 1, 1))
            trainer = BareTrainer(run, lambda opening: NullControl(), Observers())
            times = trainer.train()["measured"]["step_ms"]
        found.append((abs(math.log(quantile(times, 0.25) / step_ms)), width, quantile(times, 0.25)))
        if found[-1][2] > 2 * step_ms:
            break
    _, width, measured_ms = min(found)
    return width, measured_ms, run.loader.steps_per_epoch


def run_arm(arm: str, width: int, steps: int, steps_per_epoch: int) -> dict[str, Any]:
    """One arm in a process of its own; its summary."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        command = [sys.executable, __file__, "--arm", arm, folder, *map(str, (width, steps, steps_per_epoch))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ARM_TIMEOUT_S)
        if done.returncode != 0:
            sys.exit(f"arm {arm} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        summary: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return summary


def check_round(summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """All arms did the same work, and the control plane did its own."""
    digests = {arm: summary["weights_digest"] for arm, summary in summaries.items()}
    if len(set(digests.values())) > 1:
        sys.exit(f"the arms' weights differ, so they didn't do the same work: {digests}")
    control = summaries["control"]
    commands, failures = control["commands"], control["control_failures"]
    if failures or commands["rejected"] or not commands["accepted"] or not control["operator_accepted"]:
        sys.exit(f"the control plane didn't work as it should: {failures} failures, commands {commands}")


def compare(step_ms: float, pairs: int, steps: int | None) -> dict[str, Any]:
    """Every arm once a round, `pairs` rounds, at one step time."""
    width, measured_ms, steps_per_epoch = calibrate(step_ms)
    steps = steps or max(200, round(TRAINING_MS / measured_ms))
    rounds = []
    for index in range(pairs):
        summaries = {arm: run_arm(arm, width, steps, steps_per_epoch) for arm in order(ARMS, index)}
        check_round(summaries)
        rounds.append(summaries)
        walls = {arm: f"{summaries[arm]['measured']['wall_s']:.2f} s" for arm in ARMS}
        print(f"{step_ms:g} ms, round {index + 1} of {pairs}: {walls}", file=sys.stderr, flush=True)
    return {
        "step_ms": {"asked": step_ms, "calibrated": measured_ms},
        "hidden": [width, width],
        "steps": rounds[0]["bare"]["steps"],
        "pairs": pairs,
        "commands_accepted": [summaries["control"]["commands"]["accepted"] for summaries in rounds],
        **figures(rounds),
        "weights_digest": rounds[0]["bare"]["weights_digest"],
        "load_average": os.getloadavg(),
    }


def figures(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Ratios of totals, and what a step takes, at a boundary and between two."""
    measured = [{arm: summaries[arm]["measured"] for arm in ARMS} for summaries in rounds]
    walls = [{arm: times[arm]["wall_s"] for arm in ARMS} for times in measured]
    cpus = [{arm: times[arm]["cpu_s"] for arm in ARMS} for times in measured]
    pooled = {
        arm: {name: [t for times in measured for t in times[arm][name]] for name in ("step_ms", "boundary_step_ms")}
        for arm in ARMS
    }
    return {
        "wall_ratio": {f"control/{over}": spread(ratios(walls, "control", over)).to_json() for over in ARMS[:2]},
        "trainer_cpu_ratio": {f"control/{over}": spread(ratios(cpus, "control", over)).to_json() for over in ARMS[:2]},
        "wall_s": {arm: spread([wall[arm] for wall in walls]).to_json() for arm in ARMS},
        "quantiles_ms": {
            arm: {name: {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)} for name, times in named.items()}
            for arm, named in pooled.items()
        },
    }


def show(result: Mapping[str, Any]) -> None:
    """One comparison for a person."""
    print(f"\n{result['step_ms']['calibrated']:.2f} ms a step, hidden {result['hidden']}, {result['steps']} steps")
    for name in ("wall_ratio", "trainer_cpu_ratio"):
        for arms, found in result[name].items():
            print(f"  {name:18} {arms:14} {found['median']:.3f}  range {found['low']:.3f} to {found['high']:.3f}")
    for arm, named in result["quantiles_ms"].items():
        between, at = named["step_ms"], named["boundary_step_ms"]
        print(
            f"  {arm:8} steps p50 {between['p50']:.2f} p99 {between['p99']:.2f} ms; "
            f"at a boundary p50 {at['p50']:.2f} p99 {at['p99']:.2f} ms"
        )


def main(argv: list[str]) -> int:
    if argv[:1] == ["--operate"]:
        return operate(*argv[1:])
    if argv[:1] == ["--arm"]:
        arm, folder, *numbers = argv[1:]
        summary = train_arm(arm, config_of(Path(folder) / "run", *map(int, numbers)))
        (Path(folder) / "result.json").write_text(json.dumps(summary))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="rounds of every arm (default: 5)")
    parser.add_argument("--step-ms", type=float, nargs="+", default=[10.0, 1.0], help="steps to find a host for")
    parser.add_argument("--steps", type=int, help="steps of a run, rounded up to epochs (default: about six seconds)")
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
    try:
        sys.exit(main(sys.argv[1:]))
    except EsperError as error:
        sys.exit(f"control_overhead: {error}")
