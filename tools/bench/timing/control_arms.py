"""The arms of control_overhead.py: training runs with clocks on them, in turns, all in one process.

python tools/bench/timing/control_arms.py serve FOLDER WIDTH STEPS STEPS_PER_EPOCH TURN_STEPS    a round for each line
python tools/bench/timing/control_arms.py operate ENDPOINT                            the operator: each line a command
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from timing.processor_time import Helpers, spent_beside_s
from timing.turns import Turn, take_turns

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.leyline import AdaptationCommand, ApplyCommandRequest, RunStateBlob
from esper.rpc.clients import KasminaClient, channel
from esper.tolaria import run as tolaria_run
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.boundaries import Boundaries
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.pipeline import Flight, Pipeline
from esper.tolaria.plane.services import SECRET_VARIABLE, START_ORDER, Services, ServicesConfig
from esper.tolaria.record.observer import Boundary, Observer, Observers
from esper.tolaria.record.packet_result import PacketResult, RunStates
from esper.tolaria.record.terminal.display import PlainDisplay
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.generation import Generation
from esper.tolaria.recovery.snapshot import Snapshot
from esper.tolaria.run import Interruption, RunOptions, grow
from esper.tolaria.task.objective.task import evaluated
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer

COMMAND_EVERY_STEPS = 50
COMMAND_TIMEOUT_S = 10.0
NO_STATE = RunStateBlob(state_type="", state=b"", digest="", step=0)
NO_STATES = RunStates(kasmina=NO_STATE, tamiyo=NO_STATE)
TIMES = ("step_ms", "boundary_step_ms", "step_thread_ms", "boundary_step_thread_ms")
QUIET_STEPS = 4  # after a boundary, before a turn may end: what the boundary set off belongs to its own arm


class Stopwatch:
    """Times one arm's steps, from the first one on; now and then it hands over."""

    def __init__(self, turn: Turn, turn_steps: int) -> None:
        self._turn, self._turn_steps = turn, turn_steps
        self._steps_in_turn = self._steps_since_boundary = 0
        self._times: dict[str, list[float]] = {name: [] for name in TIMES}

    def begin(self) -> None:
        """What came before isn't counted."""
        self._turn.hand_over()
        self._turn.start_clock()

    def take(self, make: Callable[[], None], is_boundary: Callable[[], bool]) -> None:
        """Make a step, and the boundary after it if there is one."""
        if self._steps_in_turn >= self._turn_steps and self._steps_since_boundary >= QUIET_STEPS:
            self._turn.hand_over()
            self._steps_in_turn = 0
        started, ran = time.perf_counter(), time.thread_time()
        make()
        which = "boundary_" if is_boundary() else ""
        self._times[f"{which}step_ms"].append(1e3 * (time.perf_counter() - started))
        self._times[f"{which}step_thread_ms"].append(1e3 * (time.thread_time() - ran))
        self._steps_in_turn += 1
        self._steps_since_boundary = 0 if is_boundary() else self._steps_since_boundary + 1

    def end(self) -> dict[str, Any]:
        """All that was measured."""
        self._turn.stop_clock()
        self._turn.settle()
        return {**asdict(self._turn.spent), "beside_s": self._turn.spent_beside_s, **self._times}


