"""A device is opened only where everything that a run needs is there for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from esper import kernels
from esper.core.errors import ConfigError
from esper.tolaria.task import device as module
from esper.tolaria.task.device import computing_the_same, open_device

CUDA_TORCH = """
import torch
torch.version.cuda = "13.0"
import esper.kernels
try:
    esper.kernels.require_cuda()
except ImportError as error:
    print(error)
"""


def test_a_gpu_without_the_cuda_kernels_is_refused_with_the_command_that_builds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(kernels._library, "_cuda_complaint", "it was not built")
    with pytest.raises(ConfigError, match=r"it was not built; .* `ESPER_CUDA=1 python -m pip install") as caught:
        open_device("cuda", is_deterministic=True)
    assert "\n" not in str(caught.value)


def test_a_cuda_torch_whose_kernels_do_not_load_still_has_the_cpus() -> None:
    done = subprocess.run([sys.executable, "-c", CUDA_TORCH], capture_output=True, text=True, check=True)
    assert "_C_cuda" in done.stdout
    assert "ESPER_CUDA=1" in done.stdout


def test_the_cpu_needs_no_cuda_kernels() -> None:
    assert open_device("cpu", is_deterministic=True) == torch.device("cpu")


@pytest.fixture
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(module, "require_cuda", lambda: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("pretended_cuda")
@pytest.mark.parametrize("is_deterministic", [True, False])
def test_a_gpu_computes_the_same_every_time_only_where_that_is_asked_for(is_deterministic: bool) -> None:
    torch.use_deterministic_algorithms(not is_deterministic)
    device = open_device("cuda", is_deterministic=is_deterministic)
    assert torch.are_deterministic_algorithms_enabled() == is_deterministic
    with computing_the_same(device):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == is_deterministic
