"""What records a step's work on a device, and repeats it on the same memory: CUDA's graphs.

All graphs of a run draw on one pool, because they never run at the same time. What one leaves for others to read (its
gradients, its results) is never given back while it lives, so that none that is captured later takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Freeing what the allocator has cached costs more than a small step's capture; a graph's pool can't use it, though.
CACHED_BYTES = 256 * 2**20


class Graph(Protocol):
    """A recorded call."""

    @property
    def told(self) -> Tensor:
        """What the call gave; each replay writes it into the same memory."""

    def replay(self) -> None:
        """Do again what was recorded."""


class Backend(Protocol):
    """Records calls; nothing that a call would do on the device is done while it is recorded."""

    def warm_up(self) -> AbstractContextManager[None]:
        """Around a call as it will be recorded: what is made at first use only is made then."""

    def capture(self, call: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Graph:
        """Record a call that draws from the device's generator and from these. Raises whatever keeps it from that."""

    def beside(self, read: object) -> AbstractContextManager[None]:
        """Within a call that is recorded, around what nothing else of it waits for before `join`; it reads `read`.

        The first after the call's beginning or a `join` follows what was done by then, later ones follow the first.
        """

    def join(self) -> None:
        """Within a call that is recorded: what comes now may read what was computed beside it."""

    def forget(self) -> None:
        """All graphs are gone: give their memory back."""

    @property
    def pool_bytes(self) -> int:
        """Memory that is held for graphs."""


class CudaBackend:
    """Of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._other = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._read: list[object] = []
        """What is read beside a recorded call: its memory is not to be given away before they join."""
        self._pool: Any = None
        """The handle of the pool."""
        self._pool_bytes = 0

    @property
    def pool_bytes(self) -> int:
        return self._pool_bytes

    def warm_up(self) -> AbstractContextManager[None]:
        if self._stream is None:
            self._prime()
        return self._aside()

    def capture(self, call: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Graph:
        if torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device) > CACHED_BYTES:
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with self._aside():
            # Other threads, such as the one that keeps checkpoints, go on with what they do on the device.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                told = call()
                graph.capture_end()
            except BaseException:
                self._abandon(graph, generators)
                raise
        self._pool_bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        return CudaGraph(told, graph.replay)

    @contextmanager
    def beside(self, read: object) -> Iterator[None]:
        if not self._read:
            self._other.wait_stream(torch.cuda.current_stream(self._device))
        self._read.append(read)
        with torch.cuda.stream(self._other):
            yield

    def join(self) -> None:
        if self._read:
            torch.cuda.current_stream(self._device).wait_stream(self._other)
            self._read.clear()

    def forget(self) -> None:
        if self._pool is not None:
            self._pool, self._pool_bytes = None, 0
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()

    def _prime(self) -> None:
        """A first graph of a process is slow: the driver loads what it needs for any."""
        graph, number = torch.cuda.CUDAGraph(), torch.zeros((), device=self._device)
        with self._aside():
            graph.capture_begin(capture_error_mode="thread_local")
            number.add_(1)
            graph.capture_end()
        graph.replay()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream of its own, in the order of the current one."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _abandon(self, graph: torch.cuda.CUDAGraph, generators: Sequence[torch.Generator]) -> None:
        """After a capture that failed torch leaves the stream, the pool and the generators in the middle of it."""
        self._read.clear()
        with suppress(RuntimeError):
            graph.capture_end()
        if self._pool is not None:
            # The first raises where the capture has ended in time; then `reset` lets go of the pool, and to do so twice
            # takes it from the graphs that were made before.
            with suppress(RuntimeError, AttributeError):
                for end in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
                    getattr(torch._C, end)(self._device.index or 0, self._pool)
        with suppress(RuntimeError):
            graph.reset()
        drawing = torch.cuda.default_generators[self._device.index or 0]
        for generator in (drawing, *generators):
            generator.graphsafe_set_state(torch.Generator(self._device).graphsafe_get_state())
        self._pool, self._pool_bytes = None, 0


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """A graph of CUDA's, and the memory of what it gives."""

    told: Tensor
    replay: Callable[[], None]
