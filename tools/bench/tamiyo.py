#!/usr/bin/env python3
"""How long Tamiyo takes to decide on a packet, by parts, with a host of many slots and a catalogue of many blueprints.

Packets that ask for a decision to grow go through the service's own evaluator, in this process, on a directory of its
own: from the packet to the decision that is on the disk. `decide` is the thread's work; `survey` prices the candidates,
`appraise` observes and predicts them (`predict` is its arithmetic), and the rest of it is signals, coverage and risk.
What is left of `evaluate` is the way to the thread and back, the state on the disk and telemetry. `select` is what the
heuristic adds where it grows: it waits here, so that it isn't part of its `decide`. `first look` is the one survey that
prices everything. `--budget` limits the run's training MACs, which are then held against candidates at every packet. On
a busy machine the wall's clock tells of others, too; the processor's doesn't.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring, new_secret
from esper.core.security.signing import Signer
from esper.leyline import (
    BlueprintCost,
    Budget,
    CostTerm,
    SlotKind,
    SlotSignal,
    SlotSpec,
    SystemStatePacket,
    TelemetryPacket,
    TriggerSettings,
)
from esper.rpc.reporting.alarm import Alarm
from esper.tamiyo.config import TamiyoConfig
from esper.tamiyo.growing.survey import Offers
from esper.tamiyo.learned.graph import GraphModel, shapes
from esper.tamiyo.learned.linear import HEADS, LinearModel
from esper.tamiyo.learned.policy import LearnedPolicy
from esper.tamiyo.learned.weights import FEATURE_NAMES, read_weights, write_weights
from esper.tamiyo.policy import HeuristicPolicy, Policy
from esper.tamiyo.service import evaluation
from esper.tamiyo.service.parts import Parts, Surroundings
from esper.urza.catalog import Catalog, digest_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# NumPy after Esper, which loads it as the service does: with one thread.
import numpy as np

from tests.unit.tamiyo.builders import AUTO, manifest, packet, spec

PAIRS = 55
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
CLOCKS = ("wall", "processor")


class Silent:
    """A reporter that nobody hears."""

    def send(self, packet: TelemetryPacket) -> None:
        return

    def close(self, timeout_s: float) -> None:
        return


class Timer:
    """Milliseconds that parts took by their names, on the clock and of a processor."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def part(self, name: str, processor: Callable[[], float]) -> Iterator[None]:
        began, worked = time.perf_counter(), processor()
        try:
            yield
        finally:
            took = (time.perf_counter() - began) * 1e3, (processor() - worked) * 1e3
            self.parts.setdefault(name, []).append(took)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name, time.thread_time):
                return function(*arguments, **options)

        return call


def catalogue(blueprints: int) -> Catalog:
    """So many blueprints that widen a linear layer."""
    first = Catalog.builtin().get("span.linear")
    found = [first]
    for number in range(1, blueprints):
        copy = type(first)()
        copy.CopyFrom(first)
        copy.blueprint_id = f"span.linear{number}"
        term = CostTerm(coefficient=2, factors=["features", "width"])
        copy.cost.CopyFrom(BlueprintCost(parameters=[term], forward_macs=[term]))
        copy.digest = digest_of(copy)
        found.append(copy)
    return Catalog(found)


def slots(count: int) -> list[SlotSpec]:
    return [
        SlotSpec(
            slot_id=f"span:fc{place}-fc{place + 1}",
            kind=SlotKind.SLOT_KIND_SPAN_LINEAR,
            read_path=f"fc{place}",
            write_path=f"fc{place + 1}",
            in_features=32,
            out_features=32,
            width=32,
            read_positions=1,
            write_positions=1,
            read_kernel=1,
            write_kernel=1,
            is_foldable=True,
            order=place,
        )
        for place in range(count)
    ]


def linear() -> LinearModel:
    """A bandit's weights with pairs of features, which say that nothing is worth it."""
    count, terms = len(FEATURE_NAMES), 1 + len(FEATURE_NAMES) + PAIRS
    draw = np.random.default_rng(0)
    coefficients = draw.normal(scale=0.01, size=(len(HEADS), terms))
    coefficients[:, 0] = -1.0
    return LinearModel(
        center=np.zeros(count),
        scale=np.ones(count),
        pairs=draw.integers(count, size=(PAIRS, 2)),
        coefficients=coefficients,
        covariance=np.eye(terms) * 1e-4,
        noise=np.ones(len(HEADS)),
    )


def graph() -> GraphModel:
    """The same of the graph policy."""
    draw, count, heads = np.random.default_rng(0), len(FEATURE_NAMES), len(HEADS)
    return GraphModel(
        center=np.zeros(count),
        scale=np.ones(count),
        tensors={name: draw.normal(scale=0.1, size=shape) for name, shape in shapes().items()},
        calibration=np.array([[-100.0, 1.0]] * heads),
        noise=np.ones(heads),
    )


