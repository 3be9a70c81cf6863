"""`esper.Growth`: a loop of one's own grows as a loop of ours does, and its objects stay its own."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.core.errors import ConfigError, NonFiniteLoss
from esper.tolaria.task.feeds.loader import Loader
from esper.tolaria.task.models.models import build_host
from esper.tolaria.task.optimizers.optimizers import make_optimizer
from esper.tolaria.task.posed import load_splits
from tests.unit.tolaria.scripted_control import cull, germination, keep

SPAN = "span_linear:fc1-fc2"
STEPS = 40
KEPT_AND_CULLED = {4: germination("s1", SPAN), 16: keep("s1"), 20: germination("s2", SPAN), 32: cull("s2")}
CULLED = {4: germination("s1", SPAN), 16: cull("s1")}
NEVER: dict[int, Any] = {}
BASE = {"evaluate_every_steps": 4, "min_samples": 20, "seed": 3, "steps": STEPS, "checkpoint_every_epochs": 0}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.fc1 = nn.Linear(8, 5)
        self.act1 = nn.ReLU()
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(5, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act1(self.fc1(features))))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.act = nn.Tanh()

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.act(self.fc(hidden))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.fc1 = nn.Linear(8, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.fc2 = nn.Linear(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.fc1(features)
        for block in self.blocks:
            hidden = block(hidden)
        return self.fc2(hidden)


def data(samples: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 8, generator=generator)
    return TensorDataset(inputs, (inputs @ torch.randn(8, 3, generator=torch.Generator().manual_seed(9))).argmax(1))


def loader(samples: int = 96, seed: int = 1, **options: Any) -> DataLoader[Any]:
    return DataLoader(data(samples, seed), batch_size=16, **{"shuffle": True, **options})


def step(model: nn.Module, batch: Any) -> Tensor:
    inputs, targets = batch
    return F.cross_entropy(model(inputs), targets, reduction="none")


Round = Callable[[nn.Module, Any, Any, Any], Tensor]


def one_round(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    """The user's own."""
    optimizer.zero_grad()
    loss = step(model, batch).mean()
    loss.backward()
    optimizer.step()
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss.detach())
    elif scheduler is not None:
        scheduler.step()
    return loss


class Own:
    """A user's script."""

    def __init__(self, run_dir: Any, model: nn.Module | None = None, **options: Any) -> None:
        self.model = Net() if model is None else model
        self.optimizer = options.pop("optimizer", None) or torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = options.pop("scheduler", None)
        self.batches = options.pop("batches", None) or loader()
        self.config = {**BASE, "run_dir": run_dir, **options.pop("config", {})}
        self.options = {"step": step, "judge": loader(60, 2, shuffle=False), **options}
        self.one_round: Round = self.options.pop("one_round", one_round)
        self.changes: list[esper.Change] = []
        self.rounds = 0

    def run(self, until: int | None = None) -> esper.Result:
        growth = esper.Growth(
            self.model,
            self.optimizer,
            scheduler=self.scheduler,
            config=self.config,
            **{"on_change": self.changes.append, **self.options},
        )
        with growth:
            for batch in growth.steps(self.batches):
                growth.note(self.one_round(self.model, self.optimizer, self.scheduler, batch))
                self.rounds += 1
                if self.rounds == until:
                    break
        return growth.result


