"""A grown network leaves as plain PyTorch: the same outputs, nothing of ours inside, readable without us."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from esper.core.errors import GraftFailed
from esper.kasmina.executor import plain
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


def expected(run):
    with run.arm.measured(1):
        return run.arm.model(run.task.probe_inputs())


def test_a_folded_network_is_the_host_class_without_hooks(rig):
    run = rig("convnet")
    run.graft("span.conv", "span_conv:conv1-conv2", width=3)
    run.train(6)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    module = plain(run.arm, run.task.probe_inputs())
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
    module = plain(run.arm, run.task.probe_inputs())
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
    module = plain(run.arm, run.task.probe_inputs())
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
        plain(run.arm, run.task.probe_inputs())


@pytest.mark.slow
def test_the_saved_program_loads_where_esper_is_not_importable(rig, tmp_path):
    run = rig("conv1d")
    kept(run, "residual_conv:act1-act1", "residual.conv", {"width": 3})
    inputs = run.task.probe_inputs()
    program = torch.export.export(plain(run.arm, inputs), (inputs,))
    torch.export.save(program, tmp_path / "grown.pt2")
    torch.save({"inputs": inputs, "outputs": expected(run)}, tmp_path / "io.pt")
    script = (
        "import sys; sys.modules['esper'] = None\n"
        "import torch\n"
        "io = torch.load('io.pt'); module = torch.export.load('grown.pt2').module()\n"
        "assert torch.allclose(module(io['inputs']), io['outputs'], atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100)
