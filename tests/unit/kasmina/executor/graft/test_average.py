"""The average of the weights is torch's own while nothing grows, and follows every graft, fold and undo."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.average import averages
from esper.kasmina.executor.memory.footprint import held_by

DECAY = 0.8
SPAN = "span_linear:fc1-fc2"


def averaging(rig, host, **options):
    run = rig(host, **options)
    before = run.arm
    arm = TrainingArm(before.model, before.optimizer, before.scheduler, average_decay=DECAY)
    run.executor._state.arm = arm
    return run


def of(arm):
    """Every weight's average by its path, a seed's behind its name."""
    found = dict(averages(arm.optimizer))
    modules = [("", arm.model), *((f"{graft.seed_id}:", graft.module) for graft in arm.grafts)]
    return {prefix + name: found[part] for prefix, module in modules for name, part in module.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "adagrad", "adafactor", "lion", "plain"])
def test_it_is_torchs_averaged_model_bit_for_bit(rig, optimizer):
    """Under an optimiser that remembers nothing too."""
    run = averaging(rig, "convnet", optimizer=optimizer) if optimizer != "plain" else averaging(rig, "convnet")
    if optimizer == "plain":
        arm = run.arm
        plain = torch.optim.SGD(arm.model.parameters(), 0.05)
        run.executor._state.arm = TrainingArm(arm.model, plain, arm.scheduler, average_decay=DECAY)
    reference = AveragedModel(run.arm.model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    for _ in range(5):
        run.train(1)
        reference.update_parameters(run.arm.model)
    expected = dict(reference.module.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in of(run.arm).items())


def test_the_averaged_network_is_there_for_a_while_and_leaves_no_trace(rig):
    run = averaging(rig, "mlp")
    run.train(4)
    digest, averaged = run.arm.digest(), {name: value.clone() for name, value in of(run.arm).items()}
    pointers = [parameter.data_ptr() for parameter in run.arm.model.parameters()]
    with run.arm.averaged():
        assert run.arm.digest() != digest
        assert all(torch.equal(part, averaged[name]) for name, part in run.arm.model.named_parameters())
        assert [parameter.data_ptr() for parameter in run.arm.model.parameters()] == pointers
    assert run.arm.digest() == digest
    assert all(torch.equal(value, averaged[name]) for name, value in of(run.arm).items())


def test_a_graft_leaves_the_averaged_outputs_as_they_are_and_a_fold_joins_the_averages(rig):
    run = averaging(rig, "mlp")
    run.train(4)

    def outputs():
        with run.arm.averaged():
            return run.outputs()

    before = outputs()
    run.graft("span.linear", SPAN, width=4)
    assert torch.equal(outputs(), before)
    seed = run.arm.grafts[0].module
    start = {name: part.detach().clone() for name, part in seed.named_parameters()}
    run.train(1)
    found = of(run.arm)
    for name, part in seed.named_parameters():
        assert torch.allclose(found[f"s1:{name}"], DECAY * start[name] + (1 - DECAY) * part, atol=1e-7)
    run.train(6)
    found, before = of(run.arm), outputs()
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    joined = of(run.arm)
    assert torch.equal(joined["fc1.weight"], torch.cat([found["fc1.weight"], found["s1:read.weight"]]))
    assert torch.equal(joined["fc2.weight"], torch.cat([found["fc2.weight"], found["s1:write.weight"]], 1))
    assert torch.allclose(outputs(), before, atol=1e-5)
    run.train(3)


def test_copies_of_a_stack_have_copies_of_the_averages(rig):
    run = averaging(rig, "transformer")
    run.train(4)
    before = of(run.arm)
    run.stack()
    after = of(run.arm)
    for name, value in before.items():
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            copied = after[f"blocks.{int(index) + 2}.{rest}"]
            assert torch.equal(copied, value)
            assert copied.data_ptr() != value.data_ptr()
    run.train(2)
    run.arm.take_out_copies()
    assert set(of(run.arm)) == set(before)


@pytest.mark.parametrize(("host", "how"), [("mlp", "span"), ("transformer", "stack")])
def test_a_cull_leaves_the_average_of_the_run_that_never_grew(rig, host, how):
    culled, never = (averaging(rig, host) for _ in range(2))
    culled.train(3)
    if how == "span":
        culled.graft("span.linear", SPAN, width=4)
    else:
        culled.stack()
    culled.train(4)
    culled.do(culled.directive("INSTALL_TWIN"))
    culled.train(2)
    never.train(9)
    expected = of(never.arm)
    assert all(torch.equal(value, expected[name]) for name, value in of(culled.arm).items())


def test_what_an_arm_takes_counts_its_averages(rig):
    plain, averaged = rig("mlp"), averaging(rig, "mlp")
    for run in (plain, averaged):
        run.train(2)
    weights = sum(part.nbytes for part in plain.arm.model.parameters())
    assert held_by(averaged.arm).optimizer - held_by(plain.arm).optimizer == weights


def test_a_parameter_without_gradient_is_its_own_average(rig):
    run = averaging(rig, "mlp")
    run.arm.model.fc1.weight.requires_grad_(False)
    run.train(3)
    assert run.arm.model.fc1.weight not in dict(averages(run.arm.optimizer))
    assert isinstance(run.arm.model.fc1, nn.Linear)
    kept = run.arm.model.fc1.weight.clone()
    with run.arm.averaged():
        assert torch.equal(run.arm.model.fc1.weight, kept)
