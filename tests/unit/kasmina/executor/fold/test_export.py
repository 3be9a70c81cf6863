"""A grown network leaves as one module that can be traced: the same outputs, nothing of ours inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor import plain
from esper.kasmina.executor.fold.export import uncompiled
from esper.leyline import BlendConfig, BlendMode, BlendSchedule, ConfidenceKind

PERMANENT = [
    ("mlp", "residual_linear:act1-act1", "residual.linear", {"width": 4}),
    ("convnet", "span_conv:conv1-conv2", "span.conv", {"width": 3}),
    ("conv1d", "residual_conv:act1-act1", "residual.conv", {"width": 3}),
    ("conv1d", "residual_conv:act1-act1", "gate.channel", {}),
    ("mlp", "residual_linear:act1-act1", "adapter.low_rank", {"rank": 2}),
    ("transformer", "residual_linear:blocks.0-blocks.0", "attention.self", {"heads": 2, "head_size": 4}),
]


def kept(run, slot, blueprint, parameters, **options):
    """A seed that stays as a module."""
    run.train(2)
    run.graft(blueprint, slot, **parameters, **options)
    run.train(6)
    run.do(run.directive("DROP_TWIN"))
    run.train(2)


def traced(run):
    inputs = run.task.probe_inputs()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    return torch.export.export(plain(run.arm), (inputs,), dynamic_shapes=shapes, strict=False)


def expected(run):
    with run.arm.measured(1):
        return run.arm.model(run.task.probe_inputs())


def test_a_folded_network_is_the_host_class_without_hooks(rig):
    run = rig("convnet")
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    run.train(6)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    module = plain(run.arm)
    assert type(module) is type(run.arm.model)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.equal(module(run.task.probe_inputs()), expected(run))
    run.train(1)
    assert not torch.equal(module(run.task.probe_inputs()), expected(run))


@pytest.mark.parametrize(("host", "slot", "blueprint", "parameters"), PERMANENT)
def test_a_permanent_module_is_written_into_the_graph(rig, host, slot, blueprint, parameters):
    run = rig(host)
    kept(run, slot, blueprint, parameters)
    digest = run.arm.digest()
    module = traced(run).module()
    assert torch.allclose(module(run.task.probe_inputs()), expected(run), atol=1e-6)
    assert len(module(run.task.probe_inputs()[:3])) == 3
    assert run.arm.digest() == digest
    run.train(1)


@pytest.mark.parametrize(
    "fields",
    [{"mode": BlendMode.BLEND_MODE_CONVEX}, {"mode": BlendMode.BLEND_MODE_CHANNEL, "alpha_vec": [0.3, 1.0, 0.0]}],
)
def test_other_blends_are_written_out_too(rig, fields):
    run = rig("mlp")
    blend = BlendConfig(
        alpha_start=0.0,
        alpha_target=0.8,
        schedule=BlendSchedule.BLEND_SCHEDULE_COSINE,
        schedule_steps=3,
        **fields,
    )
    kept(run, "residual_linear:act1-act1", "residual.linear", {"width": 4}, blend=blend)
    module = traced(run).module()
    assert torch.allclose(module(run.task.probe_inputs()), expected(run), atol=1e-6)


def test_a_blend_by_confidence_cannot_be_exported(rig):
    run = rig("mlp")
    blend = BlendConfig(
        mode=BlendMode.BLEND_MODE_CONFIDENCE,
        alpha_start=0.0,
        alpha_target=1.0,
        schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
        schedule_steps=2,
        confidence=ConfidenceKind.CONFIDENCE_KIND_MARGIN,
        gate_slope=4.0,
        gate_threshold=0.2,
    )
    kept(run, "residual_linear:act1-act1", "residual.linear", {"width": 4}, blend=blend)
    with pytest.raises(GraftFailed, match="BLEND_MODE_CONFIDENCE"):
        plain(run.arm)


def compiled(part, layers):
    host = nn.Sequential(*layers)
    if part == "a layer":
        host[0] = torch.compile(host[0], backend="eager")
    elif part == "in place":
        host.compile(backend="eager")
    elif part == "every layer in place":
        for layer in host:
            layer.compile(backend="eager")
    return torch.compile(host, backend="eager") if part == "the whole" else host


@pytest.mark.parametrize("part", ["the whole", "in place", "a layer", "every layer in place"])
@pytest.mark.filterwarnings("ignore")
def test_compilers_are_taken_off(rig_of, toy_task, part):
    torch.default_generator.manual_seed(3)
    run = rig_of(compiled(part, [nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)]), toy_task)
    module = plain(run.arm)
    assert all(part._compiled_call_impl is None and not hasattr(part, "_orig_mod") for part in module.modules())
    assert torch.allclose(traced(run).module()(toy_task.probe_inputs()), expected(run), atol=1e-6)


def test_hooks_on_a_compilers_wrapper_stay():
    inner = nn.Linear(3, 3)
    wrapped = torch.compile(inner, backend="eager")
    wrapped.register_forward_hook(lambda module, arguments, output: output * 2)
    value = torch.randn(2, 3)
    before = inner(value)
    assert uncompiled(wrapped) is inner
    assert torch.equal(inner(value), 2 * before)


def test_what_is_a_view_of_more_is_cut_out_of_it(rig_of, toy_task):
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)
            self.register_buffer("seen", toy_task.inputs[:2])
            self.noted = toy_task.inputs[2:4]
            self.fc1.weight = nn.Parameter(torch.randn(40, 12)[:6])

        def forward(self, value):
            return self.fc2(self.act(self.fc1(value))) + self.seen.mean() + self.noted.mean()

    run = rig_of(Remembering(), toy_task)
    module = plain(run.arm)
    for tensor in (module.seen, module.noted, module.fc1.weight):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert torch.equal(module(toy_task.probe_inputs()), expected(run))
