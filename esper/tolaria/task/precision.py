"""The precision of training's forward passes: full, or automatic mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: str, device: torch.device) -> AbstractContextManager[object]:
    """The precision that the setting `amp` names."""
    kind = AMP_TYPES.get(amp)
    return nullcontext() if kind is None else torch.autocast(device.type, dtype=kind)
