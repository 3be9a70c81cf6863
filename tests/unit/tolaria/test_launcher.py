"""Whatever can't be used ends a run with one clear line and the documented code."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esper.cli.main import main as cli
from esper.core.errors import ConfigError, ForbiddenStorage, ServiceUnavailable, StorageError, UnwritableStorage
from esper.core.process.unexpected import unexpected
from esper.tolaria import launcher
from esper.tolaria.config import TrainConfig
from esper.tolaria.launcher import main
from esper.tolaria.run import Interruption
from esper.tolaria.run_dir import RunOptions, occupied

FIRST: dict[str, object] = {"seed": 1, "test_accuracy": 0.5, "final_parameters": 1, "training_macs": 1}
HOSTS = """
import torch
from torch import nn


class Flat(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, outputs))


class Poisoned(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))
        self.before = self[1].bias.detach().clone()

    def forward(self, inputs):
        return super().forward(inputs) * (1.0 if torch.equal(self[1].bias, self.before) else float("nan"))


class Void(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, inputs):
        return super().forward(inputs) / 0.0


def raises(shape, outputs):
    raise KeyError("x")


def leaves(shape, outputs):
    raise SystemExit(5)


class Leaver(Poisoned):
    def forward(self, inputs):
        if not torch.equal(self[1].bias, self.before):
            raise SystemExit(5)
        return nn.Sequential.forward(self, inputs)
