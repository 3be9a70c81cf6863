"""An out-of-memory is known by whoever raised it, and nothing else is taken for one."""

from __future__ import annotations

import pytest
import torch

from esper.kasmina.executor.memory.exhausted import first_line, is_out_of_memory

CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError(CPU), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_an_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_one_of_the_cpu_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_its_words_are_one_line() -> None:
    assert first_line(RuntimeError("CUDA out of memory. Tried to allocate\nand more")) == "CUDA out of memory"
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(RuntimeError(f"{CPU} to allocate 9 bytes. Error code 12")) == (
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