def deciding_by(model: LinearModel | GraphModel) -> LearnedPolicy:
    content = write_weights(model, version="1.1.0", caution=0.5, price=0.05, expected_reward=0.0)
    return LearnedPolicy(read_weights(content))


async def measure(
    policy: Policy, slot_count: int, blueprints: int, packets: int, budget: Budget
) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of each part for each packet."""
    timer, found = Timer(), slots(slot_count)
    with tempfile.TemporaryDirectory() as folder:
        keyring = Keyring.from_secret(new_secret())
        around = Surroundings(
            keyring=keyring,
            clock=SYSTEM_CLOCK,
            state_dir=Path(folder),
            reporter=Silent(),  # type: ignore[arg-type]
            alarm=Alarm(None, keyring, SYSTEM_CLOCK, "tamiyo", Path(folder) / "alarms"),
        )
        parts = Parts(TamiyoConfig(), around)
        host = manifest()
        del host.slots[:]
        host.slots.extend(found)
        # One width for each, so that candidates are slots times blueprints.
        trigger = TriggerSettings(trigger=AUTO, span_units=8, slope_window_steps=100)
        run_spec = spec(AUTO, manifest=host, total_steps=100_000, trigger=trigger, budget=budget)
        run_spec.life.growth_end_step = 90_000
        security = Signer(keyring, SYSTEM_CLOCK).sign(run_spec, audience="tamiyo/run-1").security
        run, _ = await parts.runs.open(run_spec, security)
        looked = replace(parts.evaluator, catalog=catalogue(blueprints), policy_of=lambda digest: policy)
        with ExitStack() as undone:
            for place, name in _parts(policy):
                undone.enter_context(patch.object(place, name, timer.timed(name, getattr(place, name))))
            for number in range(packets + 30):
                if number == 30:  # the loss is known over a window from then on
                    timer.parts = {"first look": timer.parts["survey"][:1]} if "survey" in timer.parts else {}
                given = _packet(10_500 + 10 * number, found)
                with timer.part("evaluate", time.process_time):
                    await looked.evaluate(run, given)
                if isinstance(policy, HeuristicPolicy) and run.offers is not None:
                    timer.timed("select", run.offers.select)(run.state, given)
        await parts.close()
    return timer.parts


def _parts(policy: Policy) -> Iterator[tuple[Any, str]]:
    """Whose functions are timed, and their names."""
    yield evaluation, "decide"
    if isinstance(policy, LearnedPolicy):
        yield Offers, "survey"
        yield policy, "appraise"
        yield type(policy.weights.model), "predict"


def _packet(step: int, found: Sequence[SlotSpec]) -> SystemStatePacket:
    """One whose loss falls, so that the heuristic waits, and a learned policy looks."""
    signals = [
        SlotSignal(slot_id=slot.slot_id, gradient_norm=0.5, width=32, in_features=32, out_features=32) for slot in found
    ]
    return packet(step, 2.0 * 0.99 ** (step / 10 - 1_000), 0.5, slots=signals)


def _quantiles(times: Sequence[float]) -> dict[str, float]:
    return {name: float(np.quantile(times, share)) for name, share in QUANTILES.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--blueprints", type=int, default=16)
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument("--budget", action="store_true", help="limit the run's training MACs")
    parser.add_argument("--json", type=Path, nargs="?", const=Path("-"), metavar="FILE", help="write JSON, - prints it")
    options = parser.parse_args()
    policies: dict[str, Policy] = {
        "heuristic": HeuristicPolicy(),
        "bandit": deciding_by(linear()),
        "graph": deciding_by(graph()),
    }
    size = options.slots, options.blueprints, options.packets
    budget = Budget(max_training_macs=10**15) if options.budget else Budget()
    lines = [
        {"policy": name, "part": part, "clock": clock, **_quantiles([each[column] for each in times])}
        for name, policy in policies.items()
        for part, times in asyncio.run(measure(policy, *size, budget)).items()
        for column, clock in enumerate(CLOCKS)
    ]
    told = {
        "slots": options.slots,
        "blueprints": options.blueprints,
        "packets": options.packets,
        "has_budget": options.budget,
        "milliseconds": lines,
    }
    if options.json is not None and str(options.json) != "-":
        options.json.write_text(json.dumps(told, indent=2))
    elif options.json is not None:
        print(json.dumps(told, indent=2))
    else:
        print(f"{options.slots} slots x {options.blueprints} blueprints, {options.packets} packets, milliseconds")
        for line in lines:
            names = f"{line['policy']:10} {line['part']:10} {line['clock']:10}"
            print(names + "  ".join(f"{q} {line[q]:8.3f}" for q in QUANTILES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
