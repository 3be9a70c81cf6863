"""What holds for every test, however the suite was started."""

from __future__ import annotations

import gc
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says what else the machine does; a test that hangs is ended by its timeout.
settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")

# Under nohup a hang-up is ignored, here and in every process that tests start: those that send one would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# So is Ctrl-C in what a script starts in the background.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collecting garbage walks through all that is alive, which is most of a second when every test and torch's compiler are
# imported, and each twin collects: what stays to the end is put aside.
gc.disable()
_set_aside: set[str] = set()


def pytest_collection_finish() -> None:
    gc.enable()
    _put_aside("collected")


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    if "torch._inductor" in sys.modules:
        _put_aside("compiler")


def _put_aside(since: str) -> None:
    if since not in _set_aside:
        _set_aside.add(since)
        gc.collect()
        gc.freeze()
