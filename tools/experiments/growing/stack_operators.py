#!/usr/bin/env python3
"""What a stack should be made of: ways of doubling the blocks of a decoder that began well, beside static networks.

    python tools/experiments/growing/stack_operators.py --device cuda --text FOLDER --out rows.jsonl [--part 1/8]

Nothing is judged here and no twin is paid for: the question is what a graft is worth at best. Each way says in which
order the copies stand, how the ends of branches of old and new blocks are scaled, and what becomes of Adam's moments:

  stack             0..l-1 and copies of 0..l-1 after them: what the product does
  stack/2           the same, ends of all branches halved: twice half a step instead of two steps
  stack/r2          the same, by the square root of two, as a decoder of that depth begins
  interleave        each block beside its copy
  interleave/2      the same, ends halved: nearly the function of before
  fresh             new blocks after the old ones, as a decoder of that depth begins
  fresh-zero        the same, their ends at zero: the function of before
  fresh-first       new blocks before the old ones, as a decoder of that depth begins
  copies-zero       copies after the old ones, their ends at zero: the function of before
  stack-forget      as stack, the copies' moments at zero

Each run is a line of --out: losses on held-out sequences, multiply-accumulates of training (6 a weight and token, and
attention). Without --out rows it makes every run that its part has and that isn't there yet; --table prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from frontier import cost_at

from esper.tolaria.task.models.transformer import BRANCH_ENDS, CausalTransformer, DecoderStyle

HELD_OUT = 512
WARM_UP, DECAY = 100, 0.2
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
PATIENT_STEPS = 3
"""Steps before a graph is captured: allocations, compiled kernels and workspaces are made in them."""


class Way(NamedTuple):
    """How a decoder is doubled."""

    order: str
    """stack, interleave, last (new blocks after the old ones) or first."""
    old_ends: float = 1.0
    new_ends: float | None = 1.0
    """Factor of the copied ends; None: new blocks are no copies but begin as a decoder of the new depth does."""
    keeps_moments: bool = True


WAYS = {
    "stack": Way("stack"),
    "stack/2": Way("stack", 0.5, 0.5),
    "stack/r2": Way("stack", 2**-0.5, 2**-0.5),
    "interleave": Way("interleave"),
    "interleave/2": Way("interleave", 0.5, 0.5),
    "fresh": Way("stack", 1.0, None),
    "fresh-zero": Way("stack", 1.0, None),
    "fresh-first": Way("first", 1.0, None),
    "copies-zero": Way("stack", 1.0, 0.0),
    "stack-forget": Way("stack", keeps_moments=False),
}


class Job(NamedTuple):
    """A run: depths with the shares of the run from which they hold, and the way of growing."""

    name: str
    depths: tuple[tuple[int, float], ...]
    way: str
    steps: int
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """What tells one row from another."""
        return f"{self.name} {self.steps} {self.rate:g} {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of the decoder and its batches."""

    width: int
    heads: int
    context: int
    batch: int


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All runs, those of one seed together."""
    top, rate, steps = options.depth, options.rate, options.steps
    times = {"early": (1 / 10, 1 / 4), "default": (1 / 6, 2 / 5), "late": (1 / 4, 11 / 20)}
    for seed in options.seeds:
        for depth in (top, top // 2, top // 4):
            for share in (0.5, 0.75, 1.0, 1.5, 2.0) if depth != top // 4 else (1.0, 2.0):
                yield Job(f"static-{depth}", ((depth, 0.0),), "-", round(share * steps), rate, seed)
        for way in options.ways:
            first, second = times["default"]
            path = ((top // 4, 0.0), (top // 2, first), (top, second))
            yield Job(f"{way} default", path, way, steps, rate, seed)
        for way in ("stack", "fresh", "interleave/2"):
            for when in ("early", "late"):
                first, second = times[when]
                yield Job(f"{way} {when}", ((top // 4, 0.0), (top // 2, first), (top, second)), way, steps, rate, seed)
            yield Job(f"{way} once", ((top // 2, 0.0), (top, 0.3)), way, steps, rate, seed)
    for seed in options.seeds[:1]:
        for factor in (0.5, 2.0):
            yield Job(f"static-{top} rate", ((top, 0.0),), "-", steps, factor * rate, seed)
            yield Job(f"static-{top // 2} rate", ((top // 2, 0.0),), "-", steps, factor * rate, seed)


def decoder(sizes: Sizes, depth: int) -> CausalTransformer:
    """As `--model transformer` begins."""
    return CausalTransformer(
        vocabulary=256,
        context=sizes.context,
        widths=(4 * sizes.width,) * depth,
        dropout=0.0,
        style=DecoderStyle(size=sizes.width, heads=sizes.heads),
    )


def sources(way: Way, depth: int) -> list[tuple[int, bool]]:
    """For each block of the doubled network: the old block that it comes from, and whether it is new."""
    old = [(index, False) for index in range(depth)]
    new = [(index, True) for index in range(depth)]
    if way.order == "interleave":
        return [block for pair in zip(old, new, strict=True) for block in pair]
    return new + old if way.order == "first" else old + new


@torch.no_grad()
def doubled(
    name: str, model: CausalTransformer, optimizer: torch.optim.AdamW, sizes: Sizes
) -> tuple[CausalTransformer, dict[nn.Parameter, dict[str, Tensor]]]:
    """The deeper network, and what its optimiser knows of its parameters."""
    way, depth = WAYS[name], len(model.blocks)
    device = next(model.parameters()).device
    deeper = decoder(sizes, 2 * depth).to(device)
    known: dict[nn.Parameter, dict[str, Tensor]] = {}

    def copy(target: nn.Parameter, source: nn.Parameter, *, keeps: bool) -> None:
        target.copy_(source)
        state = optimizer.state[source]
        known[target] = {key: value.clone() if keeps else torch.zeros_like(value) for key, value in state.items()}

    for part in ("tokens", "norm", "head"):
        pairs = zip(getattr(deeper, part).parameters(), getattr(model, part).parameters(), strict=True)
        for target, source in pairs:
            copy(target, source, keeps=True)
    copy(deeper.get_parameter("positions"), model.get_parameter("positions"), keeps=True)
    for block, (index, is_new) in zip(deeper.blocks, sources(way, depth), strict=True):
        ends = way.new_ends if is_new else way.old_ends
        if ends is None:
            _silence(block, name)
            continue
        for (key, target), source in zip(block.named_parameters(), model.blocks[index].parameters(), strict=True):
            copy(target, source, keeps=way.keeps_moments or not is_new)
            if key.endswith(BRANCH_ENDS) or key == "mlp.fc2.bias":
                target.mul_(ends)
    return deeper, known


def _silence(block: nn.Module, name: str) -> None:
    """New blocks of this way add nothing at first."""
    if name == "fresh-zero":
        for key, parameter in block.named_parameters():
            if key.endswith(BRANCH_ENDS):
                parameter.zero_()


class Trainer:
    """Steps of one network from a clock on the device; on a GPU as one graph."""

    def __init__(self, model: CausalTransformer, job: Job, tokens: Tensor, sizes: Sizes, clock: Tensor) -> None:
        self.model, self._job, self._tokens, self._sizes, self._clock = model, job, tokens, sizes, clock
        self._is_cuda = tokens.is_cuda
        if self._is_cuda:
            for block in model.blocks:
                block.compile(dynamic=False)
        rate: Any = torch.tensor(job.rate, device=tokens.device) if self._is_cuda else job.rate
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=rate,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            fused=True,
            capturable=self._is_cuda,
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        generator = torch.Generator().manual_seed(job.seed)
        starts = torch.randint(len(tokens) - sizes.context - 1, (job.steps, sizes.batch), generator=generator)
        self._starts = starts.to(tokens.device)
        self._reach = torch.arange(sizes.context + 1, device=tokens.device)

    def _step(self) -> None:
        step = self._clock
        share = (self._job.steps - step) / (DECAY * self._job.steps)
        factor = torch.minimum((step + 1) / WARM_UP, share).clamp(max=1.0)
        for group in self.optimizer.param_groups:
            if self._is_cuda:
                group["lr"].copy_(self._job.rate * factor)
            else:
                group["lr"] = self._job.rate * float(factor)
        places = self._starts.index_select(0, step.long().reshape(1)).reshape(-1, 1) + self._reach
        batch = self._tokens[places].long()
        with torch.autocast(self._tokens.device.type, torch.bfloat16, enabled=self._is_cuda):
            logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        self.optimizer.step()
        step.add_(1)

    def run(self, steps: int) -> None:
        """So many steps."""
        if not self._is_cuda:
            for _ in range(steps):
                self._step()
            return
        done = 0
        if self._graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                while done < min(PATIENT_STEPS, steps):
                    self._step()
                    done += 1
            torch.cuda.current_stream().wait_stream(side)
            if done == steps:
                return
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._step()
        for _ in range(steps - done):
            self._graph.replay()


def adopt(trainer: Trainer, known: dict[nn.Parameter, dict[str, Tensor]], steps: int) -> None:
    """Gives the optimiser what is known; new parameters begin at zero moments and at the others' step count or none."""
    for parameter in trainer.model.parameters():
        state = known.get(parameter)
        if state is None:
            state = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        trainer.optimizer.state[parameter] = state


