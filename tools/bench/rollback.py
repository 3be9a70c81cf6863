"""How long restoring 85 M parameters with Adam takes by tier, against copying as many bytes; what a snapshot takes.

    python tools/bench/rollback.py [--depth 12] [--width 768] [--repeats 5] [--device cpu] [--json [FILE]]

A transformer of 12 blocks of 768 has the 85 M parameters of GPT-2's smallest; weights and both moments are 1.02 GB.
Both tiers restore it over a state that was lost, through the trainer's own calls, and the digest is compared. Copying
takes turns with restoring, so that both meet the same machine. A tier's copy bandwidth is, for the fast one, that of
one `copy_` of as many bytes to memory that is there, by as many threads of torch as train (on a GPU from pinned
memory, where snapshots are kept); for the full one that of reading the file by one thread, in pieces as large as the
kernel gives, to memory that is there: from the kernel's cache, as it is just after writing, and from the disk, as it is
once the cache was needed for other things. A restore verifies every byte besides, by as many threads as there are
processors, up to eight.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import esper
from esper.core.clock import SYSTEM_CLOCK
from esper.kasmina.executor import Collected
from esper.kasmina.executor.memory.parked import tensors
from esper.leyline import SystemStatePacket
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.hardware import HardwareMeter
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.packets import PacketBuilder
from esper.tolaria.plane.pipeline import Pipeline
from esper.tolaria.record.ending.summary import quantile
from esper.tolaria.record.observer import Observer, RollbackFigures
from esper.tolaria.record.progress import Progress
from esper.tolaria.record.signals import Signals
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.saves import Saves
from esper.tolaria.task.prepare import prepare

WORDS = "the quick brown fox jumps over the lazy dog and a hundred other things\n"
PATIENCE_S = 600.0


class Told(Observer):
    """The newest figures."""

    def __init__(self) -> None:
        self.figures = RollbackFigures()

    def on_rollback(self, figures: RollbackFigures) -> None:
        self.figures = figures


class Bench:
    """A session that saves and restores, and copies of as many bytes."""

    def __init__(self, directory: Path, depth: int, width: int, device: str) -> None:
        text = directory / "text.txt"
        text.write_text("".join(f"{number} {WORDS}" for number in range(3000)))
        config = TrainConfig(
            data=f"text:{text}",
            model="transformer",
            depth=depth,
            width=width,
            heads=max(1, width // 64),
            context=32,
            batch_size=2,
            steps=1000,
            min_samples=20,
            min_documents=1,
            grow="never",
            device=device,
            threads=torch.get_num_threads(),
            rollback_fast_deadline_s=PATIENCE_S,
            rollback_full_deadline_s=PATIENCE_S,
        )
        run = prepare(config)
        self.told, self.store = Told(), CheckpointStore(directory / "checkpoints", keep=1)
        self.session = Session(
            run=run,
            progress=Progress(signals=Signals(config.smoothing)),
            packets=PacketBuilder(run.run_id, HardwareMeter(run.device, config.threads, SYSTEM_CLOCK)),
            observer=self.told,
            clock=SYSTEM_CLOCK,
        )
        self.steps = ArmSteps(self.session)
        self.saves = Saves(self.session, self.steps, self.store)
        self.pipeline = Pipeline(NullControl(), lag=1)

    @property
    def parameters(self) -> int:
        return self.session.run.executor.arm.parameter_count()

    @property
    def size_bytes(self) -> int:
        """Of weights, buffers and what the optimiser remembers, without gradients."""
        arm = self.session.run.executor.arm
        gradients = sum(p.grad.nbytes for p in arm.model.parameters() if p.grad is not None)
        return sum(tensor.nbytes for tensor in tensors(arm)) - gradients

    @property
    def checkpoint_bytes(self) -> int:
        return self.store.paths()[-1].stat().st_size

    def save(self) -> None:
        self.pipeline.hand_over(SystemStatePacket(), Collected(), want_state=True)
        self.saves.write(self.pipeline, at_once=True)
        while self.pipeline.in_flight:
            self.pipeline.take()

    def snapshot_ms(self) -> float:
        self.pipeline.hand_over(SystemStatePacket(), Collected(), want_state=True)
        self.saves.keep(self.pipeline)
        self._finish()
        while self.pipeline.in_flight:
            self.pipeline.take()
        return self.told.figures.snapshot_ms

    def step_ms(self) -> float:
        return self._timed(self.steps.make)

    def restore_ms(self, tier: str) -> float:
        """One restore, as the run would make it; the present state is another before."""
        arm = self.session.run.executor.arm
        wanted = arm.digest()
        for tensor in tensors(arm):
            tensor.detach().zero_() if tensor.is_floating_point() else None
        if tier == "disk":
            self.saves._rollback.fast.forget_after(-1)
        taken = self._timed(lambda: self.saves.go_back((None,)))
        assert arm.digest() == wanted, "what was restored is not what was saved"
        return taken

    def copy_ms(self, source: Tensor, target: Tensor) -> float:
        return self._timed(lambda: target.copy_(source))

    def read_ms(self, memory: bytearray) -> float:
        """The checkpoint's bytes to memory that is there."""

        def read() -> None:
            with self.store.paths()[-1].open("rb", buffering=0) as file:
                view = memoryview(memory)
                while view and (count := file.readinto(view)):
                    view = view[count:]

        return self._timed(read)

    def full_ms(self, memory: bytearray, *, is_cached: bool) -> tuple[float, float]:
        """The file to memory, and a restore from it."""
        self._cache(memory, is_cached=is_cached)
        read = self.read_ms(memory)
        self._cache(memory, is_cached=is_cached)
        return read, self.restore_ms("disk")

    def _cache(self, memory: bytearray, *, is_cached: bool) -> None:
        """Have the kernel hold the file's bytes, or let them go."""
        if is_cached:
            self.read_ms(memory)
            return
        with self.store.paths()[-1].open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _timed(self, work: Callable[[], object]) -> float:
        self._finish()
        began = time.perf_counter()
        work()
        self._finish()
        return (time.perf_counter() - began) * 1e3

    def _finish(self) -> None:
        if self.session.run.device.type == "cuda":
            torch.cuda.synchronize()


