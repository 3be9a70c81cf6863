"""What memory a device has left for this process, and where that figure comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")
# What a limit that is none looks like in the first version of control groups.
NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes that can still be had, None where nobody says; who says so; and of how many they are left."""

    size_bytes: int | None
    source: str
    total_bytes: int | None = None


def free_memory(device: torch.device) -> Free:
    """Of the device, or of the host for a CPU."""
    return _of_cuda(device) if device.type == "cuda" else host_memory()


def _of_cuda(device: torch.device) -> Free:
    """What the driver has, and what the allocator holds without having given it; at most this process's share."""
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    found = free + reserved - allocated
    # Older versions of torch keep it to themselves.
    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    share = 1.0 if share_of is None else share_of(device)
    if (limit := int(share * total) - allocated) < found:
        source = f"{share:.0%} of {torch.cuda.get_device_name(device)}, this process's share"
        return Free(max(0, limit), source, int(share * total))
    return Free(found, f"the driver of {torch.cuda.get_device_name(device)}, and what the allocator reserves", total)


def host_memory(meminfo: Path = MEMINFO, cgroups: Path = CGROUPS, root: Path = CGROUP_ROOT) -> Free:
    """What the kernel calls available, or what is left of the tightest limit of a control group."""
    found = [*_available(meminfo), *_limits(cgroups, root)]
    return min(found, key=lambda each: each.size_bytes or 0) if found else Free(None, f"{meminfo} doesn't say")


def _available(meminfo: Path) -> Iterator[Free]:
    sizes = dict(line.split(":", 1) for line in _text(meminfo).splitlines() if ":" in line)
    if "MemAvailable" in sizes:
        total = _kibibytes(sizes["MemTotal"]) if "MemTotal" in sizes else None
        yield Free(_kibibytes(sizes["MemAvailable"]), f"MemAvailable of {meminfo}", total)


def _kibibytes(words: str) -> int:
    return int(words.split()[0]) * 1024


def _limits(cgroups: Path, root: Path) -> Iterator[Free]:
    """The limits of this process's control group and of those above it, in both versions."""
    for line in _text(cgroups).splitlines():
        _, kinds, name = line.split(":", 2)
        if kinds == "":
            names = ("memory.max", "memory.current", "inactive_file")
            top = root
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "memory"
        else:
            continue
        here = top / name.lstrip("/")
        for folder in [here, *(parent for parent in here.parents if parent == top or top in parent.parents)]:
            yield from _limit(folder, *names)


def _limit(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[Free]:
    most = _text(folder / limit).strip()
    if not most.isdigit() or int(most) >= NO_LIMIT_BYTES:
        return
    used = _text(folder / usage).strip()
    if not used.isdigit():
        return
    cached = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    left = int(most) - int(used) + int(cached.get(reclaimable, 0))
    yield Free(max(0, left), f"{limit} of control group {folder}", int(most))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
