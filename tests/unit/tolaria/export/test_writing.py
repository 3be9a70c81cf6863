"""Export: a grown network that plain PyTorch loads, where Esper is not, with any number of rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError
from esper.kasmina.executor import plain
from esper.kasmina.executor.fold import fold
from esper.kasmina.executor.stacks.run import Run
from esper.tolaria.config import TrainConfig
from esper.tolaria.export import Exported, export, load_network, shown_network, write, writing
from esper.tolaria.export.program import traced
from esper.tolaria.export.weights import write_weights
from esper.tolaria.recovery.checkpoint import CheckpointStore, encode, read
from esper.tolaria.task.interface import Interface
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.objective.task import evaluate
from esper.tolaria.task.prepare import prepare
from tests.drilled import drilled
from tests.unit.tolaria.scripted_control import ScriptedControl, directive, germination, keep
from tests.unit.tolaria.test_trainer import CONFIG, KEPT, run

RUN = """
import sys, torch
sys.modules["esper"] = None
network = torch.export.load(sys.argv[1]).module()
torch.save([network(inputs) for inputs in torch.load(sys.argv[2])], sys.argv[3])
"""
HOSTS = """
import torch
from torch import nn

class Host(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.fc1, self.bn, self.act = nn.Linear(features, 5), nn.BatchNorm1d(5), nn.ReLU()
        self.fc2 = nn.Linear(5, outputs)

    def forward(self, x):
        return self.fc2(self.act(self.bn(self.fc1(x.flatten(1)))))

class RowsInPython(Host):
    def forward(self, x):
        return super().forward(x) + torch.zeros(int(x.shape[0]), self.fc2.out_features)

class Branching(Host):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else 2 * x)

class RowsMatter(Host):
    def forward(self, x):
        return super().forward(x) if x.shape[0] == 1 else super().forward(x) + 1

class AtLeastTwo(Host):
    def forward(self, x):
        if x.shape[0] == 1:
            raise ValueError("one row is no batch")
        return super().forward(x)

class NoBatchError(Exception):
    def __init__(self, rows, *, hint):
        super().__init__(f"{rows} rows: {hint}")

class Pairs(Host):
    def forward(self, x):
        if x.shape[0] % 2:
            raise NoBatchError(x.shape[0], hint="give pairs")
        return super().forward(x)

class LazyPairs(Pairs):
    def __init__(self, features, outputs):
        super().__init__(features, outputs)
        self.fc1 = nn.LazyLinear(5)

class Dozens(Host):
    def forward(self, x):
        if x.shape[0] % 12:
            raise NoBatchError(x.shape[0], hint="give dozens")
        return super().forward(x)

class Remembering(Host):
    def __init__(self, features, outputs):
        super().__init__(features, outputs)
        self.register_buffer("seen", torch.randn(50_000, outputs)[:3])

    def forward(self, x):
        return super().forward(x) + self.seen.mean(0)

def make(kind):
    return lambda shape, outputs: kind(torch.Size(shape).numel(), outputs)

plain, rows_in_python, branching, rows_matter, at_least_two, pairs, lazy_pairs, dozens, remembering = map(
    make, (Host, RowsInPython, Branching, RowsMatter, AtLeastTwo, Pairs, LazyPairs, Dozens, Remembering)
)

def compiled(shape, outputs):
    return torch.compile(plain(shape, outputs), backend="eager")
