"""The kernels' tests run on one device: ESPER_TEST_DEVICE=cpu (the default) or cuda."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import esper.kernels as kernels

DEVICE = os.environ.get("ESPER_TEST_DEVICE", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        needed = {"cpu_only": "cpu", "cuda_only": "cuda"}
        for fixture, device in needed.items():
            if fixture in getattr(item, "fixturenames", ()) and device != DEVICE:
                item.add_marker(pytest.mark.skip(reason=f"about the {device}; ESPER_TEST_DEVICE={DEVICE}"))


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE)


@pytest.fixture
def cpu_only() -> None:
    """Asks for the CPU."""


@pytest.fixture
def cuda_only() -> None:
    """Asks for a GPU."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20240731)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def restore_isa() -> Iterator[None]:
    yield
    kernels.force_cpu_isa("auto")
