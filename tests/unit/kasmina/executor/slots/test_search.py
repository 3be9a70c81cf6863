"""Slots are found by themselves or named by the user; a wrong name is told what there is."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.kasmina.executor.passes.trace import trace_forward
from esper.kasmina.executor.slots.search import check_found, find_slots
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import SlotKind


def slots_of(model: nn.Module, inputs: Tensor, named: tuple[str, ...] | None = None) -> dict[str, Slot]:
    trace = trace_forward(model, inputs)
    found = find_slots(model, trace, named=named, is_causal=False)
    check_found(model, trace, found)
    return {slot.slot_id: slot for slot in found.slots}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 6)
        self.fc = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(self.tokens(x))))


class AloneAndTied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.fc(x)), self.fc.weight)[:, :2]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(torch.relu(self.fc1(x)))))


def test_a_weight_that_something_else_computes_with_is_told_where_there_is_no_slot() -> None:
    told = r"looked at fc \(Linear, something else computes with its weight, too\)"
    with pytest.raises(ConfigError, match=told):
        slots_of(AloneAndTied(), torch.randn(2, 4))


def test_an_mlp_offers_spans_and_activations_in_forward_order(rig):
    run = rig("mlp")
    manifest = run.executor.manifest()
    names = ["span_linear:fc1-fc2", "residual_linear:act1-act1", "span_linear:fc2-fc3", "residual_linear:act2-act2"]
    assert [slot.slot_id for slot in manifest.slots] == names
    assert [slot.order for slot in manifest.slots] == [0, 1, 2, 3]
    assert [slot.is_foldable for slot in manifest.slots] == [True, False, True, False]
    span = manifest.slots[0]
    assert (span.in_features, span.width, span.out_features, span.read_positions) == (12, 6, 7, 1)


def test_a_convolutional_net_offers_spans_over_kernels_and_flattened_positions(rig):
    spans = {slot.slot_id: slot for slot in rig("convnet").executor.manifest().slots}
    conv = spans["span_conv:conv1-conv2"]
    assert (conv.read_kernel, conv.write_kernel, conv.read_positions, conv.write_positions) == (9, 9, 36, 36)
    flat = spans["span_conv_linear:conv2-fc"]
    assert flat.is_foldable
    assert (flat.in_features, flat.width, flat.out_features, flat.write_kernel, flat.write_positions) == (4, 6, 5, 9, 1)


def test_a_transformer_offers_mlp_widths_and_its_residual_stream(rig):
    slots = {slot.slot_id: slot for slot in rig("transformer").executor.manifest().slots}
    assert slots["span_linear:blocks.0.fc1-blocks.0.fc2"].is_foldable
    assert slots["span_linear:blocks.0.fc1-blocks.0.fc2"].read_positions == 8
    assert slots["residual_linear:blocks.1-blocks.1"].kind == SlotKind.SLOT_KIND_RESIDUAL_LINEAR


def test_activations_after_a_convolution_are_feature_maps(rig):
    slots = {slot.slot_id: slot for slot in rig("conv1d").executor.manifest().slots}
    feature_map = slots["residual_conv:act1-act1"]
    assert (feature_map.out_features, feature_map.write_positions, feature_map.read_kernel) == (4, 9, 3)


@pytest.mark.parametrize(
    ("name", "slot_id"),
    [
        ("fc1-fc2", "span_linear:fc1-fc2"),
        ("span_linear:fc1-fc2", "span_linear:fc1-fc2"),
        ("act1", "residual_linear:act1-act1"),
        ("residual_linear:act1-act1", "residual_linear:act1-act1"),
        ("fc2", "residual_linear:fc2-fc2"),
    ],
)
def test_a_user_names_slots_in_short_or_in_full(rig, name, slot_id):
    assert [slot.slot_id for slot in rig("mlp", slots=(name,)).executor.manifest().slots] == [slot_id]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("fc1-fc9", "calls no submodule 'fc9'; it has fc1 "),
        ("nowhere", "calls no submodule 'nowhere'"),
        ("fc3-fc1", "is no place where a seed fits; the host's own slots are: span_linear:fc1-fc2"),
        ("span_conv:fc1-fc2", "is no place where a seed fits"),
    ],
)
def test_a_wrong_name_is_told_what_there_is(rig, name, complaint):
    with pytest.raises(ConfigError, match=complaint):
        rig("mlp", slots=(name,)).executor.manifest()


def test_a_named_span_that_cannot_be_proven_is_usable_but_never_folded():
    model = nn.Sequential(nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2))
    (slot,) = slots_of(model, torch.randn(3, 4), named=("0-2",)).values()
    assert "could not be proven" in slot.obstacle
    assert not slot.spec(model).is_foldable


def test_layers_that_run_twice_with_other_followers_are_no_slots():
    with pytest.raises(
        ConfigError, match=r"looked at fc1 \(Linear, called 2 times\).*doesn't lead on alike: to fc1, fc2;"
    ):
        slots_of(Shared(), torch.randn(3, 4))
    with pytest.raises(ConfigError, match="'fc1' 2 times and 'fc2' 1 times in a forward pass, but not by turns"):
        slots_of(Shared(), torch.randn(3, 4), named=("fc1-fc2",))


def test_tied_grouped_parametrised_and_frozen_layers_say_why_they_cannot_fold():
    tied = slots_of(Tied(), torch.randint(0, 7, (3, 5)))["span_linear:fc-head"]
    assert tied.obstacle == "head shares its weight with another layer"
    grouped = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=2))
    assert "grouped convolution" in slots_of(grouped, torch.randn(2, 2, 9))["span_conv:0-2"].obstacle
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    assert "parametrised" in slots_of(normed, torch.randn(3, 4))["span_linear:0-2"].obstacle
    frozen = nn.Sequential(nn.Linear(4, 6).requires_grad_(False), nn.ReLU(), nn.Linear(6, 2))
    assert "frozen" in slots_of(frozen, torch.randn(3, 4))["span_linear:0-2"].obstacle


class TiedByCall(nn.Module):
    """Its last product is made with the first layer's weight, which no layer but the first holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return nn.functional.linear(x, self.fc1.weight.t())