"""


def finish(config: TrainConfig, script: Any = KEPT) -> dict[str, Any]:
    """A finished run in its directory; returns its summary."""
    return run(config, ScriptedControl(script), store=CheckpointStore(config.run_dir / "checkpoints", keep=1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished")
    finish(replace(CONFIG, run_dir=run_dir))
    return run_dir


@pytest.fixture(scope="module")
def exported(finished: Path) -> Exported:
    """Written to a name without a folder, as people do."""
    (finished / "out").mkdir()
    with chdir(finished / "out"):
        found = export(finished, Path("grown.pt2"))
    return replace(found, path=finished / "out" / "grown.pt2")


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process, for what is not about it."""
    monkeypatch.setattr(writing, "disproof", lambda *given: "")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "exported_hosts.py").write_text(HOSTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("exported_hosts", None)


def run_elsewhere(path: Path, batches: list[Tensor], scratch: Path) -> list[Tensor]:
    """What the file gives in a process without Esper."""
    torch.save(batches, scratch / "inputs.pt")
    command = [sys.executable, "-I", "-W", "ignore", "-c", RUN, path, scratch / "inputs.pt", scratch / "outputs.pt"]
    subprocess.run([str(part) for part in command], check=True, timeout=110)
    outputs: list[Tensor] = torch.load(scratch / "outputs.pt")
    return outputs


def test_the_exported_network_gives_the_runs_own_outputs_without_esper_for_any_number_of_rows(
    finished: Path, exported: Exported, tmp_path: Path
) -> None:
    assert exported.line == (
        f"{exported.path}: float32 [rows, 64] (samples of 1 x 8 x 8, reshaped) -> [rows, 10], "
        'proven without Esper with 1, 2 and 7 rows; torch.export.load("grown.pt2").module() loads it'
    )
    network = load_network(finished)
    assert network.arm.model.fc1.out_features == 13
    inputs = prepare(replace(CONFIG, run_dir=finished)).splits.test.inputs
    batches = [inputs[:rows] for rows in (1, 2, 7, 50)]
    for given, batch in zip(run_elsewhere(exported.path, batches, tmp_path), batches, strict=True):
        assert torch.allclose(given, network.outputs(batch), atol=1e-6)
    assert [path.name for path in exported.path.parent.iterdir()] == ["grown.pt2"]


def test_it_needs_neither_the_data_nor_the_device_of_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*given: Any) -> None:
        raise AssertionError("the data is elsewhere")

    monkeypatch.setattr("esper.tolaria.task.posed.load_splits", absent)
    store = tmp_path / "moved" / "checkpoints"
    store.mkdir(parents=True)
    state = read(finished / "checkpoints" / "final.ckpt")
    state["settings"] |= {"device": "cuda:3", "amp": "fp16", "data": "/gone/away"}
    (store / "final.ckpt").write_bytes(encode(state))
    assert load_network(tmp_path / "moved").arm.device == torch.device("cpu")


@pytest.mark.usefixtures("unproven")
def test_the_files_size_is_that_of_the_network_whatever_the_data(tmp_path: Path) -> None:
    sizes = {}
    for samples in (400, 1700):
        config = replace(CONFIG, samples=samples, epochs=1, run_dir=tmp_path / str(samples))
        finish(config, {})
        for suffix in (".pt2", ".safetensors"):
            sizes[samples, suffix] = export(config.run_dir, tmp_path / f"{samples}{suffix}").path.stat().st_size
    assert abs(sizes[400, ".pt2"] - sizes[1700, ".pt2"]) < 256  # the record has a digest, paths have lengths
    assert sizes[400, ".safetensors"] == sizes[1700, ".safetensors"]
    assert max(sizes.values()) < 40_000
    inputs = prepare(config).splits.train.inputs
    content = zipfile.ZipFile(tmp_path / "1700.pt2")
    rows = [inputs[row].numpy().tobytes() for row in range(3)]
    assert not [name for name in content.namelist() if any(row in content.read(name) for row in rows)]
    assert not [name for name in content.namelist() if str(Path(__file__).parents[4]).encode() in content.read(name)]


def test_the_file_says_what_it_takes(exported: Exported) -> None:
    record = {writing.RECORD: ""}
    torch.export.load(exported.path, extra_files=record)
    found = json.loads(record[writing.RECORD])
    assert (found["sample_shape"], found["source_shape"], found["dtype"], found["outputs"]) == (
        [64], [1, 8, 8], "float32", 10,
    )  # fmt: skip
    assert found["grown"]["fc1.weight"] == {"from": [5, 64], "to": [13, 64]}