def measure(depth: int, width: int, repeats: int, device: str) -> dict[str, Any]:
    """Medians, and each tier's share of its copy bandwidth by pairs."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), depth, width, device)
        steps = [bench.step_ms() for _ in range(repeats + 1)][1:]
        bench.save()
        size = bench.size_bytes
        snapshots = [bench.snapshot_ms() for _ in range(repeats + 2)][2:]  # the first two have no memory yet
        # On a GPU the fast tier's way is that from pinned host memory.
        source = torch.ones(size, dtype=torch.uint8, pin_memory=device.startswith("cuda"))
        target = torch.zeros(size, dtype=torch.uint8, device=device)
        fast = [(bench.copy_ms(source, target), bench.restore_ms("memory")) for _ in range(repeats)]
        del source, target
        memory = bytearray(bench.checkpoint_bytes)
        cached = [bench.full_ms(memory, is_cached=True) for _ in range(repeats)]
        uncached = [bench.full_ms(memory, is_cached=False) for _ in range(repeats)]
        return {
            "parameters": bench.parameters,
            "size_bytes": size,
            "step_ms": quantile(steps, 0.5),
            "snapshot_ms": quantile(snapshots, 0.5),
            "fast": tier(size, fast),
            "full": tier(len(memory), cached),
            "full_from_disk": tier(len(memory), uncached),
        }


def tier(size_bytes: int, pairs: list[tuple[float, float]]) -> dict[str, float]:
    copies, restores = [copy for copy, _ in pairs], [restore for _, restore in pairs]
    return {
        "restore_ms": quantile(restores, 0.5),
        "restore_ms_least": min(restores),
        "restore_ms_worst": max(restores),
        "copy_ms": quantile(copies, 0.5),
        "copy_ms_least": min(copies),
        "copy_gb_per_s": size_bytes / quantile(copies, 0.5) / 1e6,
        "share_of_copy": quantile([copy / restore for copy, restore in pairs], 0.5),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['parameters'] / 1e6:.1f} M parameters, {result['size_bytes'] / 1e9:.2f} GB with Adam",
        f"step {result['step_ms']:.0f} ms, snapshot {result['snapshot_ms']:.0f} ms",
        f"{'tier':20}restore ms   least   worst   copy ms   least   copy GB/s   share of copy   of the least",
    ]
    for name in ("fast", "full", "full_from_disk"):
        row = result[name]
        lines.append(
            f"{name.replace('_', ' '):20}{row['restore_ms']:10.0f}{row['restore_ms_least']:8.0f}"
            f"{row['restore_ms_worst']:8.0f}{row['copy_ms']:10.0f}{row['copy_ms_least']:8.0f}{row['copy_gb_per_s']:12.2f}{row['share_of_copy']:16.2f}"
            f"{row['copy_ms_least'] / row['restore_ms_least']:15.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    options = parser.parse_args()
    result = measure(options.depth, options.width, options.repeats, options.device)
    machine = {"python": platform.python_version(), "torch": torch.__version__, "processors": os.cpu_count()}
    result = {"bench": "rollback", "esper": esper.__version__, "device": options.device, **machine, **result}
    if options.json is None:
        print(table(result))
    elif options.json == "-":
        print(json.dumps(result, indent=2))
    else:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