"""


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    Path("esper_test_hosts.py").write_text(HOSTS)
    Path("a_file").write_text("")
    torch.save({"inputs": torch.randn(400, 4), "targets": torch.randn(400)}, "values.pt")
    Path("junk.pt").write_bytes(b"\x80\x02junk")
    Path("misspelt.toml").write_text("epoch = 3\n")


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--epoch", "3"], 64, "did you mean --epochs?"),
        (["--epochs", "x"], 64, "invalid int value"),
        (["--config", "misspelt.toml"], 78, "did you mean 'epochs'?"),
        (["--config", "absent.toml"], 78, "can't be read"),
        (["--data", "absent"], 78, "expected digits"),
        (["--data", "absent_module:source"], 78, "can't be imported"),
        (["--model", "absent_module:factory"], 78, "can't be imported"),
        (["--model", "esper_test_hosts:Flat"], 78, "model = 'esper_test_hosts:Flat': has no slot where a seed fits"),
        (["--model", "esper_test_hosts:Void", "--grow", "never"], 78, "its loss is nan before any step"),
        (["--task", "regressoin"], 64, "invalid choice: 'regressoin'"),
        (["--task", "language_model"], 78, "labels and tokens must be whole numbers"),
        (["--compare", "--task", "regression"], 64, "digits is a regression"),
        (["--model", "esper_test_hosts:raises"], 1, "unexpected KeyError: 'x'"),
        (["--slots", "absent"], 78, "the host calls no submodule 'absent'"),
        (["--blueprints", "absent"], 78, "there is no such blueprint; name one of span.linear"),
        (["--blueprints", "span.conv"], 78, "fits none of the host's slots"),
        (["--kasmina", "127.0.0.1:1"], 78, "ESPER_LEYLINE_SECRET"),
        (["--run-dir", "/proc/absent/run", "--grow", "never"], 78, "can't be made: No such file"),
        (["--data", "junk.pt"], 78, "no file that torch.save wrote"),
        (["--seed", "-1"], 78, "must be at least 0"),
        (["--optimizer", "lbfgs"], 78, "calls for the loss several times in a step"),
        (["--optimizer", "absent_module:make"], 78, "can't be imported"),
        (["--optimizer", "esper_test_hosts:Flat"], 78, "expected (parameters) -> torch.optim.Optimizer"),
        (["--optimizer", "sgd", "--beta2", "0.95"], 78, "sgd has no such setting"),
        (["--schedule", "cosin"], 78, "choose one of wsd, cosine, constant, or give module:function"),
        (["--hidden", "0"], 78, "every width must be at least 1"),
        (["--repeats", "2"], 64, "counts the runs of --compare"),
        (["--compare", "--repeats", "0"], 64, "must be at least 1"),
        (["--compare", "--grow", "never"], 64, "compares a grown network"),
        (["--demo-faults", "--grow", "never"], 64, "is for a run that may grow"),
        (["--compare", "--data", "values.pt"], 64, "compares accuracies; values.pt is a regression"),
        (["--resume", "--overwrite"], 64, "choose one"),
        (["--profile", "traces", "--dry-run"], 64, "makes one step: choose one"),
        (["--profile", "a_file", "--grow", "never"], 78, "profile = 'a_file': is a file, no folder"),
        (["--dry-run", "--blueprints", "span.conv"], 78, "fits none of the host's slots"),
        (["--run-dir", "a_file"], 78, "can't be made"),
        (["--run-dir", "a_file/run"], 78, "can't be made"),
        (["--resume"], 78, "there is no run to go on with"),
        (["--model", "esper_test_hosts:Poisoned", "--grow", "never"], 1, "the training loss is nan"),
        (
            ["--model", "esper_test_hosts:Poisoned", "--grow", "never", "--on-nonfinite", "rollback"],
            1,
            "the training loss is nan; nothing to go back to",
        ),
    ],
)
def test_bad_input_is_one_line_and_a_documented_code(
    flags: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--plain", "--epochs", "1", "--run-dir", "run", *flags]) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("tolaria-train: ")
    assert words in printed


def test_a_run_is_neither_mixed_nor_lost_by_accident(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--plain", "--epochs", "1", "--run-dir", "run", "--grow", "never"]
    assert main(flags) == 0
    assert main(flags) == 78
    assert "use --resume, --overwrite" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0
    assert len(list(Path("run/tensorboard").iterdir())) == 1


def test_a_run_that_never_began_may_be_begun_again() -> None:
    refused = ["--plain", "--epochs", "1", "--run-dir", "run", "--kasmina", "127.0.0.1:1"]
    assert main(refused) == 78
    assert main(["--plain", "--epochs", "1", "--run-dir", "run", "--grow", "never"]) == 0


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "make room there, then"), (errno.EROFS, "make it writable, then")]
)
def test_a_disk_that_takes_nothing_is_one_line(
    code: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(code, os.strerror(code), "run/summary.json")

    monkeypatch.setattr("esper.tolaria.run_dir.write_summary", full)
    assert main(["--plain", "--epochs", "1", "--run-dir", "run", "--grow", "never"]) == 74
    told = capsys.readouterr().err
    assert told.startswith(f"tolaria-train: run/summary.json can't be written: {os.strerror(code)}; {remedy}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("command line", "--x", "see --help"), 64),
        (ServiceUnavailable("tolaria", "service", "kasmina", "start it"), 75),
        (ConfigError("lr", 0, "must be positive"), 78),
        (StorageError("damaged"), 1),
        (UnwritableStorage("full"), 74),
        (OSError(28, "No space left on device"), 74),
        (OSError(13, "Permission denied"), 77),
        (ForbiddenStorage("a.db can't be used"), 77),
        (OSError(5, "Input/output error"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_kind_of_end_has_the_exit_code_of_the_readme(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("esper.tolaria.launcher.launch", fail)
    assert main([]) == code
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    assert re.search(rf"^\| (\d+, )?{code}(, \d+)? \|", readme, flags=re.MULTILINE)


def test_an_unexpected_error_names_its_place() -> None:
    try:
        raise ZeroDivisionError("first line\nsecond line")
    except ZeroDivisionError as error:
        line = unexpected(error)
    assert "unexpected ZeroDivisionError: first line (" in line
    assert f"{Path(__file__).name}:" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 7.28 TiB"), RuntimeError("can't allocate memory: you tried 9 bytes")]
)
def test_memory_that_cannot_be_had_is_said_with_what_to_make_smaller(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("esper.tolaria.launcher.launch", fail)
    assert main([]) == 1
    line = capsys.readouterr().err
    assert line == f"tolaria-train: out of memory: {error}; give a smaller network, batch_size, context or samples\n"


def test_a_directory_that_is_empty_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run-dir", ""]) == 64
    assert "--run-dir" in capsys.readouterr().err
    assert not Path("events.jsonl").exists()


def test_help_begins_with_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    first, *rest = capsys.readouterr().out.split("\n\n")
    assert first == "usage: tolaria-train [FLAG ...]"
    assert "tolaria-train --data digits --hidden 6,6 --run-dir runs/a" in rest[1]


def test_a_variable_that_no_setting_is_like_points_at_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOLARIA_QQQ", "1")
    assert main(["--print-config"]) == 78
    assert capsys.readouterr().err == (
        "tolaria-train: TOLARIA_QQQ = '1': the environment names no known setting; --print-config lists them\n"
    )


def test_print_config_gives_every_setting_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config", "--epochs", "7"]) == 0
    assert "epochs = 7  # flag" in capsys.readouterr().out


def test_a_comparison_says_what_it_trains_and_stands_in_the_summary_also_where_a_terminal_is_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open("out", "w", encoding="ascii") as ascii_only:
        monkeypatch.setattr(sys, "stdout", ascii_only)
        assert main(COMPARED) == 0
    printed = Path("out").read_text()
    assert "1 repeat; mean ? standard deviation" in printed
    assert "comparison: static network from seed 1, widths 16,16" in printed
    assert "static, 32 wide" in printed
    summary = json.loads(Path("run/summary.json").read_text())
    assert [row["name"] for row in summary["comparison"]["rows"]][:2] == ["grown", "host, never grown"]
    assert summary["host_test_accuracy"] == summary["test_accuracy"]
    assert "Comparison" in Path("run/report.html").read_text()


def test_a_stopped_comparison_ends_without_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*given: object) -> dict[str, object]:
        return {"seed": 2, "finished": False}

    config = TrainConfig(run_dir=Path("run"), hidden=(4, 4), epochs=1, samples=600, min_samples=50)
    monkeypatch.setattr(launcher, "grow", stopped)
    monkeypatch.setattr(launcher, "train_static", lambda arm: {**FIRST, "seed": arm.seed})
    with pytest.raises(KeyboardInterrupt):
        launcher._compare(config, RunOptions(), 2, FIRST, Interruption())
    assert "test accuracy" not in capsys.readouterr().out
    assert not Path("run/summary.json").exists()


class Live:
    """A run of the real launcher in another process, stopped at a boundary while it trains."""

    def __init__(self, run_dir: str) -> None:
        command = [sys.executable, "-c", LIVE, "--run-dir", run_dir, *SHORT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        while self.process.stdout.readline() != "waiting\n":
            assert self.process.poll() is None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate("go on\n", timeout=60)


SHORT = ("--plain", "--epochs", "9", "--grow", "never", "--samples", "400", "--min-samples", "50")
LIVE = """
import sys
from esper.tolaria.launcher import main
from esper.tolaria.record.terminal.display import PlainDisplay