@pytest.mark.usefixtures("unproven")
def test_a_language_model_says_its_context_and_its_tokens(tmp_path: Path) -> None:
    config = TrainConfig(
        data="pytext", model="transformer", context=12, samples=120, hidden=(4,), epochs=1, batch_size=32,
        min_samples=10, grow="never", evaluate_every_steps=4, run_dir=tmp_path / "run",
    )  # fmt: skip
    finish(config, {})
    found = export(config.run_dir, tmp_path / "lm.pt2")
    assert found.what.startswith("int64 [rows, 12], whole numbers ")
    assert "-> [rows, 12, " in found.what


def test_the_weights_of_a_deeper_network_say_its_depth_and_load_into_a_network_as_deep(tmp_path: Path) -> None:
    config = TrainConfig(
        data="pytext", model="transformer", context=12, samples=120, depth=2, width=8, heads=2, mlp="gated",
        min_samples=10, run_dir=tmp_path / "run",
    )  # fmt: skip
    interface = Interface(
        sample_shape=(12,), source_shape=(12,), dtype="int64", low=0, high=30, outputs=31, task="LANGUAGE_MODEL"
    )
    network = shown_network(config, interface)
    for repeated in (Run("blocks", 1, 2), Run("blocks", 0, 3)):
        network.arm.repeat(repeated)
    write_weights(network, tmp_path / "deep.safetensors")
    with safe_open(tmp_path / "deep.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["network"])
        tensors = {name: file.get_tensor(name) for name in set(file.keys())}
    assert record["deeper"] == {"blocks": {"from": 2, "to": 6}}
    assert (record["depth"], record["width"], record["heads"], record["mlp"], record["tied"]) == (
        2,
        8,
        2,
        "gated",
        False,
    )
    deep = build_model(replace(config, depth=6), (12,), record["outputs"])
    deep.load_state_dict(tensors)
    tokens = interface.inputs(2)
    assert torch.equal(deep.eval()(tokens), network.outputs(tokens))


CAN = ("plain", "rows_in_python", "compiled", "remembering")
CANNOT = (
    ("branching", "its control flow depends on the values of its inputs"),
    pytest.param("rows_matter", "", marks=pytest.mark.slow),
)


def host(name: str, tmp_path: Path, **fields: Any) -> TrainConfig:
    return replace(CONFIG, model=f"exported_hosts:{name}", hidden=(), dropout=0.0, run_dir=tmp_path / "run", **fields)


@pytest.mark.usefixtures("hosts", "unproven")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CAN)
def test_hosts_of_many_kinds_become_programs_with_an_open_number_of_rows(name: str, tmp_path: Path) -> None:
    config = host(name, tmp_path)
    network = shown_network(config, prepare(config).interface)
    found = write(network, tmp_path / "host.pt2")
    assert found.path.name == "host.pt2"
    assert found.path.stat().st_size < 40_000
    program = torch.export.load(found.path).module()
    for rows in (1, 2, 7):
        inputs = network.interface.inputs(rows)
        assert torch.allclose(program(inputs), network.outputs(inputs), atol=1e-6)


@pytest.mark.usefixtures("hosts")
def test_a_network_that_takes_no_single_row_is_proven_with_more(tmp_path: Path) -> None:
    config = host("at_least_two", tmp_path)
    found = write(shown_network(config, prepare(config).interface), tmp_path / "host.pt2")
    assert "with 2 and 7 rows" in found.what or found.path.suffix == ".safetensors"
    assert found.line.count("\n") == 0


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pairs", "-> [rows, 10]; torch.export can't take it: NoBatchError: "),
        ("lazy_pairs", "-> [rows, 10]; torch.export can't take it: NoBatchError: "),
        ("dozens", "; it takes no 1, 2 or 7 rows: NoBatchError: 7 rows: give dozens"),
    ],
)
def test_a_host_may_refuse_numbers_of_rows_by_an_exception_of_its_own(name: str, reason: str, tmp_path: Path) -> None:
    config = host(name, tmp_path)
    interface = prepare(host("plain", tmp_path)).interface
    found = write(shown_network(config, interface), tmp_path / "host.pt2")
    assert found.path == tmp_path / "host.safetensors"
    assert found.path.exists()
    assert reason in found.line
    assert found.line.count("\n") == 0