class TimedTrainer(Trainer):
    """Measures steps with their boundaries."""

    def __init__(self, turn: Turn, turn_steps: int, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        self._watch = Stopwatch(turn, turn_steps)

    def _begin(self, snapshot: Snapshot | None) -> Generation:
        generation = super()._begin(snapshot)
        self._watch.begin()
        return generation

    def advance(self, make: Callable[[], None]) -> None:
        self._watch.take(partial(super().advance, make), lambda: self._is_boundary)

    def train(self, *, resume: bool = False) -> dict[str, Any]:
        summary = super().train(resume=resume)
        return {**summary, "measured": self._watch.end()}


class BareTrainer(TimedTrainer):
    """Reads its losses, evaluates and saves as ever, and does nothing else."""

    def _begin(self, snapshot: Snapshot | None) -> Generation:
        control = super()._begin(snapshot).control
        return Generation(control, Readings(self._session, NothingInFlight(control, 1), self._going_back.obstacle))


class Readings(Boundaries):
    """Boundaries at which only the losses are read."""

    def cross(self, *, want_state: bool) -> None:
        self.read_steps()

    def drain(self) -> None:
        """Nothing is in flight."""


class NothingInFlight(Pipeline):
    """A checkpoint without services has no states to wait for."""

    def settle(self) -> tuple[tuple[PacketResult, ...], RunStates | None]:
        return (), NO_STATES

    def follow(self) -> Flight:
        return Flight(0, range(0), (), PacketResult(packet_index=0, states=NO_STATES))


def plain_loop(run: Prepared, path: Path, watch: Stopwatch) -> dict[str, Any]:
    """A loop as everybody writes it, with the run's own network, optimiser, schedule and batches."""
    config, arm, loader, task = run.config, run.executor.arm, run.loader, run.task
    model, optimizer, scheduler = arm.model, arm.optimizer, arm.scheduler
    losses: list[Tensor] = []
    step = 0

    def is_boundary() -> bool:
        return step % config.packet_steps == 0

    def make() -> None:
        nonlocal step
        inputs, targets = loader.batch(step)
        scheduler.apply(optimizer, step)
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if is_boundary():
            torch.stack(losses).tolist()
            losses.clear()
        if step % loader.steps_per_epoch == 0:
            evaluated(arm, task, run.splits.judge)
            if step // loader.steps_per_epoch % config.checkpoint_every_epochs == 0:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)

    watch.begin()
    for _ in range(run.total_steps):
        watch.take(make, is_boundary)
    return {"steps": step, "packet_steps": config.packet_steps, "weights_digest": arm.digest(), "measured": watch.end()}


class Pacer(Observers):
    """Observer that lets the operator's process command, so many steps apart."""

    def __init__(self, operator: subprocess.Popen[str]) -> None:
        super().__init__()
        self._operator = operator
        self._next_step = COMMAND_EVERY_STEPS

    def on_boundary(self, boundary: Boundary) -> None:
        if boundary.step >= self._next_step and self._operator.stdin is not None:
            self._next_step += COMMAND_EVERY_STEPS
            self._operator.stdin.write(
                f"{boundary.packet.training_run_id} {boundary.packet.generation} {boundary.step}\n"
            )
            self._operator.stdin.flush()


def operate(endpoint: str) -> None:
    """The operator: for each line read, sign a command that changes nothing and have it accepted."""
    signer, kasmina = (
        Signer(Keyring.from_secret(os.environ[SECRET_VARIABLE]), SYSTEM_CLOCK),
        KasminaClient(channel(endpoint)),
    )
    print("ready", flush=True)
    for line in sys.stdin:
        run_id, generation, step = line.split()
        command = AdaptationCommand(
            command_id=f"operator-{step}",
            training_run_id=run_id,
            generation=int(generation),
            step=int(step),
            issued_by="operator:bench",
        )
        command.optimizer.learning_rate_factor = 1.0
        request = ApplyCommandRequest(command=signer.sign(command, audience=f"kasmina/{run_id}"))
        outcome = kasmina.apply_command(request, timeout_s=COMMAND_TIMEOUT_S).outcome
        if not outcome.accepted:
            sys.exit(f"{command.command_id} was refused: {outcome.detail}")


@contextmanager
def operator_of(endpoint: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "operate", endpoint]
    operator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if operator.stdout is None or operator.stdout.readline() != "ready\n":
            sys.exit("the operator's process didn't start")
        yield operator
    finally:
        operator.kill()
        operator.wait()


class Uninterrupted(Interruption):
    """Signals are the main thread's, and no arm runs there."""

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Arms:
    """Every arm as a run in turns; the controlled one also has its services and the operator."""

    turn_steps: int
    endpoints: Mapping[str, str]
    processes: Mapping[str, int]
    operator: subprocess.Popen[str]
    helpers: Helpers = field(default_factory=Helpers)

    def plain(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        """A loop without a trainer."""
        self._look_beside(turn)
        config.run_dir.mkdir()
        return plain_loop(prepare(config), config.run_dir / "plain.pt", Stopwatch(turn, self.turn_steps))

    def bare(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        """The training loop alone."""
        self._look_beside(turn)
        store = CheckpointStore(config.run_dir / "checkpoints", config.keep_checkpoints)
        run = prepare(config)
        return BareTrainer(turn, self.turn_steps, run, lambda opening: NullControl(), Observers(), store=store).train()

    def never(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        """A run as the launcher makes it, without services."""
        return self._watched(replace(config, grow="never"), turn)

    def control(self, config: TrainConfig, turn: Turn) -> dict[str, Any]:
        """A run as the launcher makes it, under services that were started before."""
        return self._watched(replace(config, **self.endpoints), turn, Pacer(self.operator))

    def _watched(self, config: TrainConfig, turn: Turn, *further: Observer) -> dict[str, Any]:
        self._look_beside(turn)
        # Looked up when the run is opened, which is in this turn.
        tolaria_run.Trainer = partial(TimedTrainer, turn, self.turn_steps)  # type: ignore[misc,assignment,attr-defined]
        with config.run_dir.with_suffix(".txt").open("w") as terminal:
            return grow(config, RunOptions(), [PlainDisplay(terminal), *further], Uninterrupted())

    def _look_beside(self, turn: Turn) -> None:
        """Have the turn count the arm's other threads; the controlled one's also has the services."""
        self.helpers.leave_out()
        processes = self.processes if turn.name == "control" else {}
        turn.beside = partial(spent_beside_s, self.helpers, turn.name, processes)


@contextmanager
def prepared_arms(folder: Path, turn_steps: int) -> Iterator[Arms]:
    """Services are started once, and here: the operator must know where Kasmina is."""
    os.environ[SECRET_VARIABLE] = secret = new_secret()
    settings = ServicesConfig(state_dir=folder / "services")
    with (
        Services(settings, secret, lambda name, text: print(f"{name}: {text}", file=sys.stderr)) as services,
        operator_of(services.endpoints["kasmina"]) as operator,
    ):
        endpoints = {name: services.endpoints[name] for name in START_ORDER}
        spawned = {name: pid for name in START_ORDER if (pid := services.pid(name)) is not None}
        processes = {**spawned, "operator": operator.pid}
        yield Arms(turn_steps, endpoints, processes, operator)


def config_of(run_dir: Path, width: int, steps: int, steps_per_epoch: int) -> TrainConfig:
    """The run of every arm: whole epochs, a host of two hidden layers, a trigger that never comes to it."""
    epochs = math.ceil(steps / steps_per_epoch)
    return TrainConfig(hidden=(width, width), epochs=epochs, run_dir=run_dir, growth_warmup_steps=2 * steps + 1000)


def serve(folder: Path, width: int, steps: int, steps_per_epoch: int, turn_steps: int) -> None:
    """A run of each arm, in turns, for each line of arms' names; what each run left is printed as JSON."""
    with prepared_arms(folder, turn_steps) as arms:
        print("ready", flush=True)
        for index, line in enumerate(sys.stdin):
            config = {
                name: config_of(folder / f"{index}-{name}", width, steps, steps_per_epoch) for name in line.split()
            }
            tasks = {name: partial(getattr(arms, name), config[name]) for name in config}
            print(json.dumps(take_turns(tasks)), flush=True)


def main(verb: str, *arguments: str) -> None:
    if verb == "operate":
        operate(*arguments)
    else:
        folder, *numbers = arguments
        serve(Path(folder), *map(int, numbers))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EsperError as error:
        sys.exit(f"control_arms: {error}")
