"""Ranks under torchrun with real services: killed, stopped, interrupted, restarted, gone on with by another number."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.drills.launching import environment, events, train, training, wait_for_step
from tools.harness.faults.processes import services_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE_S = 60.0
RUN = (
    *("--epochs", "30", "--grow", "always", "--growth-warmup-steps", "40", "--checkpoint-every-epochs", "2"),
    *("--evaluate-every-steps", "6", "--deadline-s", "4"),
)
STOPPED = "SIGSTOP"


def torchrun(ranks: int, *options: str) -> tuple[str, ...]:
    own = ("--standalone", "--nproc-per-node", str(ranks), *options)
    return (sys.executable, "-m", "torch.distributed.run", *own, "-m", "esper.tolaria")


@cache
def undisturbed() -> str:
    """The weights that two ranks come to."""
    summary = train(Path(mkdtemp()) / "run", *RUN, launcher=torchrun(2))
    assert summary["growth"]["germinated"] > 0
    digest: str = summary["weights_digest"]
    return digest


def pid_of(rank: int, run_dir: Path, program: str = "esper.tolaria") -> int:
    """The process that is a rank of the run in a directory."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_rank = f"RANK={rank}".encode() in environment and b"torch.distributed.run" not in command
        if is_rank and program.encode() in command and str(run_dir).encode() in command:
            return int(entry.name)
    raise AssertionError(f"there is no rank {rank} in {run_dir}")


def wait_until_gone(run_dir: Path) -> None:
    """No service outlives its run."""
    deadline = time.monotonic() + PATIENCE_S
    while left := services_of(run_dir):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)  # polling other processes


@pytest.mark.parametrize(("rank", "how"), [(0, "SIGKILL"), (1, "SIGKILL"), (1, STOPPED)])
def test_a_lost_rank_stops_all_and_the_run_goes_on_as_if_it_had_not_been(rank: int, how: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *RUN, "--rank-timeout-s", "8", launcher=torchrun(2)) as process:
        wait_for_step(process, run_dir, 150)
        victim = pid_of(rank, run_dir)
        os.kill(victim, getattr(signal, how))
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, output[-3000:]
    assert f"tolaria-train: {'' if rank else 'rank 1: '}rank {rank} gives no sign of life" in output
    assert "go on with --resume" in output
    wait_until_gone(run_dir)
    if how == STOPPED:
        assert "exitcode  : 75 " in output
    if rank:
        assert "no sign of life" in events(run_dir, "failure")[-1]["detail"]
    resumed = train(run_dir, "--resume", launcher=torchrun(2))
    assert resumed["weights_digest"] == undisturbed()


def test_an_interruption_is_heard_by_all_and_saved_by_the_first(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *RUN, launcher=torchrun(2)) as process:
        wait_for_step(process, run_dir, 150)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert output.count("interrupted after step") == 1, output[-3000:]
    assert train(run_dir, "--resume", launcher=torchrun(2))["weights_digest"] == undisturbed()


def test_torchrun_starts_the_ranks_anew_and_they_go_on_by_themselves(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *RUN, launcher=torchrun(2, "--max-restarts", "1")) as process:
        wait_for_step(process, run_dir, 150)
        os.kill(pid_of(1, run_dir), signal.SIGKILL)
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 0, output[-3000:]
    assert undisturbed()[:16] in output


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(before: int, after: int, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with training(run_dir, *RUN, launcher=torchrun(before)) as process:
        wait_for_step(process, run_dir, 150)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    summary = train(run_dir, "--resume", launcher=torchrun(after))
    assert summary["ranks"] == after
    assert f"{before} ranks trained it to here" in summary["reproducible_cause"]
    assert summary["finished"]


def test_weights_in_parts_outlive_a_killed_rank(tmp_path: Path) -> None:
    run = ("--epochs", "30", "--grow", "never", "--checkpoint-every-epochs", "2", "--parallel", "shard")
    undisturbed = train(tmp_path / "undisturbed", *run, launcher=torchrun(2))
    with training(tmp_path / "run", *run, launcher=torchrun(2)) as process:
        wait_for_step(process, tmp_path / "run", 150)
        os.kill(pid_of(1, tmp_path / "run"), signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert "rank 1 gives no sign of life" in output
    assert list((tmp_path / "run" / "checkpoints").glob("*.parts"))
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    assert train(tmp_path / "run", "--resume", launcher=torchrun(2))["weights_digest"] == undisturbed["weights_digest"]
    alone = train(tmp_path / "alone", "--resume")
    assert alone["test_loss"] == pytest.approx(undisturbed["test_loss"], rel=1e-3)


def test_what_many_ranks_cannot_do_is_refused_by_one_line(tmp_path: Path) -> None:
    with training(tmp_path / "run", "--parallel", "shard", "--ema", "0.9", launcher=torchrun(2)) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    lines = [line for line in output.splitlines() if line.startswith("tolaria-train: ")]
    assert lines == [
        "tolaria-train: ema = 0.9: isn't supported by --parallel shard: it keeps whole averages; or give --parallel ddp"
    ]
    assert f"traceback : {lines[0]}" in output


SCRIPT = """
import subprocess
import sys
import torch
from torch import nn
import esper

inputs = torch.randn(900, 12, generator=torch.Generator().manual_seed(0))
targets = (inputs[:, :3].sum(1) > 0).long() + (inputs[:, 3] * inputs[:, 4] > 0).long()
model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))  # unseeded
told = []
settings = {"epochs": 30, "run_dir": sys.argv[1], "grow": "always", "growth_warmup_steps": 20, "min_samples": 50}
result = esper.train(model, (inputs, targets), config=settings, callbacks=[told.append])
digest = [float(p.detach().double().sum()) for p in result.model.parameters()]
print("came to", result.summary["growth"]["germinated"], digest, flush=True)
print("told" if told else "untold", flush=True)
"""


def test_a_script_trains_one_network_in_all_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    own = ("--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "run"))
    command = [sys.executable, "-m", "torch.distributed.run", *own]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=4 * PATIENCE_S, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    found = [line for line in lines if line.startswith("came to")]
    assert len(found) == 2
    assert len(set(found)) == 1
    assert "came to 0" not in found[0]
    assert sorted(line for line in lines if line in ("told", "untold")) == ["told", "untold"]


def test_a_documented_loop_of_ones_own_outlives_a_killed_rank_by_itself(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "ranks.md").read_text()
    (code,) = re.findall(r"```python\n# myranks.py\n(.*?)```", page, flags=re.DOTALL)
    script = tmp_path / "myranks.py"
    script.write_text(code)
    ends = []
    for name in ("undisturbed", "killed"):
        run_dir = tmp_path / name
        own = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", str(script), str(run_dir))
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *own],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        try:
            if name == "killed":
                wait_for_step(process, run_dir, 400)
                os.kill(pid_of(1, run_dir, str(script)), signal.SIGKILL)
            output, _ = process.communicate(timeout=4 * PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 0, output[-3000:]
        ends.append(sorted(line for line in output.splitlines() if re.match(r"[01] \{'germinated'", line)))
        assert len(ends[-1]) == 2, output[-3000:]
    assert ends[0] == ends[1]
    assert "'germinated': 0" not in ends[0][0]
    assert "no sign of life" in events(tmp_path / "killed", "failure")[-1]["detail"]
