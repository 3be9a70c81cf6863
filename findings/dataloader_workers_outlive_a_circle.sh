#!/usr/bin/env bash
# A DataLoader's iterator that becomes garbage in a reference circle waits five seconds for each of its workers
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: letting go of an unfinished iterator ends its workers at once, as `del iterator` does, also where the
#           iterator is part of a circle: a trainer that holds it, and whose sampler knows the trainer.
# Seen:     in a circle the collector takes the iterator's queues apart before the iterator can tell its workers to end.
#           They notice by themselves after five seconds, one is waited for after the other, and whatever ran the
#           collector (the next epoch, another test, the end of the script) stands still meanwhile.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
cat >circle.py <<'PY'
import gc
import multiprocessing
import time

import torch
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    """Draws its own batches, from wherever it stands."""

    def __init__(self) -> None:
        data = TensorDataset(torch.arange(60))
        self.batches = iter(DataLoader(data, batch_sampler=self, num_workers=2))

    def __iter__(self):
        while True:
            yield [0, 1, 2]


def seconds_to_end(*, in_circle: bool) -> tuple[float, list[int]]:
    trainer = Trainer()
    for _ in range(5):
        next(trainer.batches)
    workers = multiprocessing.active_children()
    began = time.monotonic()
    if not in_circle:
        trainer.batches = None  # the circle is opened first
    del trainer
    gc.collect()
    taken = time.monotonic() - began
    for worker in workers:
        worker.join()
    return taken, [worker.exitcode for worker in workers]


if __name__ == "__main__":
    opened, circle = seconds_to_end(in_circle=False), seconds_to_end(in_circle=True)
    print(f"torch {torch.__version__}: opened {opened[0]:.1f} s, exit codes {opened[1]}; "
          f"in a circle {circle[0]:.1f} s, exit codes {circle[1]}")
    raise SystemExit(0 if opened[0] < 2 and opened[1] == [0, 0] and circle[0] > 5 else 1)
PY
"$HOME_DIR/venv/bin/python" circle.py
