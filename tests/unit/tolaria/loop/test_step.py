"""One step: the same for equal arms, exact under microbatches, honest about what it measured."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.loop.aggregation import surgery as aggregation
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.loop.step_log import Flushed, StepLog, StepResult
from esper.tolaria.record.observer import TwinStep
from esper.tolaria.task.objective.task import make_task
from esper.tolaria.task.optimizers.schedule import Schedule, make_schedule
from esper.tolaria.task.prepare import prepare
from esper.tolaria.task.randomness import generator
from tests.unit.tolaria.loss_sources import opposed, several

CPU = torch.device("cpu")


@dataclass
class Arm:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Schedule
    scaler: None = None


def setting(**settings: object):
    config = TrainConfig(samples=400, grow="never", hidden=(8,), **settings)
    run = prepare(config)
    return config, run


def one_step(steps: int = 1, dtype: torch.dtype = torch.float32, **settings: object):
    config, run = setting(**settings)
    model = run.executor.arm.model.to(dtype)
    arm = Arm(model, torch.optim.SGD(model.parameters(), lr=0.1), make_schedule(config, 100))
    stepper = Stepper(make_task(run.splits), config, CPU)
    inputs, targets = run.loader.batch(0)
    groups = Groups(host=list(model.parameters()))
    result = None
    for step in range(steps):
        result = stepper.run(arm, (inputs.to(dtype), targets), step, groups, measures_norm=True)
    return result, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_equal_arms_make_equal_steps_also_with_dropout_and_other_draws_in_between() -> None:
    first = one_step(3, dropout=0.5)
    torch.rand(17)
    second = one_step(3, dropout=0.5)
    assert torch.equal(first[1], second[1])
    assert float(first[0].loss) == float(second[0].loss)


def test_microbatches_add_up_to_the_batch() -> None:
    whole = one_step(dtype=torch.float64, batch_size=50)
    parts = one_step(dtype=torch.float64, batch_size=50, accumulate=7)
    assert torch.allclose(whole[1], parts[1], atol=1e-12)
    assert float(whole[0].loss) == pytest.approx(float(parts[0].loss))
    assert float(whole[0].accuracy) == pytest.approx(float(parts[0].accuracy))
    assert float(whole[0].gradient_norm) == pytest.approx(float(parts[0].gradient_norm))


def test_surgery_without_conflicts_is_plain_accumulation_and_with_conflicts_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = one_step(dtype=torch.float64, accumulate=2)
    surgery = one_step(dtype=torch.float64, accumulate=2, pcgrad=True)
    assert float(surgery[0].conflict_rate) == 0.0
    assert torch.allclose(plain[1], surgery[1], atol=1e-12)
    many = one_step(dtype=torch.float64, accumulate=16, pcgrad=True)
    assert 0.0 < float(many[0].conflict_rate) <= 1.0
    assert not torch.allclose(one_step(dtype=torch.float64, accumulate=16)[1], many[1], atol=1e-6)


def test_surgery_matches_a_textbook_loop() -> None:
    config, run = setting(accumulate=5, pcgrad=True)
    model = run.executor.arm.model.double()
    inputs, targets = run.loader.batch(0)
    inputs = inputs.double()
    parts = list(zip(inputs.tensor_split(5), targets.tensor_split(5), strict=True))
    rows = []
    for part_inputs, part_targets in parts:
        model.zero_grad()
        (run.task.loss(model(part_inputs), part_targets) * len(part_inputs) / len(inputs)).backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    order = torch.rand(5, 5, generator=generator(config.seed, "surgery", 0)).argsort(dim=1)
    total = torch.zeros_like(rows[0])
    for index, row in enumerate(rows):
        current = row.clone()
        for other in order[index].tolist():
            if other != index and (dot := current @ rows[other]) < 0:
                current -= dot / (rows[other] @ rows[other]) * rows[other]
        total += current
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    arm = Arm(model, torch.optim.SGD(model.parameters(), lr=0.1), make_schedule(config, 100))
    Stepper(run.task, config, CPU).run(arm, (inputs, targets), 0, Groups(host=list(model.parameters())))
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.allclose(after, before - 0.1 * total, atol=1e-10)


def test_surgery_between_losses_matches_a_textbook_loop_and_tells_their_cosines() -> None:
    """In float64; the losses' names are those of the cosines."""
    here = "tests.unit.tolaria.loss_sources"
    config = TrainConfig(
        data=f"{here}:plain", model=f"{here}:net", loss=f"{here}:opposed", pcgrad=True, surgery="losses", grow="never"
    )
    run = prepare(config)
    model = run.executor.arm.model.double()
    inputs, targets = run.loader.batch(0)
    inputs = inputs.double()
    rows, losses = {}, opposed(model(inputs), targets)
    for name, loss in losses.items():
        model.zero_grad()
        loss.mean().backward(retain_graph=True)
        rows[name] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    order = torch.rand(3, 3, generator=generator(config.seed, "surgery", 0)).argsort(dim=1)
    total, each = torch.zeros_like(rows["nats"]), list(rows.values())
    for index, row in enumerate(each):
        current = row.clone()
        for other in order[index].tolist():
            if other != index and (dot := current @ each[other]) < 0:
                current -= dot / (each[other] @ each[other]) * each[other]
        total += current
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    arm = Arm(model, torch.optim.SGD(model.parameters(), lr=0.1), make_schedule(config, 100))
    result = Stepper(run.task, config, CPU).run(arm, (inputs, targets), 0, Groups(host=list(model.parameters())))
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.allclose(after, before - 0.1 * total, atol=1e-10)
    cosines = {
        f"cosine {a}, {b}": float(torch.cosine_similarity(rows[a], rows[b], dim=0))
        for a, b in (("nats", "size"), ("nats", "smallness"), ("size", "smallness"))
    }
    means = {f"loss {name}": float(loss.detach().mean()) for name, loss in losses.items()}
    assert {name: float(value) for name, value in result.named.items()} == pytest.approx(means | cosines)
    assert float(result.conflict_rate) == pytest.approx(sum(value < 0 for value in cosines.values()) / 3)
    assert 0 < float(result.conflict_rate) < 1
    assert float(result.loss) == pytest.approx(sum(means.values()))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_several_losses_are_told_by_name_for_the_whole_batch(accumulate: int) -> None:
    here = "tests.unit.tolaria.loss_sources"
    settings = {"data": f"{here}:plain", "model": f"{here}:net", "loss": f"{here}:several", "grow": "never"}
    config = TrainConfig(**settings, accumulate=accumulate)
    run = prepare(config)
    arm, batch = run.executor.arm, run.loader.batch(0)
    expected = several(arm.model(batch[0]), batch[1])
    result = Stepper(run.task, config, CPU).run(arm, batch, 0, Groups(host=arm.host_parameters()))
    told = {name: float(value) for name, value in result.named.items()}
    assert told == pytest.approx(
        {f"loss {name}": float(loss.detach().mean()) for name, loss in expected.items()}, rel=1e-5
    )
    assert float(result.loss) == pytest.approx(sum(told.values()), rel=1e-5)
    log = StepLog()
    log.add(1, 0, result, rate=0.1, step_ms=1.0)
    assert log.flush().steps[0].named == pytest.approx(told)


