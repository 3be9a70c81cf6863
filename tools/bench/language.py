#!/usr/bin/env python3
"""What the plane costs a language model: a step of Esper's beside one of a bare PyTorch loop, by turns in one process.

    python tools/bench/language.py [--sizes 21m,85m] [--rounds 16] [--json [FILE]]
    python tools/bench/language.py --sizes tiny --device cpu --rounds 2          # whether it runs, without a GPU

Two runs of Esper's at each size, with live services, bf16, compiled blocks and AdamW:

  plane   all blocks from the first step on and no growth, beside the bare network of as many blocks
  twin    from a quarter of the blocks on, the second stack and its live twin, beside both bare networks' steps together
  grown   the same run after two kept stacks, beside the bare network of as many blocks

A turn is as many steps as lie between two boundaries, one of which is in it, and begins and ends with an idle device. A
round is a turn of each arm; turns right after a change, which compile and settle, are not counted. The bare loop is
written here: fused AdamW, `block.compile()`, losses read once a turn. No evaluation, snapshot or graft falls into most
turns: the median leaves them out, the mean has them in it. An operator's signed commands keep the stacks, so that the
verdict of a short window doesn't matter.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timing.paired import order, ratios, spread
from torch import Tensor
from torch.nn import functional as F

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import EsperError
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.leyline import AdaptationCommand, ApplyCommandRequest, SeedOperation, SeedOperationKind, SeedStage
from esper.rpc.clients import KasminaClient, channel
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.services import SECRET_VARIABLE, START_ORDER, Services, ServicesConfig
from esper.tolaria.run import Interruption, Shelf, opened
from esper.tolaria.run_dir import RunOptions
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trainer import Trainer

LIMIT = 1.03
TURN_STEPS = 10
SETTLE_TURNS = 3  # after a change, uncounted: blocks are compiled and memory is found
PATIENCE_STEPS = 200  # until a change that was asked for must have come
RUN_RECOVERIES = 20  # the length that a run is opened with, which leaves all windows room; it is broken off
COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A decoder, and what it is trained on."""

    depth: int = 12
    width: int
    heads: int
    context: int = 512
    batch: int
    samples: int = 10_000


SIZES = {
    "21m": Size(width=384, heads=6, batch=64),
    "85m": Size(width=768, heads=12, batch=32),
    "tiny": Size(width=32, heads=2, context=32, batch=4, samples=3_000),
}
Arm = Callable[[], float]


def settings(size: Size, options: argparse.Namespace, run_dir: Path) -> TrainConfig:
    """The run at full depth, without growth."""
    recovery = 2 * (options.rounds + SETTLE_TURNS + 8) * TURN_STEPS
    return TrainConfig(
        data="pytext",
        model="transformer",
        samples=size.samples,
        depth=size.depth,
        width=size.width,
        heads=size.heads,
        context=size.context,
        batch_size=size.batch,
        steps=RUN_RECOVERIES * recovery,
        optimizer="adamw",
        lr=3e-4,
        warmup_steps=10,
        schedule="constant",
        amp=options.amp,
        compile=options.compile,
        device=options.device,
        deterministic=False,
        twin="live",
        target_depth=size.depth,
        evaluate_every_steps=TURN_STEPS,
        checkpoint_every_epochs=0,
        stack_recovery_steps=recovery,
        run_dir=run_dir,
    )


def growing(config: TrainConfig) -> TrainConfig:
    """From a quarter of the depth on, by two stacks that are due at once."""
    if config.steps is None or config.depth is None:
        raise ValueError("the run's settings say neither its steps nor its depth")
    shares = tuple(turns * TURN_STEPS / config.steps for turns in (1, 2))
    return replace(config, depth=config.depth // 4, stack_shares=shares, run_dir=config.run_dir.with_name("growing"))


class Bare:
    """The loop that a person would write for the same work."""

    def __init__(self, run: Prepared, depth: int) -> None:
        config, interface = run.config, run.interface
        if interface is None:
            raise ValueError("the network's inputs aren't a tensor")
        torch.manual_seed(config.seed)
        self.model = build_model(replace(config, depth=depth), interface.sample_shape, interface.outputs)
        self.model.to(run.device).train()
        if config.compile == "blocks":
            for block in self.model.get_submodule("blocks").children():
                block.compile()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), config.lr, weight_decay=0.0, fused=True)
        self._loader = copy.copy(run.loader)  # its place in the epoch is its own
        self._device, self._is_bf16 = run.device, config.amp == "bf16"
        self._step = 0

    def __call__(self) -> float:
        """A turn; milliseconds of a step."""
        return timed(self._turn, self._device)

    def _turn(self) -> None:
        losses: list[Tensor] = []
        for _ in range(TURN_STEPS):
            inputs, targets = self._loader.batch(self._step)
            self._step += 1
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16):
                loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses).tolist()


