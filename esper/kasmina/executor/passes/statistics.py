"""What a seed's gradients looked like: smoothed norm and finiteness, without a wait for the device in the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SMOOTHING = 0.1
PENDING_LIMIT = 256


class GradientStatistics:
    """Norms are kept on the device until someone asks."""

    def __init__(self) -> None:
        self._pending: list[Tensor] = []
        self._smoothed: float | None = None
        self._are_finite = True

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Notes the gradients of one backward pass."""
        if gradients:
            self.note(norm_of(gradients))

    def note(self, norm: Tensor) -> None:
        """Notes the norm of one backward pass's gradients; 0-d."""
        self._pending.append(norm)
        if len(self._pending) >= PENDING_LIMIT:
            self._flush()

    def read(self) -> tuple[float | None, bool | None]:
        """The smoothed norm, and whether every gradient since the last reading was finite; None before the first."""
        self._flush()
        if self._smoothed is None:
            return None, None
        are_finite, self._are_finite = self._are_finite, True
        return self._smoothed, are_finite

    def state_dict(self) -> dict[str, Any]:
        self._flush()
        return {"smoothed": self._smoothed, "are_finite": self._are_finite}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pending.clear()
        self._smoothed, self._are_finite = state["smoothed"], state["are_finite"]

    def _flush(self) -> None:
        if not self._pending:
            return
        norms: list[float] = torch.stack(self._pending).tolist()
        self._pending.clear()
        for norm in norms:
            self._are_finite &= norm - norm == 0.0
            self._smoothed = norm if self._smoothed is None else self._smoothed + SMOOTHING * (norm - self._smoothed)


def norm_of_each(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Of each, 0-d, without a wait for the device; a sparse one, as an embedding may have, counts by its rows."""
    dense = [part.coalesce().values() if part.layout == torch.sparse_coo else part for part in gradients]
    return list(torch._foreach_norm(dense))


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """Of all of them together: 0-d, without a wait for the device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norm_of_each(gradients)))
    return norm