def test_a_microbatch_gradient_that_is_not_finite_makes_the_step_void() -> None:
    config, run = setting(accumulate=4, pcgrad=True)
    model = run.executor.arm.model
    arm = Arm(model, torch.optim.Adam(model.parameters(), lr=0.1), make_schedule(config, 100))
    inputs, targets = run.loader.batch(0)
    inputs = inputs.clone()
    inputs[-1] = float("inf")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    Stepper(run.task, config, CPU).run(arm, (inputs, targets), 0, Groups(host=list(model.parameters())))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_void_step_that_the_optimiser_itself_leaves_out_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for skips in (False, True):
        monkeypatch.setattr(aggregation, "skips_on_device", lambda optimizer, device, skips=skips: skips)
        config, run = setting(accumulate=4, pcgrad=True)
        model = run.executor.arm.model
        arm = Arm(model, torch.optim.Adam(model.parameters(), lr=0.1, fused=True), make_schedule(config, 100))
        stepper, groups = Stepper(run.task, config, CPU), Groups(host=list(model.parameters()))
        for step in range(4):
            inputs, targets = run.loader.batch(step)
            if step == 2:
                inputs = inputs.clone()
                inputs[-1] = float("inf")
                before = [parameter.detach().clone() for parameter in model.parameters()]
            stepper.run(arm, (inputs, targets), step, groups)
            if step == 2:
                assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))


