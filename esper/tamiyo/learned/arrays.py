"""NumPy on one thread, for whatever Tamiyo multiplies: whoever needs it here takes it from this module.

Products are small, and threads that wait for the next one spin on the processors that train. What one decision has
freed serves the next one: given back, and asked of the kernel anew page by page, it took longer than the products.
"""

from __future__ import annotations

import os
from importlib import import_module

_THREADS = "OPENBLAS_NUM_THREADS"
_KEPT_BYTES = 8 << 20


def _load() -> None:
    """BLAS reads its setting once, when it is loaded; processes that this one starts are not told of it."""
    if _THREADS in os.environ:
        return
    os.environ[_THREADS] = "1"
    try:
        import_module("numpy")
    finally:
        del os.environ[_THREADS]


_load()

import numpy as np  # noqa: E402 - after the setting that it reads
from numpy.typing import NDArray  # noqa: E402

# glibc keeps twice as much as the largest block that was ever freed, 128 kB at first; this one is never touched.
np.empty(_KEPT_BYTES, np.uint8)

__all__ = ["NDArray", "np"]
