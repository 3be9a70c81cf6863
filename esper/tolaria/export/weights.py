"""A network as weights alone (safetensors): every tensor, the factory that builds the rest, and what was grown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.parameter import is_lazy

import esper
from esper.core.enums import short_name
from esper.core.errors import StorageError
from esper.kasmina.executor.passes.compiled import compiled_in_place
from esper.kasmina.executor.stacks.run import blocks_of
from esper.leyline import BlendMode
from esper.tolaria.export.network import Network
from esper.tolaria.task.models.models import build_model

# What the built-in transformer is built from; None is its own default.
DIALS = ("depth", "width", "heads", "positions", "norm", "mlp", "tied")


def write_weights(network: Network, path: Path, *, seeds_only: bool = False) -> None:
    """Write the file and read it back. Raises StorageError where that gives anything else."""
    tensors, record = tensors_of(network, seeds_only=seeds_only), {"network": json.dumps(record_of(network))}
    path.write_bytes(save(tensors, metadata=record))
    with safe_open(path, framework="pt") as file:
        is_whole = file.metadata() == record and set(file.keys()) == set(tensors)
        is_whole = is_whole and all(
            torch.equal(_bytes(file.get_tensor(name)), _bytes(tensors[name])) for name in tensors
        )
    if not is_whole:
        raise StorageError(f"{path} does not read back as it was written")


def tensors_of(network: Network, *, seeds_only: bool = False) -> dict[str, Tensor]:
    """Weights and buffers under the names of the host's state_dict; a seed's are `seeds.ID.NAME`."""
    arm = network.arm
    seeds = [(f"seeds.{graft.seed_id}.", graft.module) for graft in arm.grafts]
    states = seeds if seeds_only else [("", arm.model), *seeds]
    # Each with a storage of its own: tied weights are written twice, views without what they view.
    return {
        prefix + name: value.detach().clone(memory_format=torch.contiguous_format)
        for prefix, module in states
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }


def record_of(network: Network) -> dict[str, Any]:
    """How the network is built: by its factory, with shapes and counts of what was grown, with its seeds' places."""
    config, interface, arm = network.config, network.interface, network.arm
    host = compiled_in_place(build_model(config, interface.sample_shape, interface.outputs))
    built = host.state_dict()
    # A lazy layer has no shape yet and takes the one that it is given: nothing needs to be known of its growth.
    shaped = {name: value for name, value in built.items() if isinstance(value, Tensor) and not is_lazy(value)}
    shapes = {name: tuple(value.shape) for name, value in shaped.items()}
    return {
        "esper": esper.__version__,
        "model": config.model,
        "hidden": list(config.hidden),
        "dropout": config.dropout,
        **({name: getattr(config, name) for name in DIALS} if config.model == "transformer" else {}),
        **interface.to_state(),
        "weights_digest": arm.digest(),
        "grown": {
            name: {"from": list(shapes[name]), "to": list(value.shape)}
            for name, value in arm.model.state_dict().items()
            if name in shapes and shapes[name] != tuple(value.shape)
        },
        "deeper": {
            run.path: {"from": len(blocks_of(host, run.path)), "to": len(blocks_of(arm.model, run.path))}
            for run in arm.stacks
        },
        "seeds": [
            {
                "seed_id": graft.seed_id,
                "factory": graft.plan.factory,
                "parameters": dict(graft.plan.parameters),
                "reads": graft.slot.read_path,
                "adds_to": graft.slot.write_path,
                "blend": short_name(BlendMode, graft.blend.mode),
                "alpha": graft.alpha,
            }
            for graft in arm.grafts
        ],
    }


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)