def test_surgery_takes_at_most_as_many_microbatches_as_the_kernel() -> None:
    config, run = setting(accumulate=65, pcgrad=True, batch_size=70)
    with pytest.raises(ConfigError, match="64"):
        Stepper(run.task, config, CPU)


def test_clipping_bounds_the_hosts_gradient_and_reports_its_norm_before() -> None:
    start, free, clipped = one_step(0), one_step(), one_step(clip_norm=1e-3)
    assert float(clipped[0].gradient_norm) == pytest.approx(float(free[0].gradient_norm))
    assert float((clipped[1] - start[1]).norm()) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_a_large_seed_gradient_does_not_shrink_the_hosts_step() -> None:
    host, seed = (nn.Parameter(torch.ones(3)) for _ in range(2))
    config, run = setting(clip_norm=1.0)
    stepper = Stepper(run.task, config, CPU)
    host.grad, seed.grad = torch.full((3,), 0.1), torch.full((3,), 1e6)
    norm, _ = stepper._clip(Groups(host=[host], seeds=[seed]), False)
    assert torch.equal(host.grad, torch.full((3,), 0.1))
    assert float(norm) == pytest.approx(0.1 * 3**0.5)
    assert float(seed.grad.norm()) == pytest.approx(1.0, rel=1e-3)


def test_bf16_trains_in_mixed_precision() -> None:
    full, mixed = one_step(3), one_step(3, amp="bf16")
    assert mixed[1].dtype == torch.float32
    assert not torch.equal(full[1], mixed[1])
    assert torch.allclose(full[1], mixed[1], atol=0.01)


def test_the_log_reads_many_steps_at_once_and_keeps_what_was_not_measured_apart() -> None:
    log = StepLog()
    result, _ = one_step()
    log.add(1, 0, result, rate=0.1, step_ms=2.0)
    log.add(2, 0, type(result)(result.loss, None, None, None), rate=0.2, step_ms=3.0)
    first, second = log.flush().steps
    assert first.gradient_norm is not None
    assert (second.accuracy, second.gradient_norm, second.conflict_rate) == (None, None, None)
    assert [done.learning_rate for done in (first, second)] == [0.1, 0.2]
    assert log.flush() == ([], [])


def test_the_twins_losses_are_read_apart_and_with_the_same_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(1) or read(tensor))  # type: ignore[func-returns-value]
    result = StepResult(torch.tensor(2.0), None, None, None)

    def flushed(*, with_twin: bool) -> tuple[Flushed, int]:
        log = StepLog()
        transfers.clear()
        for step in (1, 2):
            log.add(step, 0, result, rate=0.1, step_ms=2.0)
            if with_twin:
                log.add_twin("s1", step, StepResult(torch.tensor(3.0 + step), None, None, None))
        return log.flush(), len(transfers)

    (alone, alone_transfers), (both, both_transfers) = flushed(with_twin=False), flushed(with_twin=True)
    assert both_transfers == alone_transfers == 1
    assert both.steps == alone.steps
    assert both.twin_steps == [TwinStep(seed_id="s1", step=step, loss=3.0 + step) for step in (1, 2)]
    assert alone.twin_steps == []


def test_the_time_of_surgery_is_told_where_there_is_any() -> None:
    config, run = setting(accumulate=4, pcgrad=True)
    clock = ManualClock()
    stepper = Stepper(run.task, config, CPU, clock)
    assert stepper.surgery_ms == 0.0
    with stepper._surgery_timer.measure():
        clock.advance(0.25)
    assert stepper.surgery_ms == pytest.approx(250.0)
    assert Stepper(run.task, setting()[0], CPU).surgery_ms is None
