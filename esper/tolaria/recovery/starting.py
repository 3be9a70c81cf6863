"""The weights that a run starts from: read once, and kept in the run's directory, so that it resumes without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.parameter import is_lazy

from esper.core.errors import ConfigError
from esper.core.storage.files import write_atomically
from esper.tolaria.config import TrainConfig
from esper.tolaria.recovery.checkpoint import CheckpointStore, read
from esper.tolaria.recovery.parts import whole
from esper.tolaria.task.prepare import Prepared
from esper.tolaria.task.start.files import Tensors, read_weights, refused
from esper.tolaria.task.start.fitting import Start

COPY = "init.safetensors"
ENTRY = "init"


def starting_weights(config: TrainConfig, *, resumes: bool = False) -> Start | None:
    """What `init_from` names, or the copy that a run which is resumed has kept of it; None without."""
    if config.init_from is None:
        return None
    if resumes:
        return _own_copy(config.run_dir / COPY)
    path = Path(config.init_from)
    is_run = (path / "checkpoints").is_dir()
    return Start(source=config.init_from, tensors=_of_run(path) if is_run else read_weights(path))


def keep_start(run: Prepared) -> None:
    """Keep the network as it is before its first step, where that isn't random."""
    if run.started is None:
        return
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in run.executor.arm.model.state_dict().items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }
    content = save(tensors, metadata={ENTRY: json.dumps(run.started)})
    write_atomically(run.config.run_dir / COPY, content)


def _of_run(run_dir: Path) -> Tensors:
    """The network that another run ended with; its seeds' weights are `seeds.ID.NAME`, as in an export."""
    path = CheckpointStore(run_dir / "checkpoints", keep=1).final_path
    if not path.exists():
        raise refused(run_dir, "is a run that isn't finished; only one that is can be started from")
    state: dict[str, Any] = whole(read(path)["executor"], path.parent)
    parts = [("", state["arm"]["model"])]
    parts += [
        (f"seeds.{record['plan']['seed_id']}.", weights)
        for record, weights in zip(state["arm_seeds"], state["arm"]["seeds"], strict=True)
    ]
    return {prefix + name: value for prefix, part in parts for name, value in part.items() if isinstance(value, Tensor)}


def _own_copy(path: Path) -> Start:
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads(file.metadata()[ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        remedy = f"the run's copy of the weights that it started from can't be read ({error}); --overwrite starts anew"
        raise ConfigError("resume", str(path), remedy) from error
    return Start(source=str(entry["from"]), tensors=tensors, is_own_copy=True, entry=entry)
