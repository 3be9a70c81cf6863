"""`esper.train`: a script's own network and data go through the whole loop as the launcher's do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import esper
from esper.core.errors import ConfigError
from esper.tolaria.record.observer import Observer, StepDone
from tests.unit.tolaria.scripted_control import cull, germination, judgement, keep

SAMPLES, FEATURES, CLASSES = 240, 8, 3


def pairs(samples: int = SAMPLES, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return inputs, (inputs @ torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(9))).argmax(1)


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, CLASSES))


@dataclass
class Outputs:
    loss: Tensor | None
    logits: Tensor


class Formal(nn.Module):
    """Takes keywords, returns a dataclass, and computes its own loss where labels come along."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Outputs:
        logits = self.layers(features)
        return Outputs(None if labels is None else F.cross_entropy(logits, labels), logits)


def rows(samples: int, seed: int) -> list[dict[str, Tensor]]:
    return [
        {"features": x, "labels": y, "id": torch.tensor(n)}
        for n, (x, y) in enumerate(zip(*pairs(samples, seed), strict=True))
    ]


def loaders(form: Callable[[int, int], Any], **options: Any) -> dict[str, DataLoader[Any]]:
    train = DataLoader(form(120, 1), batch_size=16, shuffle=True, **options)
    return {"train": train, **{part: DataLoader(form(60, seed), batch_size=32) for part, seed in PARTS}}


PARTS = (("judge", 2), ("test", 3))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "run_dir": tmp_path / "run",
        "grow": "never",
        "steps": 24,
        "batch_size": 16,
        "min_samples": 20,
        "warmup_steps": 3,
        "checkpoint_every_epochs": 0,
    }


def test_pairs_are_divided_and_learned_as_the_launcher_does(settings, monkeypatch, tmp_path):
    result = esper.train(network(), pairs(), config=settings)
    assert result.summary == json.loads((result.run_dir / "summary.json").read_text())
    assert result.report.exists()
    assert result.summary["task"].startswith("classification, 3 classes")
    assert result.summary["splits"] == {"train": 153, "judge": 48, "test": 39}
    assert result.summary["reproducible"]
    assert result.model(pairs()[0]).shape == (SAMPLES, CLASSES)


def test_a_loader_without_growth_equals_the_bare_loop_bit_for_bit(settings):
    data = loaders(lambda samples, seed: TensorDataset(*pairs(samples, seed)))
    given, bare = network(), network()
    sgd = torch.optim.SGD(given.parameters(), lr=0.1, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 24)
    del settings["warmup_steps"]
    result = esper.train(given, data, optimizer=sgd, scheduler=cosine, config=settings)
    feeder = _feeder(data["train"])
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
    for step in range(24):
        inputs, targets = feeder.batch(step)
        _seed(step)
        optimizer.zero_grad()
        F.cross_entropy(bare(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
    for name, value in bare.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value)


def test_tensors_that_are_held_shape_a_lazy_network(settings):
    result = esper.train(nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, CLASSES)), pairs(), config=settings)
    assert result.model[0].in_features == FEATURES


@pytest.mark.parametrize("workers", [0, 2])
def test_mappings_dataclasses_and_a_models_own_loss(settings, workers):
    result = esper.train(Formal(), loaders(rows, num_workers=workers), config=settings)
    assert result.summary["task"].startswith("the model's own loss, judged by each sample's cross-entropy")
    assert result.summary["val_loss"] < 1.2
    assert result.summary["splits"] == {"train": 120, "judge": 60, "test": 60}


def test_workers_change_no_bit(settings, tmp_path):
    digests = set()
    for workers in (0, 2):
        settings["run_dir"] = tmp_path / str(workers)
        result = esper.train(Formal(), loaders(rows, num_workers=workers), config=settings)
        digests.add(result.summary["weights_digest"])
    assert len(digests) == 1


def test_a_loss_and_a_metric_of_ones_own(settings):
    def loss(outputs: Outputs, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs.logits, batch["labels"], reduction="none")

    def top2(outputs: Outputs, batch: dict[str, Tensor]) -> float:
        return float((outputs.logits.topk(2).indices == batch["labels"][:, None]).any(1).float().mean())

    result = esper.train(Formal(), loaders(rows), loss=loss, metric=top2, config=settings)
    assert result.summary["task"].startswith("by loss")
    assert 0.3 < result.summary["val_metrics"]["top2"] <= 1.0


class Endless(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*pairs(200, 1), strict=True)


