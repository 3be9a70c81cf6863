"""A loop that validates its network in between: seeds and twins are in the mode that the loop's network is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import esper
from tests.unit.tolaria.scripted_control import cull, germination, keep

STEPS = 24
BASE = {"steps": STEPS, "evaluate_every_steps": 4, "min_samples": 20, "seed": 3, "checkpoint_every_epochs": 0}
SPAN = "span_linear:0-4"


def network(*, is_frozen: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    found = nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    found[0].requires_grad_(not is_frozen)
    return found


def samples(count: int, seed: int) -> TensorDataset:
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] > 0).long())


def step(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


Look = Callable[[nn.Module], None]


def own(run_dir: Any, model: nn.Module, look: Look, **options: Any) -> esper.Result:
    thaw: Any = options.pop("thaw", None)
    rounds: list[Any] = []
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = options.pop("optimizer", None) or torch.optim.AdamW(learning, lr=0.01)
    scheduler, scaler = options.get("scheduler"), options.get("scaler")
    batches, judge = DataLoader(samples(96, 1), batch_size=16), DataLoader(samples(60, 2), batch_size=30)
    config = {**BASE, "run_dir": run_dir, **options.pop("config", {})}
    with esper.Growth(model, optimizer, step=step, judge=judge, config=config, **options) as growth:
        for batch in growth.steps(batches):
            model.train()
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            growth.note(loss)
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            if scheduler is not None:
                scheduler.step()
            look(model)
            if thaw is not None:
                thaw(model, optimizer, len(rounds))
            rounds.append(batch)
    return growth.result


def validate(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        model(samples(40, 3).tensors[0])


def nothing(model: nn.Module) -> None:
    """The loop goes on."""


@pytest.mark.parametrize("end", [cull, keep])
def test_a_validation_in_every_round_changes_no_weight(tmp_path, scripted, end):
    """Twins are copied behind it, and step as the loop does all the same."""
    scripted({4: germination("s1", SPAN), 16: end("s1")})
    digests = {own(tmp_path / look.__name__, network(), look).summary["weights_digest"] for look in (nothing, validate)}
    assert len(digests) == 1


def test_a_seed_that_hangs_on_a_network_is_validated_as_it_is(tmp_path, scripted):
    """Its dropout draws nothing, and its norms count nothing of what is validated on."""
    inputs = samples(40, 3).tensors[0]
    seen: list[tuple[Tensor, Tensor]] = []

    def twice(model: nn.Module) -> None:
        model.eval()
        with torch.no_grad():
            seen.append((model(inputs), model(inputs)))

    scripted({4: germination("s1", SPAN), 16: keep("s1")})
    model = network(is_frozen=True)
    result = own(tmp_path, model, twice)
    assert not result.summary["seeds"][0]["is_folded"]
    assert all(torch.equal(first, second) for first, second in seen)
    assert torch.equal(result.model(inputs), seen[-1][0])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("script", [{}, {4: germination("s1", SPAN), 16: cull("s1")}], ids=["never", "culled"])
def test_a_scaler_divides_before_a_fused_optimizer_is_looked_at(tmp_path, scripted, kind, script):
    scripted(script)
    told: list[Any] = []
    weights = []
    for name, scale in (("plain", None), ("scaled", 1024.0)):
        model = network()
        optimizer = kind(model.parameters(), lr=0.01, fused=True)
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        result = own(tmp_path / name, model, nothing, optimizer=optimizer, scaler=scaler, callbacks=[told.append])
        assert result.summary["finished"]
        weights.append([parameter.detach() for parameter in model.parameters()])
    norms = [each.gradient_norm for each in told if getattr(each, "gradient_norm", None) is not None]
    assert norms
    assert max(norms) < 100
    for mine, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_rate_that_is_a_tensor_is_that_of_its_step(tmp_path, scripted):
    """A scheduler writes into it behind the step."""
    digests = set()
    for name, script in (("never", {}), ("culled", {4: germination("s1", SPAN), 16: cull("s1")})):
        scripted(script)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.02))
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
        result = own(tmp_path / name, model, nothing, optimizer=optimizer, scheduler=scheduler)
        digests.add(result.summary["weights_digest"])
    assert len(digests) == 1


def adds_a_group(model: Any, optimizer: Any, rounds: int) -> None:
    if rounds == 10:
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.003})


def lets_all_learn(model: Any, optimizer: Any, rounds: int) -> None:
    if rounds == 10:
        model[0].requires_grad_(True)


def freezes(model: Any, optimizer: Any, rounds: int) -> None:
    if rounds == 10:
        model[6].requires_grad_(False)


THAWS: list[tuple[Callable[..., None], bool]] = [(adds_a_group, False), (lets_all_learn, True), (freezes, True)]


@pytest.mark.parametrize(("thaw", "has_all"), THAWS)
def test_a_twin_learns_what_its_loop_lets_learn(tmp_path, scripted, thaw, has_all):
    """Thawed or frozen while a seed is judged."""
    digests = set()
    for name, script in (("never", {}), ("culled", {4: germination("s1", "span_linear:4-6"), 16: cull("s1")})):
        scripted(script)
        model = network(is_frozen=True)
        members = [parameter for parameter in model.parameters() if has_all or parameter.requires_grad]
        optimizer = torch.optim.Adam(members, lr=0.01)
        before = [parameter.detach().clone() for parameter in (model[0].weight, model[6].weight)]
        result = own(tmp_path / name, model, nothing, optimizer=optimizer, thaw=thaw)
        digests.add(result.summary["weights_digest"])
        assert torch.equal(model[0].weight, before[0]) == (thaw is freezes)
    assert len(digests) == 1
