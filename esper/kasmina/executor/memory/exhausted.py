"""Whether an error means that memory ran out, whoever raised it."""

from __future__ import annotations

import re

import torch

# What torch's allocators and libraries say where they have no error type of their own.
SAYINGS = (
    *("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("Unable to allocate", "Cannot allocate memory"),
)
# Where in torch's allocator it was noticed, which says nothing to anybody.
_WHERE = re.compile(r"^\[enforce fail at [^\]]*\] err == 0\. ")


def is_out_of_memory(error: BaseException) -> bool:
    """True for an out-of-memory of the device or of the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


def first_line(error: BaseException) -> str:
    """The error in one line: torch goes on with advice and tables."""
    said = _WHERE.sub("", str(error).strip()).splitlines()
    return said[0].split(". ")[0] if said else type(error).__name__
