"""`esper simic`: collect field reports, learn from them, say what was learned is worth, publish it to Tamiyo.

A store is a directory: replay.db holds the reports, weights.safetensors what was learned last, validation.json what the
gate said of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli.key_source import add_key_flag, keyring_for
from esper.cli.usage import UsageError, Verbs, add_group, add_verb
from esper.core.clock import SYSTEM_CLOCK
from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.core.plain import clause, plain
from esper.core.security.keys import Keyring
from esper.core.storage.files import write_atomically
from esper.tamiyo.learned.reward import PRICE
from esper.tamiyo.update import version_number

if TYPE_CHECKING:
    from esper.rpc.clients import Tls
    from esper.rpc.reporting.telemetry import Reporter
    from esper.simic.bounds import Bounds
    from esper.simic.replay import ReplayStore, Reports
    from esper.simic.validation import Validation
    from esper.tamiyo.learned.weights import Weights

REPLAY, WEIGHTS, VALIDATION = "replay.db", "weights.safetensors", "validation.json"
CAUTION = 0.5
MIN_RUNS = 2
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Bus:
    """Where reports come from and updates go."""

    endpoint: str
    tls: Tls | None
    keyring: Keyring


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "simic", "learn from field reports what growth is worth")
    collected = add_verb(group, "collect", run_collect, "take field reports from the bus into a store")
    trained = add_verb(group, "train", run_train, "fit a policy to a store's reports and let the gate judge it")
    asked = add_verb(group, "evaluate", run_evaluate, "what weights are worth on runs that they were not fitted to")
    published = add_verb(group, "publish", run_publish, "send a store's weights to Tamiyo, signed")
    for verb in (collected, trained, asked, published):
        verb.add_argument("store", type=Path, metavar="STORE", help="the directory of a replay store")
    for verb in (collected, trained, published):
        verb.add_argument("--weatherlight", metavar="ENDPOINT", help="HOST:PORT or unix:PATH of the bus and telemetry")
        verb.add_argument("--ca", type=Path, metavar="FILE", help="certificate authority, beyond loopback")
        add_key_flag(verb)
    collected.add_argument(
        "--idle-s", type=positive, default=3.0, help="end after so long without a report (default: 3)"
    )
    collected.add_argument(
        "--max-reports", type=whole, default=100_000, help="of a fuller store the oldest runs give way (100000)"
    )
    collected.add_argument(
        "--max-mib", type=whole, default=1024, help="the same by the reports' size in MiB (default: 1024)"
    )
    trained.add_argument(
        "--version", required=True, type=dotted, metavar="N", help="version of the weights, above Tamiyo's"
    )
    trained.add_argument("--policy", default="bandit", choices=("bandit", "graph"), help="what is fitted (bandit)")
    trained.add_argument("--shuffled", type=int, metavar="SEED", help="the control: learn from shuffled outcomes")
    asked.add_argument("--weights", type=Path, metavar="FILE", help=f"weights to ask about (default: STORE/{WEIGHTS})")
    trained.add_argument("--price", type=not_negative, default=PRICE, help=f"worth of a run's MACs ({PRICE:g})")
    trained.add_argument("--caution", type=not_negative, default=CAUTION, help=f"standard errors taken off ({CAUTION})")
    for verb in (trained, asked):
        verb.add_argument("--json", action="store_true", help="print it as JSON")
    published.add_argument("--unproven", action="store_true", help="publish although the gate refused them: for drills")
    published.add_argument(
        "--wait-s", type=positive, default=20.0, help="how long Tamiyo's answer is waited for (default: 20)"
    )


def positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    if not_negative(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return float(text)


def not_negative(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number of at least 0")
    return value


def whole(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def dotted(text: str) -> str:
    """A version that Tamiyo can compare, for argparse."""
    if version_number(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r}: dotted whole numbers are needed, e.g. 1.2.0")
    return text


def run_collect(arguments: argparse.Namespace) -> int:
    from esper.simic.bounds import MIB, Bounds
    from esper.simic.collect import collect
    from esper.simic.telling import tell_collected

    bounds = Bounds(max_reports=arguments.max_reports, max_bytes=arguments.max_mib * MIB)
    with _bus(arguments) as bus, _opened(arguments.store, bounds) as store:
        asyncio.run(collect(store, bus.endpoint, bus.tls, bus.keyring, idle_s=arguments.idle_s))
        with _reporter(bus) as reporter:  # only now: a bus that is away is told once
            tell_collected(reporter, store)
        print("\n".join(_collected(store)))
    return 0


def _collected(store: ReplayStore) -> Iterator[str]:
    seen = store.intake
    taken = counted(seen.taken, "report")
    yield f"{taken} taken, {seen.repeated} known, {seen.refused} refused; {len(store)} in the store"
    if seen.dropped:
        gone = f"{counted(seen.dropped, 'report')} of {counted(seen.dropped_runs, 'run')}"
        yield f"dropped {gone}, those that ended first: the store holds {store.bounds} (--max-reports, --max-mib)"
    for event_id, reason in store.refusals():
        yield plain(f"refused {event_id}: {reason}")


def run_train(arguments: argparse.Namespace) -> int:
    from esper.simic.dataset import dataset_of, shuffled
    from esper.simic.telling import tell_trained
    from esper.simic.validation import train
    from esper.tamiyo.learned.weights import digest_of, write_weights

    with looked_through(arguments.store) as store:
        data = dataset_of(store.reports())
    if arguments.shuffled is not None:
        data = shuffled(data, arguments.shuffled)
    done = train(data, price=arguments.price, caution=arguments.caution, policy=arguments.policy)
    content = b""
    if done.model is not None:
        promised = done.validation.values["learned"].value
        content = write_weights(
            done.model,
            version=arguments.version,
            caution=arguments.caution,
            price=arguments.price,
            expected_reward=promised,
        )
        write_atomically(arguments.store / WEIGHTS, content)
    told = {"decisions": len(data), "left_out": dict(data.left_out), "shuffled": arguments.shuffled}
    found = {**told, **done.validation.as_json()}
    write_atomically(arguments.store / VALIDATION, json.dumps({**found, "digest": digest_of(content)}).encode())
    if arguments.weatherlight is not None:
        with _bus(arguments) as bus, _reporter(bus) as reporter:
            tell_trained(
                reporter,
                data,
                done.validation,
                price=arguments.price,
                version=arguments.version,
                digest=digest_of(content),
            )
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(_lines(done.validation, len(data))))
    return 0 if done.validation.passed else 1


def run_evaluate(arguments: argparse.Namespace) -> int:
    from esper.simic.calibration import calibration
    from esper.simic.crossing import beside_shuffled, crossed, values
    from esper.simic.dataset import dataset_of, shuffled

    weights = _weights_asked(arguments)
    with looked_through(arguments.store) as store:
        data = dataset_of(store.reports())
    if len(data.runs) < MIN_RUNS:
        runs = counted(len(data.runs), "run")
        held = f"it holds germinations with an outcome of {runs}, {MIN_RUNS} are needed; collect more"
        raise ConfigError("STORE", str(arguments.store), held)
    found, is_own = crossed(data, weights.price, weights.policy_id), _are_of(arguments.store, weights.digest)
    asked = "each run by weights fitted without it" if is_own else "the weights as they are, fitted to other reports"
    if not is_own:
        # These reports are strangers to the weights, so they are asked as they are.
        found = replace(found, deciding=dict.fromkeys(data.runs, weights.model))
    elif (seed := _shuffled_by(arguments.store, weights.digest)) is not None:
        # Only what decides was misled: what decisions are worth is estimated by models of the real outcomes.
        found = replace(found, deciding=crossed(shuffled(data, seed), weights.price, weights.policy_id).deciding)
        asked = f"{asked} to shuffled outcomes"
    told = values(data, found, weights.price, weights.caution)
    if is_own:
        told |= beside_shuffled(data, found, weights.price, weights.caution)
    bins = calibration(data, found.deciding)
    if arguments.json:
        figures = {name: {"value": v.value, "error": v.error, "runs": v.runs} for name, v in told.items()}
        print(json.dumps({"asked": asked, "values": figures, "calibration": bins}, indent=2))
        return 0
    opportunities = counted(len(data), "opportunity", "opportunities")
    print(f"{opportunities} in {counted(len(data.runs), 'run')}; asked are {asked}")
    for name, each in told.items():
        print(f"{name:28} {each.value:+.4f} ± {each.error:.4f} for each opportunity")
    for row in bins:
        measured = f"{row['measured']:+.3f} ± {row['error']:.3f}"
        print(f"predicted gain {row['predicted']:+.3f}: measured {measured} ({row['count']:.0f} decisions)")
    return 0


def _are_of(store: Path, digest: str) -> bool:
    """Whether the weights are those that were fitted to this store's reports."""
    from esper.tamiyo.learned.weights import digest_of

    return (store / WEIGHTS).exists() and digest_of((store / WEIGHTS).read_bytes()) == digest