class Esper:
    """A run whose steps are made by turns, and whose stacks an operator keeps."""

    def __init__(self, run: Prepared, trainer: Trainer, operator: Callable[[AdaptationCommand], None]) -> None:
        self._executor, self._device, self._run_id = run.executor, run.device, run.run_id
        self._trainer, self._operator = trainer, operator

    def __call__(self) -> float:
        """A turn; milliseconds of a step."""
        before = self.state
        took = timed(self._turn, self._device)
        if self.state != before:
            raise SystemExit(f"the network changed within a turn: {before} blocks and twin, now {self.state}")
        return took

    def _turn(self) -> None:
        for _ in range(TURN_STEPS):
            self._trainer.advance(self._trainer.steps.make)

    @property
    def state(self) -> tuple[int, bool]:
        """Its blocks, and whether a twin is trained too."""
        blocks = self._executor.arm.model.get_submodule("blocks")
        return len(list(blocks.children())), self._executor.is_twin_live

    def until(self, depth: int, *, has_twin: bool) -> None:
        """Train until the network is as said; it ends at a boundary."""
        last = self._trainer.step + PATIENCE_STEPS
        while self.state != (depth, has_twin):
            if self._trainer.step >= last:
                raise SystemExit(
                    f"step {self._trainer.step}: {self.state} blocks and twin, expected {(depth, has_twin)}"
                )
            self._turn()

    def keep(self) -> None:
        """Order that the stack under trial is kept, once Kasmina has heard that it stands."""
        for _ in range(SETTLE_TURNS):
            self._turn()
        operation = SeedOperation(
            seed_id=self._executor.twin_of,
            operation=SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO,
            target_stage=SeedStage.SEED_STAGE_FOSSILIZED,
        )
        command = AdaptationCommand(
            command_id=secrets.token_hex(4),
            training_run_id=self._run_id,
            generation=self._trainer.generation,
            step=self._trainer.step,
            issued_by="operator:bench",
            seed=operation,
        )
        self._operator(command)


def timed(act: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of one of a turn's steps, from an idle device to an idle device."""
    synchronize(device)
    started = time.perf_counter()
    act()
    synchronize(device)
    return (time.perf_counter() - started) / TURN_STEPS * 1e3


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def training(config: TrainConfig, operator: Callable[[AdaptationCommand], None]) -> Iterator[tuple[Prepared, Esper]]:
    """A run under the plane, to be driven inside; it is broken off at the end."""
    shelf = Shelf()
    run = prepare(config, shelf.fetch)
    with opened(run, shelf, RunOptions(), [], Interruption()) as trainer:
        trainer.begin()
        try:
            yield run, Esper(run, trainer, operator)
            trainer.stop("all is measured")
        finally:
            trainer.close()
        trainer.finish()


@contextmanager
def plane(folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[AdaptationCommand], None]]]:
    """Services for all runs: the settings that name them, and an operator who knows where Kasmina is."""
    os.environ[SECRET_VARIABLE] = secret = new_secret()
    signer = Signer(Keyring.from_secret(secret), SYSTEM_CLOCK)
    config = ServicesConfig(state_dir=folder / "services")
    with Services(config, secret, lambda name, text: print(f"{name}: {text}", file=sys.stderr)) as services:
        endpoints = {name: services.endpoints[name] for name in START_ORDER}
        with channel(endpoints["kasmina"]) as link:
            kasmina = KasminaClient(link)

            def operate(command: AdaptationCommand) -> None:
                envelope = signer.sign(command, audience=f"kasmina/{command.training_run_id}")
                asked = ApplyCommandRequest(command=envelope)
                outcome = kasmina.apply_command(asked, timeout_s=COMMAND_TIMEOUT_S).outcome
                if not outcome.accepted:
                    raise SystemExit(f"the command to keep a stack was refused: {outcome.detail}")

            yield endpoints, operate