def same(first: nn.Module, second: nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_whole_loop_own_loop_and_launcher_end_in_one_digest(tmp_path, scripted):
    scripted(KEPT_AND_CULLED)
    shared = {**BASE, "schedule": "constant", "warmup_steps": 0, "batch_size": 64}
    named = {**shared, "data": "digits", "model": "mlp", "samples": 600, "hidden": (5, 5), "dropout": 0.1}
    config = esper.TrainConfig(**named, run_dir=tmp_path / "launcher")
    launched = esper.train("mlp", "digits", config=config)

    host = build_host(config, load_splits(config))
    whole = esper.train(host.model, host.splits, config={**shared, "run_dir": tmp_path / "whole"})

    host = build_host(config, load_splits(config))
    batches = Loader(host.splits.train, 64, BASE["seed"])
    own = Own(
        tmp_path / "own",
        host.model,
        optimizer=make_optimizer(config, host.model),
        batches=(batches.batch(number) for number in range(STEPS)),
        judge=[(host.splits.judge.inputs, host.splits.judge.targets)],
    ).run()
    digests = {result.summary["weights_digest"] for result in (launched, whole, own)}
    assert len(digests) == 1
    assert own.summary["reproducible"]
    assert [seed["fate"] for seed in own.summary["seeds"]] == ["kept", "culled"]


def test_a_cull_leaves_the_users_own_objects_as_if_nothing_had_been_grafted(tmp_path, scripted):
    scripted(NEVER)
    never = Own(tmp_path / "never")
    never.run()
    scripted(CULLED)
    own = Own(tmp_path / "culled")
    before = {name: id(parameter) for name, parameter in own.model.named_parameters()}
    result = own.run()
    assert result.summary["growth"]["kept"] == 0
    assert {name: id(parameter) for name, parameter in own.model.named_parameters()} == before
    assert same(own.model, never.model)
    (group,) = own.optimizer.param_groups
    assert [id(parameter) for parameter in group["params"]] == list(before.values())
    moments = [state["exp_avg"] for state in own.optimizer.state.values()]
    expected = [state["exp_avg"] for state in never.optimizer.state.values()]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(moments, expected, strict=True))
    assert [change.kind for change in own.changes] == ["grafted", "undone"]


def test_a_kept_span_widens_the_users_layers_and_tells_the_shapes(tmp_path, scripted):
    scripted(KEPT_AND_CULLED)
    own = Own(tmp_path / "run")
    head = own.model.fc2.bias
    result = own.run()
    kept = next(change for change in own.changes if change.kind == "kept")
    assert kept.step == 16 + 4
    assert kept.seed_id == "s1"
    assert set(kept.resized) == {"fc1.weight", "fc1.bias", "fc2.weight"}
    old, new = kept.resized["fc1.weight"]
    assert own.model.fc1.weight.shape == new
    assert new[0] > old[0] == 5
    assert own.model.fc2.bias is head
    members = own.optimizer.param_groups[0]["params"]
    assert {id(parameter) for parameter in own.model.parameters()} == {id(member) for member in members}
    assert len(own.optimizer.param_groups) == 1
    assert torch.allclose(result.model(data(4, 1).tensors[0]), own.model.eval()(data(4, 1).tensors[0]))


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_stack_deepens_the_users_model_and_its_average(tmp_path, scripted, is_kept):
    end = keep if is_kept else cull
    scripted({4: germination("s1", "stack:blocks", "stack.double"), 16: end("s1")})
    model = Deep()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def averaging(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        loss = one_round(model, optimizer, scheduler, batch)
        ema.update_parameters(model)
        return loss

    own = Own(tmp_path / "run", model, ema=ema, one_round=averaging)
    own.run()
    assert len(model.blocks) == len(ema.module.blocks) == (4 if is_kept else 2)
    assert own.changes[0].depths == {"blocks": 4}
    assert {"blocks.2.fc.weight", "blocks.3.fc.bias"} <= set(own.changes[0].added)
    if not is_kept:
        scripted(NEVER)
        never = Deep()
        ema_of_never, ema_of_own = AveragedModel(never, multi_avg_fn=get_ema_multi_avg_fn(0.9)), ema
        ema = ema_of_never
        Own(tmp_path / "never", never, ema=ema, one_round=averaging).run()
        assert same(model, never)
        assert same(ema_of_own, ema_of_never)


@pytest.mark.parametrize("kill_at", [12, 30])
def test_an_average_goes_on_with_a_loop_that_is_killed(tmp_path, scripted, kill_at):
    scripted({4: germination("s1", "stack:blocks", "stack.double"), 16: cull("s1")})
    averages = []

    def run(name: str, die_at: int | None = None, **options: Any) -> None:
        model = Deep()
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        averages.append(ema)

        def averaging(*arguments: Any) -> Tensor:
            if own.rounds == die_at:
                raise RuntimeError("killed")
            loss = one_round(*arguments)
            ema.update_parameters(model)
            return loss

        config = {"checkpoint_every_epochs": 1}
        own = Own(tmp_path / name, model, ema=ema, one_round=averaging, config=config, **options)
        own.run()

    run("whole")
    with pytest.raises(RuntimeError, match="killed"):
        run("killed", die_at=kill_at)
    run("killed", resume=True)
    whole, _, resumed = averages
    assert same(resumed, whole)


def test_an_average_follows_a_span_that_is_kept(tmp_path, scripted):
    scripted({4: germination("s1", SPAN), 16: keep("s1")})
    model = Net()
    ema = AveragedModel(model)

    def averaging(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        loss = one_round(model, optimizer, scheduler, batch)
        ema.update_parameters(model)
        return loss

    Own(tmp_path / "run", model, ema=ema, one_round=averaging).run()
    assert ema.module.fc1.weight.shape == model.fc1.weight.shape
    assert ema.module.fc1.out_features == model.fc1.out_features > 5


RATES: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, threshold=0.2),
}


