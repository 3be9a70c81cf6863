"""Spans in the networks that people have: each is found, changes nothing at its graft, trains, is copied, and folds."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.task.models.transformer import CausalTransformer, DecoderStyle


class Conv1D(nn.Module):
    """A linear layer as Hugging Face's GPT-2 has it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.3)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


class NewGelu(nn.Module):
    """An activation of the host's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(12, 6), nn.Linear(12, 6, bias=False), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Upside(nn.Module):
    """The gate comes second, and the product goes through dropout (none, so that masks tell nothing)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.gate, self.down = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(6, 5)
        self.act, self.drop = NewGelu(), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(self.wide(x) * self.act(self.gate(x))))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(12, 12), nn.Linear(6, 5)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(up * self.act(gate))


class Glu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(12, 12), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.glu(self.into(x)))


class Dense(nn.Module):
    def __init__(self, features: int, width: int, act: nn.Module | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(features, width)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.dense(x))


class Opaque(nn.Module):
    """Can't be traced: it unpacks a shape."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        shape = (*x.shape[:-1], -1)
        return x.view(shape), None


class Siblings(nn.Module):
    """Dense, activation and dense in modules beside each other, behind something that can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Opaque()
        self.intermediate, self.output = Dense(12, 6, nn.GELU()), Dense(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x)
        return self.output(self.intermediate(attended))


class TokenModel(nn.Module):
    """Torch's own transformer layers on embedded features."""

    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, activation, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.view(-1, 3, 4)).flatten(1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, 3, 4)
        return self.head(self.layer(rows, rows).flatten(1))


class Attention(nn.Module):
    """Two groups of two heads that share keys and values, called by name, with a count of them; it gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = 4, 2, 3
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(4, 12), nn.Linear(4, 6), nn.Linear(4, 6, bias=False)
        self.o_proj, self.drop = nn.Linear(12, 4), nn.Dropout(0.0)

    def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, None]:
        batch, rows, _ = hidden.shape
        query = self.q_proj(hidden).view(batch, rows, self.num_heads, self.head_dim).transpose(1, 2)
        key, value = (
            layer(hidden).view(batch, rows, self.num_key_value_heads, self.head_dim).transpose(1, 2)
            for layer in (self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return self.drop(self.o_proj(mixed.transpose(1, 2).flatten(2))), None


class FusedAttention(nn.Module):
    """Queries, keys and values of two heads from one transposed layer, and dropout after the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.split_size = 2, 4
        self.c_attn, self.c_proj, self.drop = Conv1D(12, 4), Conv1D(4, 4), nn.Dropout(0.0)

    def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, None]:
        parts = self.c_attn(hidden).split(self.split_size, dim=2)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.drop(self.c_proj(mixed.transpose(1, 2).flatten(2))), None


class HeadsBeside(nn.Module):
    """Mixed heads, whose output layer stands in a module beside; every head's size is in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.head_size = 2
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, None]:
        query, key, value = (
            layer(hidden).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2), None


class BesideAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = HeadsBeside()
        self.output = Dense(4, 4)

    def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, None]:
        return self.output(self.self(hidden, mask=mask)[0]), None


class Attending(nn.Module):
    """Three rows of four features each, that see earlier rows alone."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, 3, 4)
        mask = torch.ones(3, 3, dtype=torch.bool, device=x.device).tril()
        return self.head((rows + self.attention(rows, mask=mask)[0]).flatten(1))