def test_an_iterable_trains_and_its_twin_can_t_come_later(settings):
    data = {"train": Endless(), "validation": pairs(60, 2)}
    result = esper.train(network(), data, config={**settings, "steps_per_epoch": 8})
    assert result.summary["epochs"] == 3
    with pytest.raises(ConfigError, match=r"twin = 'bursts': .*this data can't be replayed"):
        esper.train(network(), data, config={**settings, "twin": "bursts"}, overwrite=True)


@pytest.mark.parametrize("is_replayable", [True, False])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights_or_says_why_not(settings, tmp_path, is_replayable):
    train = loaders(rows)["train"] if is_replayable else _Batches()
    data = {**loaders(rows), "train": train}
    whole = esper.train(Formal(), data, config={**settings, "checkpoint_every_epochs": 1, "steps": 40})
    shorter = {**settings, "run_dir": tmp_path / "again", "checkpoint_every_epochs": 1, "steps": 20}
    esper.train(Formal(), data, config=shorter)
    went_on = esper.train(Formal(), data, config={**shorter, "steps": 40}, resume=True)
    causes = went_on.summary["reproducible_cause"] or ""
    assert went_on.summary["steps"] == whole.summary["steps"] == 40
    assert ("its batches start anew" in causes) is not is_replayable


class _Batches:
    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(rows(120, 1), batch_size=16))


def test_it_works_in_another_thread(settings):
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(esper.train(network(), pairs(), config=settings)))
    thread.start()
    thread.join()
    assert found[0].summary["finished"]


def test_callbacks_hear_what_happens(settings):
    class Watching(Observer):
        steps = 0

        def on_steps(self, steps):
            self.steps += len(steps)

    watching, events = Watching(), list[Any]()
    esper.train(network(), pairs(), config=settings, callbacks=[watching, events.append])
    assert watching.steps == 24
    assert sum(isinstance(event, StepDone) for event in events) == 24


def _mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def _unshaped() -> nn.Module:
    model = Formal()
    model.layers[0] = nn.LazyLinear(5)
    return model


def _empty() -> nn.Module:
    with torch.device("meta"):
        return network()


def _mislabelled(part: str) -> dict[str, Any]:
    found = [{**row, "labels": row["labels"] + 7} for row in rows(60, 2)]
    return {**loaders(rows), part: DataLoader(found, batch_size=32)}


MISUSES: list[tuple[str, dict[str, Any]]] = [
    ("data = 'judge set': can't be scored .*out of bounds", {"model": Formal(), "data": _mislabelled("judge")}),
    ("data = 'test set': can't be scored .*out of bounds", {"model": Formal(), "data": _mislabelled("test")}),
    ("0.weight is on the meta device", {"model": _empty()}),
    ("layers.0.weight is a lazy parameter", {"model": _unshaped(), "data": loaders(rows)}),
    ("model = 'int': expected a torch.nn.Module", {"model": 3}),
    ("data = 'int': is no data; expected", {"data": 3}),
    ("data = 'valid': is no part of a run's data", {"data": {"train": pairs(), "valid": pairs()}}),
    ("needs train, and judge or validation", {"data": {"train": pairs()}}),
    ("gives one number for .* samples, expected a loss for each", {"loss": _mean}),
    ("expected a function of .outputs, targets.", {"loss": 3}),
    ("epoch = 1: is no setting; did you mean epochs", {"config": {"epoch": 1}}),
    ("holds a parameter .* that isn't among those", {"optimizer": torch.optim.SGD(network().parameters(), lr=0.1)}),
    ("expected a torch.optim.Optimizer, got list", {"optimizer": list}),
    (
        "ReduceLROnPlateau wants to see losses",
        {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau, "config": {"warmup_steps": 50}},
    ),
    ("model = 'cnn': is given twice", {"config": {"model": "cnn"}}),
    ("lr = 0.5: is of the settings' own optimizer", {"optimizer": torch.optim.SGD, "config": {"lr": 0.5}}),
    (
        "schedule = 'cosine': is of the settings' own scheduler",
        {"scheduler": torch.optim.lr_scheduler.ConstantLR, "config": {"schedule": "cosine", "warmup_steps": 50}},
    ),
    ("callbacks.*expected an Observer, or a function", {"callbacks": [3]}),
]


@pytest.mark.parametrize(("message", "change"), MISUSES, ids=lambda part: part[:24] if isinstance(part, str) else "")
def test_misuse_is_told_in_one_line(settings, message, change):
    arguments = {"model": network(), "data": pairs(), **change}
    arguments["config"] = {**settings, **change.get("config", {})}
    with pytest.raises(ConfigError, match=message) as found:
        esper.train(**arguments)
    assert "\n" not in str(found.value)
    assert not settings["run_dir"].exists()


