"""NumPy on one thread, for whatever Tamiyo multiplies: whoever needs it here takes it from this module.

Products are small, and threads that wait for the next one spin on the processors that train.
"""

from __future__ import annotations

import os
from importlib import import_module

_THREADS = "OPENBLAS_NUM_THREADS"


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

__all__ = ["NDArray", "np"]