@torch.no_grad()
def loss_of(model: CausalTransformer, held_out: Tensor) -> float:
    """Nats a byte on held-out sequences [sequences, context + 1]."""
    model.eval()
    total = 0.0
    for part in held_out.split(64):
        with torch.autocast(part.device.type, torch.bfloat16, enabled=part.is_cuda):
            logits = model(part[:, :-1].long())
        total += float(F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].long().flatten(), reduction="sum"))
    model.train()
    return total / held_out[:, 1:].numel()


def macs_of_step(sizes: Sizes, depth: int) -> int:
    """Multiply-accumulates of a training step: three a weight and token, and those of causal attention."""
    tokens = sizes.batch * sizes.context
    weights = 12 * sizes.width**2 * depth + 256 * sizes.width
    return 3 * tokens * (weights + depth * sizes.width * sizes.context)


def trained(job: Job, tokens: Tensor, held_out: Tensor, sizes: Sizes) -> dict[str, Any]:
    """One run's row."""
    began = time.monotonic()
    torch.manual_seed(job.seed)
    clock = torch.zeros((), device=tokens.device)
    trainer = Trainer(decoder(sizes, job.depths[0][0]).to(tokens.device), job, tokens, sizes, clock)
    ends = [round(share * job.steps) for _, share in job.depths[1:]] + [job.steps]
    done, macs, course = 0, 0, []
    for index, end in enumerate(ends):
        trainer.run(end - done)
        macs += (end - done) * macs_of_step(sizes, len(trainer.model.blocks))
        done = end
        if index + 1 < len(ends):
            before = loss_of(trainer.model, held_out)
            deeper, known = doubled(job.way, trainer.model, trainer.optimizer, sizes)
            trainer = Trainer(deeper, job, tokens, sizes, clock)
            adopt(trainer, known, done)
            course.append({"step": done, "before": before, "after": loss_of(deeper, held_out)})
    return {
        **job._asdict(),
        "loss": loss_of(trainer.model, held_out),
        "macs": macs,
        "grafts": course,
        "seconds": round(time.monotonic() - began, 2),
    }


