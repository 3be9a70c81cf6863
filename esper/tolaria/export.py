"""A finished run's network as a file that plain PyTorch loads: `torch.export.load(path).module()`."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from esper.core.errors import ConfigError, DependencyViolationError
from esper.kasmina.executor.fold.export import plain
from esper.tolaria.recovery.checkpoint import CheckpointStore, read
from esper.tolaria.recovery.snapshot import Snapshot, config_of
from esper.tolaria.task.prepare import Prepared, prepare

SUFFIX = ".pt2"


def export(run_dir: Path, out: Path) -> Path:
    """Write the network of the finished run in `run_dir` to `out`. Raises the error tree."""
    if out.suffix != SUFFIX:
        raise ConfigError("out", str(out), f"expected a file name ending in {SUFFIX}")
    run = load_run(run_dir)
    example = run.task.probe_inputs()
    network = plain(run.executor.arm, example)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = {0: torch.export.Dim.AUTO}
            program = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=False)
            torch.export.save(program, out)
    except OSError as error:
        raise ConfigError("out", str(out), f"can't be written: {error.strerror}") from error
    return out


def load_run(run_dir: Path) -> Prepared:
    """The finished run as it was after its last step, topology included."""
    path = CheckpointStore(run_dir / "checkpoints", keep=1).final_path
    if not path.exists():
        raise DependencyViolationError("tolaria", "final checkpoint", str(path), "only a finished run can be exported")
    snapshot = Snapshot.from_state(read(path))
    run = prepare(config_of(snapshot.settings))
    run.executor.load_state_dict(snapshot.executor)
    return run
