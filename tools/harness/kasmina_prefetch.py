"""kasmina-prefetch: a burst of prefetches at a real Kasmina whose artefact store takes a stated time for each.

Measured by the caller from request to READY, and above the injected time, beside the same number of calls that ask for
nothing (health checks) under the same concurrency.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from esper.core.child import child_command
from esper.core.clock import SYSTEM_CLOCK
from esper.core.keys import Keyring, new_secret
from esper.core.signing import Signer
from esper.leyline import (
    FetchArtifactRequest,
    KasminaRunSpec,
    KasminaServiceOpenRunRequest,
    PrefetchKernelRequest,
    PrefetchStatus,
)
from esper.rpc.clients import Channel, KasminaClient, channel
from esper.rpc.clients.health import is_serving, wait_serving
from esper.tolaria.plane.opening import life_settings
from esper.tolaria.plane.services import SECRET_VARIABLE
from esper.tolaria.record.summary import quantile
from esper.tolaria.task.prepare import prepare
from esper.urza.catalog import Catalog
from tools.harness.figures import statistics
from tools.harness.result import Result, unless
from tools.harness.workload import settings

T = TypeVar("T")
SCENARIO, SLUG = "kasmina_prefetch_burst", "kasmina_prefetch"
SLOW_KASMINA = "tools.harness.faults.slow_artifacts"
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0
EPOCHS, BATCH_SIZE = 40, 4


@dataclass(frozen=True, slots=True)
class Prefetched:
    """One request: its time to READY, or why there was none."""

    ready_ms: float
    error: str = ""


def run(options: argparse.Namespace) -> Result:
    blueprints = [blueprint.blueprint_id for blueprint in Catalog.builtin().all()]
    with slow_kasmina(options.ready_latency_ms) as (link, client):
        wanted = [blueprints[number % len(blueprints)] for number in range(options.requests)]
        asked = burst(options, lambda number: health_ms(link))
        found = burst(options, lambda number: prefetched(client, wanted[number]))
    return result_of(options, asked, found)


def burst(options: argparse.Namespace, work: Callable[[int], T]) -> list[T]:
    """Each request in turn, so many at a time."""
    with ThreadPoolExecutor(options.concurrency) as pool:
        return list(pool.map(work, range(options.requests)))


@contextmanager
def slow_kasmina(latency_ms: float) -> Iterator[tuple[Channel, KasminaClient]]:
    """A Kasmina process that takes so long for each artefact, and a run that is open there."""
    secret = new_secret()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, SECRET_VARIABLE: secret, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        endpoint = f"unix:{folder}/kasmina.sock"
        places = ("--listen", endpoint, "--state-dir", f"{folder}/state", "--log-level", "error")
        command = child_command(SLOW_KASMINA, str(latency_ms), *places)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            with channel(endpoint) as link:
                wait_serving(link, timeout_s=TIMEOUT_S)
                yield link, KasminaClient(link, token=opened(link, secret, Path(folder)))
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def opened(link: Channel, secret: str, folder: Path) -> str:
    """Open a run of the harness's workload; gives its token."""
    run = prepare(settings(folder / "prefetch", EPOCHS, BATCH_SIZE, "cpu"))
    manifest = run.manifest()
    spec = KasminaRunSpec(
        training_run_id=run.run_id,
        seed=run.config.seed,
        generation=1,
        total_steps=run.total_steps,
        manifest=manifest,
        life=life_settings(run.config, manifest.task, run.total_steps),
    )
    command = Signer(Keyring.from_secret(secret), SYSTEM_CLOCK).sign(spec, audience=f"kasmina/{run.run_id}")
    answer = KasminaClient(link).open_run(KasminaServiceOpenRunRequest(command=command), timeout_s=TIMEOUT_S)
    token: str = answer.run_token
    return token


def health_ms(link: Channel) -> float:
    """A call that asks for nothing."""
    began = time.perf_counter()
    is_serving(link, timeout_s=TIMEOUT_S)
    return (time.perf_counter() - began) * 1e3


def prefetched(client: KasminaClient, blueprint_id: str) -> Prefetched:
    """Ask for one blueprint until it is READY, and see that its artefact is what was promised."""
    began = time.perf_counter()
    for response in client.prefetch_kernel(PrefetchKernelRequest(blueprint_id=blueprint_id), timeout_s=TIMEOUT_S):
        update = response.update
        if update.status == PrefetchStatus.PREFETCH_STATUS_ERROR:
            return Prefetched(0.0, update.error)
        if update.status == PrefetchStatus.PREFETCH_STATUS_READY:
            ready_ms = (time.perf_counter() - began) * 1e3
            chunks = client.fetch_artifact(FetchArtifactRequest(digest=update.artifact.digest), timeout_s=TIMEOUT_S)
            came = hashlib.sha256(b"".join(chunk.chunk for chunk in chunks)).hexdigest()
            return Prefetched(ready_ms, "" if came in update.artifact.digest else f"{blueprint_id} came damaged")
    return Prefetched(0.0, f"{blueprint_id} was neither READY nor ERROR")


def result_of(options: argparse.Namespace, asked: list[float], found: list[Prefetched]) -> Result:
    """What the burst took."""
    durations = [each.ready_ms for each in found if not each.error]
    above = [duration - options.ready_latency_ms for duration in durations]
    bare = quantile(asked, 0.5)
    return Result(
        scenario=SCENARIO,
        slug=SLUG,
        metrics={
            "requests": len(found),
            **statistics(durations, "latency"),
            **statistics(above, "above_injected"),
            "bare_call_p50_ms": bare,
            "above_injected_ratio_p50": quantile(above, 0.5) / bare,
        },
        details={
            "durations_ms": durations,
            "concurrency": options.concurrency,
            "injected_ms": options.ready_latency_ms,
        },
        failures=[
            *sorted({each.error for each in found if each.error}),
            *unless(min(above, default=-1.0) >= 0, "an artefact was READY before its delay was over"),
        ],
    )
