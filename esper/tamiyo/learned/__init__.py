"""The learned part of the policy: what it observes, what it explores, weights, and how new ones come into force.

Nothing here needs torch: weights are read from safetensors and multiplied by NumPy, on one thread. Products are small,
and threads that wait for the next one spin on the processors that train.
"""

import os
from importlib import import_module

_THREADS = "OPENBLAS_NUM_THREADS"


def _load_numpy() -> None:
    """BLAS reads its setting once, when it is loaded; processes that this one starts are not told of it."""
    if _THREADS in os.environ:
        return
    os.environ[_THREADS] = "1"
    try:
        import_module("numpy")
    finally:
        del os.environ[_THREADS]


_load_numpy()
