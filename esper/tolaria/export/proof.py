"""The proof of a program: loaded in a fresh process without Esper, it gives what the trained network gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from esper.kasmina.executor.fold.fold import tolerance

ROWS = (1, 2, 7)
TIMEOUT_S = 300.0

LOADER = """
import sys, torch
sys.modules["esper"] = None
network = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    outputs = {rows: network(inputs) for rows, inputs in torch.load(sys.argv[2]).items()}
torch.save(outputs, sys.argv[3])
"""


def disproof(program: Path, inputs: Mapping[int, Tensor], expected: Mapping[int, Tensor]) -> str:
    """Why the file is not the network, in one line; empty where it gives the expected outputs, by number of rows."""
    program = program.absolute()
    asked, answered = program.with_suffix(".inputs"), program.with_suffix(".outputs")
    torch.save(dict(inputs), asked)
    command = [sys.executable, "-I", "-W", "ignore", "-c", LOADER, *map(str, (program, asked, answered))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=program.parent)
    except subprocess.TimeoutExpired:
        return f"a fresh process did not run it within {TIMEOUT_S:g} s"
    if done.returncode != 0:
        return f"a fresh process can't run it: {(done.stderr.strip().splitlines() or ['it ended without a word'])[-1]}"
    outputs: dict[int, Tensor] = torch.load(answered)
    return next((found for rows in inputs if (found := _difference(rows, outputs[rows], expected[rows]))), "")


def _difference(rows: int, given: Tensor, expected: Tensor) -> str:
    if given.shape != expected.shape or given.dtype != expected.dtype:
        return f"{rows} rows give {given.dtype} {list(given.shape)}, expected {expected.dtype} {list(expected.shape)}"
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    limit = tolerance(expected.dtype) * max(1.0, largest)
    if torch.allclose(given, expected, rtol=0.0, atol=limit, equal_nan=True):
        return ""
    return f"{rows} rows give outputs that differ by {float((given - expected).abs().max()):g}, allowed is {limit:g}"
