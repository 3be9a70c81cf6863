#!/usr/bin/env bash
# A backward pass of torchjd leaves replicas of DistributedDataParallel unaveraged
#
# Packages: torch==2.13.0 numpy==2.4.6 torchjd==0.18.0
# Expected: torchjd's backward and jac_to_grad, which take the place of loss.backward() and fill .grad, work under
#           DistributedDataParallel as it does: ranks end with the same gradient, the mean over ranks.
# Seen:     gradients are taken beside the accumulation that DistributedDataParallel and other hooks of
#           register_post_accumulate_grad_hook wait for, so nothing is averaged: each rank steps by its own batch and the
#           replicas drift apart. Nothing is said, by either package. Hooks of Tensor.register_hook run.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchjd==0.18.0
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchjd.aggregation import Sum
from torchjd.autojac import backward, jac_to_grad


def rank(index: int, folder: str, answers: mp.SimpleQueue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
    torch.manual_seed(0)
    layer = nn.Linear(1, 2, bias=False)
    replica, calls = DistributedDataParallel(layer), []
    layer.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    layer.weight.register_hook(lambda gradient: calls.append("gradient"))
    batch = torch.full((1, 1), 1.0 + 2 * index)
    replica(batch).sum().backward()
    plain, of_plain = layer.weight.grad[0].item(), sorted(calls)
    layer.weight.grad = None
    calls.clear()
    outputs = replica(batch)
    backward([outputs[0, 0], outputs[0, 1]])
    jac_to_grad(layer.parameters(), Sum())
    answers.put((index, plain, of_plain, layer.weight.grad[0].item(), sorted(calls)))
    dist.destroy_process_group()


if __name__ == "__main__":
    answers = mp.get_context("fork").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(rank, (folder, answers), nprocs=2, start_method="fork")
    found = sorted(answers.get() for _ in range(2))
    print(f"torch {torch.__version__}, torchjd 0.18.0: rank, gradient and hooks of backward, those of torchjd")
    print(*found, sep="\n")
    both = ["accumulated", "gradient"]
    raise SystemExit(0 if found == [(0, 2.0, both, 1.0, ["gradient"]), (1, 2.0, both, 3.0, ["gradient"])] else 1)
PY