@pytest.mark.parametrize(
    ("script", "rates"),
    [(CULLED, "cosine"), (KEPT_AND_CULLED, "cosine"), (KEPT_AND_CULLED, "plateau")],
    ids=["culled", "kept", "kept under plateaus"],
)
def test_a_loop_that_is_killed_goes_on_to_the_same_weights(tmp_path, scripted, script, rates):
    scripted(script)
    config = {"checkpoint_every_epochs": 1}

    def make(name: str, **options: Any) -> Own:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = RATES[rates](optimizer)
        return Own(tmp_path / name, model, optimizer=optimizer, scheduler=scheduler, config=config, **options)

    first = make("whole")
    whole = first.run()
    assert first.optimizer.param_groups[0]["lr"] < 0.1
    killed = make("killed")

    def dies(*arguments: Any) -> Tensor:
        if killed.rounds == 30:
            raise RuntimeError("killed")
        return one_round(*arguments)

    killed.one_round = dies
    with pytest.raises(RuntimeError, match="killed"):
        killed.run()
    again = make("killed", resume=True)
    resumed = again.run()
    assert again.rounds < STEPS
    assert resumed.summary["weights_digest"] == whole.summary["weights_digest"]
    assert resumed.summary["reproducible"]


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01),
    lambda p: torch.optim.RMSprop(p, lr=0.01),
    lambda p: torch.optim.Adagrad(p, lr=0.1),
    lambda p: torch.optim.NAdam(p, lr=0.01),
    lambda p: torch.optim.RAdam(p, lr=0.01),
    lambda p: torch.optim.Adamax(p, lr=0.01),
]
SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    lambda o: lr_scheduler.StepLR(o, 7),
    lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    lambda o: lr_scheduler.OneCycleLR(o, 0.05, STEPS + 1),
    lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(o, STEPS)], [5]
    ),
]
# Every optimiser and every scheduler; RMSprop has no momentum that OneCycleLR could move.
CASES = [(number, (number + 1) % len(SCHEDULERS)) for number in range(len(OPTIMIZERS))]


@pytest.mark.parametrize(("which", "schedule"), CASES)
def test_growth_off_equals_the_bare_loop_bit_for_bit(tmp_path, which, schedule):
    def parts() -> tuple[Net, Any, Any, Any]:
        model = Net()
        optimizer = OPTIMIZERS[which](model.parameters())
        torch.manual_seed(11)
        return model, optimizer, SCHEDULERS[schedule](optimizer), loader()

    model, optimizer, scheduler, batches = parts()
    for number in range(STEPS):
        if number % len(batches) == 0:
            epoch = iter(batches)
        one_round(model, optimizer, scheduler, next(epoch))
    given, optimizer, scheduler, batches = parts()
    config = {"grow": "never"}
    result = Own(tmp_path, given, optimizer=optimizer, scheduler=scheduler, batches=batches, config=config).run()
    assert same(given, model)
    assert result.summary["steps"] == STEPS


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_a_twin_takes_the_rates_of_the_loop_whatever_sets_them(tmp_path, scripted, schedule):
    digests = set()
    for name, script in (("never", NEVER), ("culled", CULLED)):
        scripted(script)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        own = Own(tmp_path / name, model, optimizer=optimizer, scheduler=schedule(optimizer))
        digests.add(own.run().summary["weights_digest"])
    assert len(digests) == 1


