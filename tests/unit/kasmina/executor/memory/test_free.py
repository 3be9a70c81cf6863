"""What is free is what the kernel says, or less where a control group says so; and who says it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.kasmina.executor.memory.free import free_memory, host_memory

MIB = 2**20


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    2048 kB\n")
    return tmp_path


def group(folder: Path, names: tuple[str, str, str], limit: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


SECOND = ("memory.max", "memory.current", "inactive_file")
FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def read(system: Path) -> tuple[int | None, str]:
    found = host_memory(system / "meminfo", system / "cgroup", system)
    return found.size_bytes, found.source


def test_without_limits_it_is_what_the_kernel_says(system: Path) -> None:
    assert read(system) == (2 * MIB, f"MemAvailable of {system / 'meminfo'}")


def test_the_tightest_control_group_above_the_process_decides(system: Path) -> None:
    (system / "cgroup").write_text("0::/jobs/mine\n")
    group(system / "jobs", SECOND, str(5 * MIB), 4 * MIB, MIB // 2)
    group(system / "jobs" / "mine", SECOND, "max", 3 * MIB, 0)
    size, source = read(system)
    assert size == 3 * MIB // 2
    assert source == f"memory.max of control group {system / 'jobs'}"


def test_the_first_version_of_control_groups_is_read_too_and_its_endless_limit_is_none(system: Path) -> None:
    (system / "cgroup").write_text("11:cpu,memory:/mine\n4:cpuset:/mine\n")
    group(system / "memory" / "mine", FIRST, str(3 * MIB), 2 * MIB, 0)
    group(system / "memory", FIRST, str(2**63 - 4096), 2 * MIB, 0)
    assert read(system)[0] == MIB


def test_where_nobody_says_it_is_not_known(tmp_path: Path) -> None:
    size, source = read(tmp_path)
    assert size is None
    assert "doesn't say" in source


def test_this_machine_has_some() -> None:
    found = free_memory(torch.device("cpu"))
    assert found.size_bytes is None or found.size_bytes > MIB
