"""Every random draw of a run is keyed by the run's seed and what it is for, so no generator's state needs keeping."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from esper.kasmina.executor.passes.keys import kept_generators


def key(seed: int, *parts: int | str) -> int:
    """A 63-bit number that depends on every part."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def of_rank(seed: int, rank: int) -> int:
    """The seed of a rank's draws for its own samples; that of the first one, or of one that is alone, is the run's."""
    return seed if rank == 0 else key(seed, "rank", rank)


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator of its own for one purpose."""
    return torch.Generator().manual_seed(key(seed, *parts))


def seed_device(device: torch.device, seed: int, *parts: int | str) -> None:
    """Seed the global generator that the device's own operators draw from, alike."""
    _drawing(device).manual_seed(key(seed, *parts))


def has_drawn(device: torch.device, seed: int, *parts: int | str) -> bool:
    """Whether the device's own operators have drawn since it was seeded so."""
    fresh = torch.Generator(device).manual_seed(key(seed, *parts))
    return not torch.equal(_drawing(device).get_state(), fresh.get_state())


def _drawing(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


def seed_all(device: torch.device, seed: int, *parts: int | str) -> None:
    """Seed the global generators of torch, numpy and Python, which a host's layers may draw from."""
    value = key(seed, *parts)
    # torch.manual_seed visits every device type and takes a hundred times as long.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)


@contextmanager
def all_kept(device: torch.device) -> Iterator[None]:
    """Whatever is seeded and drawn inside, what `seed_all` seeds is afterwards as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with kept_generators(device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