def _shuffled_by(store: Path, digest: str) -> int | None:
    """The seed by which the outcomes were shuffled that taught these weights; None where they were the real ones."""
    told = _read_validation(store) if (store / VALIDATION).exists() else {}
    seed = told.get("shuffled")
    return seed if told.get("digest") == digest and isinstance(seed, int) else None


def run_publish(arguments: argparse.Namespace) -> int:
    from esper.simic.publication import publish, update_of, verdict_on
    from esper.simic.telling import tell_published
    from esper.tamiyo.learned.weights import digest_of

    content, validation = _read(arguments.store, WEIGHTS), _read_validation(arguments.store)
    if not validation["passed"] and not arguments.unproven:
        failed = "; ".join(check["name"] for check in validation["checks"] if not check["holds"])
        remedy = "collect more runs that explore and train again, or give --unproven for a drill"
        raise ConfigError("STORE", str(arguments.store), f"the gate refused what was learned last: {failed}; {remedy}")
    if validation["digest"] != digest_of(content):
        raise ConfigError("STORE", str(arguments.store), f"{VALIDATION} isn't about {WEIGHTS}; train again")
    with _usable("STORE", arguments.store / WEIGHTS, "train again"):
        update = update_of(content, SYSTEM_CLOCK)
    with _bus(arguments) as bus, _traced():
        sequence = publish(update, bus.endpoint, bus.tls, bus.keyring, SYSTEM_CLOCK)
        with _reporter(bus) as reporter:  # only now: a bus that is away is told once
            tell_published(reporter, update)
        print(
            f"{update.update_id}: {update.policy_id} {update.version} is on the policy lane at {sequence}", flush=True
        )
        verdict = verdict_on(update, sequence, bus.endpoint, bus.tls, bus.keyring, wait_s=arguments.wait_s)
    if verdict is None:
        unheard = f"Tamiyo hasn't answered within {arguments.wait_s:g} s; is she there? Her answer will be an event"
        print(f"{unheard}: esper bus tail --source tamiyo", file=sys.stderr)
        return os.EX_TEMPFAIL
    if "reason" in verdict:
        print(plain(f"refused, {verdict['reason']}: {verdict.get('detail', '')}"), file=sys.stderr)
        return 1
    print("Tamiyo tries it beside the policy in force")
    return 0