REBUILD = """
import importlib, json, sys, torch
from safetensors import safe_open
sys.modules["esper"] = None
sys.path.insert(0, sys.argv[2])
with safe_open(sys.argv[1], framework="pt") as file:
    record = json.loads(file.metadata()["network"])
    tensors = {name: file.get_tensor(name) for name in file.keys()}
module, _, factory = record["model"].partition(":")
network = getattr(importlib.import_module(module), factory)(tuple(record["sample_shape"]), record["outputs"])
for name in record["grown"]:
    path, _, leaf = name.rpartition(".")
    layer, value = network.get_submodule(path), tensors[name]
    setattr(layer, leaf, value if leaf in dict(layer.named_buffers()) else torch.nn.Parameter(value))
network.load_state_dict(tensors)
torch.save([network.eval()(inputs) for inputs in torch.load(sys.argv[3])], sys.argv[4])
"""


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize(("name", "reason"), CANNOT)
def test_what_cannot_be_a_program_becomes_weights_that_its_factory_takes(
    name: str, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = host(name, tmp_path)
    grown = {4: germination("s1", SLOT), 24: keep("s1")}
    finish(config, grown)
    capfd.readouterr()
    found = export(config.run_dir, tmp_path / "host.pt2")
    assert capfd.readouterr() == ("", "")
    assert found.path == tmp_path / "host.safetensors"
    assert not (tmp_path / "host.pt2").exists()
    assert found.line.count("\n") == 0
    assert f"torch.export can't take it: {reason}" in found.line
    assert f"{config.model} builds the network" in found.line
    network = load_network(config.run_dir)
    batches = [network.interface.inputs(rows) for rows in (1, 2, 7)]
    torch.save(batches, tmp_path / "inputs.pt")
    files = (found.path, tmp_path, tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    subprocess.run([sys.executable, "-I", "-c", REBUILD, *map(str, files)], check=True, timeout=110)
    for given, batch in zip(torch.load(tmp_path / "outputs.pt"), batches, strict=True):
        assert torch.allclose(given, network.outputs(batch), atol=1e-6)


SLOT = "span_linear:fc1-fc2"


def test_weights_are_written_where_they_are_asked_for(finished: Path, tmp_path: Path) -> None:
    found = export(finished, tmp_path / "grown.safetensors")
    with safe_open(found.path, framework="pt") as file:
        assert set(file.keys()) == set(load_network(finished).arm.model.state_dict())
    assert "mlp builds the network for ((64,), 10)" in found.line


def test_a_program_that_gives_something_else_is_not_called_done(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(module: Any, example: Tensor) -> Any:
        with torch.no_grad():
            next(module.parameters()).add_(1.0)
        return traced(module, example)

    (tmp_path / "grown.pt2").write_text("what was there before")
    monkeypatch.setattr(writing, "traced", wrong)
    found = export(finished, tmp_path / "grown.pt2")
    assert "1 rows give outputs that differ by" in found.line
    assert (tmp_path / "grown.pt2").read_text() == "what was there before"


def test_what_cannot_be_exported_is_refused_in_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.pt2 or \.safetensors"):
        export(finished, tmp_path / "grown.onnx")
    with pytest.raises(DependencyViolationError, match="only a finished run"):
        export(tmp_path, tmp_path / "grown.pt2")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        export(finished, tmp_path / "file" / "grown.pt2")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"weights_digest": "0" * 64}, CorruptRecord, "other weights than the run ended with"),
        ({"network": None}, CorruptRecord, "written by an earlier version"),
    ],
)
def test_a_network_that_is_not_the_runs_is_refused(
    finished: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "final.ckpt"
    path.write_bytes(encode(read(path) | change))
    with pytest.raises(error, match=words):
        load_network(tmp_path / "run")


@pytest.mark.usefixtures("hosts")
def test_a_factory_that_was_changed_since_is_named(tmp_path: Path) -> None:
    config = host("plain", tmp_path, epochs=1)
    finish(config, {})
    (tmp_path / "exported_hosts.py").write_text(HOSTS.replace("nn.BatchNorm1d(5)", "nn.BatchNorm1d(5, affine=False)"))
    sys.modules.pop("exported_hosts")
    with pytest.raises(ConfigError, match="no longer builds the network that the run ended with"):
        load_network(config.run_dir)


# Every blueprint in a host that takes it; spans can also stay modules, and their folds can fail.
PLACES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "span.linear": ({"model": "mlp", "hidden": (5, 5)}, SLOT, True),
    "residual.linear": ({"model": "mlp", "hidden": (5, 5)}, "residual_linear:act1-act1", False),
    "adapter.low_rank": ({"model": "mlp", "hidden": (5, 5)}, "residual_linear:act1-act1", False),
    "gate.channel": ({"model": "mlp", "hidden": (5, 5)}, "residual_linear:act2-act2", False),
    "span.conv": ({"model": "cnn", "hidden": (3, 4)}, "span_conv:conv1-conv2", True),
    "residual.conv": ({"model": "cnn", "hidden": (3, 4)}, "residual_conv:act1-act1", False),
    "attention.self": ({"model": "cnn", "hidden": (3, 4)}, "residual_conv:act2-act2", False),
    "control.random_frozen": ({"model": "mlp", "hidden": (5, 5)}, "residual_linear:act1-act1", False),
}
OUTCOMES = [
    (blueprint, judge, outcome)
    for blueprint, judge in product(PLACES, ("twin", "muted"))
    for outcome in (("folds", "module", "fold fails") if PLACES[blueprint][2] else ("module",))
]


