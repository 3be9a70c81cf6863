"""Whatever can't be used ends a run with one clear line and the documented code."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.tolaria.launcher import main, unexpected

HOSTS = """
import torch
from torch import nn


class Flat(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, outputs))


class Poisoned(nn.Sequential):
    def __init__(self, shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, inputs):
        return super().forward(inputs) * (float("nan") if self.training else 1.0)


def raises(shape, outputs):
    raise KeyError("x")
"""


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    Path("esper_test_hosts.py").write_text(HOSTS)
    Path("a_file").write_text("")
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
        (["--model", "esper_test_hosts:Flat"], 78, "has no slot where a seed fits"),
        (["--model", "esper_test_hosts:raises"], 1, "unexpected KeyError: 'x'"),
        (["--slots", "absent"], 78, "the host calls no submodule 'absent'"),
        (["--blueprints", "absent"], 78, "there is no such blueprint; name one of span.linear"),
        (["--blueprints", "span.conv"], 78, "fits none of the host's slots"),
        (["--kasmina", "127.0.0.1:1"], 78, "ESPER_LEYLINE_SECRET"),
        (["--run-dir", "a_file"], 78, "can't be made"),
        (["--run-dir", "a_file/run"], 78, "can't be made"),
        (["--resume"], 78, "there is no run to go on with"),
        (["--model", "esper_test_hosts:Poisoned", "--grow", "never"], 1, "the training loss is nan"),
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


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "run/summary.json")

    monkeypatch.setattr("esper.tolaria.run.write_summary", full)
    assert main(["--plain", "--epochs", "1", "--run-dir", "run", "--grow", "never"]) == 1
    assert capsys.readouterr().err == "tolaria-train: [Errno 28] No space left on device: 'run/summary.json'\n"


def test_an_unexpected_error_names_its_place() -> None:
    try:
        raise ZeroDivisionError("first line\nsecond line")
    except ZeroDivisionError as error:
        line = unexpected(error)
    assert "unexpected ZeroDivisionError: first line (" in line
    assert f"{Path(__file__).name}:" in line
    assert "\n" not in line


def test_print_config_gives_every_setting_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config", "--epochs", "7"]) == 0
    assert "epochs = 7  # flag" in capsys.readouterr().out
