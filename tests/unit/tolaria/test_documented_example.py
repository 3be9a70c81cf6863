"""The pages about one's own training show code that works as it stands."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from esper import train
from esper.cli.main import main as esper
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import export, load_network
from esper.tolaria.launcher import main
from esper.tolaria.task.prepare import prepare

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = ("your_own", "data", "models", "losses", "optimizers", "fine_tuning")
TEXT = "\n".join((DOCS / f"{name}.md").read_text() for name in PAGES)
EXAMPLES = ["myloop", "mytext", "mymasks", "mytable", "myimages"]


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The pages' modules, importable, as the settings that name them."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, flags=re.DOTALL)
    names = [*EXAMPLES, "mydata", "myinputs", "mynet", "myloss", "mytrain"]
    assert [name for name, _ in blocks] == names
    for name, code in blocks:
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return {"data": "mydata:source", "model": "mynet:build"}


def test_the_documented_data_and_model_train(documented: dict[str, str]) -> None:
    flags = [part for name, value in documented.items() for part in (f"--{name}", value)]
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never", "--run-dir", "run"]) == 0


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize(
    ("name", "metric", "task"),
    [
        ("myloop", None, "by step"),
        ("mytext", None, "the model's own loss"),
        ("mymasks", 0.6, "classification, 2 classes"),
        ("mytable", 0.2, "regression"),
        ("myimages", 0.6, "classification, 2 classes"),
    ],
)
def test_the_documented_scripts_train_in_under_thirty_lines(name: str, metric: float | None, task: str) -> None:
    if name == "mytext":
        pytest.importorskip("transformers")
    result = importlib.import_module(name).main({"run_dir": "run", "epochs": 2, "grow": "never"})
    assert result.summary["finished"]
    assert result.summary["task"].startswith(task)
    reached = result.summary["test_metrics"].get("R2", result.summary["test_accuracy"])
    assert reached is None if metric is None else reached > metric
    assert len([line for line in Path(f"{name}.py").read_text().splitlines() if line.strip()]) < 30


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documented_scripts_may_grow_by_their_own_settings(name: str) -> None:
    if name == "mytext":
        pytest.importorskip("transformers")
    (given,) = re.findall(r"\bmain\((\{.*?\})\)", Path(f"{name}.py").read_text())
    soon_over = {"run_dir": "run", "patience": 1, "min_delta": 1e9}
    assert importlib.import_module(name).main({**ast.literal_eval(given), **soon_over}).summary["finished"]


@pytest.mark.usefixtures("documented")
def test_the_documented_language_model_is_read_without_esper() -> None:
    transformers = pytest.importorskip("transformers")
    result = importlib.import_module("mytext").main({"run_dir": "run", "steps": 2, "grow": "never"})
    read = transformers.AutoModelForCausalLM.from_pretrained("run/network")
    tokens = torch.arange(16)[None]
    assert torch.equal(read(tokens).logits, result.model(tokens).logits)


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_link_to_files_and_headings_that_are_there(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        name, _, heading = target.partition("#")
        there = DOCS / name if name else DOCS / f"{page}.md"
        assert there.exists(), target
        assert not heading or heading in headings_of(there), target


def headings_of(page: Path) -> set[str]:
    """As GitHub names them in links."""
    lines = page.read_text().splitlines()
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines if line.startswith("#")
    }


@pytest.mark.usefixtures("documented")
def test_the_documented_lines_save_a_network_that_torch_refuses_to_save() -> None:
    (code,) = re.findall(r"```python\n(torch.save\(result.model.state_dict.*?)```", TEXT, flags=re.DOTALL)

    def build(width: int) -> nn.Module:
        normed = parametrizations.weight_norm(nn.Linear(4, 6)), parametrizations.spectral_norm(nn.Linear(width, 4))
        return nn.Sequential(normed[0], nn.ReLU(), nn.Linear(6, width), nn.ReLU(), normed[1], nn.Linear(4, 2))

    inputs = torch.randn(200, 4)
    settings = {"run_dir": "run", "epochs": 1, "grow": "never"}
    result = train(build(5), (inputs, (inputs[:, 0] > 0).long()), config=settings)
    with pytest.raises(RuntimeError, match="parametrized"):
        torch.save(result.model, "net.pt")
    given = {"result": result, "torch": torch, "build": build}
    exec(code, given)
    assert torch.equal(given["network"].eval()(inputs), result.model(inputs))


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


def commands(after: str) -> list[list[str]]:
    """The commands of the first console block behind a line of the page."""
    block = re.search(r"```console\n(.*?)```", TEXT.partition(after)[2], flags=re.DOTALL)
    assert block is not None
    return [line.split() for line in block[1].replace("\\\n", " ").split("$ ") if line]


@pytest.mark.usefixtures("documented")
def test_the_documented_inputs_are_prepared() -> None:
    program, *flags = next(iter(commands("# myinputs.py")))
    assert program == "tolaria-train"
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never"]) == 0


@pytest.mark.usefixtures("documented")
def test_the_documented_fine_tuning_ends_in_a_file_for_the_plain_model() -> None:
    ran = commands("# Fine-tuning\n")
    assert [program for program, *_ in ran] == ["tolaria-train", "esper", "tolaria-train", "tolaria-train", "esper"]
    short = ["--plain", "--epochs", "1", "--grow", "never"]
    for program, *flags in ran:
        assert (main([*flags, *short]) if program == "tolaria-train" else esper(flags)) == 0
    code = re.search(r"```python\n(from mynet import build\nfrom safetensors.*?)```", TEXT, flags=re.DOTALL)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[1], found)
    network = load_network(Path("runs/adapted"))
    inputs = network.interface.inputs(7)
    assert torch.equal(found["network"].eval()(inputs), network.outputs(inputs))
    frozen = load_network(Path("runs/disc")).arm.model.state_dict()
    kept = {name for name, value in network.arm.model.state_dict().items() if torch.equal(value, frozen[name])}
    assert kept == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_the_documented_way_back_from_weights_gives_the_exported_network(documented: dict[str, str]) -> None:
    flags = [part for name, value in documented.items() for part in (f"--{name}", value)]
    assert main([*flags, "--plain", "--epochs", "1", "--grow", "never", "--run-dir", "run"]) == 0
    export(Path("run"), Path("disc.safetensors"))
    code = re.search(r"```python\nimport json\n.*?```", TEXT, flags=re.DOTALL)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[0].removeprefix("```python").removesuffix("```"), found)
    network = load_network(Path("run"))
    inputs = network.interface.inputs(7)
    assert torch.equal(found["network"].eval()(inputs), network.outputs(inputs))