def is_told_apart(blueprint: str, judge: str, outcome: str) -> bool:
    """Each blueprint once, under judges in turn; every outcome of a fold for one of them."""
    if blueprint == "span.linear":
        return judge == "twin"
    turn = ("twin", "muted")[list(PLACES).index(blueprint) % 2]
    return judge == turn and outcome == ("folds" if PLACES[blueprint][2] else "module")


@pytest.mark.parametrize(("blueprint", "judge", "outcome"), drilled(OUTCOMES, is_told_apart))
def test_the_last_validation_is_that_of_the_network_that_is_tested_saved_and_exported(
    blueprint: str, judge: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, slot_id, can_fold = PLACES[blueprint]
    if outcome == "fold fails":
        monkeypatch.setitem(fold.RELATIVE_TOLERANCE, torch.float32, -1.0)
    # A warm-up of ten steps keeps a span from being folded before its end.
    at = 8 if outcome == "module" else 20
    orders = germination("s1", slot_id, blueprint, **({"width": 3.0} if "width" in known(blueprint) else {}))
    script = {
        4: [order for order in orders if judge == "twin" or not order.directive_id.endswith("SNAPSHOT_TWIN")],
        at: [*([directive("s1", "FOLD")] if can_fold else []), directive("s1", "DROP_TWIN")],
    }
    config = replace(CONFIG, **fields, samples=400, epochs=8, judge=judge, run_dir=tmp_path / "run")
    summary = finish(config, script)
    assert summary["contradictions"] == []
    assert summary["growth"]["kept"] == 1
    assert summary["final_parameters"] > summary["host_parameters"]
    assert [seed["is_folded"] for seed in summary["seeds"]] == [outcome == "folds"]

    network, own = load_network(config.run_dir), prepare(config)
    told = (summary["val_loss"], summary["val_accuracy"])
    assert evaluate(network.arm, own.task, own.splits.judge) == told
    program, reason = traced(plain(network.arm), network.interface.inputs(3))
    assert program is not None, reason
    with torch.no_grad():
        outputs = program.module()(own.splits.judge.inputs)
    targets = own.splits.judge.targets
    assert float(own.task.loss(outputs, targets)) == pytest.approx(told[0], rel=1e-4)
    assert float(own.task.hits(outputs, targets).double().mean()) == told[1]


def known(blueprint: str) -> set[str]:
    from tests.unit.tolaria.scripted_control import CATALOG

    return {bound.name for bound in CATALOG.get(blueprint).parameters}