def wait(self, boundary):
    if boundary.step == 10:
        print("waiting", flush=True)
        sys.stdin.readline()

PlainDisplay.on_boundary = wait
sys.exit(main())
"""


def test_a_run_that_is_training_is_no_other_processes_and_stops_after_a_checkpoint_when_its_terminal_hangs_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Live("run") as live:
        before = contents(Path("run"))
        for flag in ("--overwrite", "--resume"):
            assert main(["--run-dir", "run", *SHORT, flag]) == 78
            refusal = capsys.readouterr().err
            assert refusal.count("\n") == 1
            assert f"in use by another process (pid {live.process.pid} on " in refusal
        assert contents(Path("run")) == before
        assert cli(["status", "run"]) == 0
        assert ": running\n" in capsys.readouterr().out
        assert cli(["export", "run", "out.pt2"]) == 1
        assert "only a finished run" in capsys.readouterr().err
        live.process.send_signal(signal.SIGHUP)
        live.process.send_signal(signal.SIGHUP)  # the kernel says it, and the shell again
    assert live.process.returncode == 129
    assert not json.loads(Path("run/summary.json").read_text())["finished"]
    assert list(Path("run/checkpoints").glob("step-*.ckpt"))
    assert not Path("run/run.lock").exists()
    assert main(["--plain", "--run-dir", "run", "--resume"]) == 0
    assert main(["--run-dir", "run", *SHORT, "--overwrite"]) == 0


def test_a_comparison_holds_the_directories_of_its_repeats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "train_static", lambda arm: {**FIRST, "seed": arm.seed})
    config = TrainConfig(run_dir=Path("run"), hidden=(4, 4), epochs=1, samples=600, min_samples=50)
    with occupied(Path("run/repeat-2")), pytest.raises(ConfigError, match=r"repeat-2.*in use by another process"):
        launcher._compare(config, RunOptions(), 2, FIRST, Interruption())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SMALL = ("--plain", "--epochs", "1", "--hidden", "4,4", "--samples", "600", "--min-samples", "50")
COMPARED = (*SMALL, "--compare", "--run-dir", "run")


@pytest.mark.parametrize("kind", ["full", "reader gone", "closed"])
def test_output_that_nobody_takes_never_ends_a_run(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") if kind == "full" else os.fdopen(os.dup(writing), "w") as lost:
        if kind == "closed":
            lost.close()
        monkeypatch.setattr(sys, "stdout", lost)
        assert main(["--run-dir", "run", *SHORT]) == 0
        sys.stdout.close()
    os.close(writing)
    assert json.loads(Path("run/summary.json").read_text())["finished"]
    assert Path("run/report.html").exists()
    said = "standard output was lost: No space left on device\n" if kind == "full" else ""
    assert capsys.readouterr().err == said


def test_a_display_that_fails_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("no step yet")

    monkeypatch.setattr(launcher.PlainDisplay, "on_boundary", fail)
    assert main(["--run-dir", "run", *SHORT]) == 0
    said = capsys.readouterr()
    assert said.err == "tolaria-train: the display failed, the run goes on: ZeroDivisionError: no step yet\n"
    assert "summary: run/summary.json" in said.out


def test_a_report_that_cant_be_written_loses_no_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device", "run/report.html")

    monkeypatch.setattr(launcher, "write_report", full)
    assert main(["--run-dir", "run", *SHORT]) == 74
    assert "tolaria-train: run/report.html can't be written: No space left" in capsys.readouterr().err
    assert json.loads(Path("run/summary.json").read_text())["finished"]


def test_a_table_stands_in_the_summary_before_it_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(text: object) -> None:
        if "standard deviation" in str(text):
            raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "say", killed)
    monkeypatch.setattr(launcher, "train_static", lambda arm: {**FIRST, "seed": arm.seed})
    assert main(COMPARED) == 130
    assert "comparison" in json.loads(Path("run/summary.json").read_text())
    assert Path("run/report.html").exists()


def test_what_a_kill_kept_from_being_written_is_written_on_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run-dir", "run", *SHORT]) == 0
    there = {name: Path("run", name).read_bytes() for name in ("summary.json", "report.html")}
    for lost in (["report.html"], ["summary.json"], ["summary.json", "report.html"]):
        for name in lost:
            Path("run", name).unlink()
        capsys.readouterr()
        assert main(["--run-dir", "run", "--plain", "--resume"]) == 0
        assert {name: Path("run", name).read_bytes() for name in there} == there
        assert "summary: run/summary.json  report: run/report.html" in capsys.readouterr().out
    assert main(["--run-dir", "run", "--plain", "--resume"]) == 78
    assert "--epochs above 9 extends it" in capsys.readouterr().err


def test_a_finished_run_is_extended_by_more_epochs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run-dir", "run", *SHORT]) == 0
    assert main(["--run-dir", "run", "--plain", "--resume", "--epochs", "8"]) == 78
    assert main(["--run-dir", "run", "--plain", "--resume", "--epochs", "11", "--lr", "0.1"]) == 78
    assert "lr = 0.1: the checkpoint's run has" in capsys.readouterr().err
    assert json.loads(Path("run/summary.json").read_text())["epochs"] == 9
    Path("run/report.html").unlink()  # what is missing doesn't keep the run from going on
    assert main(["--run-dir", "run", "--plain", "--resume", "--epochs", "11"]) == 0
    assert "reproducible: no: extended from 9 to 11 epochs at step" in capsys.readouterr().out
    assert json.loads(Path("run/summary.json").read_text())["epochs"] == 11


@pytest.mark.parametrize("host", ["leaves", "Leaver"])
@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_a_network_that_leaves_the_process_is_told_with_the_place(
    host: str, mode: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run-dir", "run", *SHORT, *mode, "--model", f"esper_test_hosts:{host}"]) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"tolaria-train: sys\.exit\(5\) was called \(.*esper_test_hosts\.py:\d+, in .*\n", told)
