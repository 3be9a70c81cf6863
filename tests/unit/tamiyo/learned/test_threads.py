"""How the service multiplies: on one thread, in memory that it keeps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os
import esper.tamiyo.server
import numpy as np
square = np.ones((600, 600))
square @ square
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
"""

DECISIONS = """
import resource
from concurrent.futures import ThreadPoolExecutor
from esper.tamiyo.learned.arrays import np
from esper.tamiyo.learned.linear import HEADS, LinearModel
features, pairs, heads = 29, 55, len(HEADS)
terms = 1 + features + pairs
model = LinearModel(center=np.zeros(features), scale=np.ones(features), pairs=np.zeros((pairs, 2), np.int64),
                    coefficients=np.zeros((heads, terms)), covariance=np.eye(terms), noise=np.ones(heads))
rows = np.ones((1024, features))
def asked():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(20):
        model.predict(rows)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
with ThreadPoolExecutor(1) as worker:
    worker.submit(asked).result()
    print(worker.submit(asked).result())
"""


def threads(**given: str) -> str:
    """Of a process that has loaded the service and multiplied; what it says of the setting."""
    around = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    words = [sys.executable, "-c", PROGRAM]
    return said(words, {**around, **given})


def said(words: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_service_multiplies_on_one_thread_and_tells_no_process_that_it_starts() -> None:
    assert threads() == "1 None"


def test_an_operators_own_setting_holds() -> None:
    assert threads(OPENBLAS_NUM_THREADS="2").endswith(" 2")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="which memory is kept is glibc's own rule")
def test_a_decision_multiplies_in_memory_that_the_one_before_has_freed() -> None:
    asked = int(said([sys.executable, "-c", DECISIONS], dict(os.environ)))
    assert asked < 20, "pages for twenty decisions, each of which fills some hundreds"