def test_a_weight_that_a_function_computes_with_is_not_widened():
    slots = slots_of(TiedByCall(), torch.randn(2, 4))
    assert slots["span_linear:fc1-fc2"].obstacle == "something else than fc1 computes with its weight"
    assert slots["span_linear:fc2-fc3"].obstacle == ""


class Borrowed(nn.Module):
    """Whatever its body gives, scaled by the weight of one of the layers inside."""

    def __init__(self, body: nn.Module, layer: str) -> None:
        super().__init__()
        self.body, self.layer = body, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.body.get_parameter(f"{self.layer}.weight").norm()


class GatedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class OneHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 4
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("body", "slot_id", "layers"),
    [
        (GatedMLP(), "span_linear:body.gate-body.down", ("gate", "up", "down")),
        (
            nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)),
            "span_linear:body.0-body.2",
            ("0", "1", "2"),
        ),
    ],
)
def test_no_layer_that_a_span_widens_may_be_computed_with_elsewhere(body, slot_id, layers):
    for layer in layers:
        obstacle = slots_of(Borrowed(body, layer), torch.randn(3, 4))[slot_id].obstacle
        assert obstacle == f"something else than body.{layer} computes with its weight"


@pytest.mark.parametrize("layer", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_no_projection_that_heads_widen_may_be_computed_with_elsewhere(layer):
    model, inputs = Borrowed(OneHead(), layer), torch.randn(2, 3, 4)
    found = find_slots(model, trace_forward(model, inputs), named=None, is_causal=False, run=lambda: model(inputs))
    heads = next(slot for slot in found.slots if slot.heads is not None)
    assert heads.obstacle == f"something else than body.{layer} computes with its weight"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiler", [torch.jit.script, lambda host: torch.jit.trace(host, torch.randn(2, 4))])
def test_a_compiled_script_is_refused_with_what_to_give_instead(compiler):
    host = compiler(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    with pytest.raises(ConfigError, match="is a compiled script, inside which nothing grows; give the module it is of"):
        slots_of(host, torch.randn(2, 4))


class Packed(nn.Module):
    """What can't be traced stands in its own forward; the layers behind it there, or in a module of their own."""

    def __init__(self, how: str, *, apart: bool = False) -> None:
        super().__init__()
        self.rnn, layers = nn.GRU(4, 4, batch_first=True), (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.head = nn.Sequential(*layers) if apart else nn.ModuleList(layers)
        self.how, self.apart = how, apart

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.how == "packed":
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            h = self.rnn(packed)[1][0]
        elif self.how == "len":
            h = self.rnn(x)[1][0] / len(lengths)
        else:
            h = torch.stack([x[:, place] for place in range(x.size(1))]).sum(0)
        return self.head(h) if self.apart else self.head[2](torch.relu(self.head[0](h)))


LINES = {
    "packed": "`packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce`",
    "len": "`h = self.rnn(x)[1][0] / len(lengths)`",
    "range": "`h = torch.stack([x[:, place] for place in range(x.size(1))]).sum(0)`",
}


@pytest.mark.parametrize("how", LINES)
def test_what_can_not_be_traced_is_told_by_the_users_own_line_and_with_what_can_grow(how: str) -> None:
    inputs = (torch.randn(3, 5, 4), torch.tensor([2, 5, 3]))
    model = Packed(how)
    trace = trace_forward(model, inputs)
    with pytest.raises(ConfigError) as caught:
        check_found(model, trace, find_slots(model, trace, named=None, is_causal=False))
    told = str(caught.value)
    where = rf"beyond test_search\.py:\d+ {re.escape(LINES[how])}"
    assert re.search(
        rf"not looked into: the model \(Packed\): what it does can't be traced {where}; layers in a ", told
    )
    assert "Proxy" not in told
    assert "symbolic" not in told
    apart = Packed(how, apart=True)
    found = find_slots(apart, trace_forward(apart, inputs), named=None, is_causal=False)
    assert "span_linear:head.0-head.2" in [slot.slot_id for slot in found.slots]