def _feeder(loader: DataLoader[Any]) -> Any:
    from esper.tolaria.task.feeds.keyed import KeyedFeeder

    return KeyedFeeder(loader, 1)


def _seed(step: int) -> None:
    from esper.tolaria.task.randomness import seed_all

    seed_all(torch.device("cpu"), 1, "step", step)


class Hidden(nn.Module):
    """A host whose span is found in a forward of keywords."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.fc1 = nn.Linear(FEATURES, 5)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(5, CLASSES)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Outputs:
        logits = self.fc2(self.act1(self.fc1(features)))
        return Outputs(None if labels is None else F.cross_entropy(logits, labels), logits)


@pytest.mark.parametrize("end", [keep, cull])
@pytest.mark.parametrize("blueprint", ["span.linear", "residual.linear"])
def test_a_network_of_mappings_grows(settings, scripted, blueprint, end):
    slot = "span_linear:fc1-fc2" if blueprint == "span.linear" else "residual_linear:act1-act1"
    script = {4: [*germination("s1", slot, blueprint), judgement("s1", 12)], 16: end("s1")}
    scripted(script)
    changes = {"grow": "auto", "evaluate_every_steps": 4}
    result = esper.train(Hidden(), loaders(rows), config={**settings, **changes})
    assert result.summary["growth"] == {"germinated": 0, "judged": 0, "kept": int(end is keep)}
    assert [seed["fate"] for seed in result.summary["seeds"]] == ["kept" if end is keep else "culled"]
    batch = next(iter(loaders(rows)["test"]))
    assert result.model(features=batch["features"]).logits.shape == (32, CLASSES)


def test_importing_the_package_leaves_torch_alone():
    code = "import esper, sys; assert 'torch' not in sys.modules; assert 'train' in dir(esper)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="module 'esper' has no attribute 'trian'"):
        _ = esper.trian


def test_what_the_optimizer_was_not_given_counts_in_no_norm(settings, tmp_path):
    """Its gradients add up, as nobody clears them: a clipped run ends as one in which it is frozen."""
    digests = set()
    for is_frozen in (False, True):
        model = network()
        model[0].requires_grad_(not is_frozen)
        settings["run_dir"] = tmp_path / str(is_frozen)
        sgd = torch.optim.SGD(model[3].parameters(), lr=0.1)
        result = esper.train(model, pairs(), optimizer=sgd, config={**settings, "clip_norm": 0.05})
        digests.add(result.summary["weights_digest"])
    assert len(digests) == 1


@pytest.mark.parametrize("form", [rows, lambda samples, seed: TensorDataset(*pairs(samples, seed))])
def test_samples_that_are_trained_on_and_judged_by_are_told(settings, form):
    lines: list[Any] = []
    data = {**loaders(form), "judge": DataLoader(form(120, 1), batch_size=32)}
    esper.train(Formal() if form is rows else network(), data, config=settings, callbacks=[lines.append])
    told = str([event for event in lines if not isinstance(event, StepDone)])
    assert "of the first 32 train samples also stand in judge" in told
    assert "also stand in test" not in told


class Saved(nn.Module):
    """Has what transformers' networks have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.config = {"width": 5}
        self.fc1, self.act, self.fc2 = nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(features)))

    def likeliest(self, features: Tensor) -> Tensor:
        return self(features).argmax(1)

    def save_pretrained(self, folder: Path) -> None:
        raise AssertionError("writes the network alone")


def test_a_network_with_a_kept_module_is_asked_as_the_host_is_and_not_saved_without_it(tmp_path, scripted, settings):
    slot = "residual_linear:act-act"
    scripted({4: germination("s1", slot, "residual.linear"), 16: keep("s1")})
    result = esper.train(
        Saved(), pairs(), config={**settings, "grow": "auto", "steps": 40, "evaluate_every_steps": 4, "min_samples": 20}
    )
    assert result.summary["seeds"][0]["fate"] == "kept"
    inputs = pairs()[0]
    assert result.model.config == {"width": 5}
    assert torch.equal(result.model.likeliest(inputs), result.model(inputs).argmax(1))
    with pytest.raises(ConfigError, match=r"model = 'Saved': seeds stayed beside it as modules"):
        result.save_pretrained(tmp_path / "network")
    with pytest.raises(AttributeError, match="would leave out the seeds that stayed modules"):
        result.model.save_pretrained(tmp_path / "network")
    assert not (tmp_path / "network").exists()
    torch.save(result.model, tmp_path / "network.pt")
    again = torch.load(tmp_path / "network.pt", weights_only=False)
    assert torch.equal(again(inputs), result.model(inputs))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = result.model.nothing
