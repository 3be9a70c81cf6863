"""The device that a run trains on: there, with compiled operators for it, and computing the same every time."""

from __future__ import annotations

import os

import torch

from esper.core.errors import ConfigError, KernelsNotBuilt
from esper.kernels import require_cuda


def open_device(name: str) -> torch.device:
    """The device, made to compute the same results every time."""
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
        # cuBLAS reads it when it is first used; without it, it may not compute the same sums twice.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        device = torch.device("cuda", device.index or 0)
    return device
