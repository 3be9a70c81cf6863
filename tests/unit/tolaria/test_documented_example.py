"""The page about one's own data and model shows code that works as it stands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.tolaria.config import TrainConfig
from esper.tolaria.export import export, load_network
from esper.tolaria.launcher import main
from esper.tolaria.task.prepare import prepare

PAGE = Path(__file__).resolve().parents[3] / "docs" / "your_own.md"


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The page's modules, importable, as the settings that name them."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["mywhole", "myloop", "mydata", "mynet", "myloss", "mytrain"]
    for name, code in blocks:
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return {"data": "mydata:source", "model": "mynet:build"}


def test_the_documented_data_and_model_train(documented: dict[str, str]) -> None:
    flags = [part for name, value in documented.items() for part in (f"--{name}", value)]
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never", "--run-dir", "run"]) == 0


@pytest.mark.parametrize("name", ["mywhole", "myloop"])
def test_the_documented_scripts_train_in_under_thirty_lines(documented: dict[str, str], name: str) -> None:
    script = importlib.import_module(name)
    result = script.main({"run_dir": "run", "epochs": 2, "grow": "never"})
    assert result.summary["finished"]
    assert result.summary["test_loss"] < 0.8
    lines = [line for line in Path(f"{name}.py").read_text().splitlines() if line.strip()]
    assert len(lines) < 30


def test_the_documented_optimizer_trains_with_its_own_rates(documented: dict[str, str]) -> None:
    assert (
        main(["--plain", "--hidden", "6,6", "--epochs", "1", "--optimizer", "mytrain:optimizer", "--run-dir", "run"])
        == 0
    )
    arm = prepare(TrainConfig(optimizer="mytrain:optimizer")).executor.arm
    assert [(len(group["params"]), group["lr"]) for group in arm.optimizer.param_groups] == [(4, 3e-3), (2, 1e-3)]


def test_the_documented_loss_trains(documented: dict[str, str]) -> None:
    flags = [part for name, value in documented.items() for part in (f"--{name}", value)]
    flags += ["--task", "regression", "--loss", "myloss:pinball", "--metric", "myloss:pinball"]
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never", "--run-dir", "run"]) == 0


def test_the_documented_model_has_slots_for_seeds(documented: dict[str, str]) -> None:
    slots = [slot.slot_id for slot in prepare(TrainConfig(**documented)).manifest().slots]
    assert "span_linear:0-2" in slots


def test_the_documented_way_back_from_weights_gives_the_exported_network(documented: dict[str, str]) -> None:
    flags = [part for name, value in documented.items() for part in (f"--{name}", value)]
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never", "--run-dir", "run"]) == 0
    export(Path("run"), Path("disc.safetensors"))
    code = re.search(r"```python\nimport json\n.*?```", PAGE.read_text(), flags=re.DOTALL)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[0].removeprefix("```python").removesuffix("```"), found)
    network = load_network(Path("run"))
    inputs = network.interface.inputs(7)
    assert torch.equal(found["network"].eval()(inputs), network.outputs(inputs))
