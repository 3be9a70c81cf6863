"""Export: a grown network that plain PyTorch loads, in a process that has never heard of Esper."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.core.errors import ConfigError, DependencyViolationError
from esper.tolaria.export import export, load_run
from esper.tolaria.recovery.checkpoint import CheckpointStore
from tests.unit.tolaria.scripted_control import ScriptedControl
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, run

LOADER = """
import sys, torch
sys.modules["esper"] = None
network = torch.export.load(sys.argv[1]).module()
torch.save(network(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished")
    run(replace(CONFIG, run_dir=run_dir), ScriptedControl(KEPT), store=CheckpointStore(run_dir / "checkpoints", keep=1))
    return run_dir


def test_a_finished_run_is_loaded_with_its_grown_topology(finished: Path) -> None:
    arm = load_run(finished).executor.arm
    assert arm.model.fc1.out_features == 13


def test_the_exported_network_gives_the_same_outputs_without_esper(finished: Path, tmp_path: Path) -> None:
    path = export(finished, tmp_path / "out" / "grown.pt2")
    grown = load_run(finished)
    inputs = grown.splits.test.inputs[:7]
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOADER, path, tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
    subprocess.run([str(part) for part in command], check=True, timeout=100)
    with torch.no_grad():
        expected = grown.executor.arm.model.eval()(inputs)
    assert torch.allclose(torch.load(tmp_path / "outputs.pt"), expected, atol=1e-6)


def test_what_cannot_be_exported_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pt2"):
        export(finished, tmp_path / "grown.onnx")
    with pytest.raises(DependencyViolationError, match="only a finished run"):
        export(tmp_path, tmp_path / "grown.pt2")
