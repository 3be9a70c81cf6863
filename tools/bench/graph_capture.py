"""Times the CUDA graph of a tiny training step that blends a seed: first capture and replay, in successive trainers.

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
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from esper.kernels import blend_convex

FEATURES, HIDDEN, CLASSES, BATCH = 32, 64, 10, 64
WARMUP_STEPS = 3


class GrowingNet(nn.Module):
    """A host layer with one seed whose weight, alpha, is a buffer on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, HIDDEN)
        self.seed = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.register_buffer("alpha", torch.zeros(()))

    def forward(self, batch: Tensor) -> Tensor:
        host = torch.relu(self.stem(batch))
        blended: Tensor = blend_convex(host, self.seed(host.detach()), self.alpha)
        logits: Tensor = self.head(blended)
        return logits


class StepTrainer:
    """One model, its optimiser and the buffers that a captured step reads."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = GrowingNet().cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.batch = torch.zeros(BATCH, FEATURES, device="cuda")
        self.labels = torch.zeros(BATCH, dtype=torch.int64, device="cuda")
        self.loss = torch.zeros((), device="cuda")

    def stage(self, batch: Tensor, labels: Tensor, alpha: Tensor) -> None:
        self.batch.copy_(batch, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.model.alpha.copy_(alpha, non_blocking=True)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(self.model(self.batch), self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Pinned batches and the alpha that goes with each: what a loader would hand over."""

    inputs: list[Tensor]
    labels: list[Tensor]
    alphas: list[Tensor]

    @classmethod
    def draw(cls, count: int) -> Batches:
        generator = torch.Generator().manual_seed(1)
        return cls(
            inputs=[torch.randn(BATCH, FEATURES, generator=generator).pin_memory() for _ in range(count)],
            labels=[torch.randint(CLASSES, (BATCH,), generator=generator).pin_memory() for _ in range(count)],
            alphas=[torch.tensor(i / count).pin_memory() for i in range(count)],
        )

    def stage(self, trainer: StepTrainer, index: int) -> None:
        index %= len(self.inputs)
        trainer.stage(self.inputs[index], self.labels[index], self.alphas[index])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerFigures:
    capture_ms: float
    replay_us: float
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


def median_us(run: torch.cuda.CUDAGraph | StepTrainer, trainer: StepTrainer, batches: Batches, repeats: int) -> float:
    """Median over blocks of steps, staging included: the rate that a training loop sees."""
    act = run.replay if isinstance(run, torch.cuda.CUDAGraph) else run.step
    block, times = 50, []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for index in range(block):
            batches.stage(trainer, index)
            act()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / block * 1e6)
    return statistics.median(times)


def check_replay(trainer: StepTrainer, graph: torch.cuda.CUDAGraph, batches: Batches) -> None:
    """From one state, replays and eager steps must give the same losses, bit for bit."""
    state = [tensor.clone() for tensor in _state(trainer)]
    replayed = [_loss_after(trainer, graph.replay, batches, index) for index in range(8)]
    for tensor, saved in zip(_state(trainer), state, strict=True):
        tensor.copy_(saved)
    stepped = [_loss_after(trainer, trainer.step, batches, index) for index in range(8)]
    if replayed != stepped:
        raise SystemExit(f"graph replay differs from the eager step: {replayed} != {stepped}")


def _state(trainer: StepTrainer) -> list[Tensor]:
    momenta = [entry["momentum_buffer"] for entry in trainer.optimizer.state.values()]
    return [*(p.detach() for p in trainer.model.parameters()), *momenta]


def _loss_after(trainer: StepTrainer, act: object, batches: Batches, index: int) -> float:
    batches.stage(trainer, index)
    assert callable(act)
    act()
    return float(trainer.loss)


def measure(seed: int, batches: Batches, repeats: int) -> TrainerFigures:
    trainer = StepTrainer(seed)
    trainer.warm_up()
    graph, capture_ms = capture(trainer)
    check_replay(trainer, graph, batches)
    replay_us = median_us(graph, trainer, batches, repeats)
    eager_us = median_us(trainer, trainer, batches, max(repeats // 4, 1))
    return TrainerFigures(capture_ms=capture_ms, replay_us=replay_us, eager_us=eager_us)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, default=10, help="models built and captured one after another")
    parser.add_argument("--repeats", type=int, default=20, help="timed blocks of 50 steps per trainer")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise SystemExit("graph_capture needs a CUDA device; torch sees none")
    batches = Batches.draw(16)
    figures = [measure(seed, batches, options.repeats) for seed in range(options.trainers)]
    if options.json:
        device = torch.cuda.get_device_name()
        print(json.dumps({"device": device, "torch": torch.__version__, "trainers": [asdict(f) for f in figures]}))
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; step of {BATCH} samples")
    print("trainer  capture ms  replay us  eager us")
    for index, row in enumerate(figures):
        print(f"{index:7d}  {row.capture_ms:10.2f}  {row.replay_us:9.1f}  {row.eager_us:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
