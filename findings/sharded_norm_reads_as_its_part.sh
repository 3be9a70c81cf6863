#!/usr/bin/env bash
# The norm of a sharded gradient reads as the norm of each rank's own part
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: under fully_shard `weight.grad.norm()` is the norm of the whole gradient, by whatever it is read, as
#           `weight.grad.std()` and the square root of the summed squares are.
# Seen:     norms and sums are kept in parts until something is computed of them, and .item() and float() read this rank's
#           part: a log shows too small a norm, and ranks that decide by it (skip a step, grow, stop) part ways. A mean
#           squared error of rows that don't divide among the ranks is also wrong as a whole, by .full_tensor(): it is the
#           mean of the ranks' means.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
cat >norms.py <<'PY'
import os
import tempfile

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss

ASKED = {
    "norm": lambda gradient: gradient.norm(),
    "sum": lambda gradient: gradient.sum(),
    "root of squares": lambda gradient: gradient.square().sum().sqrt(),
    "std": lambda gradient: gradient.std(),
    "mse": lambda gradient: mse_loss(gradient, torch.zeros_like(gradient)),
}


def gradient_of(layer: nn.Module) -> Tensor:
    layer(torch.ones(1, 1)).mul(torch.arange(1.0, 6.0)).sum().backward()
    return layer.weight.grad


def rank(number: int, folder: str) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    layer = nn.Linear(1, 5)
    fully_shard(layer)
    gradient, alone = gradient_of(layer), gradient_of(nn.Linear(1, 5))
    found = {}
    for name, asked in ASKED.items():
        told = asked(gradient)
        parts: list[object] = [None, None]
        dist.all_gather_object(parts, round(told.item(), 3))
        found[name] = (round(asked(alone).item(), 3), parts, round(told.full_tensor().item(), 3))
    dist.destroy_process_group()
    if number == 0:
        print(f"torch {torch.__version__}: (of the whole, by .item() on each rank, by .full_tensor())")
        print("\n".join(f"  {name}: {values}" for name, values in found.items()))
        is_wrong = {name: any(part != whole for part in parts) for name, (whole, parts, _) in found.items()}
        is_full = {name: whole == full for name, (whole, _, full) in found.items()}
        torch.save((is_wrong, is_full), f"{folder}/found")


if __name__ == "__main__":
    folder = tempfile.mkdtemp(dir=os.getcwd())
    torch.multiprocessing.spawn(rank, args=(folder,), nprocs=2)
    is_wrong, is_full = torch.load(f"{folder}/found")
    reads_parts = is_wrong == {"norm": True, "sum": True, "root of squares": False, "std": False, "mse": True}
    raise SystemExit(0 if reads_parts and [name for name, full in is_full.items() if not full] == ["mse"] else 1)
PY
"$HOME_DIR/venv/bin/python" norms.py
