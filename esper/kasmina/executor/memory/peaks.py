"""The most memory that a run has held: without a twin, and with one. Measured where a device counts it."""

from __future__ import annotations

import torch

UNMEASURED = "the peak is counted by CUDA's allocator alone; this run is on the CPU"


class Peaks:
    """Peaks of one device; a phase ends where a twin comes or goes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.without_twin: int | None = None
        self.with_twin: int | None = None

    @property
    def unmeasured(self) -> str | None:
        """Why there are no figures."""
        return None if self._device.type == "cuda" else UNMEASURED

    def end_phase(self, *, has_twin: bool) -> int | None:
        """The peak of the phase that ends now; another begins."""
        if self._device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        if has_twin:
            self.with_twin = max(peak, self.with_twin or 0)
        else:
            self.without_twin = max(peak, self.without_twin or 0)
        return peak

    def state_dict(self) -> dict[str, int | None]:
        return {"without_twin": self.without_twin, "with_twin": self.with_twin}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Peaks of the run's other processes; after going back, what was measured since stays true."""
        for name, value in state.items():
            known = getattr(self, name)
            setattr(self, name, max(filter(None, (known, value)), default=None))
