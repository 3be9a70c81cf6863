"""Keyed randomness: every side pass and every initialisation draws from a seed that its purpose alone determines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def draw_key(*parts: str | int) -> int:
    """A 63-bit seed from a purpose, e.g. (run seed, "shadow", seed id, step)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def kept_generators(device: torch.device) -> Iterator[list[torch.Generator]]:
    """Torch's global generators of the processor and the device, which are afterwards as they were."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def forked_generators(key: int, device: torch.device) -> Iterator[None]:
    """Draws from generators seeded with `key` inside, and leaves the trainer's as they were."""
    with kept_generators(device) as generators:
        # They are seeded directly: torch.manual_seed also queues work for every accelerator.
        for generator in generators:
            generator.manual_seed(key)
        yield
