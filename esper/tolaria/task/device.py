"""The device that a run trains on: there, with compiled operators for it, and deterministic where that is wanted.

Sums in any order are faster on CUDA, above all in gradients of convolutions and of attention (the flash kernel).
TF32 is a question of precision and stays as torch has it either way: not in matrix products.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.core.errors import ConfigError, KernelsNotBuilt
from esper.kasmina.executor.passes.side_pass import device_of
from esper.kernels import require_cuda
from esper.tolaria.config import TrainConfig


def open_device(name: str, *, is_deterministic: bool) -> torch.device:
    """The device, made to compute the same results every time where that is wanted."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "expected cpu, cuda or cuda:INDEX") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("device", name, "expected cpu, cuda or cuda:INDEX")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError("device", name, f"torch sees {count} CUDA devices")
        try:
            require_cuda()
        except KernelsNotBuilt as error:
            raise ConfigError("device", name, str(error)) from error
        # Read once, at cuBLAS's first use, which may be a trial that compares bits. It sets the size of a workspace, at
        # Hopper's default; speed is lost by the algorithms below.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(is_deterministic)
        if is_deterministic:
            torch.backends.cudnn.benchmark = False
        device = torch.device("cuda", device.index or 0)
    return device


def place_of(config: TrainConfig, model: nn.Module) -> TrainConfig:
    """The settings with where a network is, and whether torch computes the same there every time.

    Raises ConfigError where the settings name another device, and for a network without values.
    """
    check_values(model)
    device = device_of(model)
    if config.device not in (TrainConfig().device, device.type, str(device)):
        remedy = f"the network is on {device}: move it there before its optimiser is made, or leave device out"
        raise ConfigError("device", config.device, remedy)
    if device.type == "cpu":
        return config
    asked = config.deterministic
    is_deterministic = torch.are_deterministic_algorithms_enabled() if asked is None else asked
    open_device(str(device), is_deterministic=is_deterministic)
    return replace(config, device=device.type, deterministic=is_deterministic)


def check_values(model: nn.Module, *, may_be_lazy: bool = False) -> None:
    """Raises ConfigError for a network that has no weights yet; lazy ones may be shaped by the first pass."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor) and not may_be_lazy:
            remedy = "is a lazy parameter, which has no shape yet: pass a batch through the network first"
            raise ConfigError("model", type(model).__name__, f"{name} {remedy}")
        if tensor.is_meta:
            remedy = "is on the meta device, without values: call to_empty(device=...), tie what was tied, draw or load"
            raise ConfigError("model", type(model).__name__, f"{name} {remedy}")


@contextmanager
def computing_the_same(device: torch.device) -> Iterator[None]:
    """Where copies are compared bit for bit, they compute the same every time, whatever the run itself does.

    Raises RuntimeError, torch's own, for an operator that can't.
    """
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the copy waits for nothing that the device still does, because its source is pinned."""
    is_cuda = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if is_cuda else tensor.to(device)
