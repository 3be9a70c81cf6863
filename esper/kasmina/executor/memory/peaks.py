"""The most memory that a run has held: in a phase without a twin, in one with it, and in a step of the network of now.

Measured where a device counts it. A phase begins where a twin comes, or with the first step of training or after a
twin: what was tried on copies, and an arm that is gone, hold themselves in circles, and are in no phase.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

UNMEASURED = "the peak is counted by CUDA's allocator alone; this run is on the CPU"
# The first steps of a network compile, and make optimiser state and workspaces; of the others the largest counts, as
# the last batch of an epoch may be smaller.
FIRST_STEP, STEPS = 2, 4


class Gauge(Protocol):
    """What an allocator says, in bytes; it waits for no kernel."""

    def allocated(self) -> int: ...

    def peak(self) -> int:
        """Of `allocated` since the last `reset`."""
        ...

    def reset(self) -> None: ...


class CudaGauge:
    """CUDA's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)


def gauge_of(device: torch.device) -> Gauge | None:
    """None where nobody counts."""
    return CudaGauge(device) if device.type == "cuda" else None


class Peaks:
    """Peaks of one device."""

    def __init__(self, gauge: Gauge | None) -> None:
        self._gauge = gauge
        self.without_twin: int | None = None
        self.with_twin: int | None = None
        self._before_reset = 0
        """The phase's peak up to the last step that was measured by itself."""
        self._is_settled = True
        """False while what is no longer wanted may still be held."""
        self._topology: int | None = None
        self._steps = 0
        self._step_bytes: int | None = None

    @property
    def unmeasured(self) -> str | None:
        """Why there are no figures."""
        return UNMEASURED if self._gauge is None else None

    def begin(self) -> None:
        """Training begins with the next step."""
        self._is_settled = False
        self._restart()

    def _restart(self) -> None:
        self._before_reset = 0
        if self._gauge is not None:
            self._gauge.reset()

    def end_phase(self, *, has_twin: bool) -> int | None:
        """The peak of the phase that ends now; another begins, after a twin with the next step."""
        if self._gauge is None:
            return None
        peak = max(self._before_reset, self._gauge.peak())
        is_settled, self._is_settled = self._is_settled, not has_twin
        self._restart()
        if has_twin:
            self.with_twin = max(peak, self.with_twin or 0)
        elif is_settled:
            self.without_twin = max(peak, self.without_twin or 0)
        return peak

    def of_step(self, topology: int, gradient_bytes: Callable[[], int]) -> AbstractContextManager[None]:
        """Around one step of an arm that holds so many gradients of its last one. One that fails measures nothing."""
        if self._gauge is not None and not self._is_settled:
            gc.collect()
            self._is_settled = True
            self._restart()
        is_known = topology == self._topology and self._steps >= FIRST_STEP + STEPS
        if self._gauge is None or is_known:
            return nullcontext()
        return self._measured(self._gauge, topology, gradient_bytes)

    @contextmanager
    def _measured(self, gauge: Gauge, topology: int, gradient_bytes: Callable[[], int]) -> Iterator[None]:
        if topology != self._topology:
            self._topology, self._steps, self._step_bytes = topology, 0, None
        if self._steps < FIRST_STEP:
            yield
            self._steps += 1
            return
        self._before_reset = max(self._before_reset, gauge.peak())
        gauge.reset()
        beside = gauge.allocated() - gradient_bytes()
        yield
        self._steps += 1
        self._step_bytes = max(self._step_bytes or 0, gauge.peak() - beside)

    def step_bytes(self, topology: int) -> int | None:
        """What a step of this network adds at its peak to all that stays; None where no such step was measured."""
        return self._step_bytes if topology == self._topology else None

    def state_dict(self) -> dict[str, int | None]:
        return {"without_twin": self.without_twin, "with_twin": self.with_twin}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Peaks of the run's other processes; after going back, what was measured since stays true.

        A step's peak is of this process and of the network that made it: none is restored, and what was known goes.
        """
        self._topology = self._step_bytes = None
        for name, value in state.items():
            known = getattr(self, name)
            setattr(self, name, max(filter(None, (known, value)), default=None))
