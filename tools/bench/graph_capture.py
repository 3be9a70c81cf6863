"""Times the CUDA graph of the tiny training step of an isolated seed: first capture and replay, in successive trainers.

    python tools/bench/graph_capture.py --trainers 10 --json

Each trainer builds a model of its own, warms up, captures forward, backward and optimiser step in one graph, and
replays it with a new batch and a new alpha staged into the graph's buffers. The replay's losses must equal those of an
eager twin; a difference is an error, not a figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from esper.kernels import blend_convex

WIDTH, BATCH = 32, 32
WARMUP_STEPS = 3


class IsolatedSeed(nn.Module):
    """A seed's first stage: the host's activation is given, the seed alone learns, alpha is on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, host: Tensor, alpha: Tensor) -> Tensor:
        return blend_convex(host, self.seed(host), alpha, isolate=True)


class StepTrainer:
    """One model, its optimiser and the one buffer that a captured step reads: batch, targets and alpha."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = IsolatedSeed().cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, fused=True)
        self.staged = torch.zeros(2 * BATCH * WIDTH + 1, device="cuda")
        self.loss = torch.zeros((), device="cuda")

    def stage(self, packed: Tensor) -> None:
        self.staged.copy_(packed, non_blocking=True)

    def step(self) -> None:
        batch, targets = self.staged[:-1].view(2, BATCH, WIDTH)
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(self.model(batch, self.staged[-1]), targets)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()

    def warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()


def draw_batches(count: int) -> list[Tensor]:
    """Pinned and packed, one copy each: what a loader would hand over. The last number is alpha."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(2 * BATCH * WIDTH + 1, generator=generator) for _ in range(count)]
    for index, batch in enumerate(batches):
        batch[-1] = index / count
    return [batch.pin_memory() for batch in batches]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerFigures:
    """Per step: the graph alone, with a batch staged from the device or from pinned memory, and without a graph."""

    capture_ms: float
    replay_us: float
    staged_us: float
    staged_pinned_us: float
    eager_us: float


def capture(trainer: StepTrainer) -> tuple[torch.cuda.CUDAGraph, float]:
    """The graph of one step and the milliseconds from an idle device to a graph ready to replay."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        trainer.step()
    torch.cuda.synchronize()
    return graph, (time.perf_counter() - start) * 1e3


def median_us(act: Callable[[], None], trainer: StepTrainer, batches: list[Tensor], repeats: int) -> float:
    """Median over blocks of steps: the rate that a training loop sees. Without batches nothing is staged."""
    block, times = 100, []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for index in range(block):
            if batches:
                trainer.stage(batches[index % len(batches)])
            act()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / block * 1e6)
    return statistics.median(times)


def check_replay(trainer: StepTrainer, graph: torch.cuda.CUDAGraph, batches: list[Tensor]) -> None:
    """From one state, replays and eager steps must give the same losses, bit for bit."""
    state = [tensor.clone() for tensor in _state(trainer)]
    captured = trainer.loss
    replayed = [_loss_after(graph.replay, trainer, batch, captured) for batch in batches]
    for tensor, saved in zip(_state(trainer), state, strict=True):
        tensor.copy_(saved)
    stepped = [_loss_after(trainer.step, trainer, batch, None) for batch in batches]
    if replayed != stepped:
        raise SystemExit(f"graph replay differs from the eager step: {replayed} != {stepped}")


def _state(trainer: StepTrainer) -> list[Tensor]:
    momenta = [entry["momentum_buffer"] for entry in trainer.optimizer.state.values()]
    return [*(p.detach() for p in trainer.model.parameters()), *momenta]


def _loss_after(act: Callable[[], None], trainer: StepTrainer, batch: Tensor, loss: Tensor | None) -> float:
    trainer.stage(batch)
    act()
    return float(trainer.loss if loss is None else loss)


def measure(seed: int, batches: list[Tensor], repeats: int) -> TrainerFigures:
    trainer = StepTrainer(seed)
    trainer.warm_up()
    graph, capture_ms = capture(trainer)
    check_replay(trainer, graph, batches)
    fetched = [batch.cuda() for batch in batches]
    return TrainerFigures(
        capture_ms=capture_ms,
        replay_us=median_us(graph.replay, trainer, [], repeats),
        staged_us=median_us(graph.replay, trainer, fetched, repeats),
        staged_pinned_us=median_us(graph.replay, trainer, batches, repeats),
        eager_us=median_us(trainer.step, trainer, fetched, max(repeats // 4, 1)),
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, default=10, help="models built and captured one after another")
    parser.add_argument("--repeats", type=int, default=20, help="timed blocks of 100 steps per trainer")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit("graph_capture needs a CUDA device; torch sees none")
    batches = draw_batches(16)
    figures = [measure(seed, batches, options.repeats) for seed in range(options.trainers)]
    if options.json:
        device = torch.cuda.get_device_name()
        print(json.dumps({"device": device, "torch": torch.__version__, "trainers": [asdict(f) for f in figures]}))
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; step of {BATCH} samples")
    print("trainer  capture ms  replay us  staged us  pinned us  eager us")
    for index, row in enumerate(figures):
        values = f"{row.capture_ms:10.2f}  {row.replay_us:9.1f}  {row.staged_us:9.1f}  {row.staged_pinned_us:9.1f}"
        print(f"{index:7d}  {values}  {row.eager_us:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
