#!/usr/bin/env bash
# A gradient divide factor that divides nothing fails in float32 on gloo, and works in float64
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: set_gradient_divide_factor(1.0) on a module of fully_shard has gradients summed over the ranks, on the CPU as on
#           GPUs and in float32 as in float64; gloo sums both.
# Seen:     in float32 the first backward pass of two ranks raises that gloo has no ReduceOp.PREMUL_SUM; in float64 it sums.
#           set_force_sum_reduction_for_comms(True) makes float32 sum too.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
cat > ranks.py <<'PY'
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def backward(dtype, is_forced, mesh):
    torch.manual_seed(0)
    module = fully_shard(nn.Linear(4, 2, bias=False).to(dtype), mesh=mesh)
    module.set_gradient_divide_factor(1.0)
    if is_forced:
        module.set_force_sum_reduction_for_comms(True)
    try:
        module(torch.ones(1, 4, dtype=dtype)).sum().backward()
    except RuntimeError as error:
        return "PREMUL_SUM" if "PREMUL_SUM" in str(error) else f"another error: {error}"
    return module.weight.grad.full_tensor().flatten()[0].item()


def rank(number, meeting):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    cases = [(torch.float64, False), (torch.float32, True), (torch.float32, False)]
    found = [backward(dtype, is_forced, mesh) for dtype, is_forced in cases]
    if number == 0:
        print(f"torch {torch.__version__}: float64, float32 forced to sum, float32: {found}")
    sys.stdout.flush()
    dist.destroy_process_group()
    if found != [2.0, 2.0, "PREMUL_SUM"]:
        raise SystemExit(1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(rank, (f"{folder}/meeting",), nprocs=2)
PY
"$HOME_DIR/venv/bin/python" -W ignore ranks.py
