"""Kills Weatherlight, Redis and consumers in turn under load, then lets the bus come to rest and counts.

| Part        | How many | Killed | Started again                                                    |
| publisher   | 2        | no     | -                                                                |
| consumer    | 2        | yes    | at once, under its name                                          |
| Weatherlight| 1        | yes    | at once, over the same files                                     |
| Redis       | 0 or 1   | yes    | at once, over the same files                                     |
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from esper.core.errors import ServiceUnavailable
from esper.core.process.child import child_command
from esper.core.security.keys import Keyring, new_secret
from esper.leyline import BusLane, ConsumeRequest
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, channel
from esper.rpc.clients.health import wait_serving
from esper.tolaria.plane.services import SECRET_VARIABLE
from tools.harness.faults.redis_server import RedisServer
from tools.harness.fire.consumer import GROUP
from tools.harness.fire.ledger import Verdict, acknowledged, effects, handled, verdict

BUSES = ("sqlite", "redis")
NAMES = ("a", "b")
PAUSES_S = (0.2, 2.0)
REST_S = 180.0
START_S = 60.0
LEASE_S = 5.0
# A bus that was hardly used proves nothing.
FEWEST_PER_S = 20


@dataclass(slots=True)
class Fired:
    """What came of it on one bus."""

    bus: str
    seconds: float
    verdict: Verdict
    kills: dict[str, int] = field(default_factory=dict)
    requeued: int = 0
    """Dead letters that were given back: a message may be in a consumer's hands at five kills in a row."""

    @property
    def failures(self) -> list[str]:
        few = self.verdict.acknowledged < FEWEST_PER_S * self.seconds
        idle = (
            [f"only {self.verdict.acknowledged} messages in {self.seconds:g} s: the bus was hardly used"] if few else []
        )
        return [*self.verdict.failures, *idle]


class Fire:
    """Everything that runs, on one bus. Context manager."""

    def __init__(self, bus: str, folder: Path, rate: float) -> None:
        self._folder, self._rate = folder, rate
        self._endpoint = f"unix:{folder / 'w'}"
        secret = new_secret()
        self._keyring = Keyring.from_secret(secret)
        self._environment = {**os.environ, SECRET_VARIABLE: secret}
        self._redis = RedisServer() if bus == "redis" else None
        if self._redis is not None:
            self._environment["ESPER_WEATHERLIGHT_WEATHERLIGHT__REDIS_URL"] = self._redis.url
        self._environment["ESPER_WEATHERLIGHT_WEATHERLIGHT__BUS__LEASE_S"] = str(LEASE_S)
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Fire:
        try:
            if self._redis is not None:
                self._redis.start()
                self._stack.callback(self._redis.close)
            self._stack.callback(self._end)
            self._start_weatherlight()
            self._wait_serving()
            for name in NAMES:
                self._start(f"consumer {name}", "consumer", name)
                self._start(f"publisher {name}", "publisher", name, str(self._rate))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def victims(self) -> list[str]:
        """What may be killed."""
        return ["weatherlight", *(f"consumer {name}" for name in NAMES), *(["redis"] if self._redis else [])]

    def kill(self, victim: str) -> None:
        """End it as a power cut of its process would, and start it again."""
        if victim == "redis" and self._redis is not None:
            self._redis.kill()
            self._redis.start()
            return
        self._processes[victim].kill()
        self._processes[victim].wait()
        if victim == "weatherlight":
            self._start_weatherlight()
        else:
            self._start(victim, "consumer", victim.partition(" ")[2])

    def come_to_rest(self) -> int:
        """Publishers end, and consumers handle what is left; gives how many dead letters were given back."""
        self._wait_serving()
        for name in NAMES:
            self._processes[f"publisher {name}"].send_signal(signal.SIGTERM)
        for name in NAMES:
            self._processes[f"publisher {name}"].wait(REST_S)
        wanted, requeued, deadline_s = acknowledged(self._folder), 0, time.monotonic() + REST_S
        while wanted - handled(self._folder).keys() and time.monotonic() < deadline_s:
            requeued += self._requeue()
            time.sleep(0.5)
        return requeued

    def counted(self) -> Verdict:
        return verdict(acknowledged(self._folder), handled(self._folder), effects(self._folder))

    def _requeue(self) -> int:
        dead = BusLane.BUS_LANE_DEAD_LETTERS
        opening = ConsumeRequest(group=GROUP, consumer="fire", lanes=[dead])
        with channel(self._endpoint) as link:
            client = BusClient(link, metadata=service_metadata(self._keyring, "operator"))
            ids = [told.envelope.event_id for told in client.consume(iter([opening]), timeout_s=START_S)]
            if ids:
                order = ConsumeRequest(rejected_event_ids=ids)
                list(client.consume(iter([opening, order]), timeout_s=START_S))
        return len(ids)

    def _start(self, key: str, module: str, *words: str) -> None:
        command = [sys.executable, "-m", f"tools.harness.fire.{module}", str(self._folder), self._endpoint, *words]
        self._spawn(key, command)

    def _start_weatherlight(self) -> None:
        place = ("--listen", self._endpoint, "--state-dir", str(self._folder / "state"))
        self._spawn("weatherlight", child_command("esper.weatherlight.server", *place))

    def _spawn(self, key: str, command: list[str]) -> None:
        with (self._folder / f"{key}.log").open("ab") as log:
            self._processes[key] = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def _wait_serving(self) -> None:
        deadline_s = time.monotonic() + START_S
        with channel(self._endpoint) as link:
            while True:
                try:
                    wait_serving(link, timeout_s=1.0)
                    return
                except Exception as error:
                    if time.monotonic() > deadline_s:
                        log = (self._folder / "weatherlight.log").read_text().strip().splitlines()[-3:]
                        raise ServiceUnavailable("harness", "service", "weatherlight", f"{error}; {log}") from error

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


def fired(bus: str, seconds: float, rate: float, seed: int) -> Fired:
    """Kill for so long, then count."""
    draw, kills = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="esper-fire-") as folder, Fire(bus, Path(folder), rate) as fire:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(draw.uniform(*PAUSES_S))
            victim = draw.choice(fire.victims())
            fire.kill(victim)
            kills[victim.partition(" ")[0]] += 1
        requeued = fire.come_to_rest()
        return Fired(bus, seconds, fire.counted(), dict(kills), requeued)
