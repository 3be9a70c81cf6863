"""The same bits for any number of threads and any instruction set, and under concurrent callers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import esper.kernels as kernels
from tests.kernels.reference import DTYPES, random_order


def _available() -> list[str]:
    names = []
    for name in ("portable", "avx2", "avx512"):
        try:
            kernels.force_cpu_isa(name)
        except ValueError:
            continue
        names.append(name)
    kernels.force_cpu_isa("auto")
    return names


AVAILABLE = _available()


def _everything(rows: Tensor) -> list[Tensor]:
    """One result of every operator that promises fixed bits."""
    k, n = rows.shape
    order = random_order(k)
    alpha = torch.tensor(0.37)
    surgery = kernels.pcgrad(rows, order)
    halves = torch.empty(n, dtype=torch.float16)
    kernels.flatten_([rows[0].contiguous()], halves, convert=True)
    return [
        kernels.gram(rows),
        kernels.gram_list([rows[0, :100].clone(), None, rows[1, :100].clone(), rows[1, 100:140].clone()], 2),
        surgery.flat,
        surgery.coefficients,
        *kernels.seed_metrics(rows, torch.tensor([0, n // 3, n])),
        kernels.blend_residual(rows, rows.flip(0), alpha),
        kernels.blend_channel(
            rows, rows.flip(0), torch.rand(k, generator=torch.Generator().manual_seed(1)), alpha, dim=0
        ),
        halves,
    ]


def _bits(values: list[Tensor]) -> list[bytes]:
    return [value.contiguous().view(torch.uint8).numpy().tobytes() for value in values]


@pytest.mark.parametrize("n", [5, 65_537, 300_007])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(
    cpu_only: None, restore_threads: None, dtype: torch.dtype, n: int
) -> None:
    rows = torch.randn(7, n).to(dtype)
    torch.set_num_threads(1)
    one = _bits(_everything(rows))
    for threads in (2, 3, 5):
        torch.set_num_threads(threads)
        assert _bits(_everything(rows)) == one


@pytest.mark.parametrize("k", [1, 3, 4, 5, 6, 13])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_instruction_set_changes_no_bit(cpu_only: None, restore_isa: None, dtype: torch.dtype, k: int) -> None:
    rows = torch.randn(max(k, 2), 70_003).to(dtype)
    results = {}
    for name in AVAILABLE:
        kernels.force_cpu_isa(name)
        assert kernels.cpu_isa() == name
        results[name] = _bits(_everything(rows))
    assert len(results) == len(AVAILABLE) >= 1
    assert all(bits == results["portable"] for bits in results.values())


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_instruction_set_gives_the_right_gate(cpu_only: None, restore_isa: None, name: str) -> None:
    kernels.force_cpu_isa(name)
    for classes in (2, 5, 16, 33, 1025):
        logits = torch.randn(11, classes) * 4
        result = kernels.confidence_gate(logits)
        top = torch.softmax(logits.double(), 1).topk(2, 1).values
        assert torch.allclose(result.margin.double(), top[:, 0] - top[:, 1], atol=2e-6)


def test_an_unknown_instruction_set_is_refused(restore_isa: None) -> None:
    with pytest.raises(ValueError, match="'sse9' is not available here: expected auto, portable, avx2 or avx512"):
        kernels.force_cpu_isa("sse9")


def test_callers_in_several_threads_do_not_disturb_each_other(device: torch.device) -> None:
    rows = [torch.randn(5, 20_001, device=device) for _ in range(8)]
    order = random_order(5, device)
    alone = [kernels.pcgrad(r, order).flat for r in rows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda r: kernels.pcgrad(r, order).flat, rows * 4))
    for index, flat in enumerate(together):
        assert torch.equal(flat, alone[index % 8])


@pytest.mark.gpu
def test_streams_do_not_disturb_each_other(cuda_only: None, device: torch.device) -> None:
    rows = [torch.randn(5, 200_001, device=device) for _ in range(4)]
    order = random_order(5, device)
    alone = [kernels.pcgrad(r, order).flat for r in rows]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in rows]
    results = []
    for stream, r in zip(streams, rows, strict=True):
        with torch.cuda.stream(stream):
            results.append(kernels.pcgrad(r, order).flat)
    torch.cuda.synchronize()
    for a, b in zip(results, alone, strict=True):
        assert torch.equal(a, b)


def test_without_the_extension_the_import_says_how_to_build_it(tmp_path: Path) -> None:
    """The sources alone, as in a checkout before `make setup`."""
    package = Path(kernels.__file__).parent
    root = tmp_path / "esper"
    (root / "kernels").mkdir(parents=True)
    for source in package.glob("*.py"):
        (root / "kernels" / source.name).write_text(source.read_text())
    (root / "core").mkdir()
    for name in ("errors.py", "lasted.py"):
        (root / "core" / name).write_text((package.parent / "core" / name).read_text())
    for directory in (root, root / "core"):
        (directory / "__init__.py").touch()
    code = "try:\n import esper.kernels\nexcept ImportError as error:\n print(type(error).__name__, error)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={"PYTHONPATH": ""}
    ).stdout
    assert answer.startswith("KernelsNotBuilt ")
    assert "pip install --no-build-isolation -e ." in answer
