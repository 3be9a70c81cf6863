from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os
import esper.tamiyo.server
import numpy as np
square = np.ones((600, 600))
square @ square
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
"""


def threads(**given: str) -> str:
    """Of a process that has loaded the service and multiplied; what it says of the setting."""
    around = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    words = [sys.executable, "-c", PROGRAM]
    return subprocess.run(words, env={**around, **given}, capture_output=True, text=True, check=True).stdout.strip()


def test_the_service_multiplies_on_one_thread_and_tells_no_process_that_it_starts() -> None:
    assert threads() == "1 None"


def test_an_operators_own_setting_holds() -> None:
    assert threads(OPENBLAS_NUM_THREADS="2").endswith(" 2")
