"""Launches training runs one after another, each as cheaply as a process of its own can be: forked from one that has
imported what tolaria-train needs and has started nothing, and with services that all runs of an experiment share.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing.context import ForkServerContext
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from esper.core.process.child import end_with
from esper.core.security.keys import new_secret
from esper.tolaria.plane.services import SECRET_VARIABLE, Services, ServicesConfig

PRELOADED = [
    *("esper.tolaria.launcher", "esper.tolaria.run", "control_arms"),
    *("torch._dynamo", "torch.utils.tensorboard", "sklearn.datasets", "matplotlib.backends.backend_svg"),
]
"""Imports, alone, take a small run longer than its training."""
PATIENCE_S, RETRY_S = 900.0, 2.0
NOT_NOW = (os.EX_TEMPFAIL, os.EX_UNAVAILABLE)


@contextmanager
def shared_services(tamiyo: Sequence[str] = (), *, state: Path | None = None) -> Iterator[list[str]]:
    """Weatherlight, Tamiyo and Kasmina, and the flags by which a run finds them; `tamiyo` has arguments of its own.

    Their databases begin empty and end with them, unless `state` names a directory for them: they know a run by its
    name, and would refuse its second life.
    """
    extra = {"tamiyo": tuple(tamiyo)}
    with (
        _secret() as secret,
        TemporaryDirectory() as passing,
        Services(ServicesConfig(state_dir=state or Path(passing), extra_arguments=extra), secret, _tell) as services,
    ):
        yield [part for name, place in services.endpoints.items() for part in (f"--{name}", place)]


@contextmanager
def _secret() -> Iterator[str]:
    """The environment's, or one of its own, which runs find there too."""
    if given := os.environ.get(SECRET_VARIABLE):
        yield given
        return
    os.environ[SECRET_VARIABLE] = made = new_secret()
    try:
        yield made
    finally:
        del os.environ[SECRET_VARIABLE]


def _tell(name: str, detail: str) -> None:
    print(f"{name}: {detail}", file=sys.stderr)


def context() -> ForkServerContext:
    """Where runs are forked from; the server starts with the first of them."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


class Places:
    """The devices that runs are trained on, each as often as it takes runs at a time; a run waits for a free one."""

    def __init__(self, devices: str, processes: int) -> None:
        """`devices` are separated by commas, such as `cpu` or `cuda:0,cuda:1`."""
        names = devices.split(",")
        self.count = processes * len(names)
        self._free: SimpleQueue[str] = SimpleQueue()
        for name in islice(cycle(names), self.count):
            self._free.put(name)

    @contextmanager
    def taken(self) -> Iterator[str]:
        place = self._free.get()
        try:
            yield place
        finally:
            self._free.put(place)


def patiently(attempt: Callable[[], int], *, patience_s: float = PATIENCE_S, retry_s: float = RETRY_S) -> int:
    """The exit code of a launch that is tried anew while the shared plane opens no run.

    Another run made the plane cautious, which lasts until that one is calm again, or over and its end was heard.
    """
    started = time.monotonic()
    while (code := attempt()) in NOT_NOW and time.monotonic() - started < patience_s:
        time.sleep(retry_s)
    return code


def launch(server: ForkServerContext, control: str | None, argv: Sequence[str], log: Path) -> int:
    """Train as `tolaria-train ARGV` does, or a control arm; returns the exit code. What it prints goes to the log."""
    child = server.Process(target=_train, args=(control, list(argv), str(log)))
    child.start()
    child.join()
    return 1 if child.exitcode is None else child.exitcode


def _train(control: str | None, argv: list[str], log: str) -> None:
    # The server ends when the experiment does, however that ends, and a run with it: behind a checkpoint.
    end_with(os.getppid())
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    if control is None:
        from esper.tolaria import launcher

        sys.exit(launcher.main(argv))
    import control_arms

    sys.exit(control_arms.main([control, "--", *argv]))