def _weights_asked(arguments: argparse.Namespace) -> Weights:
    """Those of --weights, else the store's. Raises ConfigError that names the file."""
    from esper.tamiyo.learned.weights import read_weights

    path = arguments.weights
    key, given = ("--weights", path) if path else ("STORE", arguments.store / WEIGHTS)
    with _usable(key, given, "name what esper simic train wrote" if path else "train again"):
        return read_weights(path.read_bytes() if path else _read(arguments.store, WEIGHTS))


@contextmanager
def _usable(key: str, path: Path, remedy: str) -> Iterator[None]:
    """Have weights that can't be read name their file, and what to do."""
    from esper.tamiyo.learned.weights import WeightsRefused

    try:
        yield
    except (WeightsRefused, OSError) as error:
        told = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(key, str(path), f"can't be used: {clause(told)}; {remedy}") from error


def _read(store: Path, name: str) -> bytes:
    require_in(store, name, "esper simic train writes it where there is enough")
    return (store / name).read_bytes()


def _read_validation(store: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(store, VALIDATION))
        complete = {"digest", "passed", "checks"} <= found.keys()
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise ConfigError("STORE", str(store), f"{VALIDATION} is damaged; train again")
    return dict(found)


def _lines(validation: Validation, decisions: int) -> Iterator[str]:
    learned_from = f"{counted(decisions, 'decision')}; {validation.form}"
    yield f"{learned_from}; {validation.explained:.1%} of unseen rewards' variance explained"
    for name, found in validation.values.items():
        yield f"  {name:28} {found.value:+.4f} ± {found.error:.4f}"
    for check in validation.checks:
        yield f"  {'ok  ' if check.holds else 'FAIL'} {check.name}: {check.measured:.4g}, {check.needed}"
    yield "passed" if validation.passed else "refused: nothing is published"


