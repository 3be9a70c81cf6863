#!/usr/bin/env python3
"""How long `esper up` takes: to serve, to stop at a SIGTERM, and to serve again after a kill -9 of itself.

The goals are 3 s to serve and 2 s to stop on a quiet machine; `cpu_s` is what all four processes used for both, and
`load` how many others wanted the processors meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UP = "stop it: Ctrl-C"


def serve(state_dir: Path) -> tuple[subprocess.Popen[str], float]:
    """A plane, and the seconds from its command to its word that it is up."""
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "esper.cli.main", "up", "--state-dir", str(state_dir)]
    plane = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert plane.stdout is not None
    for line in plane.stdout:
        if UP in line:
            return plane, time.perf_counter() - began_s
    raise SystemExit(f"the plane ended with code {plane.wait()}")


def end(plane: subprocess.Popen[str], number: int) -> float:
    """Seconds from the signal to the end of the process."""
    began_s = time.perf_counter()
    plane.send_signal(number)
    plane.communicate()
    return time.perf_counter() - began_s


def used_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(state_dir: Path) -> dict[str, float]:
    """One round."""
    before_s = used_s()
    plane, start_s = serve(state_dir)
    stop_s = end(plane, signal.SIGTERM)
    cpu_s = used_s() - before_s
    plane, _ = serve(state_dir)
    end(plane, signal.SIGKILL)
    plane, again_s = serve(state_dir)
    end(plane, signal.SIGTERM)
    return {"start_s": start_s, "stop_s": stop_s, "after_kill_s": again_s, "cpu_s": cpu_s, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as directory:
        rounds = [measure(Path(directory) / "plane") for _ in range(arguments.rounds)]
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(f"{name:14} median {statistics.median(values):6.2f}  from {min(values):.2f} to {max(values):.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