def share_of_frontier(rows: Sequence[dict[str, Any]], depth: int, row: dict[str, Any]) -> float | None:
    """What a run cost as a share of what the static network of that depth (None: the best) costs at its loss."""
    found = sorted(
        (other["macs"], other["loss"])
        for other in rows
        if other["name"] == f"static-{depth}" and other["seed"] == row["seed"] and other["rate"] == row["rate"]
    )
    if not found or row["loss"] < min(loss for _, loss in found):
        return None
    cost = cost_at(found, row["loss"])
    return None if cost is None else float(row["macs"] / cost)


def table(rows: Sequence[dict[str, Any]], depths: Sequence[int]) -> str:
    """A line for each arm."""
    head = ["run", "steps", "rate", "runs", "loss", "MACs", *(f"share of static {depth}" for depth in depths), "jump"]
    lines = [head, ["---"] * len(head)]
    arms: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((row["name"], row["steps"], row["rate"]), []).append(row)
    for (name, steps, rate), found in sorted(arms.items()):
        spread = f" ± {stdev(row['loss'] for row in found):.4f}" if len(found) > 1 else ""
        shares = []
        for depth in depths:
            each = [share_of_frontier(rows, depth, row) for row in found]
            known = [share for share in each if share is not None]
            shares.append(f"{fmean(known):.2f} ({len(known)})" if known else "-")
        jumps = ", ".join(
            f"{fmean(row['grafts'][at]['after'] - row['grafts'][at]['before'] for row in found):+.3f}"
            for at in range(len(found[0]["grafts"]))
        )
        losses = f"{fmean(row['loss'] for row in found):.4f}{spread}"
        lines.append(
            [name, str(steps), f"{rate:g}", str(len(found)), losses, f"{found[0]['macs']:.3e}", *shares, jumps or "-"]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def text(folder: Path, device: torch.device, context: int) -> tuple[Tensor, Tensor]:
    """Bytes to train on, and held-out sequences [sequences, context + 1] of files of their own."""
    files = sorted(folder.glob("*.txt"))
    apart = max(1, len(files) // 20)

    def joined(paths: Sequence[Path]) -> Tensor:
        return torch.frombuffer(bytearray(b"\n".join(path.read_bytes() for path in paths)), dtype=torch.uint8)

    held = joined(files[:apart])
    starts = torch.linspace(0, len(held) - context - 2, HELD_OUT).long()
    held_out = held[starts[:, None] + torch.arange(context + 1)]
    return joined(files[apart:]).to(device), held_out.to(device)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--text", type=Path, help="folder of .txt files; made from installed source code if absent")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="1/1", help="which of how many parts of the runs, such as 1/8")
    parser.add_argument("--ways", type=lambda words: words.split(","), default=list(WAYS))
    parser.add_argument("--seeds", type=lambda words: [int(word) for word in words.split(",")], default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--depth", type=int, default=8, help="at the end")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--table", action="store_true", help="print the table of --out; train nothing")
    parser.add_argument("--json", action="store_true", help="with --table: the rows instead")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, or prints the table."""
    options = parsed(argv)
    if options.table:
        rows = read(options.out)
        print(json.dumps(rows) if options.json else table(rows, (options.depth, options.depth // 2)))
        return 0
    if options.text is None or not options.text.is_dir():
        sys.exit(f"--text {options.text}: expected a folder of .txt files; texts.py makes one")
    part, parts = (int(word) for word in options.part.split("/"))
    sizes = Sizes(width=options.width, heads=options.heads, context=options.context, batch=options.batch)
    tokens, held_out = text(options.text, torch.device(options.device), options.context)
    there = {Job(*(row[key] for key in Job._fields)).key for row in read(options.out)}
    torch.set_float32_matmul_precision("high")
    for number, job in enumerate(jobs(options)):
        if number % parts == part - 1 and job.key not in there:
            with options.out.open("a") as rows:
                rows.write(json.dumps(trained(job, tokens, held_out, sizes)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