@contextmanager
def looked_through(path: Path) -> Iterator[Reports]:
    """A store's reports; nothing is written there."""
    from esper.simic import replay

    require_in(path, REPLAY, "esper simic collect makes one")
    with replay.looked_through(path / REPLAY) as found:
        yield found


@contextmanager
def _opened(path: Path, bounds: Bounds) -> Iterator[ReplayStore]:
    from esper.simic.replay import ReplayStore

    _require_folder(path)
    store = ReplayStore(path / REPLAY, SYSTEM_CLOCK, bounds)
    try:
        yield store
    finally:
        store.close()


def require_in(store: Path, name: str, maker: str) -> None:
    """Raises ConfigError where the store lacks a file, with what makes one."""
    _require_folder(store)
    if not store.exists():
        raise ConfigError(
            "STORE", str(store), "there is no such directory; name a replay store, esper simic collect makes one"
        )
    if not (store / name).exists():
        raise ConfigError("STORE", str(store), f"{name} isn't there; {maker}")


def _require_folder(store: Path) -> None:
    if store.exists() and not store.is_dir():
        raise ConfigError("STORE", str(store), "is a file, no folder; name the directory of a replay store")


@contextmanager
def _bus(arguments: argparse.Namespace) -> Iterator[Bus]:
    from esper.rpc.clients import Tls

    if arguments.weatherlight is None:
        raise UsageError("--weatherlight ENDPOINT is needed: the bus is served there")
    tls = None if arguments.ca is None else Tls(ca=arguments.ca)
    yield Bus(arguments.weatherlight, tls, keyring_for(arguments.key, None))


@contextmanager
def _traced() -> Iterator[None]:
    """Send spans where OTEL_EXPORTER_OTLP_ENDPOINT says, or nowhere."""
    from esper.rpc.otel import setup_tracing

    end = setup_tracing("esper-simic", None)
    try:
        yield
    finally:
        end()


@contextmanager
def _reporter(bus: Bus) -> Iterator[Reporter]:
    from esper.rpc.reporting.telemetry import TelemetrySender

    with ExitStack() as stack:
        sender = TelemetrySender(bus.endpoint, bus.keyring, "simic", tls=bus.tls)
        stack.callback(sender.close, CLOSE_TIMEOUT_S)
        yield sender
