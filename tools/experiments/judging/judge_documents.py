#!/usr/bin/env python3
"""How uncertain is a gain that is measured on sequences of few documents, and does its error know?

A small decoder of bytes learns from half of the standard library's files; its blocks are doubled, and both arms go on
for a while. Scores on the other half are drawn as judging sets of so many documents, many times: the deviation of the
gain between sets is the truth that an error must tell. Sets are drawn from a finite pool without replacement, for which
deviations are corrected. Prints a table; some minutes on one processor.
"""

from __future__ import annotations

import argparse
import copy
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.executor.judge.scores import clustered_error
from esper.kasmina.executor.stacks.repeat import repeat
from esper.kasmina.executor.stacks.run import Run
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data.pytext import VOCABULARY, source_files
from esper.tolaria.task.data.stream import _evenly
from esper.tolaria.task.models.models import build_model

CONTEXT, BATCH, RATE = 128, 32, 2e-3
SEQUENCES, POOL, DRAWS, THRESHOLD = 512, 6000, 1000, 2.33
COUNTS = (32, 64, 100, 150)


def sequences_of(files: list[bytes]) -> tuple[Tensor, Tensor]:
    """Sequences [n, context + 1] and the file of each [n]; ends of files are left out."""
    length = CONTEXT + 1
    counts = [len(text) // length for text in files]
    rows = [
        np.frombuffer(text, np.uint8, count * length).reshape(count, length)
        for text, count in zip(files, counts, strict=True)
    ]
    return torch.from_numpy(np.concatenate(rows)).long(), torch.repeat_interleave(torch.tensor(counts))


def gains(host_steps: int, stack_steps: int) -> tuple[Tensor, Tensor]:
    """Twin's loss minus the stack's for each sequence of the pool, and the file of each."""
    torch.manual_seed(1)
    files = source_files()
    order = torch.randperm(len(files)).tolist()
    half = len(files) // 2
    learnt, _ = sequences_of([files[place] for place in order[half:]])
    pool, of_file = sequences_of([files[place] for place in order[:half]])
    config = TrainConfig(data="pytext", model="transformer", depth=2, width=64, heads=2, context=CONTEXT)
    host = build_model(config, (CONTEXT,), VOCABULARY)
    optimizer = torch.optim.AdamW(host.parameters(), lr=RATE)

    def step(number: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        rows = torch.randint(len(learnt), (BATCH,), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        losses(model, learnt[rows]).mean().backward()
        optimizer.step()

    for number in range(host_steps):
        step(number, host, optimizer)
    twin = copy.deepcopy(host)
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=RATE)
    twin_optimizer.load_state_dict(optimizer.state_dict())
    repeat(host, optimizer, Run("blocks", 0, 2))
    for number in range(host_steps, host_steps + stack_steps):
        step(number, host, optimizer)
        step(number, twin, twin_optimizer)
    chosen = torch.randperm(len(pool))[:POOL]
    with torch.no_grad():
        parts = [losses(twin, pool[rows]) - losses(host, pool[rows]) for rows in chosen.split(SEQUENCES)]
    return torch.cat(parts).double(), of_file[chosen]


def losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Of each sequence, each byte's clipped as the judge clips it: [n]."""
    inputs, targets = rows[:, :-1], rows[:, 1:]
    nats = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none")
    return nats.clamp(max=2 * math.log(VOCABULARY)).view(targets.shape).mean(1)


def row(gain: Tensor, of_file: Tensor, count: int, *, evenly: bool) -> list[str]:
    """Many judging sets of `count` files, in words."""
    files = of_file.unique()
    correction = 1 / math.sqrt(1 - count / len(files))
    means, by_document, by_sequence, documents = [], [], [], []
    for _ in range(DRAWS):
        places = torch.isin(of_file, files[torch.randperm(len(files))[:count]]).nonzero().flatten()
        places = places[torch.randperm(len(places))]
        if evenly:
            places = places[torch.from_numpy(_evenly(of_file[places].numpy()))]
        places = places[:SEQUENCES]
        found, error = clustered_error(gain[places], of_file[places])
        means.append(float(gain[places].mean()))
        by_document.append(error)
        by_sequence.append(float(gain[places].std()) / math.sqrt(len(places)))
        documents.append(found)
    off = (np.array(means) - np.mean(means)) * correction
    wrong = [f"{(np.abs(off / np.array(errors)) > THRESHOLD).mean():.1%}" for errors in (by_document, by_sequence)]
    errors = [np.sqrt(np.square(each).mean()) for each in (by_document, by_sequence)]
    figures = [f"{1e4 * value:.1f}" for value in (off.std(), *errors)]
    return [f"{count}, {'evenly' if evenly else 'at random'}", f"{np.mean(documents):.0f}", *figures, *wrong]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host-steps", type=int, default=300)
    parser.add_argument("--stack-steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gain, of_file = gains(options.host_steps, options.stack_steps)
    print(f"{len(gain)} sequences of {len(of_file.unique())} files; gain {gain.mean():.4f} ± {gain.std():.4f} nats\n")
    header = ["judging set of files", "with sequences", "deviation", "by document", "by sequence"]
    header += [f"beyond {THRESHOLD}, by document", f"beyond {THRESHOLD}, by sequence"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for count, evenly in ((COUNTS[0], False), *((count, True) for count in COUNTS)):
        print(f"| {' | '.join(row(gain, of_file, count, evenly=evenly))} |")


if __name__ == "__main__":
    main()