class Images(nn.Module):
    """Twelve features as a picture of 3 channels and 2 by 2 pixels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.view(-1, 3, 2, 2)).mean((2, 3)))


def inverted_residual() -> nn.Module:
    return Images(
        *(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(nn.Conv2d(6, 3, 1, bias=False), nn.BatchNorm2d(3)),
    )


def resnext() -> nn.Module:
    return Images(
        *(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=2)),
        *(nn.ReLU(), nn.Conv2d(6, 3, 1)),
    )


def turned() -> nn.Module:
    return nn.Sequential(OrderedDict(c_fc=Conv1D(6, 12), act=NewGelu(), c_proj=Conv1D(5, 6)))


Case = tuple[Callable[[], nn.Module], str, str, int]
"""A host, its slot, the blueprint, and by how much it grows."""

HOSTS: dict[str, Case] = {
    "transposed linear": (turned, "span_linear:c_fc-c_proj", "span.linear", 3),
    "gated": (Gated, "span_linear:gate-down", "span.linear", 3),
    "gate second": (Upside, "span_linear:wide-down", "span.linear", 3),
    "fused gate": (Fused, "span_linear:gate_up-down", "span.linear", 3),
    "glu": (Glu, "span_linear:into-out", "span.linear", 3),
    "siblings": (Siblings, "span_linear:intermediate.dense-output.dense", "span.linear", 3),
    "encoder": (TokenModel, "span_linear:encoder.layers.1.linear1-encoder.layers.1.linear2", "span.linear", 3),
    "decoder": (Decoder, "span_linear:layer.linear1-layer.linear2", "span.linear", 3),
    "inverted residual": (inverted_residual, "span_conv:body.0-body.6", "span.conv", 4),
    "grouped": (resnext, "span_conv:body.0-body.5", "span.conv", 3),
    "heads in groups": (
        *(lambda: Attending(Attention()), "span_heads:attention-attention.o_proj"),
        *("span.heads", 1),
    ),
    "fused heads": (
        *(lambda: Attending(FusedAttention()), "span_heads:attention-attention.c_proj"),
        *("span.heads", 3),
    ),
    "heads beside": (
        *(lambda: Attending(BesideAttention()), "span_heads:attention.self-attention.output.dense"),
        *("span.heads", 2),
    ),
}
# One of each way in which a seed is built and joined.
RESTORED = [
    "transposed linear",
    "gated",
    "fused gate",
    "inverted residual",
    "grouped",
    "heads in groups",
    "fused heads",
]
PARAMETERS = {"span.linear": "width", "span.conv": "width", "span.heads": "heads"}
# Adam has one count for a joined tensor: the share by which a step of the folded run may go elsewhere.
SHARES = {"sgd": 1e-9, "adam": 0.1}


@pytest.fixture(params=list(HOSTS))
def case(request: pytest.FixtureRequest) -> Case:
    return HOSTS[request.param]


@pytest.fixture
def grown(rig_of, toy_task, case):
    """Makes the run of the case, three steps old, with a seed that has learnt for eight steps."""

    def make(optimizer: str = "adam"):
        build, slot_id, blueprint, amount = case
        torch.default_generator.manual_seed(2)
        run = rig_of(build(), toy_task, optimizer=optimizer, double=True)
        run.train(3)
        spec = next(spec for spec in run.executor.manifest().slots if spec.slot_id == slot_id)
        assert (spec.is_foldable, spec.fold_obstacle, spec.width) == (True, "", 2 if "heads" in slot_id else 6)
        grafted = run.graft(blueprint, slot_id, **{PARAMETERS[blueprint]: amount})
        assert grafted.reports[-1].max_logit_delta == 0.0
        run.train(8)
        assert run.arm.grafts[0].module.write.weight.abs().max() > 0
        return run

    return make


def test_a_fold_keeps_outputs_and_names_and_the_network_goes_on(grown):
    run = grown()
    names, before, count = list(run.arm.model.state_dict()), run.outputs(), run.arm.parameter_count()
    report = run.do(run.directive("FOLD"), run.directive("DROP_TWIN")).reports[0]
    assert (report.folded, report.failure) == (True, "")
    assert torch.allclose(run.outputs(), before, rtol=0, atol=1e-12)
    assert list(run.arm.model.state_dict()) == names
    assert (run.executor.seeds, run.arm.parameter_count()) == ((), count)
    run.train(2)


@pytest.mark.parametrize("optimizer", list(SHARES))
def test_the_next_steps_are_those_of_the_unfolded_run(grown, optimizer):
    folded, unfolded = grown(optimizer), grown(optimizer)
    start = folded.outputs()
    assert folded.do(folded.directive("FOLD"), folded.directive("DROP_TWIN")).reports[0].folded
    unfolded.do(unfolded.directive("DROP_TWIN"))
    for _ in range(3):
        folded.train(1)
        unfolded.train(1)
        moved = (unfolded.outputs() - start).norm()
        assert (folded.outputs() - unfolded.outputs()).norm() <= SHARES[optimizer] * moved


@pytest.mark.parametrize("case", RESTORED, indirect=True)
def test_copies_and_restored_states_are_the_same_network(grown, rig_of, toy_task, case):
    run = grown()
    for _ in ("grafted", "folded"):
        buffer = io.BytesIO()
        torch.save(run.executor.state_dict(), buffer)
        buffer.seek(0)
        torch.default_generator.manual_seed(2)
        restored = rig_of(case[0](), toy_task, double=True)
        restored.executor.load_state_dict(torch.load(buffer, weights_only=True))
        assert restored.arm.digest() == run.arm.digest() == run.arm.clone().digest()
        assert torch.equal(restored.outputs(), run.outputs())
        if run.arm.grafts:
            run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    before = run.arm.parameter_count()
    run.graft(case[2], case[1], "s2", **{PARAMETERS[case[2]]: case[3]})
    assert run.arm.parameter_count() > before


@pytest.mark.parametrize("case", ["transposed linear", "inverted residual", "heads in groups"], indirect=True)
def test_a_culled_seed_leaves_the_never_grafted_host(grown, rig_of, toy_task, case):
    run = grown()
    torch.default_generator.manual_seed(2)
    plain = rig_of(case[0](), toy_task, double=True)
    plain.train(run.step)
    run.do(run.directive("INSTALL_TWIN"))
    assert run.arm.digest() == plain.arm.digest()


@pytest.mark.parametrize("positions", ["learnt", "rotary"])
def test_the_projects_own_decoder_takes_gates_and_heads(rig, rig_of, positions):
    torch.default_generator.manual_seed(2)
    style = DecoderStyle(size=8, heads=2, positions=positions, norm="rms", mlp="gated")
    model = CausalTransformer(vocabulary=7, context=8, widths=(6,), dropout=0.0, style=style)
    run = rig_of(model, rig("transformer").task, double=True)
    for seed_id, blueprint, slot_id, parameters in (
        ("s1", "span.linear", "span_linear:blocks.0.mlp.gate-blocks.0.mlp.down", {"width": 4}),
        ("s2", "span.heads", "span_heads:blocks.0.attention-blocks.0.attention.out", {"heads": 1}),
    ):
        assert run.graft(blueprint, slot_id, seed_id, **parameters).reports[-1].max_logit_delta == 0.0
        run.train(6)
        before = run.outputs()
        assert run.do(run.directive("FOLD", seed_id), run.directive("DROP_TWIN", seed_id)).reports[0].folded
        assert torch.allclose(run.outputs(), before, rtol=0, atol=1e-12)
    block = run.arm.model.blocks[0]
    assert (block.mlp.up.out_features, block.attention.key.out_features, block.attention.out.in_features) == (
        10,
        12,
        12,
    )


def test_a_folded_attention_counts_its_heads(rig_of, toy_task):
    run = rig_of(Attending(Attention()), toy_task)
    run.graft("span.heads", "span_heads:attention-attention.o_proj", heads=2)
    run.train(6)
    run.do(run.directive("FOLD"), run.directive("DROP_TWIN"))
    attention = run.arm.model.attention
    assert (attention.num_heads, attention.num_key_value_heads, attention.head_dim) == (8, 4, 3)
    assert (attention.q_proj.out_features, attention.v_proj.out_features, attention.o_proj.in_features) == (24, 12, 24)


def test_an_attention_that_goes_wrong_with_more_heads_offers_none(rig_of, toy_task):
    class Fixed(Attention):
        def forward(self, hidden: Tensor, *, mask: Tensor) -> tuple[Tensor, None]:
            mixed, none = super().forward(hidden, mask=mask)
            return mixed / self.num_heads, none

    class Normed(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(3)

    for kind, reason in ((Fixed, "other values"), (Normed, "weights that all heads may share")):
        with pytest.raises(ConfigError, match=f"attention takes no more heads: .*{reason}"):
            rig_of(Attending(kind()), toy_task).executor.manifest()


def test_a_width_that_splits_a_group_is_refused(rig_of, toy_task):
    run = rig_of(resnext(), toy_task)
    failure = run.failure(run.build("span.conv", "span_conv:body.0-body.5", width=4))
    assert "grows by whole groups of 3 channels; a width of 4 is none" in failure