def compared(what: str, arms: Mapping[str, Arm], rounds: int) -> dict[str, Any]:
    """Turns of all arms: the first is Esper's, and is held against all others together."""
    esper, *bare = arms
    for _ in range(SETTLE_TURNS):
        for arm in arms.values():
            arm()
    times: list[dict[str, float]] = []
    for number in range(rounds):
        found = {name: arms[name]() for name in order(list(arms), number)}
        times.append({**found, "bare": sum(found[name] for name in bare)})
    ratio = spread(ratios(times, esper, "bare"))
    columns = {name: [each[name] for each in times] for name in times[0]}
    means = {name: statistics.fmean(column) for name, column in columns.items()}
    result = {
        "step_ms": {name: statistics.median(column) for name, column in columns.items()},
        "mean_step_ms": means,
        "ratio": ratio.to_json(),
        "mean_ratio": means[esper] / means["bare"],
    }
    print(f"{what}: {line(result)}", file=sys.stderr, flush=True)
    return result


def measure(
    size: Size,
    options: argparse.Namespace,
    folder: Path,
    endpoints: Mapping[str, str],
    operator: Callable[[AdaptationCommand], None],
    keep: Callable[[str, Mapping[str, Any]], None],
) -> None:
    """The three comparisons at one size; `keep` takes each as soon as it is there."""
    config = replace(settings(size, options, folder / "run"), **endpoints)
    depth = size.depth
    with training(config, operator) as (run, grown):
        bare = Bare(run, depth)
        parameters = sum(parameter.numel() for parameter in bare.model.parameters())
        arms: dict[str, Arm] = {"esper": grown, f"bare {depth}": bare}
        keep("plane", {"parameters": parameters, **compared("plane", arms, options.rounds)})
    del run, grown, bare, arms
    with training(growing(config), operator) as (run, grown):
        grown.until(depth // 2, has_twin=True)
        grown.keep()
        grown.until(depth // 2, has_twin=False)
        grown.until(depth, has_twin=True)
        bare, half = Bare(run, depth), Bare(run, depth // 2)
        both: dict[str, Arm] = {"esper": grown, f"bare {depth}": bare, f"bare {depth // 2}": half}
        keep("twin", compared("twin", both, options.rounds))
        grown.keep()
        grown.until(depth, has_twin=False)
        keep("grown", compared("grown", {"esper": grown, f"bare {depth}": bare}, options.rounds))


def line(found: Mapping[str, Any]) -> str:
    """One comparison for a person."""
    steps = ", ".join(f"{name} {took:.3f}" for name, took in found["step_ms"].items() if name != "bare")
    ratio, verdict = found["ratio"], "met" if found["ratio"]["median"] <= LIMIT else "MISSED"
    bounds = f"{ratio['low']:.3f} to {ratio['high']:.3f}, means {found['mean_ratio']:.3f}"
    return f"{steps} ms a step; {ratio['median']:.3f} ({bounds}), {verdict}: at most {LIMIT}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="21m,85m", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--rounds", type=int, default=16, help="turns of each arm that are counted")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--amp", default="bf16", choices=("off", "bf16"))
    parser.add_argument("--compile", default="blocks", choices=("off", "blocks"))
    parser.add_argument("--batch", type=int, help="sequences in a step, where it isn't the size's own")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it there")
    options = parser.parse_args(argv)
    names = options.sizes.split(",")
    if unknown := [name for name in names if name not in SIZES]:
        parser.error(f"--sizes: {', '.join(unknown)} unknown, expected some of {', '.join(SIZES)}")
    if options.rounds < 1 or (options.batch is not None and options.batch < 1):
        parser.error(f"--rounds and --batch must be at least 1, got {options.rounds} and {options.batch}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no CUDA device; cpu runs the size tiny")
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {device_name(options.device)}",
        "torch": torch.__version__,
        "settings": {key: value for key, value in vars(options).items() if key != "json"},
        "limit": LIMIT,
        "sizes": {name: {} for name in names},
    }
    with tempfile.TemporaryDirectory(prefix="language-") as folder, plane(Path(folder)) as (endpoints, operator):
        for name in names:
            size = SIZES[name] if options.batch is None else replace(SIZES[name], batch=options.batch)

            def keep(what: str, found: Mapping[str, Any], name: str = name) -> None:
                result["sizes"][name][what] = dict(found)
                if options.json and options.json != "-":
                    Path(options.json).write_text(json.dumps(result, indent=1) + "\n")

            measure(size, options, Path(folder) / name, endpoints, operator, keep)
    if options.json == "-":
        print(json.dumps(result))
        return 0
    for name, phases in result["sizes"].items():
        for what, found in phases.items():
            print(f"{name:5} {what:6} {line(found)}")
    return 0


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EsperError as error:
        sys.exit(f"language: {error}")