def test_clipping_that_is_said_is_the_twins_too(tmp_path, scripted):
    def clipped(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = step(model, batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss

    digests = set()
    for name, script in (("never", NEVER), ("culled", CULLED)):
        scripted(script)
        own = Own(tmp_path / name, one_round=clipped, clip_norm=0.1)
        digests.add(own.run().summary["weights_digest"])
    assert len(digests) == 1
    with pytest.raises(ConfigError, match=r"step 1 of the loop.*the gradient's norm is 0\.09.*say clip_norm="):
        Own(tmp_path / "unsaid", one_round=clipped).run()


def test_an_interrupted_loop_ends_behind_a_checkpoint_and_goes_on(tmp_path, scripted):
    scripted(KEPT_AND_CULLED)
    whole = Own(tmp_path / "whole").run()
    stopped = Own(tmp_path / "stopped")

    def interrupted(*arguments: Any) -> Tensor:
        if stopped.rounds == 25:
            signal.raise_signal(signal.SIGINT)
        return one_round(*arguments)

    stopped.one_round = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    summary = json.loads((tmp_path / "stopped" / "summary.json").read_text())
    assert summary["stop_reason"] == "interrupted"
    assert summary["steps"] == 28
    resumed = Own(tmp_path / "stopped", resume=True).run()
    assert resumed.summary["weights_digest"] == whole.summary["weights_digest"]


def test_it_works_in_another_thread(tmp_path, scripted):
    scripted(KEPT_AND_CULLED)
    found: list[esper.Result] = []
    thread = threading.Thread(target=lambda: found.append(Own(tmp_path).run()))
    thread.start()
    thread.join()
    assert found[0].summary["finished"]


def test_a_loop_that_is_left_says_so(tmp_path, scripted):
    scripted(NEVER)
    result = Own(tmp_path).run(until=10)
    assert not result.summary["finished"]
    assert result.summary["stop_reason"] == "left by its loop"
    assert result.summary["steps"] == 9


def test_mappings_go_through_a_loop_too(tmp_path, scripted):
    scripted(KEPT_AND_CULLED)

    def rows(samples: int, seed: int) -> list[dict[str, Tensor]]:
        return [{"features": x, "labels": y} for x, y in data(samples, seed)]

    def of_mapping(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["features"]), batch["labels"], reduction="none")

    def mapped(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = of_mapping(model, batch).mean()
        loss.backward()
        optimizer.step()
        return loss

    batches, judge = (DataLoader(rows(96, seed), batch_size=16, num_workers=2) for seed in (1, 2))
    result = Own(tmp_path, batches=batches, judge=judge, step=of_mapping, one_round=mapped).run()
    assert result.summary["growth"]["kept"] == 1


def _skips(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    return step(model, batch).mean()


def _twice(*arguments: Any) -> Tensor:
    one_round(*arguments)
    return one_round(*arguments)


def _other_loss(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    optimizer.zero_grad()
    loss = step(model, batch).sum()
    loss.backward()
    optimizer.step()
    return loss


def _touches(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    loss = one_round(model, optimizer, scheduler, batch)
    with torch.no_grad():
        model.fc1.weight.mul_(0.99)
    return loss


def _by_two(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    torch.optim.SGD(model.fc2.parameters(), lr=0.1).step()
    return one_round(model, optimizer, scheduler, batch)


def _replaces(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
    loss = one_round(model, optimizer, scheduler, batch)
    model.fc2.bias = nn.Parameter(model.fc2.bias.detach().clone())
    return loss


def _raises(model: nn.Module, batch: Any) -> Tensor:
    raise ValueError("no such key")


def _labelled(samples: int, labels: Callable[[Tensor], Tensor]) -> DataLoader[Any]:
    inputs, targets = data(samples, 2).tensors
    return DataLoader(TensorDataset(inputs, labels(targets)), batch_size=16)


def _empty() -> nn.Module:
    with torch.device("meta"):
        return Net()


def _unseen() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.LazyLinear(3))


class _WantsClosure(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        assert closure is not None, "two passes make a step"
        return super().step(closure)


MISUSES: list[tuple[str, dict[str, Any]]] = [
    ("can't take a batch of the judging set: .*out of bounds", {"judge": _labelled(60, lambda labels: 7 * labels)}),
    ("can't take a batch of the judging set: .*Float", {"judge": _labelled(60, lambda labels: labels.float())}),
    ("can't take a batch of the test set: .*Float", {"test": _labelled(60, lambda labels: labels.float())}),
    ("loader = 'generator': gave 3 batches and no more", {"batches": (batch for batch in list(loader())[:3])}),
    ("device = 'cuda': the network is on cpu", {"config": {"device": "cuda"}}),
    ("model = 'Net': fc1.weight is on the meta device", {"model": _empty()}),
    ("model = 'Sequential': 2.weight is a lazy parameter", {"model": _unseen()}),
    ("gives one number for 16 samples, expected a loss for each", {"step": lambda m, b: step(m, b).mean()}),
    ("gives tuple, expected a tensor with a loss for each", {"step": lambda m, b: (step(m, b),)}),
    (r"for 16 samples, expected floating-point losses \(16,\)", {"step": lambda m, b: step(m, b)[:3]}),
    ("step = '_raises': can't take a batch of the training set: no such key", {"step": _raises}),
    ("expected a function .model, batch.", {"step": 3}),
    ("isn't among those", {"optimizer": torch.optim.SGD(Net().parameters(), lr=0.1)}),
    ("is over another optimiser", {"scheduler": lr_scheduler.StepLR(torch.optim.SGD(Net().parameters(), lr=0.1), 1)}),
    ("gives no batch", {"batches": iter(())}),
    ("judge.*is empty", {"judge": []}),
    ("the optimiser made 0 steps", {"one_round": _skips}),
    ("the optimiser made 2 steps", {"one_round": _twice}),
    ("the loss that was noted is", {"one_round": _other_loss}),
    ("fc1.weight became another than by step", {"one_round": _touches}),
    ("optimizer = 'SGD': steps parameters of the network, too, .*in a model of its own", {"one_round": _by_two}),
    ("fc2.bias.*changed behind growth's back", {"one_round": _replaces}),
    ("lr.*is the loop's own to decide", {"config": {"lr": 1.0}}),
    ("twin = 'bursts': can't be in a loop of your own", {"config": {"twin": "bursts"}}),
    ("ema = 'int': expected a torch.optim.swa_utils.AveragedModel", {"ema": 3}),
    ("ema = 'AveragedModel': is of another model: fc1.weight", {"ema": AveragedModel(Deep())}),
    ("scaler = 'int': expected a torch.amp.GradScaler", {"scaler": 3}),
    ("clip_norm = -1.0: expected the norm that the loop clips to", {"clip_norm": -1.0}),
    ("clip_norm = 'much': expected the norm", {"clip_norm": "much"}),
    ("on_change = 'int': expected a function of an esper.Change", {"on_change": 3}),
]


@pytest.mark.parametrize(("message", "change"), MISUSES, ids=[message[:28] for message, _ in MISUSES])
def test_misuse_is_told_in_one_line(tmp_path, scripted, message, change):
    scripted(NEVER)
    with pytest.raises(ConfigError, match=message) as found:
        Own(tmp_path, **change).run()
    assert "\n" not in str(found.value)


def test_an_optimiser_that_wants_a_closure_is_told_at_both_doors(tmp_path, scripted):
    scripted(NEVER)
    told = "optimizer = '_WantsClosure': step.. failed: two passes make a step; expected one that .*without a closure"
    own, model = Own(tmp_path / "own"), Net()
    own.optimizer = _WantsClosure(own.model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=told):
        own.run()
    config = {**BASE, "run_dir": tmp_path / "whole"}
    sets = {"train": data(96, 1), "judge": data(60, 2)}
    with pytest.raises(ConfigError, match=told):
        esper.train(model, sets, optimizer=_WantsClosure(model.parameters(), lr=0.1), config=config)


def test_calls_out_of_place_are_told_in_one_line(tmp_path, scripted):
    scripted(NEVER)
    own = Own(tmp_path)
    growth = esper.Growth(own.model, own.optimizer, config=own.config, **own.options)
    with pytest.raises(ConfigError, match="for the inside of `with"):
        growth.steps(own.batches)
    with pytest.raises(ConfigError, match="is there after the with block"):
        _ = growth.result
    other = esper.Growth(own.model, own.optimizer, config={**own.config, "run_dir": tmp_path / "b"}, **own.options)
    with growth:
        with pytest.raises(ConfigError, match="one Growth at a time for a model"):
            other.__enter__()
        with pytest.raises(ConfigError, match="is for the rounds of"):
            growth.note(torch.ones(()))
        rounds: Iterator[Any] = growth.steps(own.batches)
        with pytest.raises(ConfigError, match="call it once"):
            growth.steps(own.batches)
        one_round(own.model, own.optimizer, None, next(rounds))
        with pytest.raises(ConfigError, match=r"growth.note.*wasn't called"):
            next(rounds)
    with pytest.raises(ConfigError, match="is for the rounds of"):
        growth.note(torch.ones(()))
    with pytest.raises(ConfigError, match=r"entered again.*make another esper\.Growth"):
        growth.__enter__()


def test_nothing_runs_on_behind_an_error_that_is_remembered(tmp_path, scripted):
    """As a notebook remembers it, with all that its frames hold."""
    scripted(NEVER)
    interval = sys.getswitchinterval()

    def torn(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        raise OSError("torn")

    with pytest.raises(OSError, match="torn") as remembered:
        Own(tmp_path, batches=loader(num_workers=2), one_round=torn).run()
    assert not multiprocessing.active_children(), remembered
    assert sys.getswitchinterval() == interval


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_what_the_optimizer_was_not_given_stays_and_counts_in_no_norm(tmp_path, scripted, clip_norm):
    """Nobody clears its gradients, which add up."""

    def clipped(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = step(model, batch).mean()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.fc2.parameters(), clip_norm)
        optimizer.step()
        return loss

    scripted(NEVER)
    model = Net()
    before = model.fc1.weight.clone()
    optimizer = torch.optim.SGD(model.fc2.parameters(), lr=0.1)
    own = Own(tmp_path, model, optimizer=optimizer, one_round=clipped, clip_norm=clip_norm)
    result = own.run()
    assert result.summary["steps"] == STEPS
    assert torch.equal(result.model.fc1.weight, before)


def test_clipping_by_what_the_optimizer_was_not_given_is_named(tmp_path, scripted):
    def clipped(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = step(model, batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        return loss

    scripted(NEVER)
    model = Net()
    optimizer = torch.optim.SGD(model.fc2.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"optimiser wasn't given fc1\.weight and 1 more"):
        Own(tmp_path, model, optimizer=optimizer, one_round=clipped, clip_norm=0.05).run()


class Alarms:
    """What is raised with the plane."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def raise_emergency(self, level: Any, name: str, why: str, **where: Any) -> None:
        self.told.append(why)


def test_a_loss_that_is_not_finite_in_a_first_step_is_told_as_such(tmp_path, scripted, monkeypatch):
    scripted(NEVER)
    alarms = Alarms()
    monkeypatch.setattr("esper.tolaria.run._alarm", lambda *_: alarms)
    inputs, labels = data(96, 1).tensors
    inputs[20] = float("nan")
    with pytest.raises(NonFiniteLoss):
        Own(tmp_path, batches=DataLoader(TensorDataset(inputs, labels), batch_size=16)).run()
    assert "the training loss is nan; lower the learning rate" in alarms.told[0]
    assert "rollback" not in alarms.told[0]


def test_nothing_is_trained_where_gradients_are_off(tmp_path, scripted):
    scripted(NEVER)
    with torch.no_grad(), pytest.raises(ConfigError, match="grad = 'off': no gradients inside"):
        Own(tmp_path).run()
    with torch.inference_mode(), pytest.raises(ConfigError, match="grad = 'off': no gradients inside"):
        esper.train(Net(), data(96, 1).tensors, config={"run_dir": tmp_path / "b"})


def test_no_run_stands_in_one_region_of_autocast_whose_weights_stay_as_they_were(tmp_path, scripted):
    scripted(NEVER)
    said = r"autocast = 'on': .* give a region to each step"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=said):
        Own(tmp_path).run()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=r"autocast = 'on': .* set amp"):
        esper.train(Net(), data(96, 1).tensors, config={"run_dir": tmp_path / "b"})
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        Own(tmp_path / "c").run()


def test_a_loop_may_accumulate_and_is_told_of_its_last_bits(tmp_path, scripted):
    def in_parts(model: nn.Module, optimizer: Any, scheduler: Any, batch: Any) -> Tensor:
        optimizer.zero_grad()
        losses = []
        for part in zip(batch[0].split(3), batch[1].split(3), strict=True):
            losses.append(step(model, part).sum() / len(batch[0]))
            losses[-1].backward()
        optimizer.step()
        return torch.stack(losses).sum()

    scripted(CULLED)
    model, events = Net(), list[Any]()
    model.drop = nn.Dropout(0.0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    own = Own(tmp_path, model, optimizer=sgd, one_round=in_parts, callbacks=[events.append])
    own.run()
    assert [change.kind for change in own.changes] == ["grafted", "undone"]
    assert "adds in another order than step()" in str(events)
