"""Processes that are the ranks of a run, as torchrun would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tools.harness.faults.server import free_port

MODULE = "tests.unit.tolaria.ranks.scenarios"
PATIENCE_S = 300


def ran(names: str, count: int, folder: Path, module: str = MODULE) -> list[dict[str, Any]]:
    """What each rank's scenarios came to."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, names, str(folder)],
            env=environment(rank, count, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        told = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(told)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
